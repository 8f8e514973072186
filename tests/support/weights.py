"""Small weight stores for tests: a real tensor bundle, or one that lives in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptkit.dtypes import dtype_of_numpy
from ckptkit.stores.base import ModelInfo, Structure, TensorSpec
from ckptkit.stores.tensor_bundle.reader import TensorBundle, open_bundle
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite

Array = npt.NDArray[Any]


def write_bundle(prefix: Path, arrays: Mapping[str, Array]) -> Path:
    """Write a name-based bundle of `arrays`; return its prefix."""

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        if arrays[key].size:
            yield 0, np.ascontiguousarray(arrays[key]).reshape(-1)

    tensors = [TensorToWrite(k, dtype_of_numpy(a.dtype), a.shape) for k, a in arrays.items()]
    write_tensor_bundle(prefix, tensors, blocks)
    return prefix


def bundle(prefix: Path, arrays: Mapping[str, Array]) -> TensorBundle:
    """Write a name-based bundle and open it."""
    return open_bundle(write_bundle(prefix, arrays))


@dataclass(frozen=True)
class MemoryStore:
    """A Store over arrays that are not in a file; blocks are cut at `step` elements."""

    arrays: Mapping[str, Array]
    step: int = 1000
    format: str = "memory"
    style: str = ""
    path: Path = Path("memory")
    shards: tuple[Path, ...] = ()
    missing_shards: tuple[Path, ...] = ()
    producer: str | None = None
    structure: Structure = None
    model: ModelInfo | None = None
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return {
            key: TensorSpec(key, dtype_of_numpy(a.dtype), a.shape, a.nbytes)
            for key, a in self.arrays.items()
        }

    def blocks(self, key: str, max_elements: int = 1 << 20) -> Iterator[tuple[int, Array]]:
        flat = self.arrays[key].reshape(-1)
        step = min(self.step, max_elements)
        buffer = np.empty(step, flat.dtype)  # reused, as a store may
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            buffer[: len(part)] = part
            yield start, buffer[: len(part)]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        return self.arrays[key].reshape(-1)[start:stop].copy()

    def mappable(self, key: str) -> bool:
        return False
