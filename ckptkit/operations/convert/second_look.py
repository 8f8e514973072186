"""The look at DST after the switch: every byte there is one that was proven.

What is proven lies beside DST, and gets its name by renaming.  Another program, which knows nothing
of claims, may write there at the same time; so whoever says "proven" has read what lies there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

from ckptkit._io import crc32c as _crc32c
from ckptkit._io.files import Extent, aligned_buffer, file_size
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import phase
from ckptkit.errors import CkptkitError, OutputError

_READ_AT_ONCE = 1 << 20  # bytes

Checksums = Mapping[str, int]
"""Of each file by its name, or its path below a directory: the CRC-32C of all its bytes."""


def checksums(files: Mapping[str, Path], executor: Executor | None = None) -> Checksums:
    """Return the checksums of files by name, every byte read.

    Raises PathNotFoundError, FormatError (not a regular file), TruncatedError.
    """
    with phase("read once more", sum(file_size(path) for path in files.values())):
        found = bounded_map(executor, _checksum, list(files.values()))
        return dict(zip(files, found, strict=True))


def files_below(root: Path) -> dict[str, Path]:
    """Return every file below a directory by its path from there."""
    return {
        str(file.relative_to(root)): file
        for place, _, names in os.walk(root)
        for file in (Path(place, name) for name in names)
    }


def compare_with_proven(
    proven: Checksums, dst: Path, files: Mapping[str, Path], executor: Executor | None = None
) -> None:
    """Read the files of DST; raise OutputError unless they are, byte for byte, those proven."""
    try:
        found: Checksums | None = checksums(files, executor)
    except CkptkitError:  # gone, or cut short
        found = None
    if found != proven:
        raise OutputError(
            "what lies there is not what was proven: another program wrote there meanwhile",
            where=str(dst),
            hint="convert again when nothing else writes there",
        )


def _checksum(path: Path) -> int:
    size = file_size(path)
    extent = Extent(path, 0, size)
    buffer = aligned_buffer(min(size, _READ_AT_ONCE))
    extend, crc = _crc32c.unlocked_extend(), 0
    for start in range(0, size, _READ_AT_ONCE):
        part = buffer[: min(_READ_AT_ONCE, size - start)]
        extent.read_into(start, part.data)
        if extend is not None:
            crc = extend(crc, part.ctypes.data, len(part))
        else:
            crc = int(_crc32c.extend(crc, part.tobytes()))
    return crc
