"""What is read of a file is of one state of it, in every command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit._io.file_states import check_unchanged, unchanged
from ckptkit._io.files import read_exact
from ckptkit.compare import spans
from ckptkit.errors import ChangedError
from ckptkit.operations.convert.api import convert
from ckptkit.operations.diff.api import diff
from ckptkit.operations.verify.api import verify
from ckptkit.stores.npz.writer import write_npz
from support.ticks import after_a_tick
from support.values import blocks_of, out_tensors

SIZE = 1 << 14  # elements
Replace = Callable[[Path, Path], None]


def weights(path: Path, fill: int) -> Path:
    values = {f"layer_{n}/kernel": np.full(SIZE, fill + n, np.int8) for n in range(4)}
    tensors = {key: ("int8", array) for key, array in values.items()}
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    return path


def by_rename(new: Path, old: Path) -> None:
    copy = old.with_suffix(".new")
    shutil.copyfile(new, copy)
    copy.replace(old)


def in_place(new: Path, old: Path) -> None:
    status = old.stat()
    with after_a_tick(old).open("r+b") as file:
        file.write(new.read_bytes())
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))


class ReplacedOnce:
    """Progress that replaces a file when some of it was read."""

    def __init__(self, new: Path, old: Path, how: Replace) -> None:
        self.new, self.old, self.how = new, old, how
        self.done = False

    def __call__(self, phase: str, done: int, total: int) -> None:
        if done and not self.done:
            self.done = True
            self.how(self.new, self.old)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(spans, "SPAN_ELEMENTS", SIZE)  # a tensor at a time
    return weights(tmp_path / "a.npz", 1), weights(tmp_path / "b.npz", 2)


@pytest.mark.parametrize("how", [by_rename, in_place])
def test_a_comparison_is_made_again_of_what_came(files: tuple[Path, Path], how: Replace) -> None:
    old, new = files
    progress = ReplacedOnce(new, old, how)
    found = diff(old, new, progress=progress)
    assert progress.done
    assert found.exit_code == 0


@pytest.mark.parametrize("how", [by_rename, in_place])
def test_a_conversion_is_of_what_came(
    files: tuple[Path, Path], how: Replace, tmp_path: Path
) -> None:
    old, new = files
    progress = ReplacedOnce(new, old, how)
    convert(old, tmp_path / "out.safetensors", to="safetensors", progress=progress)
    assert progress.done
    found = {int(array[0]) for array in ckptkit.load(tmp_path / "out.safetensors").values()}
    assert found == {2, 3, 4, 5}


def test_what_never_rests_is_refused(files: tuple[Path, Path]) -> None:
    old, new = files

    def always(phase: str, done: int, total: int) -> None:
        if done:
            by_rename(new, old)

    with pytest.raises(ChangedError, match=r"a\.npz: changed while it was read \(open it again"):
        diff(old, new, progress=always)


def test_a_manifest_is_of_what_was_verified(files: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = files
    manifest = tmp_path / "m.sha256"
    result = verify(old, new_manifest=manifest, progress=ReplacedOnce(new, old, by_rename))
    assert result.exit_code == 2
    assert [str(error) for error in result.refusals] == [
        f"{old}: changed while it was read (verify again when nothing writes to it)"
    ]


def test_a_path_has_a_state_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    first = unchanged(path)
    assert unchanged(first) is first
    assert first == path
    assert read_exact(first, 0, 3) == b"one"
    after_a_tick(path).write_bytes(b"two")
    assert unchanged(first) is first
    with pytest.raises(ChangedError):
        check_unchanged([first])
    with pytest.raises(ChangedError):
        read_exact(first, 0, 3)
    assert read_exact(first.with_name("f"), 0, 3) == b"two"  # another path: no state
    path.unlink()
    check_unchanged([first])  # gone is not changed: reading says so


@pytest.mark.parametrize("how", [by_rename, in_place])
def test_what_changed_is_no_damage(files: tuple[Path, Path], how: Replace) -> None:
    old, new = files
    result = verify(old, progress=ReplacedOnce(new, old, how))
    assert result.exit_code == 2
    assert not result.findings
