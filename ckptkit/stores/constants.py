"""Constants of a deployed graph: what their integers stand for, and whose parameter each is.

A converter leaves the names of ops, not of variables: `functional/dense/MatMul` is the kernel of
the layer `functional/dense`, `functional/dense/Relu;functional/dense/BiasAdd` its bias.  Which of
them a constant is, and the order of its axes, follow from the op that takes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ckptkit.errors import FormatError
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.text import lazy_pattern

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

KERNEL, RECURRENT, BIAS, TABLE = "kernel", "recurrent_kernel", "bias", "embeddings"
# Of an op's names, as far as they end with what the op itself computes.
_PRODUCT = lazy_pattern(r"(MatMul|Gemm|[Cc]onv(olution)?|Conv[123]D|depthwise|Gather)", re.ASCII)
_READ = lazy_pattern(r"/(ReadVariableOp|ExpandDims|Cast|transpose|merged_input)(_\d+)?(/.*)?$")
_CALL = lazy_pattern(r"(^|/)(Stateful)?PartitionedCall/")
_OUTPUT = lazy_pattern(r":\d+$")


class Quantisation(NamedTuple):
    """Integers that stand for `scale * (value - zero_point)`.

    scales: float64, 1-D; one for all, or one for every index along `axis`.  zero_points: int64, or
    of a float dtype, as many.  block: so many neighbours along `axis` share a scale, and there is
    one for each place of the other axes, row-major; 0 where the other axes share theirs.
    """

    scales: Array
    zero_points: Array
    axis: int = 0
    block: int = 0

    def is_equal(self, other: Quantisation) -> bool:
        """Whether the same integers stand for the same numbers."""
        import numpy as np

        is_one = len(self.scales) == len(other.scales) == 1
        return (is_one or self[2:] == other[2:]) and all(
            np.array_equal(one, its) for one, its in zip(self[:2], other[:2], strict=True)
        )

    def numbers(self, start: int, values: Array, shape: tuple[int, ...]) -> Array:
        """Return what integers stand for.

        Args:
            start: of the first of them in the tensor, in row-major order.
            values: 1-D.
            shape: of the tensor.

        Returns:
            float32, 1-D: the product rounded once, as LiteRT and ONNX Runtime give it.
        """
        import numpy as np

        scales, zeros = self.scales[0], self.zero_points[0]
        if len(self.scales) > 1:
            index = self._places(start, len(values), shape)
            scales, zeros = self.scales[index], self.zero_points[index]
        with np.errstate(all="ignore"):  # a scale that is infinite gives what it gives there
            numbers: Array = ((values.astype(np.float64) - zeros) * scales).astype(np.float32)
        return numbers

    def _places(self, start: int, count: int, shape: tuple[int, ...]) -> Array:
        """Return which of the scales so many elements from `start` on have."""
        import numpy as np

        inner, size = math.prod(shape[self.axis + 1 :]), shape[self.axis]
        element = np.arange(start, start + count)
        along = element // inner % size
        if not self.block:
            return along
        row = element // (inner * size) * -(-size // self.block) + along // self.block
        places: Array = row * inner + element % inner
        return places

    def steps(self, shape: tuple[int, ...]) -> Array:
        """Return the scale of each element of a tensor of a shape, 1-D, or the one of all."""
        return (
            self.scales[self._places(0, math.prod(shape), shape)]
            if len(self.scales) > 1
            else (self.scales)
        )

    def digest(self) -> str:
        """Return the SHA-256 of the axis, scales and zero points, in hexadecimal.

        Of "AXIS\\n" or "AXIS/BLOCK\\n", the scales and the zero points, float64 and little-endian;
        an axis is told where there are several.
        """
        import hashlib

        axis = f"{self.axis}/{self.block}" if self.block else f"{self.axis}"
        place = f"{axis if len(self.scales) > 1 else 0}\n".encode()
        parts = [part.astype("<f8").tobytes() for part in self[:2]]
        return hashlib.sha256(b"".join([place, *parts])).hexdigest()


class Recurrence(NamedTuple):
    """How a constant of a recurrent op lies: by direction, then by gate.

    layers: of each direction, along axis 0.  gates: letters, as the op has them and as Keras has
    them; "" where both have one order.  biases: what lies behind one another along axis 1 of biases
    and is added up by Keras; 1 where Keras keeps them apart, 0 for a matrix, which lies transposed.
    """

    layers: tuple[str, ...]
    gates: tuple[str, str]
    biases: int = 0


class ConstantUse(NamedTuple):
    """Which parameter of which layer a constant is.

    layer: the scope of the op that takes it; "" where no name tells it.  parameter: KERNEL,
    RECURRENT, BIAS or TABLE; "" where the op does not tell it, whose whole path `layer` is then.
    axes: for each axis as Keras has it, that of the constant; () for one as it is.  recurrence: of
    a recurrent op's, whose directions have layers of their own.  is_added: of an op that does not
    tell the parameter, whether it adds the constant; None of one that neither adds nor multiplies.
    """

    layer: str
    parameter: str
    axes: tuple[int, ...] = ()
    recurrence: Recurrence | None = None
    is_added: bool | None = None


@runtime_checkable
class StoreOfConstants(Protocol):
    """A store of a graph that was converted from a model."""

    def quantisations(self) -> dict[str, Quantisation]:
        """Return what integers stand for, of the tensors that are quantised.

        Returns:
            How they do, by key.

        Raises:
            FormatError: scales do not fit their tensor.
        """

    def uses(self) -> dict[str, ConstantUse]:
        """Return whose parameter each constant is that an op of a layer takes.

        Returns:
            The layer, the parameter and the order of axes, by key.
        """


def quantisations_of(store: Store) -> dict[str, Quantisation]:
    """Return what the integers of a store's quantised tensors stand for, by key.

    Raises:
        FormatError: scales do not fit their tensor.
    """
    return store.quantisations() if isinstance(store, StoreOfConstants) else {}


def checked(quantisation: Quantisation, spec: TensorSpec, where: str) -> Quantisation:
    """Return a quantisation that fits a tensor.

    Raises:
        FormatError: there are not as many scales as its axis is long, or zero points as scales.
    """
    scales, zeros, axis, block = quantisation
    size = spec.shape[axis] if 0 <= axis < len(spec.shape) else -1
    if block and size > 0:
        size = spec.size // size * -(-size // block)
    if len(zeros) != len(scales) or (len(scales) != 1 and len(scales) != size):
        raise FormatError(
            f"{where}: {spec.key}",
            "a quantisation that does not fit the tensor",
            expected=f"one scale, or {size} along axis {axis}" if size >= 0 else "one scale",
            found=f"{len(scales)} scales and {len(zeros)} zero points",
        )
    return quantisation


def layer_of(own: str, others: Iterable[str]) -> str:
    """Return the layer of an op that takes a constant; "" where no name tells it.

    Args:
        own: the name of the kernel, which most converters name by the op.
        others: of the node and of what it gives, where the kernel's tells nothing.
    """
    for name in (own, *others):
        parts = [_CALL.sub(r"\1", _OUTPUT.sub("", part)) for part in name.split(";")]
        scoped = [_READ.sub("", part) for part in parts if "/" in part]
        products = [p for p in scoped if _PRODUCT.match(p.rpartition("/")[2])]
        biases = [p for p in scoped if p.rpartition("/")[2].startswith("BiasAdd")]
        if found := products or biases or scoped:
            return found[0].rpartition("/")[0].strip("/")
    return ""
