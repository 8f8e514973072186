"""One digest for all weights of a file, whatever its format and the order it keeps them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.stores.constants import quantisations_of

if TYPE_CHECKING:  # `ls` does not need it at its start
    from concurrent.futures import Executor

    from ckptkit.stores.base import Store

DIGESTED = ("weight", "table")  # roles of tensors


def weights_digest(
    checkpoint: Checkpoint, tensors: Iterable[Tensor], executor: Executor | None = None
) -> str:
    """Return "sha256:..." of the weights' names, dtypes, shapes and bytes.

    The same weights give the same digest in any format and order: per weight and per tensor of a
    table (duplicates and optimizer state left out) one line
    "name dtype shape sha256-of-little-endian-row-major-bytes", the lines sorted and hashed.
    Strings are hashed as 8-byte little-endian length and bytes each.  Where integers stand for
    numbers, what they do by (`Quantisation.digest`) follows.
    Reads, and where the format stores checksums verifies, every byte.

    executor: where tensors are read; None reads them here.
    """
    import hashlib

    digested = [
        (spec, naming)
        for spec, naming in tensors
        if naming.role in DIGESTED and not naming.duplicate_of
    ]
    found = tensor_digests(checkpoint, [spec.key for spec, _ in digested], executor)
    store = checkpoint.store
    quantised = quantisations_of(store)
    lines = []
    for (spec, naming), sha256 in zip(digested, found, strict=True):
        shape = ",".join(map(str, spec.shape))
        by = f" {quantised[spec.key].digest()}" if spec.key in quantised else ""
        lines.append(f"{naming.name} {spec.dtype} [{shape}] {sha256}{by}")
    return "sha256:" + hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def tensor_digests(
    checkpoint: Checkpoint, keys: Sequence[str], executor: Executor | None = None
) -> Iterator[str]:
    """Yield the sha256 of each tensor's values, little-endian and row-major, in hexadecimal."""
    from ckptkit._io.pool import batched_map
    from ckptkit.stores.archive_checksums import ArchiveChecksums

    store = checkpoint.store
    ArchiveChecksums().compare(store, keys)
    items = [(store, key) for key in keys]
    return batched_map(
        executor, _digest, items, lambda item: store.specs[item[1]].nbytes, lambda item: item[1]
    )


def _digest(item: tuple[Store, str]) -> str:
    from ckptkit.stores.digest import digest  # takes numpy, which `ls` does without

    return digest(*item)
