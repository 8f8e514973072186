"""Constants of recurrent ops, which hold the weights of all gates and of both directions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from ckptkit.align.matching import TensorSet
from ckptkit.align.transforms import (
    ReorderBlocks,
    Reshape,
    Shape,
    Step,
    SumOfParts,
    TakePart,
    Transform,
    Transpose,
)
from ckptkit.operations.convert.value_stores import ValueSource, transform_source
from ckptkit.operations.diff.carried_store import CarriedStore
from ckptkit.stores.base import Store
from ckptkit.stores.constants import ConstantUse, Recurrence


class ConstantsOfSide(NamedTuple):
    """A side whose tensors are constants of one layer each.  uses: what ops say of them."""

    store: Store
    side: TensorSet
    uses: Mapping[str, ConstantUse]


def by_direction(given: ConstantsOfSide, quantised: Collection[str]) -> ConstantsOfSide:
    """Return a side on which what two directions share is cut: `W[0]` and `W[1]` in place of `W`.

    Args:
        given: the side as it is stored.
        quantised: keys that stay whole, since their scales are of the whole.
    """
    store, side = given.store, given.side
    specs, names, uses = dict(side.specs), dict(side.names), dict(given.uses)
    carried = {}
    for key, use in given.uses.items():
        layers = use.recurrence.layers if use.recurrence is not None else ()
        if len(layers) < 2 or key in quantised:
            continue
        for number, layer in enumerate(layers, 1):
            cut = Transform((TakePart(number, len(layers)),))
            part = f"{key}[{number - 1}]"
            carried[part] = transform_source([(ValueSource(store, key), cut)])
            specs[part] = carried[part].spec._replace(key=part)
            names[part] = side.names[key]._replace(name=part, full_name=None)
            uses[part] = use._replace(layer=layer)
        del specs[key], names[key], uses[key]
    if not carried:
        return given
    view = CarriedStore(store.path, specs, stored=store, carried=carried)
    return ConstantsOfSide(view, replace(side, specs=specs, names=names), uses)


def recurrent_transform(recurrence: Recurrence, shape: Shape) -> Transform:
    """Return what makes of the constant of one direction the variable that Keras has."""
    gates, kept = recurrence.gates
    steps: list[Step] = [Reshape(shape[1:])]
    if recurrence.biases:
        steps = [Reshape((2, shape[1] // 2))]
        if recurrence.biases == 2:
            steps += [SumOfParts(2), Reshape((shape[1] // 2,))]
    if gates != kept:
        steps.append(ReorderBlocks(gates, kept))
    if not recurrence.biases:
        steps.append(Transpose())
    return Transform(tuple(steps))
