"""One piece of work of each kind that takes an executor, over small files, and what it reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.stores.locate import locate
from support.goldens import golden, goldens
from support.keras_files import write_keras
from support.places import ROOT
from support.weights import Array, write_bundle

STEPS = 3


def _arrays(seed: int) -> dict[str, Array]:
    """Return tensors of several dtypes and sizes; one is of strings, one is empty."""
    random = np.random.default_rng(seed)
    layers = {
        f"layer_{number}/kernel": random.normal(size=(64, 1 + 17 * number)).astype(np.float32)
        for number in range(12)
    }
    return {
        **layers,
        "table": np.array([b"a", b"bc", str(seed).encode()], object),
        "empty": np.zeros((0, 3), np.float32),
        "step": np.array(seed, np.int64),
    }


def write_files(directory: Path) -> Path:
    """Write what `reports` is about into a new directory, and return it."""
    (directory / "run").mkdir(parents=True)
    for step in range(1, 1 + STEPS):
        write_bundle(directory / "run" / f"ckpt-{step}", _arrays(step))
    write_bundle(directory / "damaged", _arrays(1))
    data = directory / "damaged.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    write_keras(directory / "m.keras")
    return directory


def reports(directory: Path, executor: Executor | None, out: Path) -> Mapping[str, Any]:
    """Return what each kind of work says of the files, plain values; `out`: a new directory."""
    out.mkdir()
    old, new = (directory / "run" / f"ckpt-{step}" for step in (1, STEPS))
    receipts = {
        name: ckptkit.convert(old, out / name, **options, digests=True, executor=executor).to_json()
        for name, options in CONVERSIONS.items()
    }
    for receipt in receipts.values():
        # Each piece of work has its own; versions are of what was imported by then.
        del receipt["dst"], receipt["files"], receipt["versions"]
    return {
        "verify": ckptkit.verify(old, values=True, executor=executor).to_json(),
        "damaged": ckptkit.verify(directory / "damaged", executor=executor).to_json(),
        "keras": ckptkit.verify(directory / "m.keras", executor=executor).to_json(),
        "diff": ckptkit.diff(old, new, executor=executor).to_json(),
        "history": ckptkit.history(directory / "run", cache=False, executor=executor).to_json(),
        "ls": ckptkit.ls(old, digest=True, stats=True, executor=executor).to_json(),
        "convert": receipts,
        "files": {path.name: path.read_bytes() for path in sorted(out.iterdir())},
    }


CONVERSIONS: Mapping[str, Mapping[str, Any]] = {
    "w.safetensors": {},
    "copy": {"to": "tensor-bundle", "shard_size": 20_000},
    "cast.safetensors": {"casts": ["float32=bfloat16"], "shard_size": 20_000},
    "even": {"to": "tensor-bundle", "shards": 3},
    "even.safetensors": {"shards": 4},
}


def fixtures_by_format(directory: Path) -> dict[str, list[Path]]:
    """Return the smallest files of each format, two of each where there are as many.

    All fixtures are looked at; what only ckptkit writes is written into an empty `directory`.
    """
    paths = [each.path for each in goldens()]
    for version in ROOT.glob("fixtures/*/*"):
        if version.is_dir() and version.parent.name != "golden":
            paths += version.iterdir()
    for shards in (1, 2):
        weights = directory / f"{shards}.safetensors"
        ckptkit.convert(golden("tf2.21.0/adam/ckpt").path, weights, shards=shards)
    found: dict[str, list[Path]] = {}
    for path in sorted([*paths, *directory.iterdir()], key=_nbytes):
        try:
            found.setdefault(locate(path).format, []).append(path)
        except CkptkitError:  # what is beside them
            continue
    return {name: files[:2] for name, files in found.items()}


def _nbytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files)


POLICY = """
[model]
max-parameters = 100
nonfinite = false
[verify]
[baseline]
config = "same"
"""


def answers(old: Path, new: Path, executor: Executor | None, out: Path) -> Mapping[str, Any]:
    """Return what every operation says of two files, as a report or a refusal; `out`: a new
    directory."""
    out.mkdir()
    policy = out / "policy.toml"
    policy.write_text(POLICY, encoding="utf-8")
    work: dict[str, Callable[[], Any]] = {
        "ls": lambda: ckptkit.ls(old, digest=True, stats=True, executor=executor),
        "verify": lambda: ckptkit.verify(old, values=True, executor=executor),
        "diff": lambda: ckptkit.diff(old, new, executor=executor),
        "history": lambda: ckptkit.history(old, new, executor=executor),
        "gate": lambda: ckptkit.gate(old, policy, baseline=new, executor=executor),
    }
    for name, to in (("w.safetensors", "safetensors"), ("c", "tensor-bundle")):
        work[f"convert to {to}"] = partial(
            ckptkit.convert, old, out / name, to=to, shards=2, digests=True, executor=executor
        )
    return {name: _answer(function, out) for name, function in work.items()}


def _answer(function: Callable[[], Any], out: Path) -> Any:
    try:
        report = function().to_json()
    except CkptkitError as error:
        report = {"refusal": str(error)}
    report.pop("versions", None)  # of what was imported by then
    return json.loads(json.dumps(report).replace(str(out), "OUT"))


def write_large_run(directory: Path) -> Path:
    """Write three steps of a run, of 48 MB each: long enough to kill a worker meanwhile."""
    for step in range(1, 4):
        arrays = {
            f"layer_{n}/kernel": np.full((500, 2000), n + step / 7, np.float32) for n in range(12)
        }
        write_bundle(directory / f"ckpt-{step}", arrays)
    return directory


WORK: dict[str, Callable[[Path, Executor | None, Path], Any]] = {
    "verify": lambda d, executor, out: ckptkit.verify(d / "ckpt-1", executor=executor).exit_code,
    "diff": lambda d, executor, out: len(
        ckptkit.diff(d / "ckpt-1", d / "ckpt-2", executor=executor).changes
    ),
    "history": lambda d, executor, out: len(
        ckptkit.history(d, cache=False, executor=executor).steps
    ),
    "digest": lambda d, executor, out: (
        ckptkit.ls(d / "ckpt-1", digest=True, executor=executor).digest
    ),
    "convert": lambda d, executor, out: (
        ckptkit.convert(
            d / "ckpt-1", out / "w.safetensors", shards=6, executor=executor, overwrite=True
        ).ok
    ),
}
