"""Writing beside and renaming: whole old or whole new, whatever goes wrong; nothing left over."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckptkit._io import atomic as _atomic
from ckptkit._io.atomic import (
    free_count,
    is_temporary,
    replacing,
    replacing_directory,
    replacing_files,
    same_file,
)
from ckptkit.errors import OutputError
from support.places import environment
from support.system_calls import holders


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def replace_call(patch: pytest.MonkeyPatch, name: str, function: Callable[..., object]) -> None:
    for holder in holders(name):
        patch.setattr(holder, name, function)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


# --- one file -------------------------------------------------------------------------------------


def test_a_new_file_appears_whole_with_the_usual_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        with umask(mask), replacing(path, overwrite=True) as temporary:
            assert temporary.parent == tmp_path
            assert is_temporary(temporary.name)
            temporary.write_text("new")
        assert path.read_text() == "new"
        assert stat.S_IMODE(path.stat().st_mode) == mode
        path.unlink()
    assert names(tmp_path) == []


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o640)
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["out"]


def test_an_existing_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"out: already exists \(overwrite"), replacing(path):
        pytest.fail("the body must not run")
    assert path.read_text() == "old"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: Any) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    kind = OutputError if error is OSError else error
    with pytest.raises(kind), replacing(path, overwrite=True) as temporary:
        temporary.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "chmod"])
def test_an_error_of_the_system_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o600)

    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError) as caught, monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(os, call, fails)
        with replacing(path, overwrite=True) as temporary:
            temporary.write_text("new")
            replace_call(patch, call, fails)
    assert str(caught.value).startswith(f"{path}: cannot write: {os.strerror(code)}")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    cases = {
        tmp_path: "is a directory",
        tmp_path / "pipe": "is not a regular file",
        Path("/dev/null"): "is not a regular file",
        tmp_path / "no" / "out": "no such directory",
        tmp_path / "file" / "out": "Not a directory",
        tmp_path / ("x" * 300): "too long",
    }
    for path, message in cases.items():
        with pytest.raises(OutputError, match=message), replacing(path, overwrite=True):
            pytest.fail("the body must not run")
    assert names(tmp_path) == ["file", "pipe"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with replacing(path) as temporary:
        assert len(os.fsencode(temporary.name)) <= 255
        temporary.write_text("x")
    assert path.exists()


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "real", tmp_path / "link"
    link.symlink_to(target)
    for text in ("one", "two"):  # first the link leads nowhere
        with replacing(link, overwrite=True) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert names(tmp_path) == ["data", "link"]


@pytest.mark.parametrize("way", ["renameat2", "link", "replace"])
def test_two_writers_of_one_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way != "renameat2":
        monkeypatch.setattr(_atomic, "_renameat2", lambda *_: False)
    if way == "replace":

        def no_links(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        replace_call(monkeypatch, "link", no_links)
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="already exists"), replacing(path) as slow:
        slow.write_text("slow")
        with replacing(path) as fast:
            fast.write_text("fast")
    assert path.read_text() == "fast"
    assert path.stat().st_nlink == 1
    assert names(tmp_path) == ["out"]


# --- several files --------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is flushed and renamed, in order; a temporary name counts as "temporary"."""
    found: list[tuple[str, str]] = []
    fsync, replace, renameat2 = os.fsync, os.replace, _atomic._renameat2

    def label(path: object) -> str:
        name = os.path.basename(str(path))  # noqa: PTH119
        return "temporary" if is_temporary(name) else name

    def logged_fsync(fd: int) -> None:
        found.append(("fsync", label(Path(f"/proc/self/fd/{fd}").readlink())))
        fsync(fd)

    def logged_replace(source: Any, target: Any) -> None:
        found.append(("rename", label(target)))
        replace(source, target)

    def logged_renameat2(source: Path, target: Path, flags: int) -> bool:
        found.append(("rename", label(target)))
        return renameat2(source, target, flags)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    replace_call(monkeypatch, "replace", logged_replace)
    monkeypatch.setattr(_atomic, "_renameat2", logged_renameat2)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("overwrite", [False, True])
def test_data_reaches_the_disk_before_names_and_the_commit_last(
    tmp_path: Path, calls: list[tuple[str, str]], overwrite: bool
) -> None:
    paths = [tmp_path / name for name in ("data-0", "data-1", "index")]
    with replacing_files(paths, overwrite=overwrite) as temporaries:
        for temporary in temporaries:
            temporary.write_text("x")
    assert calls == [
        ("fsync", "temporary"),
        ("fsync", "temporary"),
        ("fsync", "temporary"),
        ("rename", "data-0"),
        ("rename", "data-1"),
        ("fsync", tmp_path.name),
        ("rename", "index"),
        ("fsync", tmp_path.name),
    ]


