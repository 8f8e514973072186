"""Many reads of a file that is looked at once: of the state in which it was opened, or refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ckptkit._io.file_states import unchanged
from ckptkit._io.files import checked_once, read_exact
from ckptkit.errors import ChangedError, FormatError
from support.ticks import after_a_tick


def _counted(usual: Any, asked: list[object]) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        asked.append(arguments[0])
        return usual(*arguments, **keywords)

    return call


def test_the_system_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    opened = unchanged(path)
    asked: list[object] = []
    for name in ("stat", "fstat"):
        monkeypatch.setattr(os, name, _counted(getattr(os, name), asked))
    with checked_once():
        for at in range(100):
            read_exact(opened, at, 1)
    assert 0 < len(asked) < 5


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "cut"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_changed_meanwhile_is_refused(tmp_path: Path, how: str, fails: bool) -> None:
    """What goes wrong on the way is told as what it is: somebody wrote there."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"a" * 100)
    other.write_bytes(b"b" * 100)
    opened = unchanged(path)

    def read() -> None:
        assert read_exact(opened, 0, 50) == b"a" * 50
        if how == "written":
            after_a_tick(path).write_bytes(b"b" * 100)
        elif how == "cut":
            os.truncate(path, 10)
        elif how == "replaced":
            other.replace(path)
        else:
            path.unlink()
        read_exact(opened, 5, 5)
        if fails:
            raise FormatError("x", "nonsense, since half of it is of another file")

    with pytest.raises(ChangedError), checked_once():
        read()
    if how != "removed":
        with checked_once():
            assert read_exact(unchanged(path), 0, 5) in (b"bbbbb", b"aaaaa")


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(40)]
    for path in paths:
        path.write_bytes(path.name.encode())
    descriptors = Path("/proc/self/fd")  # Linux's
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    with checked_once():
        for path in paths:
            assert read_exact(unchanged(path), 0, 1) == path.name[:1].encode()
        if before:
            assert len(list(descriptors.iterdir())) < before + 20


def test_a_block_in_a_block_is_checked_when_the_outer_one_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100)
    with pytest.raises(ChangedError), checked_once():
        with checked_once():
            read_exact(unchanged(path), 0, 50)
        path.write_bytes(b"b")
