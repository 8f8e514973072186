"""Slots and averages, which go with the variable that they belong to."""

from __future__ import annotations

from collections.abc import Iterable

from ckptkit.align.types import Match, TensorSet

# What different generations of optimizers call one slot.
_SLOT_NAMES = {"momentum": "m", "momentums": "m", "velocity": "v", "velocitys": "v"}


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
                kind = _SLOT_NAMES.get(naming.slot or "", naming.slot or "")
                groups.setdefault((variable, naming.role, kind), ([], []))[side_number].append(key)
    matches: list[Match] = []
    for left, right in groups.values():
        if len(left) == len(right) == 1:
            matches.append(Match(left[0], right[0], "variable"))
            continue
        # Two optimizers train one variable.  A neutral file names no optimizers, but slots exactly:
        # Adam's `m` and Momentum's `momentum`.
        optimizers = {new.names[key].optimizer: key for key in right}
        exact = {new.names[key].slot: key for key in right}
        unnamed = {old.names[key].optimizer for key in left} == {None} or {*optimizers} == {None}
        distinct = (
            len({old.names[key].slot for key in left}) == len(left) == len(right) == len(exact)
        )
        for key in left:
            optimizer, slot = old.names[key].optimizer, old.names[key].slot
            if optimizer is not None and optimizer in optimizers:
                matches.append(Match(key, optimizers.pop(optimizer), "variable"))
            elif unnamed and distinct and slot in exact:
                matches.append(Match(key, exact[slot], "variable"))
    return matches
