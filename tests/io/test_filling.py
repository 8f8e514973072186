"""Files that are written into room taken beforehand."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ckptkit._io.filling import PIECE_BYTES, filling


@pytest.mark.parametrize("announced", [0, 100, 3 * PIECE_BYTES, 5 * PIECE_BYTES])
def test_a_file_is_what_was_written(tmp_path: Path, announced: int) -> None:
    """Whatever was announced: fewer bytes, as many, or more."""
    pieces: list[bytes | memoryview] = [
        b"head",
        bytes(range(256)) * 8192,
        memoryview(b"tail" * 300_000),
        b"",
        b"x",
    ]
    path = tmp_path / "file"
    with filling(path, announced) as file:
        for piece in pieces:
            file.write(piece)
    assert path.read_bytes() == b"".join(pieces)


def test_room_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as caught, filling(path, 1 << 60):
        raise AssertionError("it was opened")
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
