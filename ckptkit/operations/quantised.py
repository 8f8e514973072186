"""The numbers that the integers of quantised tensors stand for, in place of the integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptkit.operations.convert.value_stores import ComputedStore, ValueSource
from ckptkit.stores.base import BLOCK_ELEMENTS, Store, TensorSpec
from ckptkit.stores.constants import Quantisation

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(frozen=True)
class NumbersStore(ComputedStore):
    """A store whose quantised tensors are float32; all others are as they are stored."""

    stored: Store | None = None
    quantisations: Mapping[str, Quantisation] = field(default_factory=dict)

    def made_of(self, key: str) -> Sequence[ValueSource]:
        assert self.stored is not None
        return (ValueSource(self.stored, key),)

    def mappable(self, key: str) -> bool:
        assert self.stored is not None
        return key not in self.quantisations and self.stored.mappable(key)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        assert self.stored is not None
        quantisation = self.quantisations.get(key)
        if quantisation is None:
            yield from self.stored.blocks(key, max_elements)
            return
        for start, values in self.stored.blocks(key, max_elements):
            yield start, quantisation.numbers(start, values, self.specs[key].shape)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        assert self.stored is not None
        if key in self.quantisations:
            return super().read(key, start, stop)
        return self.stored.read(key, start, stop)


def numbers_store(store: Store, quantisations: Mapping[str, Quantisation]) -> Store:
    """Return a store whose quantised tensors are the numbers that they stand for, float32.

    Args:
        store: as it is stored; returned itself where nothing is quantised.
        quantisations: of its tensors, as `quantisations_of` gives them, or of some.
    """
    if not quantisations:
        return store
    numbers = {
        key: TensorSpec(key, "float32", store.specs[key].shape, 4 * store.specs[key].size)
        for key in quantisations
    }
    return NumbersStore(
        store.path,
        {**store.specs, **numbers},
        format=store.format,
        shards=store.shards,
        missing_shards=store.missing_shards,
        stored=store,
        quantisations=quantisations,
    )
