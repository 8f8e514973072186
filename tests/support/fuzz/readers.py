"""What is fuzzed of readers: good files, a mutator, and everything that looks at a file."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import verify
from ckptkit.reports import findings, listing
from ckptkit.stores.saved_model.graph import read_graphs
from ckptkit.stores.tensor_bundle.table import parse_table
from support.fuzz import model_mutants, mutators, orbax_mutants
from support.goldens import GOLDEN


class Target(NamedTuple):
    """One reader.  write: puts mutant number `seed` below a directory and returns the operand."""

    write: Callable[[Path, random.Random], Path]
    use: Callable[[Path], None]


def read_everything(path: Path) -> None:
    """Do with a file all that listing, showing, loading, verifying and scanning do."""
    for result in (verify(path), verify(path, values=True, strict=True), scan(path)):
        for fmt in ("table", "json", "csv", "junit", "github", "sarif"):
            assert list(findings.lines([result], fmt, verbose=True))
    with suppress(CkptkitError):
        checkpoint = ckptkit.open(path)
        found = ckptkit.ls(path, everything=True)
        assert all(line.isprintable() for line in listing.lines(found, "table", "long"))
        assert list(listing.lines(found, "json"))
        for key in checkpoint.specs:
            with suppress(CkptkitError):
                checkpoint.store.read(key)
        ckptkit.load(path, jobs=1)


def read_table(path: Path) -> None:
    parse_table(path.read_bytes(), "x")


def read_graph(path: Path) -> None:
    read_graphs(path)
    scan(path)


def bundle(*names: str) -> Callable[[Path, random.Random], Path]:
    def write(directory: Path, rng: random.Random) -> Path:
        files = mutators.golden_files(GOLDEN / rng.choice(names))
        for name, content in mutators.bundle(files, rng).items():
            (directory / name).write_bytes(content)
        return directory / "c"

    return write


def _index(directory: Path, rng: random.Random) -> Path:
    index = (GOLDEN / "tf2.21.0/adam/ckpt.index").read_bytes()
    items = dict(parse_table(index, "golden"))
    path = directory / "x.index"
    path.write_bytes(mutators.noise(mutators.table(items, rng), rng))
    return path


def file(mutate: mutators.Mutator, *names: str) -> Callable[[Path, random.Random], Path]:
    def write(directory: Path, rng: random.Random) -> Path:
        source = GOLDEN / rng.choice(names)
        path = directory / source.name
        path.write_bytes(mutate(source.read_bytes(), rng))
        return path

    return write


def saved_model(directory: Path, rng: random.Random) -> Path:
    source = GOLDEN / rng.choice(("tf2.21.0/lookup/model", "tf2.12.1/saved_model_keras2/model"))
    target = directory / "model"
    shutil.copytree(source, target)
    names = [path for path in sorted(target.iterdir()) if path.suffix == ".pb"]
    path = rng.choice(names)
    path.write_bytes(mutators.noise(path.read_bytes(), rng))
    return target


def state(directory: Path, rng: random.Random) -> Path:
    text = b'model_checkpoint_path: "c"\nall_model_checkpoint_paths: "c"\n'
    (directory / "checkpoint").write_bytes(mutators.noise(text, rng))
    for name, content in mutators.golden_files(GOLDEN / "tf2.21.0/adam/ckpt").items():
        (directory / name).write_bytes(content)
    return directory


@cache
def written(kind: str) -> bytes:
    """Return a file of every kind of tensor, as our writer makes it."""
    from ckptkit.stores.npz.writer import write_npz
    from ckptkit.stores.safetensors.writer import write_safetensors
    from support.values import blocks_of, corpus, out_tensors

    tensors = corpus(["float32", "int8", "string"])
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, f"w.{kind}")
        writer = write_npz if kind == "npz" else write_safetensors
        writer(path, out_tensors(tensors), blocks_of(tensors))
        return path.read_bytes()


def neutral(kind: str) -> Callable[[Path, random.Random], Path]:
    def write(directory: Path, rng: random.Random) -> Path:
        mutate = mutators.archive if kind == "npz" else mutators.safetensors
        path = directory / f"w.{kind}"
        path.write_bytes(mutate(written(kind), rng))
        return path

    return write


def _snappy(directory: Path, rng: random.Random) -> Path:
    """An index whose blocks are compressed, damaged below checksums that hold."""
    import cramjam

    from support.crafted import block, entry_bytes, raw_table

    entries = [entry_bytes(0, b"%06d" % n, bytes([n % 7]) * 40) for n in range(20)]
    packed = bytes(cramjam.snappy.compress_raw(block(entries)))
    blocks = [packed, mutators.noise(packed, rng)]
    path = directory / "x.index"
    path.write_bytes(raw_table(blocks, kinds=[1, 1]))
    return path


@cache
def _libhdf5_file() -> bytes:
    """Return a file of the newest layout, chunked and compressed: all of it is left to libhdf5."""
    import h5py
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "x.weights.h5")
        with h5py.File(path, "w", libver="latest") as file:
            file.attrs["names"] = ["a", "b"]
            for name in ("dense", "conv"):
                values = np.arange(200, dtype=np.float32).reshape(20, 10)
                file.create_dataset(
                    f"layers/{name}/vars/0", data=values, chunks=(7, 10), compression="gzip",
                    shuffle=True, fletcher32=True,
                )  # fmt: skip
            file.create_dataset("words", data=["x", "yz"], dtype=h5py.string_dtype())
        return path.read_bytes()


def _libhdf5(directory: Path, rng: random.Random) -> Path:
    path = directory / "x.weights.h5"
    path.write_bytes(mutators.noise(_libhdf5_file(), rng))
    return path


BUNDLES = (
    *("tf2.21.0/adam/ckpt", "tf2.15.1/legacy_adam/ckpt", "tf2.12.1/metrics/ckpt"),
    *("tf2.21.0/grid/ckpt", "tf2.12.1/saver/model.ckpt", "tf2.21.0/dtypes/ckpt"),
    *("tf2.21.0/objects/ckpt", "tf2.18.1/list/ckpt"),
)
READERS = {
    "bundle": Target(bundle(*BUNDLES), read_everything),
    "graph": Target(file(mutators.plain, "tf2.21.0/lookup/model/saved_model.pb"), read_graph),
    "graph-text": Target(
        file(mutators.plain, "tf2.12.1/text_export/model/saved_model.pbtxt"), read_graph
    ),
    "h5": Target(
        file(
            mutators.plain,
            "tf2.21.0/files_nested/model.h5",
            "tf2.21.0/files_nested/model.weights.h5",
            "tf2.15.1/files_text/model.weights.h5",
        ),
        read_everything,
    ),
    "index": Target(_index, read_table),
    "keras": Target(
        file(
            mutators.archive,
            "tf2.21.0/files_nested/model.keras",
            "tf2.21.0/files_text/model.keras",
        ),
        read_everything,
    ),
    "libhdf5": Target(_libhdf5, read_everything),
    "litert": Target(model_mutants.of(model_mutants.LITERT), model_mutants.read_model),
    "npz": Target(neutral("npz"), read_everything),
    "onnx": Target(model_mutants.of(model_mutants.ONNX), model_mutants.read_model),
    "pytorch": Target(model_mutants.pytorch, read_everything),
    "safetensors": Target(neutral("safetensors"), read_everything),
    "orbax": Target(orbax_mutants.write, read_everything),
    "saved-model": Target(saved_model, read_everything),
    "snappy": Target(_snappy, read_table),
    "state": Target(state, read_everything),
}
