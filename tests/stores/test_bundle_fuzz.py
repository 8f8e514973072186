"""Real checkpoints, damaged at random below checksums that hold: an answer or a refusal, always."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.reports import listing
from support.fuzz import mutators
from support.goldens import golden

SEEDS = 80  # per golden; `make fuzz` goes on from here
GOLDENS = [
    *("tf2.21.0/adam/ckpt", "tf2.15.1/legacy_adam/ckpt", "tf2.12.1/metrics/ckpt"),
    *("tf2.21.0/grid/ckpt", "tf2.12.1/saver/model.ckpt", "tf2.21.0/dtypes/ckpt"),
    *("tf2.21.0/objects/ckpt", "tf2.18.1/list/ckpt"),
]


def written(prefix: Path, files: mutators.Files) -> Path:
    """Write a checkpoint of files named as prefix `c`; return the prefix."""
    for name, content in files.items():
        (prefix.parent / name).write_bytes(content)
    return prefix


def use(prefix: Path) -> None:
    """Do with a checkpoint all that listing, showing and loading do."""
    checkpoint = ckptkit.open(prefix)
    found = ckptkit.ls(prefix, everything=True)
    names = [tensor.naming.name for tensor in found.tensors]
    assert len(set(names)) == len(names) == len(checkpoint.specs)
    assert all(
        checkpoint.key(name) == t.spec.key for name, t in zip(names, found.tensors, strict=True)
    )
    for layout in ("short", "long", "patterns"):
        assert all(line.isprintable() for line in listing.lines(found, "table", layout))
    assert list(listing.lines(found, "json"))
    assert list(listing.tree(found, None))
    assert found.totals["tensors"] == len(names)
    for key in checkpoint.specs:
        try:
            list(checkpoint.store.blocks(key))
            checkpoint.store.read(key)
        except CkptkitError as error:
            assert "\n" not in str(error)
    ckptkit.load(prefix)


@pytest.mark.parametrize("name", GOLDENS)
def test_mutants(name: str, tmp_path: Path) -> None:
    survived = 0
    for seed in range(SEEDS):
        rng = random.Random(f"{name} {seed}")
        files = mutators.bundle(mutators.golden_files(golden(name).path), rng)
        try:
            use(written(tmp_path / "c", files))
            survived += 1
        except CkptkitError as error:
            assert error.where or error.hint, error
            assert "\n" not in str(error)
    assert 0 < survived < SEEDS  # else the damage is not of the kind that this is about


def test_the_unharmed_checkpoints_pass(tmp_path: Path) -> None:
    for name in GOLDENS:
        use(written(tmp_path / "c", mutators.golden_files(golden(name).path)))
