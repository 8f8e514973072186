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
SEEDS = {"saved-model": 15, "keras": 30, "state": 30, "libhdf5": 12}


@pytest.fixture
def targets() -> Any:
    return importlib.import_module("support.fuzz.targets")


NAMES = (
    *("bundle", "graph", "graph-text", "h5", "index"),
    *("keras", "libhdf5", "npz", "safetensors", "saved-model", "snappy", "state"),
)


@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_read_or_refused(targets: Any, name: str, tmp_path: Path) -> None:
    needed = {"h5": "h5py", "keras": "h5py", "libhdf5": "h5py", "snappy": "cramjam"}
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
    assert sorted(targets.TARGETS) == sorted(NAMES)


def crashes() -> list[Path]:
    return sorted((SUPPORT / "fuzz" / "crashes").glob("*-*"))


def test_mutants_that_once_got_through(targets: Any) -> None:
    """`crashes/TARGET-SEED` holds the files; the operand is found as the target wrote it."""
    for crash in crashes():
        name = crash.name.rpartition("-")[0]
        files = sorted(crash.iterdir())
        operand = crash / "c" if name == "bundle" else crash if name == "state" else files[0]
        targets.judged(name, operand)
