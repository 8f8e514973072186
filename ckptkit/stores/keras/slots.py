"""Which weight a numbered optimizer variable belongs to.

`optimizer/vars/N` has no name.  With the optimizer's class and the order of the trainable weights
the layout is known (`optimizer_variables`); it is believed only where every shape fits.  Where
the order of the weights is not sure (a subclassed model, whose groups are sorted by attribute), a
slot is tied only if its shape occurs once among the weights and once among the slots of its kind.
Everything else stays a slot of nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ckptkit.stores.base import KerasVariable
from ckptkit.stores.keras.layer_tree import NamedModel, OptimizerGroup, OrderedVariable
from ckptkit.stores.keras.optimizer_variables import (
    OptimizerVariable,
    TrainableWeight,
    layout,
    optimizer_class,
    scalar_states,
)

Shape = tuple[int, ...]


def name_optimizers(
    found: NamedModel, shapes: Mapping[str, Shape], *, keras2: bool
) -> dict[str, KerasVariable]:
    """Return the variables of all optimizers.  shapes: of every key of the file."""
    named: dict[str, KerasVariable] = {}
    by_path = {group.path: group for group in found.optimizers}
    for group in found.optimizers:
        stored = [shapes[key] for key in group.keys]
        states, owners = _explain(found, group, stored, keras2)
        for index, key in enumerate(group.keys):
            state = states[index] if index < len(states) else None
            owner = owners.get(state.weight) if state and state.weight is not None else None
            named[key] = _variable(group, state, owner, index, keras2)
        inner = by_path.get(f"{group.path}/inner_optimizer")
        if inner is not None and not keras2:
            named.update(_repeated(group, inner, named, shapes))
    return named


def _repeated(
    group: OptimizerGroup,
    inner: OptimizerGroup,
    named: Mapping[str, KerasVariable],
    shapes: Mapping[str, Shape],
) -> dict[str, KerasVariable]:
    """Return what a wrapper stores once more, behind its own: all of the optimizer inside.

    Keras assigns the optimizer's own last.
    """
    copies = group.keys[-len(inner.keys) :] if inner.keys else ()
    if [shapes[key] for key in copies] != [shapes[key] for key in inner.keys]:
        return {}
    pairs = zip(copies, inner.keys, strict=True)
    return {copy: named[copy]._replace(duplicate_of=key) for copy, key in pairs}


def _variable(
    group: OptimizerGroup,
    state: OptimizerVariable | None,
    owner: str | None,
    index: int,
    keras2: bool,
) -> KerasVariable:
    scope = tuple(group.path.split("/"))
    if state is None:
        return KerasVariable(scope, None, (), "slot", group.name)
    if state.role in ("slot", "ema"):
        return KerasVariable(scope, None, (), state.role, group.name, state.name, owner)
    plain = (*scope, state.name)
    scope = () if keras2 else (group.name,)
    return KerasVariable(scope, state.name, ("/".join(plain),), state.role, group.name)


def _explain(
    found: NamedModel, group: OptimizerGroup, stored: Sequence[Shape], keras2: bool
) -> tuple[list[OptimizerVariable], dict[int | None, str]]:
    """Return the states as far as known, and the key of each weight that they number."""
    if group.class_name is None:
        return scalar_states(stored, keras2=keras2), {}
    if found.certain_order:
        for unknown in (True, False):
            order = [o for o in found.order if (unknown if o.trainable is None else o.trainable)]
            weights = [TrainableWeight(_name(found, o), o.shape) for o in order]
            states = layout(group.class_name, group.config, weights, stored, keras2=keras2)
            if states is not None:
                return states, {i: o.key for i, o in enumerate(order)}
    states = _by_shapes(group, stored, keras2)
    if states is not None:
        return states, _unique_owners(found.order, states)
    return scalar_states(stored, keras2=keras2), {}


def _name(found: NamedModel, item: OrderedVariable) -> str:
    variable = found.variables[item.key]
    return "/".join((*variable.layers, variable.name or ""))


def _by_shapes(
    group: OptimizerGroup, stored: Sequence[Shape], keras2: bool
) -> list[OptimizerVariable] | None:
    """Return the layout that the slots' own shapes give, whichever weights they belong to."""
    assert group.class_name is not None
    if optimizer_class(group.class_name) in ("Adafactor", "Muon", "LossScaleOptimizer"):
        return None
    fits: list[list[OptimizerVariable]] = []
    scalars = len(scalar_states(stored, keras2=keras2))
    rest = list(stored[scalars:])
    for per_weight in range(1, 7):
        count = len(rest) // per_weight
        for step in (1, 2):
            shapes = rest[: count * step : step]
            weights = [TrainableWeight("", shape) for shape in shapes]
            states = layout(group.class_name, group.config, weights, stored, keras2=keras2)
            if states is not None and states not in fits:
                fits.append(states)
    return fits[0] if len(fits) == 1 else None


def _unique_owners(
    order: Sequence[OrderedVariable], states: Sequence[OptimizerVariable]
) -> dict[int | None, str]:
    """Return weight number -> key where a shape occurs once among weights and once among slots."""
    keys = {o.shape: o.key for o in order if o.trainable is not False}
    often = Counter(o.shape for o in order if o.trainable is not False)
    numbered = {s.weight: s.shape for s in states if s.weight is not None}
    slots = Counter(numbered.values())
    return {
        number: keys[shape]
        for number, shape in numbered.items()
        if often[shape] == 1 and slots[shape] == 1 and math.prod(shape) > 0
    }
