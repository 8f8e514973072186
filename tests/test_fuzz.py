"""A bounded run of every fuzz target, and every mutant that once got through (`make fuzz`).

How long a mutant takes is for `make fuzz` to judge: a test must pass on a busy machine, too.
"""

from __future__ import annotations

import importlib
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from support.places import SUPPORT

# else 80; `make fuzz` goes on from here
SEEDS = {
    "saved-model": 15,
    "keras": 30,
    "state": 30,
    "libhdf5": 12,
    "show": 15,
    "convert": 20,
    "diff": 25,
    "exchange": 40,
    "manifest": 40,
    "orbax": 12,
    "pytorch": 20,
    "beside-onnx": 400,
    "beside-torch": 400,
    "beside-tensorstore": 40,
    "keras-config": 30,
    "beside-tensorflow": 8,
}


@pytest.fixture
def targets() -> Any:
    return importlib.import_module("support.fuzz.targets")


NAMES = (
    *("bundle", "graph", "graph-text", "h5", "index"),
    *("keras", "libhdf5", "litert", "npz", "onnx", "orbax", "pytorch", "safetensors"),
    *("saved-model", "snappy", "state"),
    *("align", "convert", "diff", "exchange", "golden", "inputs", "keras-config", "manifest"),
    *("rules", "safetensors-index", "show", "state-text", "tolerances", "weights-json", "words"),
    *("beside-numpy", "beside-safetensors", "beside-tensorstore"),
    pytest.param("beside-tensorflow", marks=pytest.mark.needs_tf),
    pytest.param("beside-onnx", marks=pytest.mark.runtimes),
    pytest.param("beside-torch", marks=pytest.mark.runtimes),
)


@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_read_or_refused(targets: Any, name: str, tmp_path: Path) -> None:
    needed = {
        **dict.fromkeys(("h5", "keras", "libhdf5", "keras-config", "weights-json"), "h5py"),
        **dict.fromkeys(("show", "diff", "convert", "manifest"), "h5py"),
        **dict.fromkeys(("snappy", "orbax"), "cramjam"),
        "beside-tensorstore": "tensorstore",
        "beside-onnx": "onnx",
        "beside-torch": "torch",
        "beside-safetensors": "safetensors",
        "beside-tensorflow": "tensorflow",
    }
    if name in needed:
        pytest.importorskip(needed[name])
    for _, path in targets.mutants(name, tmp_path, range(SEEDS.get(name, 80))):
        targets.judged(name, path)


@pytest.mark.parametrize("name", ["bundle", "safetensors", "npz", "graph"])
def test_mutants_take_little_memory(targets: Any, name: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for seed, path in targets.mutants(name, tmp_path, range(1000, 1025)):
            tracemalloc.reset_peak()
            targets.judged(name, path)
            assert tracemalloc.get_traced_memory()[1] < 256 << 20, seed
    finally:
        tracemalloc.stop()


def test_every_target_is_run(targets: Any) -> None:
    names = [str(getattr(name, "values", [name])[0]) for name in NAMES]
    assert sorted(targets.TARGETS) == sorted(names)


def test_a_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    main = importlib.import_module("support.fuzz.__main__")
    counts = tmp_path / "counts.json"
    for _ in range(2):
        assert main.Run("words", counts, None).until(tmp_path, 3600, 20) == 0
    assert main.read_counts(counts)["words"]["next"] == 40
    assert main.Run("words", counts, 7).until(tmp_path, 3600, 3) == 0
    found = main.read_counts(counts)["words"]
    assert found["next"] == found["read"] + found["refused"] == 40 and found["failed"] == 0


def crashes() -> list[Path]:
    return sorted((SUPPORT / "fuzz" / "crashes").glob("*-*"))


def test_mutants_that_once_got_through(targets: Any) -> None:
    """`crashes/TARGET-SEED` holds the files; the operand is found as the target wrote it."""
    for crash in crashes():
        name = crash.name.rpartition("-")[0]
        files = sorted(crash.iterdir())
        operand = crash / "c" if name == "bundle" else crash if name == "state" else files[0]
        targets.judged(name, operand)
