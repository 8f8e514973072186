"""Where an output may go: not into what is read, not over it, and nobody else writes there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit._io import crc32c
from ckptkit._io.claims import claiming
from ckptkit.errors import CkptkitError, OutputError
from ckptkit.operations.convert.api import convert
from ckptkit.operations.convert.second_look import DiskReading, _checksum, compare_with_proven
from ckptkit.operations.golden import export_golden, import_golden
from support.command_line import ckptkit as run
from support.command_line import refused
from support.damage import golden as copied
from support.goldens import GOLDEN
from support.places import environment
from support.signals import default_signals, ended_while_flushing
from support.weights import write_bundle

MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"
KERAS = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "ckpt", {"a": np.arange(6, dtype=np.float32)})


# --- SRC and DST in each other --------------------------------------------------------------------


def test_an_output_inside_of_what_is_read(tmp_path: Path) -> None:
    export = copied(tmp_path, "tf2.21.0/module_saved_model/model")
    (tmp_path / "link").symlink_to(export)
    before = sorted(export.rglob("*"))
    for dst in ("below", "variables/below", "below.npz"):
        for place in (export, tmp_path / "link"):
            options = ("--to", "saved-model") if "." not in dst else ()
            said = refused("convert", export, place / dst, "--like", MODEL, *options)
            assert f"{place / dst}: lies inside {export}, which is read" in said
    assert "lies inside" in refused("convert", MODEL, export / "w.npz", "--like", export)
    assert sorted(export.rglob("*")) == before


def test_an_output_that_would_take_the_source_along(tmp_path: Path) -> None:
    export = copied(tmp_path, "tf2.21.0/module_saved_model/model")
    source = export / "variables" / "variables"
    said = refused("convert", source, export, "--like", MODEL, "--to", "saved-model", "--overwrite")
    assert "would be replaced whole" in said
    assert (export / "variables" / "variables.index").exists()
    # the same directory is read whole before it is replaced
    again = ("convert", export, export, "--to", "saved-model", "--overwrite", "--no-check")
    assert run(*again).code == 0
    assert ckptkit.verify(export).ok


# --- somebody else --------------------------------------------------------------------------------


class Meddling(Executor):
    """Works at once; another program writes into a file just before its last reading."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def submit(self, function: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        if function is _checksum and args[0].path == self.file:
            data = bytearray(self.file.read_bytes())
            data[-1] ^= 1
            self.file.write_bytes(data)
        done: Future[Any] = Future()
        done.set_result(function(*args))
        return done


@pytest.mark.parametrize(
    ("to", "dst", "file"),
    [
        ("tensor-bundle", "out", "out.data-00000-of-00001"),
        ("npz", "out.npz", "out.npz"),
    ],
)
def test_proven_is_what_lies_there_afterwards(tmp_path: Path, to: str, dst: str, file: str) -> None:
    with pytest.raises(OutputError, match="is not what was proven: another program wrote there"):
        convert(MODEL, tmp_path / dst, to=to, executor=Meddling(tmp_path / file))


def test_what_the_disk_holds_is_read_while_other_work_goes_on(tmp_path: Path) -> None:
    files = {"a": tmp_path / "a", "b": tmp_path / "b", "empty": tmp_path / "empty"}
    files["a"].write_bytes(bytes(range(256)) * 40_000)  # more than one read, and no whole block
    files["b"].write_bytes(b"b" * (20 << 20) + b"end")  # read in two pieces
    files["empty"].touch()
    with DiskReading() as disk:
        disk.start(files)
        found = disk.checksums()
    assert found == {name: crc32c.value(file.read_bytes()) for name, file in files.items()}
    compare_with_proven(found, tmp_path, files)
    files["b"].write_bytes(b"c")
    with pytest.raises(OutputError, match="is not what was proven"):
        compare_with_proven(found, tmp_path, files)
    with DiskReading() as disk, pytest.raises(CkptkitError):
        disk.start({"gone": tmp_path / "gone"})


def test_the_second_conversion_is_refused_and_the_first_goes_on(
    tmp_path: Path, weights: Path
) -> None:
    for dst, options in (("o.npz", ()), ("out", ("--to", "checkpoint"))):
        at = tmp_path / (f"{dst}.index" if options else dst)
        with claiming(at):
            said = refused("convert", weights, tmp_path / dst, *options)
            assert f"process {os.getpid()} is writing it" in said
        assert run("convert", weights, tmp_path / dst, *options).code == 0


# --- signals --------------------------------------------------------------------------------------


def test_a_hang_up_ends_as_when_asked_to(tmp_path: Path) -> None:
    source = write_bundle(tmp_path / "big", {"t": np.zeros(1 << 20, np.uint8)})
    before = sorted(path.name for path in tmp_path.iterdir())
    ended, err = ended_while_flushing(1, "convert", source, tmp_path / "o.npz")
    assert ended == 129, err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_that_comes_while_python_cleans_up_is_not_lost(number: int) -> None:
    code = f"""
import os, time, weakref
from ckptkit.cli import main

class Kept: ...

with main._settings():
    kept = Kept()
    other = weakref.ref(kept, lambda _: os.kill(os.getpid(), {number}))
    del kept
    time.sleep(600)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        preexec_fn=default_signals,
    )
    assert done.returncode in (128 + number, -number), done
    assert b"Exception ignored" not in done.stderr


# --- names that no file can have ------------------------------------------------------------------


@pytest.mark.parametrize("length", [300, 5000])
def test_names_that_are_too_long_are_refused(tmp_path: Path, weights: Path, length: int) -> None:
    long = str(tmp_path / ("x" * length))
    calls: dict[str, Callable[[], object]] = {
        "safetensors": lambda: ckptkit.convert(weights, f"{long}.safetensors"),
        "shards": lambda: ckptkit.convert(weights, f"{long}.safetensors", shard_size=10),
        "npz": lambda: ckptkit.convert(weights, f"{long}.npz"),
        "checkpoint": lambda: ckptkit.convert(weights, long, to="checkpoint"),
        "weights": lambda: ckptkit.convert(KERAS, f"{long}.weights.h5", weights_only=True),
        "keras": lambda: ckptkit.convert(KERAS, f"{long}.keras"),
        "model": lambda: ckptkit.convert(MODEL, long, to="saved-model"),
        "below": lambda: ckptkit.convert(MODEL, f"{long}/export", to="saved-model"),
        "like": lambda: ckptkit.convert(weights, tmp_path / "o.npz", like=long),
        "receipt": lambda: ckptkit.convert(weights, tmp_path / "o.npz", receipt=long),
        "inverse": lambda: ckptkit.convert(weights, tmp_path / "o.npz", inverse=long),
        "manifest": lambda: ckptkit.verify(weights, manifest=long),
        "new manifest": lambda: ckptkit.verify(weights, new_manifest=long),
        "record": lambda: ckptkit.record(MODEL, long),
        "check": lambda: ckptkit.check(MODEL, golden=long),
        "import": lambda: import_golden(long, tmp_path / "golden"),
        "export": lambda: export_golden(long, tmp_path / "golden", "npy"),
    }
    for name, call in calls.items():
        with pytest.raises(CkptkitError) as caught:
            call()
        assert "\n" not in str(caught.value), name
    assert sorted(path.name[:4] for path in tmp_path.iterdir()) == ["ckpt", "ckpt"]
