"""One digest for all weights of a file, whatever its format and the order it keeps them in."""

from __future__ import annotations

from collections.abc import Iterable

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor

DIGESTED = ("weight", "table")  # roles of tensors


def weights_digest(checkpoint: Checkpoint, tensors: Iterable[Tensor]) -> str:
    """Return "sha256:..." of the weights' names, dtypes, shapes and bytes.

    The same weights give the same digest in any format and order: per weight and per tensor of a
    table (duplicates and optimizer state left out) one line
    "name dtype shape sha256-of-little-endian-row-major-bytes", the lines sorted and hashed.
    Strings are hashed as 8-byte little-endian length and bytes each.
    Reads, and where the format stores checksums verifies, every byte.
    """
    import hashlib

    lines = []
    for spec, naming in tensors:
        if naming.role in DIGESTED and not naming.duplicate_of:
            shape = ",".join(map(str, spec.shape))
            lines.append(
                f"{naming.name} {spec.dtype} [{shape}] {tensor_sha256(checkpoint, spec.key)}"
            )
    return "sha256:" + hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def tensor_sha256(checkpoint: Checkpoint, key: str) -> str:
    """Return the sha256 of one tensor's values, little-endian and row-major, in hexadecimal."""
    from ckptkit.stores.digest import digest  # takes numpy, which `ls` does without

    return digest(checkpoint.store, key)
