"""What a Keras optimizer keeps, in the order in which `optimizer/vars/N` numbers it.

All Keras optimizers since 2.11 store, in this order: `iteration`, `learning_rate` (Keras 3, and
only where it is no schedule), with `use_ema` one average per trainable weight, with
`gradient_accumulation_steps` one accumulator per weight, then the slots of the class, in one or
more runs over the weights (Adam: momentum and velocity of the first weight, of the second, …;
then with `amsgrad` the velocity_hat of each).  The weights are the trainable ones in the order of
`model.trainable_variables`.

Without names in the file, a layout is believed only if it fits every stored shape; two layouts that
fit and disagree give nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from ckptkit.stores.keras.layer_variables import snake_case

Shape = tuple[int, ...]


class TrainableWeight(NamedTuple):
    """A trainable weight: its readable name (a rule of Muon looks at it) and shape."""

    name: str
    shape: Shape


class OptimizerVariable(NamedTuple):
    """One stored variable of an optimizer.

    name: `iteration`, `learning_rate`, `momentum`, …  role: counter, config, slot or ema.
    weight: index of the weight it belongs to, or None.
    """

    name: str
    role: str
    weight: int | None
    shape: Shape


class _SlotRun(NamedTuple):
    """A run over the weights: for each of them the slots, one after the other."""

    slots: tuple[str, ...]
    role: str = "slot"


# Whatever is stored, in order: single variables, and runs that are as long as there are weights.
_Plan = list[OptimizerVariable | _SlotRun]


class _SlotLayout(NamedTuple):
    """Slots of an optimizer class: runs over the weights, each with one or more slots per weight.

    optional: (config key, slot) runs that exist where the key is set and not zero.
    """

    runs: tuple[tuple[str, ...], ...]
    optional: tuple[tuple[str, str], ...] = ()


_ADAM = _SlotLayout((("momentum", "velocity"),), (("amsgrad", "velocity_hat"),))
_CLASSES: Mapping[str, _SlotLayout] = {
    "Adadelta": _SlotLayout((("accumulated_grad", "accumulated_delta_var"),)),
    "Adafactor": _SlotLayout(()),
    "Adagrad": _SlotLayout((("accumulator",),)),
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Adamax": _SlotLayout((("momentum", "norm"),)),
    "Ftrl": _SlotLayout((("accumulator", "linear"),)),
    "Lamb": _SlotLayout((("momentum", "velocity"),)),
    "Lion": _SlotLayout((("momentum",),)),
    "LossScaleOptimizer": _SlotLayout(()),
    "Muon": _SlotLayout(()),
    "Nadam": _SlotLayout((("momentum", "velocity"),)),
    "RMSprop": _SlotLayout(
        (("velocity",),), (("momentum", "momentum"), ("centered", "average_gradient"))
    ),
    "SGD": _SlotLayout((), (("momentum", "momentum"),)),
    "ScheduleFreeAdamW": _SlotLayout((("momentum", "velocity"),)),
}

# Slot names of Keras 2.11 to 2.15 where they differ from Keras 3.
_KERAS2_SLOTS = {
    "Adam": {"momentum": "m", "velocity": "v", "velocity_hat": "vhat"},
    "AdamW": {"momentum": "m", "velocity": "v", "velocity_hat": "vhat"},
    "Adamax": {"momentum": "m", "norm": "u"},
    "Lion": {"momentum": "m"},
    "Nadam": {"momentum": "m", "velocity": "v"},
    "SGD": {"momentum": "m"},
    "Adafactor": {"velocity": "v"},
}


def optimizer_class(name: str) -> str | None:
    """Return the class behind a class, object or group name: `adam_w` -> AdamW, `SGD` -> SGD."""
    name = name.rpartition(">")[2]  # Keras 2 registers its own as `Custom>Adam`
    if name in _CLASSES:
        return name
    base = name.rstrip("0123456789").rstrip("_") if name[-1:].isdigit() else name
    table = {snake_case(c): c for c in _CLASSES} | {c.lower(): c for c in _CLASSES}
    return table.get(base.lower())


def layout(
    class_name: str,
    config: Mapping[str, Any] | None,
    weights: Sequence[TrainableWeight],
    shapes: Sequence[Shape],
    *,
    keras2: bool = False,
) -> list[OptimizerVariable] | None:
    """Return what each stored variable is, or None where no single layout fits the shapes.

    config: of the optimizer, None where the file has none (then every combination is tried).
    weights: the trainable ones, in the model's order.  shapes: of `vars/0`, `vars/1`, ….
    """
    kind = optimizer_class(class_name)
    if kind is None:
        return None
    fits: list[list[OptimizerVariable]] = []
    for plan in _layouts(kind, config, weights, keras2):
        if _count(plan, len(weights)) != len(shapes):  # nearly all
            continue
        states = _expanded(plan, weights)
        if [s.shape for s in states] == list(shapes) and states not in fits:
            fits.append(states)
    return fits[0] if len(fits) == 1 else None


def scalar_states(shapes: Sequence[Shape], *, keras2: bool) -> list[OptimizerVariable]:
    """Return the leading states that are certain without knowing the weights, or the class.

    `iteration` is always the first; `learning_rate` follows in Keras 3 unless it is a schedule,
    and then a scalar cannot stand second, because slots are at least as large as a weight.
    """
    if not shapes or shapes[0]:
        return []
    states = [OptimizerVariable("iteration", "counter", None, ())]
    if not keras2 and len(shapes) > 1 and shapes[1] == ():
        states.append(OptimizerVariable("learning_rate", "config", None, ()))
    return states


# --- candidate layouts ----------------------------------------------------------------------------


def _count(plan: _Plan, n_weights: int) -> int:
    return sum(len(item.slots) * n_weights if isinstance(item, _SlotRun) else 1 for item in plan)


def _expanded(plan: _Plan, weights: Sequence[TrainableWeight]) -> list[OptimizerVariable]:
    states: list[OptimizerVariable] = []
    for item in plan:
        if isinstance(item, _SlotRun):
            states += [
                OptimizerVariable(slot, item.role, index, weight.shape)
                for index, weight in enumerate(weights)
                for slot in item.slots
            ]
        else:
            states.append(item)
    return states


def _layouts(
    kind: str, config: Mapping[str, Any] | None, weights: Sequence[TrainableWeight], keras2: bool
) -> Iterator[_Plan]:
    if kind == "LossScaleOptimizer":
        yield from _loss_scaled(config, weights, keras2)
        return
    for head in _heads(config, keras2):
        for body in _bodies(kind, config, weights, keras2):
            yield head + body


def _loss_scaled(
    config: Mapping[str, Any] | None, weights: Sequence[TrainableWeight], keras2: bool
) -> Iterator[_Plan]:
    """The wrapper's own scalars, then everything of the optimizer inside."""
    inner = (config or {}).get("inner_optimizer")
    if not isinstance(inner, Mapping) or keras2:
        return
    kind = optimizer_class(str(inner.get("class_name")))
    settings = inner.get("config")
    if kind is None or kind == "LossScaleOptimizer" or not isinstance(settings, Mapping):
        return
    own: _Plan = [
        OptimizerVariable("step_counter", "counter", None, ()),
        OptimizerVariable("dynamic_scale", "config", None, ()),
    ]
    for head in _heads({}, keras2):
        for plan in _layouts(kind, settings, weights, keras2):
            yield head + own + plan


