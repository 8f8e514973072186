"""The numbers that the integers of a quantised tensor stand for, as a store of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptkit.operations.convert.value_stores import ComputedStore, ValueSource
from ckptkit.stores.base import BLOCK_ELEMENTS, Store, TensorSpec
from ckptkit.stores.constants import Quantisation, StoreOfConstants

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(frozen=True)
class NumbersStore(ComputedStore):
    """Quantised tensors as float32."""

    sources: Mapping[str, tuple[ValueSource, Quantisation]] = field(default_factory=dict)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        source, quantisation = self.sources[key]
        for start, values in source.blocks(max_elements):
            yield start, quantisation.numbers(start, values, source.spec.shape)


def quantisations_of(store: Store) -> dict[str, Quantisation]:
    """Return what the integers of a store's quantised tensors stand for, by key.

    Raises:
        FormatError: scales do not fit their tensor.
    """
    return store.quantisations() if isinstance(store, StoreOfConstants) else {}


def numbers_source(source: ValueSource, quantisation: Quantisation) -> ValueSource:
    """Return the numbers of a quantised tensor, float32, in its shape and under its key."""
    key, spec = source.key, source.spec
    numbers = TensorSpec(key, "float32", spec.shape, 4 * spec.size)
    store = NumbersStore(source.store.path, {key: numbers}, sources={key: (source, quantisation)})
    return ValueSource(store, key)