def test_obsolete_files_go_last_and_new_ones_stay(tmp_path: Path) -> None:
    for name in ("old", "both"):
        (tmp_path / name).write_text("old")
    obsolete = [tmp_path / "old", tmp_path / "both", tmp_path / "gone"]
    with replacing_files(
        [tmp_path / "both", tmp_path / "index"], overwrite=True, obsolete=obsolete
    ) as temporaries:
        for temporary in temporaries:
            temporary.write_text("new")
    assert names(tmp_path) == ["both", "index"]
    assert (tmp_path / "both").read_text() == "new"


def test_one_refused_file_refuses_all(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("old")
    with pytest.raises(OutputError), replacing_files([tmp_path / "data", tmp_path / "index"]):
        pytest.fail("the body must not run")
    with pytest.raises(RuntimeError), replacing_files([tmp_path / "data", tmp_path / "other"]):
        raise RuntimeError
    assert names(tmp_path) == ["index"]


def test_free_count(tmp_path: Path) -> None:
    for name in ("x-0-of-1", "x-2-of-3"):
        (tmp_path / name).touch()

    def its_names(count: int) -> list[Path]:
        return [tmp_path / f"x-{number}-of-{count}" for number in range(count)]

    assert [free_count(its_names, wanted) for wanted in (1, 2, 3, 4)] == [2, 2, 4, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["file", "archive", "set", "bundle", "directory"])
def test_a_writer_killed_at_any_step_leaves_old_or_new(tmp_path: Path, kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "support.killing", kind, str(tmp_path)],
        env=environment(OPENBLAS_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    verdicts = run.stdout.split()
    switch = verdicts.index("new")
    assert switch >= 4  # the new ones are prepared in several steps,
    assert set(verdicts[:switch]) == {"old"}  # all of which leave the old ones,
    assert set(verdicts[switch:]) == {"new"}  # and from one instant on it is the new ones


# --- directories ----------------------------------------------------------------------------------


def fill(directory: Path, text: str) -> None:
    (directory / "variables").mkdir()
    (directory / "variables" / "data").write_text(text)
    (directory / "saved_model.pb").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_is_made_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(_atomic, "_renameat2", lambda *_: False)
    path = tmp_path / "export"
    with replacing_directory(path) as temporary:
        fill(temporary, "old")
    path.chmod(0o750)
    (path / "stale").touch()
    with replacing_directory(path, overwrite=True, marker="saved_model.pb") as temporary:
        fill(temporary, "new")
        assert (path / "saved_model.pb").read_text() == "old"
    assert (path / "variables" / "data").read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert names(path) == ["saved_model.pb", "variables"]
    assert names(tmp_path) == ["export"]


def test_directories_that_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter").touch()
    (tmp_path / "file").touch()
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (path, {}, "already exists"),
        (path, {"overwrite": True}, "is not empty"),
        (path, {"overwrite": True, "marker": "saved_model.pb"}, r"holds no saved_model\.pb"),
        (tmp_path / "file", {"overwrite": True}, "is not a directory"),
        (tmp_path / "no" / "dir", {}, "no such directory"),
    ]
    for target, options, message in cases:
        with pytest.raises(OutputError, match=message), replacing_directory(target, **options):
            pytest.fail("the body must not run")
    assert names(path) == ["chapter"]
    assert names(tmp_path) == ["file", "thesis"]


def test_an_error_removes_the_new_directory(tmp_path: Path) -> None:
    path = tmp_path / "export"
    with pytest.raises(KeyboardInterrupt), replacing_directory(path) as temporary:
        fill(temporary, "x")
        raise KeyboardInterrupt
    path.mkdir()
    with replacing_directory(path, overwrite=True) as temporary:  # an empty one may go
        fill(temporary, "x")
    assert names(tmp_path) == ["export"]


def test_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "b").touch()
    for other in ("a", "hard", "soft"):
        assert same_file(path, tmp_path / other)
    assert same_file(tmp_path / "new", tmp_path / "x" / ".." / "new")
    assert not same_file(path, tmp_path / "b")
    assert not same_file(path, tmp_path / "new")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    os.chown(path, 12345, 54321)
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_rename_that_fails_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_atomic, "_renameat2", fails)
    replace_call(monkeypatch, "replace", fails)
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="cannot write: Input/output error"), replacing(path):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_directories_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Some file systems cannot flush a directory (EINVAL); any other failure counts."""
    fsync = os.fsync

    def only_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    path = tmp_path / "out"
    if code == errno.EIO:
        with pytest.raises(OutputError, match="Input/output error"), replacing(path) as temporary:
            temporary.write_text("x")
    else:
        with replacing(path) as temporary:
            temporary.write_text("x")
    assert path.read_text() == "x"  # the name is already there


def test_a_directory_that_appears_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "export"
    with pytest.raises(OutputError, match="already exists"), replacing_directory(path) as slow:
        fill(slow, "slow")
        path.mkdir()  # by another program
        fill(path, "fast")
    assert (path / "saved_model.pb").read_text() == "fast"
    assert names(tmp_path) == ["export"]
