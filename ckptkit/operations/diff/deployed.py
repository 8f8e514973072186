"""Graphs that a converter wrote, held against a model: by layer, in Keras' order, as numbers.

A constant of such a graph goes by the name of an op, lies in the order that its op wants, and may
be integers with a scale.  Each constant that an op of a layer takes is compared under the name of
that layer, in Keras' order, by the numbers that it stands for.  What has one name and shape on both
sides, as between two files of one form, stays as it is, and is compared as numbers where the scales
differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptkit.align.matching import Match, TensorSet, align
from ckptkit.align.rules import Rule
from ckptkit.align.transforms import Reshape, Shape, Transform, Transpose
from ckptkit.align.types import basis
from ckptkit.dtypes import kind
from ckptkit.operations.convert.value_stores import ValueSource, cast_source, transform_source
from ckptkit.operations.diff.carried_store import CarriedStore
from ckptkit.operations.diff.compared_sides import (
    SHORT_FLOATS,
    ComparedSides,
    Numbers,
    NumbersOfSides,
)
from ckptkit.operations.diff.constant_names import (
    DeployedSide,
    Parameter,
    in_names_of_layers,
    is_cut_alike,
    name_of,
    parameters_by_values,
)
from ckptkit.operations.diff.recurrent_constants import (
    ConstantsOfSide,
    by_direction,
    recurrent_transform,
)
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.quantised import numbers_store
from ckptkit.stores.base import Store
from ckptkit.stores.constants import BIAS, ConstantUse, StoreOfConstants, quantisations_of
from ckptkit.text import count_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.constants import Quantisation

MAX_TRIED = 1 << 23  # elements that are read once more to tell by how many steps they differ
HALF_STEP = 0.5 + 1e-3  # with what a float32 loses of numbers of a thousand steps


def deployed_sides(
    stores: tuple[Store, Store], sides: tuple[TensorSet, TensorSet], rules: Sequence[Rule]
) -> ComparedSides:
    """Return both sides by layer and as numbers, of which one at least is a deployed graph.

    Args:
        stores: of OLD and NEW.
        sides: their tensors, as they are stored.
        rules: renames from names of OLD to names of NEW.

    Raises:
        FormatError: scales do not fit their tensor.
    """
    same = _of_one_name(sides, rules)
    quantised = [quantisations_of(store) for store in stores]
    given = [
        by_direction(ConstantsOfSide(store, side, _uses(store, side, other, names)), keys)
        for store, side, other, names, keys in zip(
            stores, sides, sides[::-1], same, quantised, strict=True
        )
    ]
    named = [_named(each.side, _told(each)) for each in given]
    transforms = [_in_order(each) for each in given]

    def carried() -> tuple[DeployedSide, DeployedSide]:
        old, new = (
            _side(given[at].store, quantised[at], named[at], transforms[at]) for at in (0, 1)
        )
        return old, new

    found = carried()
    alignment = align(found[0].tensors, found[1].tensors, rules)
    for match in alignment.pairs:
        for at, (key, other) in enumerate(((match.old, match.new), (match.new, match.old))):
            # a layer may keep as several axes what an op takes as one
            own, wanted = found[at].specs[key].shape, found[1 - at].specs[other].shape
            is_one = own != wanted and is_cut_alike(own, wanted)
            if key in transforms[at] and other not in transforms[1 - at] and is_one:
                transforms[at][key] = _reshaped(transforms[at][key], wanted)
    left = alignment.only_left, alignment.only_right
    for at, store in enumerate(stores):
        if isinstance(store, StoreOfConstants):
            keys = left[at], left[1 - at]
            parameters = parameters_by_values(found[at], found[1 - at], keys, given[at].uses)
            named[at] = _named(named[at], _of_one_constant(named[at], parameters))
            for key, parameter in parameters.items():
                transform = transforms[at].get(key, Transform())
                transforms[at][key] = _reshaped(transform, parameter.shape)
    old, new = carried()
    _leave_alike(old, new, align(old.tensors, new.tensors, rules).pairs, sides)
    return ComparedSides(
        (old.tensors, new.tensors),
        (_carrying(old), _carrying(new)),
        numbers=(old.numbers, new.numbers),
    )


def _reshaped(transform: Transform, shape: Shape) -> Transform:
    return Transform((*transform.steps, Reshape(shape)))


def _carrying(side: DeployedSide) -> Store:
    if not side.carried:
        return side.stored
    return CarriedStore(side.stored.path, side.specs, stored=side.stored, carried=side.carried)


def _of_one_name(
    sides: tuple[TensorSet, TensorSet], rules: Sequence[Rule]
) -> tuple[set[str], set[str]]:
    """Return the keys of either side that pair as they are, by name and shape."""
    pairs = [
        (match.old, match.new)
        for match in align(*sides, rules, content=False).pairs
        if basis(match.evidence) in ("key", "name", "rule")
        and sides[0].specs[match.old].shape == sides[1].specs[match.new].shape
    ]
    return {old for old, _ in pairs}, {new for _, new in pairs}


def _uses(
    store: Store, side: TensorSet, other: TensorSet, named: set[str]
) -> dict[str, ConstantUse]:
    """Return what ops say of each weight, but for those that go by their own names, `named`."""
    if not isinstance(store, StoreOfConstants):
        return {}
    told = store.uses()
    uses = {}
    for key in [key for key in side.keys if key in side.weights and key not in named]:
        use = told.get(key, ConstantUse("", ""))
        # its own name may be that of an op of its layer
        is_told = bool(use.parameter) or "/" not in key
        uses[key] = use if is_told else use._replace(layer=key.partition(":")[0])
    return in_names_of_layers(uses, side, other)


def _told(given: ConstantsOfSide) -> dict[str, ConstantUse]:
    """Return whose parameter each weight is, where one alone is called so."""
    uses = {key: use for key, use in given.uses.items() if use.layer and use.parameter}
    counts = Counter((use.layer, use.parameter) for use in uses.values())
    # An op has to have a bias; where the layer's is added later, the converter made one of zeros.
    uses = {
        key: use
        for key, use in uses.items()
        if counts[use.layer, use.parameter] == 1
        or use.parameter != BIAS
        or given.store.read(key).any()
    }
    counts = Counter((use.layer, use.parameter) for use in uses.values())
    return {key: use for key, use in uses.items() if counts[use.layer, use.parameter] == 1}


def _of_one_constant(
    side: TensorSet, parameters: Mapping[str, Parameter]
) -> dict[str, ConstantUse]:
    """Return whose parameter each constant is, where no other is called so."""
    uses = {key: each.use for key, each in parameters.items() if each.use is not None}
    counts = Counter((use.layer, use.parameter) for use in uses.values())
    taken = {naming.name for key, naming in side.names.items() if key not in uses}
    return {
        key: use
        for key, use in uses.items()
        if counts[use.layer, use.parameter] == 1 and name_of(use) not in taken
    }


def _named(side: TensorSet, uses: Mapping[str, ConstantUse]) -> TensorSet:
    names = {
        key: side.names[key]._replace(name=name_of(use), full_name=None)
        for key, use in uses.items()
    }
    return replace(side, names={**side.names, **names}) if names else side


def _in_order(given: ConstantsOfSide) -> dict[str, Transform]:
    """Return what puts each constant into the order that Keras keeps it in."""
    return {key: _order(use, given.side.specs[key].shape) for key, use in given.uses.items()}


def _order(use: ConstantUse, shape: Shape) -> Transform:
    if use.recurrence is not None and shape[0] == 1:
        return recurrent_transform(use.recurrence, shape)
    # an op may take a kernel of another rank than is usual; that stays as it is
    return Transform((Transpose(use.axes),) if len(use.axes) == len(shape) else ())


def _side(
    store: Store,
    quantisations: Mapping[str, Quantisation],
    side: TensorSet,
    transforms: Mapping[str, Transform],
) -> DeployedSide:
    """Return a side whose quantised tensors are numbers, and whose others are put in order."""
    specs, carried, numbers = dict(side.specs), {}, {}
    valued = numbers_store(store, quantisations)
    for key in dict.fromkeys((*transforms, *quantisations)):
        spec, source = side.specs[key], ValueSource(valued, key)
        quantisation = quantisations.get(key)
        transform = transforms.get(key, Transform())
        if quantisation is not None:
            numbers[key] = Numbers(spec.dtype, spec.shape, quantisation, transform)
        if transform:
            source = transform_source([(source, transform)])
        is_short = key in transforms and source.spec.dtype in SHORT_FLOATS
        if is_short:  # the graph computes with them as float32
            source = cast_source(source, "float32")
        if transform or is_short or quantisation is not None:
            carried[key] = source
            specs[key] = source.spec._replace(key=key)
    return DeployedSide(store, side, specs, carried, numbers)


def _leave_alike(
    old: DeployedSide,
    new: DeployedSide,
    pairs: Iterable[Match],
    sides: tuple[TensorSet, TensorSet],
) -> None:
    """Compare as integers what both sides quantise in one way."""
    for match in pairs:
        one, other = old.numbers.get(match.old), new.numbers.get(match.new)
        if one is None or other is None or one.dtype != other.dtype:
            continue
        if not one.quantisation.is_equal(other.quantisation):
            continue
        for side, key, stored in ((old, match.old, sides[0]), (new, match.new, sides[1])):
            del side.carried[key], side.numbers[key]
            side.specs[key] = stored.specs[key]


def quantisation_hint(
    stores: tuple[Store, Store],
    numbers: NumbersOfSides,
    change: TensorDiff,
) -> str | None:
    """Say how a pair is quantised, and whether rounding to its steps explains what differs.

    Args:
        stores: of OLD and NEW, as they are compared.
        numbers: of those tensors of either that are quantised.
        change: a pair.

    Returns:
        One sentence; None where neither is quantised, or both are.
    """
    assert change.old is not None and change.new is not None
    found = numbers[0].get(change.old.spec.key), numbers[1].get(change.new.spec.key)
    if (found[0] is None) == (found[1] is None):
        return None
    at = 0 if found[0] is not None else 1
    stored = found[at]
    assert stored is not None
    scales = stored.quantisation.scales
    how = f"{stored.dtype}, {count_text(len(scales), 'scale')}"
    spec = (change.old, change.new)[at].spec
    is_whole = kind(stored.dtype) in ("int", "uint")  # whose steps are all as wide
    if spec.size > MAX_TRIED or stored.transform.part or not spec.size or not is_whole:
        return f"{how}: compared by what its integers stand for"
    steps = _steps(stores, change, stored, at)
    if steps is None:
        return f"{how}: compared by what its integers stand for"
    if steps <= HALF_STEP:
        return f"{how}: each value is the nearest that it can stand for"
    return f"{how}: up to {steps:.3g} steps away, more than rounding explains"


def _steps(
    stores: tuple[Store, Store], change: TensorDiff, stored: Numbers, at: int
) -> float | None:
    """Return the largest difference in steps, one of which an integer tells from the next.

    None where some are not finite.
    """
    import numpy as np

    assert change.old is not None and change.new is not None
    old, new = (
        store.read(side.spec.key).astype(np.float64)
        for store, side in zip(stores, (change.old, change.new), strict=True)
    )
    with np.errstate(all="ignore"):
        steps = np.abs(new - old) / steps_of(stored)
    largest = float(steps.max(initial=0.0))
    return largest if math.isfinite(largest) else None


def steps_of(stored: Numbers) -> Array:
    """Return the distance from one integer to the next, of each element as it is compared, or one.

    Args:
        stored: the integers.

    Returns:
        float64, 1-D.
    """
    steps = stored.quantisation.steps(stored.shape)
    return steps if len(steps) == 1 else stored.transform.apply(steps.reshape(stored.shape)).ravel()
