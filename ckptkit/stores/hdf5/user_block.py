"""Where an HDF5 file begins: whoever made it may have put a block of their own before it."""

from __future__ import annotations

from pathlib import Path

from ckptkit._io.files import file_size, read_exact

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def start_of_hdf5(path: Path) -> int | None:
    """Return where libhdf5 finds an HDF5 file to begin: at 0, 512, 1024, ... ; None if nowhere.

    Source: "The User Block" and "Superblock" of the HDF5 File Format Specification.
    """
    size, at = file_size(path), 0
    while at + len(SIGNATURE) <= size:
        if read_exact(path, at, len(SIGNATURE)) == SIGNATURE:
            return at
        at = 2 * at or 512
    return None
