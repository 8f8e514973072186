"""Which variable of a layer is which, where one side has their order and no names.

`.keras` and `.weights.h5` number a layer's own variables: the trainable ones as they were made,
then the others (`Layer.save_own_variables`).  An object graph has them as attributes in the order
in which they were made, and often does not say which are trainable.  What all ways of telling
trainable from other variables agree on is certain; nothing else is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

MAX_TRIES = 1 << 16  # variables that are looked at for all ways of telling which are trainable


class OwnVariable(NamedTuple):
    """A variable of a layer: type: dtype and shape.  name, trainable: None where not known."""

    key: str
    type: tuple[object, ...]
    name: str | None
    trainable: bool | None = None


def pair_own(
    numbered: Sequence[OwnVariable], made: Sequence[OwnVariable], *, ordered: bool = True
) -> list[tuple[str, str]]:
    """Pair the variables of one layer.

    Args:
        numbered: as a Keras file numbers them.
        made: as they were made, on the other side.
        ordered: whether `made` has that order; else names and types alone decide.

    Returns:
        (key of the file, key of the other side) for every pair that is certain.
    """
    pairs = _by_order(numbered, _with_flags(made)) if ordered else None
    if pairs is None:
        pairs = _by_name(numbered, made)
    taken = {key for pair in pairs for key in pair}
    left = [v for v in numbered if v.key not in taken]
    right = [v for v in made if v.key not in taken]
    return [*pairs, *_by_type(left, right)]


def _by_order(
    numbered: Sequence[OwnVariable], made: Sequence[OwnVariable]
) -> list[tuple[str, str]] | None:
    """Return what all orders agree on; None where none fits."""
    unknown = [at for at, variable in enumerate(made) if variable.trainable is None]
    if len(numbered) != len(made) or len(made) * 2.0 ** min(len(unknown), 64) > MAX_TRIES:
        return None
    agreed: set[tuple[str, str]] | None = None
    for flags in product((True, False), repeat=len(unknown)):
        chosen = dict(zip(unknown, flags, strict=True))
        trainable = [chosen.get(at, v.trainable) for at, v in enumerate(made)]
        order = [v for v, on in zip(made, trainable, strict=True) if on]
        order += [v for v, on in zip(made, trainable, strict=True) if not on]
        if all(_may_be(one, other) for one, other in zip(numbered, order, strict=True)):
            pairs = {(one.key, other.key) for one, other in zip(numbered, order, strict=True)}
            agreed = pairs if agreed is None else agreed & pairs
    return None if agreed is None else sorted(agreed)


def _may_be(one: OwnVariable, other: OwnVariable) -> bool:
    same_name = one.name is None or other.name is None or one.name == other.name
    return one.type == other.type and same_name


def _by_name(numbered: Sequence[OwnVariable], made: Sequence[OwnVariable]) -> list[tuple[str, str]]:
    by_name = {v.name: v for v in made if v.name is not None}
    return [
        (one.key, by_name[one.name].key)
        for one in numbered
        if one.name in by_name and by_name[one.name].type == one.type
    ]


def _by_type(numbered: Sequence[OwnVariable], made: Sequence[OwnVariable]) -> list[tuple[str, str]]:
    """Pair variables whose dtype and shape no other variable of the layer has.

    A name of the file is what Keras 3 calls the variable; Keras 2 may have said more
    (`depthwise_kernel`).
    """
    times = [Counter(v.type for v in side) for side in (numbered, made)]
    of_type = {other.type: other for other in made}
    return [
        (one.key, of_type[one.type].key)
        for one in numbered
        if times[0][one.type] == times[1][one.type] == 1 and _may_extend(one, of_type[one.type])
    ]


def _may_extend(one: OwnVariable, other: OwnVariable) -> bool:
    return _may_be(one, other) or f"{other.name}".endswith(f"_{one.name}")


def _with_flags(made: Sequence[OwnVariable]) -> list[OwnVariable]:
    """Fill in what the names tell: `moving_mean` beside `gamma` is that of a normalisation."""
    names = {variable.name for variable in made}
    rows = [row for row in _rows() if names <= row.keys()]
    if not rows or any(row[n] != rows[0][n] for row in rows for n in names):
        return list(made)
    return [v._replace(trainable=rows[0][v.name]) if v.trainable is None else v for v in made]


@cache
def _rows() -> tuple[Mapping[str | None, bool], ...]:
    """Return which variables are trainable, by name, for each class of Keras."""
    from ckptkit.stores.keras.layer_variables import LAYERS  # here, since it is a large table

    return tuple({variable.name: variable.trainable for variable in row} for row in LAYERS.values())
