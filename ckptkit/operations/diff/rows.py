"""Rows of a comparison of a model and what was made of it: which are alone, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.operations.diff.compared_sides import Numbers, NumbersOfSides
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.statistics import is_numeric
from ckptkit.stores.base import Store

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

IN_SHIFT = ("beta", "mean")
EXACT = 1e-5  # of the largest value of a channel: float32 products in another order
_MAX_KEPT = 1 << 20  # elements of vectors, which are compared with many others

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
    """A normalisation that a kernel took over.  is_rounded: to the steps of integers."""

    norm: Norm
    epsilon: float
    is_rounded: bool


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

    def stored(self, change: TensorDiff) -> Numbers | None:
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

    def alone_up_to(self, side: int, size: int) -> Iterator[tuple[int, Array]]:
        """Yield the rows of one side alone of up to so many elements that the other has too."""
        for its, count in self._alone:
            if its == side and 0 < count <= size and (1 - side, count) in self._alone:
                yield from self.alone(side, count)

    def vector(self, row: int) -> Array:
        """Return the values of the only side that has them, in one row; kept where they are few."""
        if row in self._kept:
            return self._kept[row]
        values = self._read(row, 1 if self.found[row].old is None else 0).reshape(-1)
        if self._elements_kept + values.size <= _MAX_KEPT:
            self._kept[row] = values
            self._elements_kept += values.size
        return values

    def _read(self, row: int, side: int) -> Array:
        import numpy as np

        tensor = (self.found[row].old, self.found[row].new)[side]
        assert tensor is not None
        return self.stores[side].read(tensor.spec.key).astype(np.float64)


def _owner(name: str) -> str:
    return name.rpartition("/")[0]
