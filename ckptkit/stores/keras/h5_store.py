"""A store whose tensors are HDF5 datasets: what the Keras formats share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ckptkit.dtypes as dtypes
from ckptkit.errors import UnknownTensorError, UnsupportedError, UsageError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, Structure, TensorSpec
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.types import H5Dataset
from ckptkit.stores.hdf5.values import dataset_blocks, read_span
from ckptkit.stores.reopening import Opener, pickled

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(frozen=True, slots=True)
class H5Store:
    """Fulfils `ckptkit.stores.base.Store`; see there.

    ranges: the HDF5 data of each shard.  datasets: by key; its place is relative to its byte range.
    opener: the function that made it of its path.
    """

    format: str
    path: Path
    shards: tuple[Path, ...]
    ranges: tuple[ByteRange, ...]
    specs: Mapping[str, TensorSpec]
    datasets: Mapping[str, H5Dataset]
    structure: Structure
    model: ModelInfo | None
    producer: str | None
    opener: Opener = field(compare=False, repr=False)
    notes: tuple[str, ...] = ()
    style: str = ""
    missing_shards: tuple[Path, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self.opener, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path, *self.shards)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """See `Store.blocks`; the format keeps no checksum (beyond HDF5's own fletcher32)."""
        if max_elements < 1:
            raise UsageError(f"blocks of {max_elements} elements")
        byte_range, dataset = self._locate(key)
        return dataset_blocks(byte_range, dataset, max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """See `Store.read`."""
        byte_range, dataset = self._locate(key)
        stop = dataset.size if stop is None else stop
        if not 0 <= start <= stop <= dataset.size:
            raise UsageError(
                f"elements {start} to {stop} of {key}, which has {dataset.size}",
                where=str(self.path),
            )
        if dtypes.kind(dataset.dtype) == "opaque":
            raise UnsupportedError(f"{key} has dtype {dataset.dtype}", where=str(self.path))
        return read_span(byte_range, dataset, start, stop)

    def mappable(self, key: str) -> bool:
        """See `Store.mappable`."""
        spec = self.specs.get(key)
        return spec is not None and spec.offset is not None and bool(dtypes.itemsize(spec.dtype))

    def _locate(self, key: str) -> tuple[ByteRange, H5Dataset]:
        spec = self.specs.get(key)
        if spec is None or spec.shard is None:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path))
        return self.ranges[spec.shard], self.datasets[key]


def spec_of(key: str, dataset: H5Dataset, byte_range: ByteRange, shard: int) -> TensorSpec:
    """Return the TensorSpec of a dataset; its offset counts from the start of the outer file."""
    direct = dataset.offset is not None and byte_range.deflated is None
    return TensorSpec(
        key=key,
        dtype=dataset.dtype,
        shape=dataset.shape,
        nbytes=dataset.nbytes,
        shard=shard,
        offset=byte_range.start + (dataset.offset or 0) if direct else None,
    )
