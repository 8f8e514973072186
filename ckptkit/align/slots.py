"""Slots and averages, which go with the variable that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ckptkit.align.types import Match, TensorSet
from ckptkit.checkpoint.naming import Naming

# What different generations of optimizers call one slot.
SLOT_NAMES = {
    "momentum": "m",
    "momentums": "m",
    "velocity": "v",
    "velocitys": "v",
    "average": "ema",
}


def slots_of(
    old: TensorSet,
    new: TensorSet,
    pairs: Iterable[Match],
    free: tuple[Iterable[str], Iterable[str]],
) -> list[Match]:
    """Pair the slots and averages of paired variables, by the slot's name.

    Args:
        old, new: the tensors of both files.
        pairs: the variables that are paired.
        free: keys of either side that are not paired yet.

    Returns:
        Pairs of slots; those of a variable that two optimizers train alike are left alone.
    """
    # The free slots of either side, by the variable (as NEW calls it), role and kind.
    partner = {match.old: match.new for match in pairs}
    groups: dict[tuple[str, str, str], tuple[list[str], list[str]]] = {}
    free = set(free[0]), set(free[1])
    for side_number, side in enumerate((old, new)):
        for key, owner in side.owners.items():
            variable = partner.get(owner) if side_number == 0 else owner
            if key in free[side_number] and variable is not None:
                naming = side.names[key]
                kind = SLOT_NAMES.get(naming.slot or "", naming.slot or "")
                groups.setdefault((variable, naming.role, kind), ([], []))[side_number].append(key)
    matches: list[Match] = []
    for left, right in groups.values():
        if len(left) == len(right) == 1:
            matches.append(Match(left[0], right[0], "variable"))
            continue
        # Two optimizers train one variable.  A neutral file names no optimizers, but slots exactly:
        # Adam's `m` and Momentum's `momentum`.
        names = old.names, new.names
        by_optimizer = [
            {
                names[at][key].optimizer: key
                for key, count in _counted(keys, names[at])
                if count == 1
            }
            for at, keys in enumerate((left, right))
        ]
        for optimizer, key in by_optimizer[0].items():
            if optimizer is not None and optimizer in by_optimizer[1]:
                matches.append(Match(key, by_optimizer[1][optimizer], "variable"))
        unnamed = any(
            {names[at][key].optimizer for key in keys} == {None}
            for at, keys in enumerate((left, right))
        )
        by_slot = [
            {names[at][key].slot: key for key in keys} for at, keys in enumerate((left, right))
        ]
        if unnamed and len(by_slot[0]) == len(by_slot[1]) == len(left) == len(right):
            for slot, key in by_slot[0].items():
                if slot in by_slot[1]:
                    matches.append(Match(key, by_slot[1][slot], "variable"))
    return matches


def _counted(keys: list[str], names: Mapping[str, Naming]) -> Iterable[tuple[str, int]]:
    """Return each key with the number of keys of its optimizer."""
    counts = Counter(names[key].optimizer for key in keys)
    return [(key, counts[names[key].optimizer]) for key in keys]
