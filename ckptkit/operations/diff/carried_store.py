"""A store of which some tensors are given in another layout than they are stored in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptkit.align.cudnn_layouts import CudnnLayer, carrying_transforms
from ckptkit.align.matching import TensorSet
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.value_stores import ComputedStore, ValueSource, transform_source
from ckptkit.stores.base import BLOCK_ELEMENTS

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import Store


@dataclass(frozen=True)
class CarriedStore(ComputedStore):
    stored: Store | None = None
    carried: Mapping[str, ValueSource] = field(default_factory=dict)

    def made_of(self, key: str) -> Sequence[ValueSource]:
        assert self.stored is not None
        return (self.carried.get(key) or ValueSource(self.stored, key),)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        assert self.stored is not None
        if key in self.carried:
            return self.carried[key].blocks(max_elements)
        return self.stored.blocks(key, max_elements)


def store_of(
    checkpoint: Checkpoint, stored: TensorSet, side: TensorSet, layers: Sequence[CudnnLayer]
) -> Store:
    """Return the store of a side, of which the weights of some layers are carried over.

    Args:
        checkpoint: the file.
        stored: its tensors as they lie in it.
        side: the same, those of `layers` as they are elsewhere.
        layers: none where all are compared as they are stored.
    """
    store = checkpoint.store
    if not layers:
        return store
    transforms = carrying_transforms(layers, checkpoint.specs, stored.owners)
    carried = {
        key: transform_source([(ValueSource(store, key), transform)])
        for key, transform in transforms.items()
    }
    specs = {**side.specs, **{key: source.spec for key, source in carried.items()}}
    return CarriedStore(store.path, specs, stored=store, carried=carried)
