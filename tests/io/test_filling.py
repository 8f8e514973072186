"""Files that are written into room taken beforehand."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ckptkit._io import filling as filling_module
from ckptkit._io.filling import PIECE_BYTES, check_size, filling
from ckptkit.errors import OutputError


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
    path.touch()
    with filling(path, announced) as file:
        for piece in pieces:
            file.write(piece)
    assert path.read_bytes() == b"".join(pieces)


def test_a_file_whose_flushing_begins_early_is_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_module, "_FLUSHED_BYTES", 2 * PIECE_BYTES)
    data = bytes(range(256)) * (5 * PIECE_BYTES // 256) + b"end"
    path = tmp_path / "file"
    path.touch()
    with filling(path, len(data)) as file:
        for start in range(0, len(data), 3_000_000):
            file.write(data[start : start + 3_000_000])
    assert path.read_bytes() == data


def test_room_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(OSError) as caught, filling(path, 1 << 60):
        raise AssertionError("it was opened")
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)


def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), filling(tmp_path / "gone", 1):
        raise AssertionError("it was opened")
    assert not list(tmp_path.iterdir())


def test_a_size_that_was_not_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_size(path, 3, "out")
    with pytest.raises(OutputError, match="out: of the 4 bytes that were written to file, 3 are"):
        check_size(path, 4, "out")