def _heads(config: Mapping[str, Any] | None, keras2: bool) -> Iterator[_Plan]:
    """Yield the states before the class's own: scalars, averages, gradient accumulators."""
    scheduled: tuple[bool, ...] = (True, False)
    average: tuple[bool, ...] = (False, True)
    accumulate: tuple[bool, ...] = (False, True)
    if config is not None:
        scheduled = (isinstance(config.get("learning_rate"), Mapping),)
        average = (bool(config.get("use_ema")),)
        accumulate = (bool(config.get("gradient_accumulation_steps")),)
    for is_scheduled, has_average, accumulates in product(scheduled, average, accumulate):
        head: _Plan = [OptimizerVariable("iteration", "counter", None, ())]
        if not keras2 and not is_scheduled:
            head.append(OptimizerVariable("learning_rate", "config", None, ()))
        if has_average:
            head.append(_SlotRun(("average",), "ema"))
        if accumulates:
            head.append(_SlotRun(("gradient_accumulator",)))
        yield head


def _bodies(
    kind: str, config: Mapping[str, Any] | None, weights: Sequence[TrainableWeight], keras2: bool
) -> Iterator[_Plan]:
    rename = _KERAS2_SLOTS.get(kind, {}) if keras2 else {}
    if kind == "Adafactor":
        yield _adafactor(weights, keras2)
        return
    if kind == "Muon":
        yield from _muon(config, weights)
        return
    row = _CLASSES[kind]
    choices = [
        ((bool(config.get(key)),) if config is not None else (False, True))
        for key, _ in row.optional
    ]
    if kind == "SGD" and keras2:
        choices = [(True,)]  # Keras 2 makes the momentums even where they stay unused
    for chosen in product(*choices):
        runs = [
            *row.runs,
            *((slot,) for (_, slot), on in zip(row.optional, chosen, strict=True) if on),
        ]
        body: _Plan = [_SlotRun(tuple(rename.get(slot, slot) for slot in run)) for run in runs]
        if kind == "Nadam" and not keras2:
            product_of_u = OptimizerVariable("u_product", "config", None, ())
            yield [*body, product_of_u]  # since Keras 3.1
            yield [product_of_u, *body]
        else:
            yield body


def _adafactor(weights: Sequence[TrainableWeight], keras2: bool) -> _Plan:
    """Row and column factors of a matrix (placeholders in Keras 3 where there is none), and v."""
    body: _Plan = []
    for index, (_, shape) in enumerate(weights):
        if len(shape) >= 2:
            body.append(OptimizerVariable("r", "slot", index, shape[:-1]))
            body.append(OptimizerVariable("c", "slot", index, (*shape[:-2], shape[-1])))
        elif not keras2:
            body.append(OptimizerVariable("r", "slot", index, ()))
            body.append(OptimizerVariable("c", "slot", index, ()))
        body.append(OptimizerVariable("v" if keras2 else "velocity", "slot", index, shape))
    return body


def _muon(config: Mapping[str, Any] | None, weights: Sequence[TrainableWeight]) -> Iterator[_Plan]:
    """A momentum for each weight; a velocity too where Adam takes over (all but matrices)."""
    settings = config or {}
    if settings.get("exclude_layers"):
        return  # patterns from the file are not run
    body: _Plan = []
    for index, (name, shape) in enumerate(weights):
        body.append(OptimizerVariable("momentum", "slot", index, shape))
        embedding = settings.get("exclude_embeddings", True) and "embedding" in name.lower()
        if len(shape) != 2 or embedding:
            body.append(OptimizerVariable("velocity", "slot", index, shape))
    yield body
