"""Rows 44 to 53: writers, disks, files that change, people, values."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit as package
from ckptkit._io.atomic import is_temporary
from ckptkit.errors import CkptkitError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support import killing, writing
from support.catalogue import fault
from support.command_line import ckptkit, refused
from support.damage import data, index, write
from support.places import environment
from support.signals import ended_while_flushing
from support.system_calls import replaced
from support.ticks import after_a_tick
from support.values import blocks_of, out_tensors, same_bits
from support.weights import write_bundle


def content(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a directory by its name."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def temporaries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if is_temporary(path.name)]


# --- killed, refused ------------------------------------------------------------------------------


@fault(44, "kill -9, or loss of power, at any step of a write")
def _(tmp_path: Path) -> None:
    """the whole old file or the whole new one lies there, and the next run needs no clean-up."""
    for kind in ("file", "bundle"):
        (tmp_path / kind).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "support.killing", kind, str(tmp_path / kind)],
            capture_output=True, text=True, check=True, env=environment(),
        )  # fmt: skip
        verdicts = done.stdout.split()
        assert set(verdicts) == {"old", "new"}
        assert verdicts == sorted(verdicts, reverse=True)


@contextmanager
def failing(name: str, code: int) -> Iterator[None]:
    """Let a function of `os` fail; `open` only where it makes a file."""
    original = getattr(os, name)

    def fail(*args: Any, **options: Any) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return original(*args, **options)
        raise OSError(code, os.strerror(code))

    with replaced(name, fail):
        yield


@fault(45, "no room, a broken disk or a quota: at open, write, flush or rename")
def _(tmp_path: Path) -> None:
    """exit 2 with one line; what was there is as it was, and nothing temporary is left."""
    for kind, (writer, _path) in writing.WRITERS.items():
        place = tmp_path / kind / "out"
        place.mkdir(parents=True)
        writer(place, 1)
        before = content(place)
        for name, code in (("fsync", errno.EIO), ("open", errno.ENOSPC), ("fsync", errno.EDQUOT)):
            with failing(name, code), pytest.raises((CkptkitError, SystemExit, OSError)) as caught:
                writer(place, 2)
            assert "\n" not in str(caught.value)
            assert content(place) == before, (kind, name)
            assert temporaries(place) == [], (kind, name)
    if Path("/dev/full").exists():
        prefix = write(tmp_path / "ckpt")
        call = shlex.join([sys.executable, "-m", "ckptkit", "verify", str(prefix), "-v"])
        code_ = f"{call} > /dev/full"
        done = subprocess.run(code_, shell=True, capture_output=True, text=True, env=environment())
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


@fault(46, "output that is the input: the same path, a link to it, a directory, a pipe")
def _(tmp_path: Path) -> None:
    """told by device and inode; refused, or replaced only after all of it was read."""
    arrays = {"a": np.arange(6, dtype=np.float32)}
    prefix = write_bundle(tmp_path / "c", arrays)
    out = tmp_path / "o.npz"
    assert ckptkit("convert", prefix, out).code == 0
    before = out.read_bytes()
    os.link(out, tmp_path / "hard.npz")
    (tmp_path / "soft.npz").symlink_to(out)
    for name in ("o.npz", "hard.npz", "soft.npz"):
        refused("convert", out, tmp_path / name)
        assert ckptkit("convert", out, tmp_path / name, "--overwrite").code == 0
        assert same_bits(package.load(out)["a"], arrays["a"])
        assert (tmp_path / "hard.npz").read_bytes() == before
    (tmp_path / "d.npz").mkdir()
    os.mkfifo(tmp_path / "f.npz")
    (tmp_path / "dev.npz").symlink_to("/dev/null")
    for name in ("d.npz", "f.npz", "dev.npz"):
        refused("convert", prefix, tmp_path / name, "--overwrite")
    assert stat.S_ISFIFO((tmp_path / "f.npz").stat().st_mode)
    for path in (index(prefix), data(prefix)):
        refused("verify", prefix, "-o", path)
        refused("verify", prefix, "--write-manifest", path)


@fault(47, "mode, umask and files that are there already")
def _(tmp_path: Path) -> None:
    """a new file gets the usual mode, a replaced one keeps its own; --overwrite is needed."""
    prefix = write_bundle(tmp_path / "c", {"a": np.arange(6, dtype=np.float32)})
    old = os.umask(0o027)
    try:
        for name in ("o.npz", "o.safetensors"):
            out = tmp_path / name
            assert ckptkit("convert", prefix, out).code == 0
            assert stat.S_IMODE(out.stat().st_mode) == 0o640
            out.chmod(0o604)
            before = out.read_bytes()
            assert "overwrite" in refused("convert", prefix, out)
            assert out.read_bytes() == before
            assert ckptkit("convert", prefix, out, "--overwrite").code == 0
            assert stat.S_IMODE(out.stat().st_mode) == 0o604
    finally:
        os.umask(old)


@fault(48, "output of several files, interrupted")
def _(tmp_path: Path) -> None:
    """the file that makes them a whole gets its name last: the old set is whole until then."""
    (tmp_path / "set").mkdir()
    for kind, last in (("bundle", "ckpt.index"), ("set", "m.safetensors.index.json")):
        place = tmp_path / f"{kind}-out"
        place.mkdir()
        names: list[str] = []
        for name in ("rename", "replace", "link"):
            with replaced(name, noting(getattr(os, name), names)):
                killing.KINDS[kind][0](place, killing.tensors(len(names) + 1))
        assert len(names) >= 2
        assert names[-1] == last, names


def noting(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    def call(source: Any, target: Any, *rest: Any, **options: Any) -> Any:
        if not is_temporary(Path(target).name):
            names.append(Path(target).name)
        return function(source, target, *rest, **options)

    return call


# --- at the same time -----------------------------------------------------------------------------


@fault(49, "input that changes while it is read")
def _(tmp_path: Path) -> None:
    """verify exits 2 and says so; nothing is said of bytes that were never there together."""
    prefix = write(tmp_path / "ckpt", 1)
    write(tmp_path / "new", 2)

    def in_place(phase: str, done: int, total: int) -> None:
        after_a_tick(data(prefix)).write_bytes(data(tmp_path / "new").read_bytes())

    def replaced(phase: str, done: int, total: int) -> None:
        shutil.copy(data(tmp_path / "new"), tmp_path / "x")
        (tmp_path / "x").replace(data(prefix))

    def gone(phase: str, done: int, total: int) -> None:
        data(prefix).unlink(missing_ok=True)

    for change in (in_place, replaced, gone):
        for path in tmp_path.glob("ckpt.*"):
            path.unlink()
        write(prefix, 1)
        result = verify(prefix, progress=change)
        assert result.exit_code == 2
        assert "changed while it was read" in str(result.refusals[0])


@fault(50, "two writers of one file, and readers beside them")
def _(tmp_path: Path) -> None:
    """the last rename wins; never a mixture, no lock is left behind."""
    path = tmp_path / "m.npz"
    sets = [killing.tensors(fill) for fill in (1, 2)]
    write_npz(path, out_tensors(sets[0]), blocks_of(sets[0]))
    done = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not done.is_set():
            try:
                found = package.load(path, jobs=1)
            except CkptkitError:  # replaced between two reads of one file: refused
                continue
            if not any(all(same_bits(found[k], s[k][1]) for k in found) for s in sets):
                wrong.append("a mixture")

    def rewrite(tensors: Any) -> None:
        for _ in range(25):
            write_npz(path, out_tensors(tensors), blocks_of(tensors), overwrite=True)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=rewrite, args=(tensors,)) for tensors in sets]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert wrong == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.npz"]
    assert verify(path).exit_code == 0


# --- people ---------------------------------------------------------------------------------------


@fault(51, "nothing was checked: an empty directory, a pattern without a match")
def _(tmp_path: Path) -> None:
    """never exit code 0."""
    empty = tmp_path / "empty"
    empty.mkdir()
    prefix = write(tmp_path / "ckpt")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    for command in (
        ("verify", empty), ("scan", empty), ("ls", empty),
        ("verify", tmp_path / "notes"), ("scan", tmp_path / "notes" / "a.txt"),
        ("verify", tmp_path / "none"), ("verify", tmp_path / "none*"),
        ("diff", prefix, prefix, "--name", "no-such-tensor"),
        ("convert", prefix, tmp_path / "o.npz", "--name", "no-such-tensor"),
    ):  # fmt: skip
        assert ckptkit(*command).code == 2, command


@fault(52, "NaN with a payload, infinities, -0.0, bfloat16, float8")
def _(tmp_path: Path) -> None:
    """copied bit for bit by every conversion; diff tells bits from values."""
    import ml_dtypes

    f4 = np.array([0x7F800001, 0xFFC12345, 0x80000000, 0x7F800000, 1], np.uint32)
    tensors = {
        "f4": ("float32", f4.view(np.float32)),
        "bf16": ("bfloat16", np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)),
        "f8": ("float8_e5m2", np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e5m2)),
    }
    prefix = tmp_path / "c"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors, 1 << 16))
    at = prefix
    for name in ("o.npz", "o.safetensors", "back"):
        out = tmp_path / name
        options = ("--to", "checkpoint") if name == "back" else ()
        assert ckptkit("convert", at, out, *options).code == 0
        for key, (_dtype, values) in tensors.items():
            assert same_bits(package.open(out).store.read(key), values), (name, key)
        at = out
    assert ckptkit("diff", prefix, at).code == 0


@fault(53, "Ctrl-C, SIGTERM, a reader that goes away")
def _(tmp_path: Path) -> None:
    """130 or 143 without a traceback, what was there untouched; silence for a closed pipe."""
    tensors = {"t": ("uint8", np.zeros(1 << 20, np.uint8))}
    source, out = tmp_path / "big.safetensors", tmp_path / "o.npz"
    write_safetensors(source, out_tensors(tensors), blocks_of(tensors, 1 << 24))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        out.write_bytes(b"old")
        ended, err = ended_while_flushing(number, "convert", source, out, "--overwrite")
        assert ended == code, err
        assert "Traceback" not in err
        assert out.read_bytes() == b"old"
        assert temporaries(tmp_path) == []
    call = shlex.join([sys.executable, "-m", "ckptkit", "verify", str(source), "-v"])
    command = f"{call} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert done.stderr == ""
