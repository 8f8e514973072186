"""Rows of a comparison of a model and what was made of it: which are alone, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.dtypes import numpy_dtype
from ckptkit.operations.diff.carried_store import CarriedStore
from ckptkit.operations.diff.compared_sides import SHORT_FLOATS, Numbers, NumbersOfSides
from ckptkit.operations.diff.deployed import HALF_STEP, steps_of
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.statistics import is_numeric
from ckptkit.stores.base import Store

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

IN_SHIFT = ("beta", "mean")
EXACT = 1e-5  # of the largest value of a channel: float32 products in another order
_MAX_KEPT = 1 << 20  # elements of vectors, which are compared with many others
_HEAD = 1024  # elements of a tensor, by which another is found that is like it

Stores = tuple[Store, Store]


class Norm(NamedTuple):
    """A batch normalisation of one side, which the other lacks.  rows: places of its tensors."""

    name: str
    rows: Mapping[str, int]
    gamma: Array
    beta: Array
    mean: Array
    variance: Array

    def factor(self, epsilon: float) -> Array:
        """Return what it multiplies each channel by."""
        import numpy as np

        factor: Array = self.gamma / np.sqrt(self.variance + epsilon)
        return factor

    def shift(self, epsilon: float, bias: Array | float = 0.0) -> Array:
        """Return what it adds to each channel, to which a bias was added before."""
        shift: Array = self.beta + (bias - self.mean) * self.factor(epsilon)
        return shift


class Fold(NamedTuple):
    """A normalisation that a kernel took over.

    rounded_to: what its values were rounded to after that, in words; "" where they were not.
    """

    norm: Norm
    epsilon: float
    rounded_to: str


@dataclass
class DeployedRows:
    """All rows of a comparison; hints are written into `found`.

    deployed: the side that was made of the other, 0 or 1.
    """

    found: list[TensorDiff]
    stores: Stores
    numbers: NumbersOfSides
    deployed: int
    _alone: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    _beside: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    _kept: dict[int, Array] = field(default_factory=dict)
    _elements_kept: int = 0

    def __post_init__(self) -> None:
        for row, change in enumerate(self.found):
            spec = change.some.spec
            if change.old is None or change.new is None:
                if is_numeric(spec.dtype):
                    side = 1 if change.old is None else 0
                    self._alone.setdefault((side, spec.size), []).append(row)
            elif change.delta is not None and len(spec.shape) == 1:
                self._beside.setdefault((_owner(change.name), spec.size), []).append(row)

    @property
    def model(self) -> int:
        """The side of which the other was made."""
        return 1 - self.deployed

    def tell(self, row: int, hint: str) -> None:
        """Write a hint into a row."""
        self.found[row] = replace(self.found[row], hints=(hint,))

    def own(self, row: int) -> Array:
        """Return the values of the model."""
        return self._read(row, self.model)

    def pair(self, change: TensorDiff) -> tuple[Array, Array]:
        """Return the values of the model and of the deployed graph."""
        import numpy as np

        assert change.old is not None and change.new is not None
        old, new = (
            store.read(side.spec.key).astype(np.float64)
            for store, side in zip(self.stores, (change.old, change.new), strict=True)
        )
        return (old, new) if self.deployed else (new, old)

    def rounded_to(self, change: TensorDiff) -> str:
        """Return what the values of the deployed graph were rounded to; "" where they were not."""
        if self._stored(change) is not None:
            return "the nearest step"
        side, store = (change.old, change.new)[self.deployed], self.stores[self.deployed]
        if side is None:
            return ""
        file = store.stored if isinstance(store, CarriedStore) else store
        assert file is not None
        dtype = file.specs[side.spec.key].dtype
        return dtype if dtype in SHORT_FLOATS else ""

    def rounding(self, change: TensorDiff, values: Array) -> Array:
        """Return by how much rounding may have moved each of the deployed graph's values, or all.

        values: these, of which the steps between short floats follow.
        """
        import numpy as np

        half: Array = np.zeros(1)
        dtype = self.rounded_to(change)
        stored = self._stored(change)
        if stored is not None:
            half = HALF_STEP * steps_of(stored)
        elif dtype:
            with np.errstate(all="ignore"):
                short = np.abs(values).astype(numpy_dtype(dtype))
                next_ = np.nextafter(short, short.dtype.type(np.inf))
                half = HALF_STEP * (next_ - short).astype(np.float64)
        return half

    def _stored(self, change: TensorDiff) -> Numbers | None:
        """Return the integers of the deployed graph, if it has integers."""
        side = (change.old, change.new)[self.deployed]
        return self.numbers[self.deployed].get(side.spec.key) if side is not None else None

    def beside(self, kernel: str, size: int) -> list[int]:
        """Return the rows of vectors of both sides, so long, that the layer of a kernel has."""
        return self._beside.get((_owner(kernel), size), [])

    def alone_rows(self, side: int, size: int) -> list[int]:
        """Return the rows of tensors of one side alone that have so many elements.

        Those of which something is told are left out.
        """
        return [row for row in self._alone.get((side, size), ()) if not self.found[row].hints]

    def alone(self, side: int, size: int) -> Iterator[tuple[int, Array]]:
        """Yield the same rows, each with its values."""
        for row in self.alone_rows(side, size):
            yield row, self.vector(row)

    def heads_alone(self, side: int, size: int) -> Iterator[tuple[int, Array]]:
        """Yield the rows of one side alone of up to so many elements that the other has too.

        Each with the first of its values.
        """
        for its, count in self._alone:
            if its == side and 0 < count <= size and (1 - side, count) in self._alone:
                for row in self.alone_rows(side, count):
                    yield row, self._read(row, side, min(count, _HEAD))

    def vector(self, row: int) -> Array:
        """Return the values of the only side that has them, in one row; kept where they are few."""
        if row in self._kept:
            return self._kept[row]
        values = self._read(row, 1 if self.found[row].old is None else 0).reshape(-1)
        if self._elements_kept + values.size <= _MAX_KEPT:
            self._kept[row] = values
            self._elements_kept += values.size
        return values

    def _read(self, row: int, side: int, stop: int | None = None) -> Array:
        import numpy as np

        tensor = (self.found[row].old, self.found[row].new)[side]
        assert tensor is not None
        return self.stores[side].read(tensor.spec.key, 0, stop).astype(np.float64)


def _owner(name: str) -> str:
    return name.rpartition("/")[0]
