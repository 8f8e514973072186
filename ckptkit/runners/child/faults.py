"""The faults that an audit of a tolerance puts into a model: what becomes of a layer's weights.

Common faults of conversions and restores, each in one layer: all of its weights a little off, one
unit lost, a factor, a kernel that was not transposed, a bias that was dropped.  Those of settings,
another epsilon and another activation, need the live layer (`ckptkit.runners.tensorflow.faults`).
Values are numpy's, so that the same damage can be written to a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

SEED = 20
AMOUNT = 0.01  # of each element of a layer
FACTOR = 1.01  # of a kernel
EPSILONS = (1e-3, 1e-5)  # the defaults of Keras and of PyTorch: each is taken for the other
MOST_PASSING = 0.05  # of the faults: more than that, and a tolerance is no check of the model
LAYER, UNIT, SCALE, TRANSPOSE, BIAS = "layer", "unit", "scale", "transpose", "bias"
EPSILON, ACTIVATION = "epsilon", "activation"
KINDS: Mapping[str, str] = {
    LAYER: "all weights of a layer off by a percent",
    UNIT: "one unit is zero",
    SCALE: "kernel scaled by 1.01",
    TRANSPOSE: "square kernel transposed",
    BIAS: "bias dropped",
    EPSILON: "another epsilon",
    ACTIVATION: "another activation",
}
_BIASES = ("bias", "beta", "b")


class Fault(NamedTuple):
    """One fault.

    kind: of KINDS.  layer: the path of the layer.  variables: names of those that it changes; none
    where it changes a setting.  setting: (old, new), as a config has them.
    """

    kind: str
    layer: str
    variables: tuple[str, ...] = ()
    setting: tuple[object, object] | None = None


def faults_of_weights(layer: str, shapes: Mapping[str, Sequence[int]]) -> Iterator[Fault]:
    """Yield the faults that the variables of a layer may have, by their names and shapes."""
    yield Fault(LAYER, layer, tuple(shapes))
    kernels = [name for name, shape in shapes.items() if len(shape) > 1 and min(shape) > 0]
    sizes = {shapes[name][-1] for name in kernels}
    for name, shape in shapes.items():
        leaf = name.rpartition("/")[2]
        named = leaf in _BIASES or leaf.endswith("bias")
        if named or (len(shape) == 1 and shape[0] in sizes):
            yield Fault(BIAS, layer, (name,))
        elif name in kernels:
            yield Fault(UNIT, layer, (name,))
            yield Fault(SCALE, layer, (name,))
            if _square(shape) is not None:
                yield Fault(TRANSPOSE, layer, (name,))


def damaged(kind: str, value: Array) -> Array | None:
    """Return what a fault makes of a variable's values; None where that is what they are."""
    import numpy as np

    if kind == LAYER:
        found = changed(value, AMOUNT)
    elif value.dtype.kind in "iu":
        return None
    elif kind == UNIT:
        found = value.copy()
        # the unit that counts most: that of a dead one would be no fault
        norms = np.abs(value.astype(np.float64)).reshape(-1, value.shape[-1]).sum(axis=0)
        found[..., int(norms.argmax())] = 0
    elif kind == SCALE:
        found = (value.astype(np.float64) * FACTOR).astype(value.dtype)
    elif kind == TRANSPOSE:
        axes = _square(value.shape)
        if axes is None:
            return None
        found = np.ascontiguousarray(np.swapaxes(value, *axes))
    else:
        found = np.zeros_like(value)
    return None if np.array_equal(found, value) else found


def _square(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the axes that a kernel may have been transposed in: in and out, else the first two."""
    if len(shape) > 1 and shape[-1] == shape[-2] > 1:
        return len(shape) - 2, len(shape) - 1
    if len(shape) == 4 and shape[0] == shape[1] > 1:
        return 0, 1
    return None


def changed(value: Array, amount: float) -> Array:
    """Return the values, each up or down by `amount` of itself; zeros by that of the rms.

    Integers go up or down by one, within the range that they have.
    """
    import numpy as np

    if value.dtype.kind in "iu":
        if not value.size:
            return value
        up = np.random.default_rng(SEED).choice((True, False), value.shape)
        higher = np.where(value < value.max(), value + 1, value)
        lower = np.where(value > value.min(), value - 1, value)
        return np.asarray(np.where(up, higher, lower))
    wide = value.astype(np.float64)
    rms = float(np.sqrt(np.mean(wide**2))) if wide.size else 0.0
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), wide.shape)
    size = np.where(wide == 0, rms or 1.0, np.abs(wide))
    return np.asarray(wide + amount * signs * size).astype(value.dtype)


def other_epsilon(epsilon: float) -> float:
    """Return the epsilon that is taken for this one."""
    keras, torch = EPSILONS
    return torch if epsilon > torch else keras


def other_activation(name: str) -> str | None:
    """Return the activation that is taken for this one; None where there is none."""
    if name == "linear":
        return None
    return {"relu": "gelu", "softmax": "sigmoid"}.get(name, "relu")


def spread(faults: Sequence[Fault], most: int) -> list[Fault]:
    """Return some faults of weights, at most so many of each kind, from all over the model.

    None of settings: each has the model traced anew, which takes longer than all the rest.
    """
    chosen = []
    for kind in (UNIT, SCALE, TRANSPOSE, BIAS):
        alike = [fault for fault in faults if fault.kind == kind]
        count = min(most, len(alike))
        chosen += [alike[(2 * at + 1) * len(alike) // (2 * count)] for at in range(count)]
    return chosen
