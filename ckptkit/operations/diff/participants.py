"""Which tensors take part in a comparison, and what is said of those that do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ckptkit.align.matching import Alignment, TensorSet
from ckptkit.align.rules import suggest_rules
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.diff.result import LeftOut, TensorDiff
from ckptkit.stores.base import KerasStructure
from ckptkit.text import list_text
from ckptkit.wording import operand, say

# What a training run counts and sets is not a weight, nor a difference between weights.
_SIDE_ROLES = frozenset({"counter", "config"})
# State that belongs to training: a file without any of it is not a file that lost it.
_OPTIONAL_ROLES = frozenset({"slot", "ema", "metric"})
_TABLES = frozenset({"table"})


def select(
    changes: list[TensorDiff],
    roles: Sequence[str],
    names: Sequence[str],
    checkpoints: tuple[Checkpoint, Checkpoint],
    sides: tuple[TensorSet, TensorSet],
    *,
    may_be_none: bool = False,
) -> tuple[list[TensorDiff], tuple[LeftOut, ...]]:
    """Tell the changes that take part in a comparison from those that do not.

    Args:
        changes: all of them.
        roles: the roles to compare; none for the usual ones, "all" for all.
        names: globs of names; none for all.
        checkpoints: OLD and NEW.
        sides: their tensors, as alignment sees them.
        may_be_none: whether more than tensors is compared, so that a model without weights is one;
            a filter that leaves nothing is refused all the same.

    Returns:
        (changes that take part, what does not and why).

    Raises:
        UsageError: nothing takes part.
    """
    taking_part, left_out = changes, Counter[tuple[str, str]]()
    # By role.
    if "all" not in roles:
        taking_part = []
        # Training state that one file has none of, and slots whose variables nobody can tell, are
        # left out unless they are asked for.
        one_sided = {} if roles else _one_sided(sides, checkpoints)
        untied = not roles and any(
            side.names[key].role == "slot" and side.names[key].slot_of is None
            for side in sides
            for key in side.keys
        )
        for change in changes:
            why = why_left_out(change.role, roles, one_sided)
            if why is None and untied and change.role == "slot" and None in _keys(change):
                why = "the variables of some cannot be told"
            if why is None:
                taking_part.append(change)
            else:
                left_out[change.role, why] += 1
    # By name, of either side.
    if names:
        selected = [keys_called(checkpoint, names) for checkpoint in checkpoints]
        by_name = [
            change
            for change in taking_part
            if any(key in keys for key, keys in zip(_keys(change), selected, strict=True))
        ]
        if len(by_name) < len(taking_part):
            left_out["", say("by ‹names›")] += len(taking_part) - len(by_name)
        taking_part = by_name
    repeated = max(len(side.duplicates) for side in sides)
    if repeated:
        left_out["repeated", "stored twice, compared once"] += repeated
    if not taking_part and not (may_be_none and not roles and not names):
        raise nothing_to_compare(checkpoints, is_filtered=bool(roles or names))
    return taking_part, told(left_out)


def told(left_out: Mapping[tuple[str, str], int]) -> tuple[LeftOut, ...]:
    """Return what is said of tensors that take no part.  left_out: how many, by role and why."""
    order = {role: at for at, role in enumerate(ROLES)}
    rows = sorted(left_out.items(), key=lambda row: order.get(row[0][0], len(order)))
    return tuple(LeftOut(n, what or "other", why) for (what, why), n in rows)


def nothing_to_compare(checkpoints: Sequence[Checkpoint], *, is_filtered: bool) -> UsageError:
    """Return the refusal of a comparison in which no tensor takes part."""
    return UsageError(
        "nothing to compare" + (": no tensor passes the filter" if is_filtered else ""),
        where=" and ".join(str(checkpoint.path) for checkpoint in checkpoints),
        hint=say(
            "`ckptkit ls` lists what a file holds; ‹roles=all› compares everything, and "
            "‹config› what a model has beside tensors"
        ),
    )


def _keys(change: TensorDiff) -> tuple[str | None, str | None]:
    return (
        change.old.spec.key if change.old else None,
        change.new.spec.key if change.new else None,
    )


def keys_called(checkpoint: Checkpoint, names: Sequence[str]) -> set[str]:
    """Return the keys of the tensors of a file that fit globs of names."""
    try:
        return {tensor.spec.key for tensor in Selection(names=names).of(checkpoint)}
    except UsageError:
        return set()  # the other file may hold some


def _one_sided(
    sides: tuple[TensorSet, TensorSet], checkpoints: tuple[Checkpoint, Checkpoint]
) -> dict[str, str]:
    """Return {role: "only in OLD"} for kinds of training state that one file has none of.

    Likewise for tables, where the other is a file of Keras, which keeps their words elsewhere.
    """
    of_keras = any(isinstance(side.store.structure, KerasStructure) for side in checkpoints)
    roles = [{side.names[key].role for key in side.keys} for side in sides]
    return {
        role: f"only in {operand('OLD' if role in roles[0] else 'NEW')}"
        for role in _OPTIONAL_ROLES | (_TABLES if of_keras else set())
        if (role in roles[0]) != (role in roles[1])
    }


def why_left_out(role: str, roles: Sequence[str], one_sided: Mapping[str, str]) -> str | None:
    """Return why a role takes no part, or None.

    roles: those that were asked for.  one_sided: what is said of roles that one file has none of.
    """
    if roles:
        return None if role in roles else say("by ‹roles›")
    if role in _SIDE_ROLES:
        return "not weights"
    return one_sided.get(role)


def warnings_of(
    alignment: Alignment, changes: Iterable[TensorDiff], sides: tuple[TensorSet, TensorSet]
) -> tuple[str, ...]:
    """Return what should be said beside the table."""
    warnings = [f"rule {rule!r} paired nothing" for rule in alignment.unused_rules]
    taking_part = {key for change in changes for key in _keys(change)}
    for ambiguity in alignment.ambiguous:
        if taking_part.isdisjoint((*ambiguity.old, *ambiguity.new)):
            continue
        old = _some_names(sides[0], ambiguity.old)
        new = _some_names(sides[1], ambiguity.new)
        where = f"{old} in {operand('OLD')}, {new} in {operand('NEW')}"
        decide = say("‹rules=RE=>REPL› decides")
        warnings.append(f"not paired, {ambiguity.reason}: {where}; {decide}")
    # Weights alone on their side may have been renamed: a rule that would pair them is proposed.
    alone = [
        {
            side.names[key].name: (side.specs[key].dtype, side.specs[key].shape)
            for key in keys
            if key in taking_part and side.names[key].role == "weight"
        }
        for side, keys in zip(sides, (alignment.only_left, alignment.only_right), strict=True)
    ]
    for rule, count in suggest_rules(*alone):
        warnings.append(f"these look renamed: {say(f'‹rules={rule}›')} would pair {count} of them")
    return tuple(warnings)


def _some_names(side: TensorSet, keys: Sequence[str]) -> str:
    return list_text([side.names[key].name for key in keys])
