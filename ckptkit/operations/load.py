"""`load`: every tensor in memory, every checksum compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ckptkit._pool import bounded_map
from ckptkit.checkpoint import Checkpoint
from ckptkit.checkpoint import open as open_checkpoint
from ckptkit.dtypes import kind
from ckptkit.operations.select import Selection

if TYPE_CHECKING:
    from ckptkit.stores.base import Array


def load(
    path: str | os.PathLike[str],
    *,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    jobs: int | None = None,
) -> dict[str, Array]:
    """Return {readable name: array} of all tensors (or of those that pass the filter).

    Arrays have the file's dtype and shape and are the caller's own; opaque tensors are left out.
    Every stored checksum is compared on the way.  jobs: threads, by default one per processor.
    Raises ChecksumError, TruncatedError, and what `ckptkit.open` raises.
    """
    checkpoint = open_checkpoint(path)
    tensors = [
        (spec.key, naming.name)
        for spec, naming in Selection(roles, names).of(checkpoint)
        if kind(spec.dtype) != "opaque"
    ]
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        arrays = bounded_map(pool, lambda item: _whole(checkpoint, item[0]), tensors, window=64)
        return {name: array for (_key, name), array in zip(tensors, arrays, strict=True)}


def _whole(checkpoint: Checkpoint, key: str) -> Array:
    """Return one tensor whole: a store that can yields it as one block, which is then ours."""
    import numpy as np

    from ckptkit.dtypes import numpy_dtype

    spec = checkpoint.specs[key]
    blocks = list(checkpoint.store.blocks(key, max_elements=max(1, spec.size)))
    if len(blocks) == 1:
        return blocks[0][1].reshape(spec.shape)
    out = np.empty(spec.size, numpy_dtype(spec.dtype))
    for start, values in checkpoint.store.blocks(key):
        out[start : start + len(values)] = values
    return out.reshape(spec.shape)
