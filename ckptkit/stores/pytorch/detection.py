"""Whether a file is one that `torch.save` wrote, or the index of a set of them."""

from __future__ import annotations

import re

from ckptkit.stores.registry import Head
from ckptkit.text import lazy_pattern

PICKLE = "data.pkl"  # the member of an archive that says what was saved
INDEX_SUFFIX = ".bin.index.json"
MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the first pickle, wholly
MAX_MAGIC = 32  # bytes that it takes in any protocol
# Protocol 1 writes the number in words; from 4 on a frame with its length stands before it.
_MAGICS = lazy_pattern(
    rb"\x80[\x02-\x05](\x95.{8})?" + re.escape(MAGIC[2:]) + rb"|L119547037146038801333356L\n\.",
    re.DOTALL,
)


def is_pytorch(head: Head) -> bool:
    """Whether a file is a zip archive as `torch.save` writes it."""
    return head.is_zip and any(
        name == PICKLE or (name.endswith(f"/{PICKLE}") and name.count("/") == 1)
        for name in head.members
    )


def is_old_pytorch(head: Head) -> bool:
    """Whether a file begins as `torch.save` wrote it before 1.6."""
    return is_old_form(head.start)


def is_old_form(start: bytes) -> bool:
    """Whether a file begins as `torch.save` wrote it before 1.6.

    start: at least MAX_MAGIC bytes, or all of the file.
    """
    return start[:1] in (b"\x80", b"L") and _MAGICS.match(start) is not None


def is_pytorch_index(head: Head) -> bool:
    """Whether a file is the index of a set of PyTorch files, which its name says."""
    return head.path.name.endswith(INDEX_SUFFIX) and not head.is_zip and not head.is_hdf5
