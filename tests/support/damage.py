"""Damaged and unfinished files for tests of `verify`: what a fault does to a good checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ckptkit.operations.verify.api import Verification, verify
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.goldens import GOLDEN
from support.places import ROOT
from support.values import blocks_of, out_tensors

Tensors = Mapping[str, tuple[str, Any]]


def tensors(fill: int = 1) -> dict[str, tuple[str, Any]]:
    """Return tensors whose bytes depend on `fill`."""
    rng = np.random.default_rng(fill)
    return {
        "dense/kernel": ("float32", rng.standard_normal((40, 8)).astype(np.float32)),
        "dense/bias": ("float32", rng.standard_normal(8).astype(np.float32)),
        "steps": ("int64", np.array(fill)),
        "words": ("string", np.array([b"one", b"%d" % fill, b""], object)),
    }


def write(prefix: Path, fill: int = 1, **options: Any) -> Path:
    """Write a checkpoint of `tensors(fill)`; return its prefix."""
    made = tensors(fill)
    write_tensor_bundle(prefix, out_tensors(made), blocks_of(made), **options)
    return prefix


def data(prefix: Path, shard: int = 0, count: int = 1) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{count:05d}")


def index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file, counted from its start; negative: from its end."""
    content = bytearray(path.read_bytes())
    byte = bit // 8
    content[byte] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def golden(tmp_path: Path, name: str) -> Path:
    """Copy a golden (a SavedModel directory, a file, or a checkpoint's prefix) and return it."""
    source = GOLDEN / name
    target = tmp_path / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        shutil.copy(source, target)
    else:
        for part in source.parent.glob(f"{source.name}.*"):
            shutil.copy(part, tmp_path / part.name)
    return target


def codes(path: Path, **options: Any) -> list[str]:
    """Return the codes of all findings but notes, sorted; the exit code must fit them."""
    result = verify(still(path), **options)
    found = sorted(f.code for f in result.findings if f.severity != "note")
    assert result.exit_code == (1 if found else 0) or options.get("strict"), result
    return found


def sound(result: Verification) -> bool:
    return result.exit_code == 0 and not [f for f in result.findings if f.severity != "note"]


def aged(path: Path, days: float = 2.0) -> Path:
    """Set the times of a path, and of all below it, back; return it."""
    for entry in (*path.rglob("*"), path):
        changed = entry.lstat().st_mtime - days * 86_400
        os.utime(entry, (changed, changed), follow_symlinks=False)
    return path


def still(path: Path) -> Path:
    """Let what lies at a path be of yesterday, as in a directory that nobody writes into now."""
    place = path if path.is_dir() else path.parent
    if ROOT not in path.parents and time.time() - place.stat().st_mtime < 86_400:
        for entry in (*place.iterdir(), place):
            changed = entry.lstat().st_mtime - 86_400
            os.utime(entry, (changed, changed), follow_symlinks=False)
    return path
