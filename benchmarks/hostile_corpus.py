"""Hostile files, each proven to act, and what `scan` says of them; and of models that people use.

    python -m benchmarks.hostile_corpus [--models DIRECTORY ...] [--only TEXT]

A child process makes every file of the corpus and gives it to its own loader (numpy, h5py, Keras,
TensorFlow): a case counts only if that touched a file outside of the model or handed back what a
file there holds.  Then each is scanned.  DIRECTORY holds published models, wherever they come from;
every model below it is scanned, and none should be an alarm.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._hostile_cases import CASES, WORD, Case, Place
from benchmarks._rows import ROOT


class Proof(NamedTuple):
    """What became of one case: whether it acted, and where it lies."""

    name: str
    loader: str
    path: Path
    acted: bool
    note: str


# --- loaders, in the child ------------------------------------------------------------------------


def _numpy(path: str) -> Any:
    import numpy as np

    loaded = np.load(path, allow_pickle=True)
    return [loaded[name] for name in loaded.files] if hasattr(loaded, "files") else loaded


def _h5py(path: str) -> Any:
    import h5py

    found: list[str] = []

    def read(group: Any) -> None:
        for name in group:
            value = group[name]
            if isinstance(value, h5py.Group):
                read(value)
                continue
            values = value[()]
            found.append(repr(values))
            if values.dtype.kind in "iu":
                found.append(bytes(int(n) & 255 for n in values.ravel()).decode("latin-1"))

    with h5py.File(path) as file:
        read(file)
    return found


def _keras(path: str) -> Any:
    import keras
    import numpy as np

    model = keras.saving.load_model(path, safe_mode=False)
    with suppress(Exception):
        model(np.zeros((1, 1), "float32"))
    return [
        layer.get_vocabulary()
        for layer in model._flatten_layers()
        if hasattr(layer, "get_vocabulary")
    ]


def _v2(path: str) -> Any:
    import tensorflow as tf

    found = []
    for signature in tf.saved_model.load(path).signatures.values():
        specs = signature.structured_input_signature[1]
        inputs = {
            name: tf.zeros([n or 1 for n in spec.shape], spec.dtype) for name, spec in specs.items()
        }
        found.append({name: value.numpy() for name, value in signature(**inputs).items()})
    return found


def _load(path: str) -> Any:
    import tensorflow as tf

    model = tf.saved_model.load(path)
    if not hasattr(model, "table"):
        return None
    return tf.raw_ops.LookupTableExportV2(
        table_handle=model.table.resource_handle, Tkeys=tf.string, Tvalues=tf.int64
    )[0].numpy()


def _in_session(path: str, fetch: bool) -> Any:
    import numpy as np
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        inputs = {
            item.name: np.zeros([max(n.size, 1) for n in item.tensor_shape.dim], np.float32)
            for item in signature.inputs.values()
        }
        outputs = [item.name for item in signature.outputs.values()]
        return session.run(outputs, inputs) if fetch else None


def _graph(path: str) -> Any:
    import tensorflow as tf
    from google.protobuf import text_format

    v1 = tf.compat.v1
    message = v1.GraphDef()
    data = Path(path).read_bytes()
    if path.endswith("txt"):
        text_format.Parse(data.decode(), message)
    else:
        message.ParseFromString(data)
    found = []
    with tf.Graph().as_default() as graph, v1.Session() as session:
        tf.import_graph_def(message, name="")
        for op in graph.get_operations():
            with suppress(Exception):
                found.append(session.run(op.outputs or op))
    return found


def _meta(path: str) -> Any:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(f"{path}.meta").restore(session, path)


def _bundle(path: str) -> Any:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(path)
    return [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]


LOADERS: dict[str, Callable[[str], Any]] = {
    "numpy": _numpy,
    "h5py": _h5py,
    "keras": _keras,
    "v2": _v2,
    "load": _load,
    "v1": lambda path: _in_session(path, fetch=True),
    "load v1": lambda path: _in_session(path, fetch=False),
    "graph": _graph,
    "meta": _meta,
    "bundle": _bundle,
}


def _proven(case: Case, directory: Path) -> Proof:
    """Make one case, and let its loader take it."""
    place = Place(directory / "model", directory / "outside", directory / "secret.txt")
    place.directory.mkdir(parents=True)
    place.outside.mkdir()
    place.secret.write_text(WORD)
    place.secret.with_name(WORD).touch()
    path = case.make(place)
    note = given = ""
    try:
        given = str(LOADERS[case.loader](str(path)))
    except Exception as error:  # a loader may complain after all is done
        note = f"{type(error).__name__}: {error}"[:300]
    acted = WORD in given or any(place.outside.iterdir())
    return Proof(case.name, case.loader, path, acted, note)


def _make_all(directory: Path, only: str) -> None:
    """Print one line of JSON per case: what `Proof` says."""
    from benchmarks import _hostile_flows, _hostile_forms, _hostile_graphs  # add theirs to CASES

    del _hostile_flows, _hostile_forms, _hostile_graphs
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for number, case in enumerate(CASES):
        if only in case.name:
            proof = _proven(case, directory / f"{number:03}")
            out.write(json.dumps([*proof[:2], str(proof.path), *proof[3:]]) + "\n")
            out.flush()


# --- the parent -----------------------------------------------------------------------------------


def proofs(directory: Path, only: str = "") -> Iterator[Proof]:
    """Make the corpus below a directory, in a child process, and yield what each case did."""
    make = ["-m", "benchmarks.hostile_corpus", "--make", str(directory), "--only", only]
    done = subprocess.run(
        [sys.executable, *make],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    for line in done.stdout.splitlines():
        name, loader, path, acted, note = json.loads(line)
        yield Proof(name, loader, Path(path), acted, note)


def models_in(directory: Path) -> list[Path]:
    """Return every model below a directory: files by suffix, SavedModels by their graph."""
    suffixes = {".h5", ".hdf5", ".keras", ".npz", ".npy", ".safetensors", ".meta", ".index"}
    suffixes.add(".tflite")
    files = [path for path in directory.rglob("*") if path.suffix in suffixes and path.is_file()]
    graphs = [path.parent for path in directory.rglob("saved_model.pb*")]
    frozen = [p for p in directory.rglob("*.pb") if p.name in ("frozen.pb", "graph.pb", "model.pb")]
    return sorted({*files, *graphs, *frozen})


def main() -> None:
    """Print how many hostile files were found, and how many models were alarms."""
    from ckptkit.operations.scan.api import scan

    parser = argparse.ArgumentParser()
    parser.add_argument("--make", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    if options.make:
        _make_all(options.make, options.only)
        return
    with tempfile.TemporaryDirectory() as directory:
        made = list(proofs(Path(directory), options.only))
        acting = [proof for proof in made if proof.acted]
        missed = [proof for proof in acting if scan(proof.path).exit_code != 1]
    for proof in made:
        if not proof.acted:
            print(f"did not act: {proof.name} ({proof.note})")
    for proof in missed:
        print(f"not found: {proof.name}")
    print(f"{len(acting) - len(missed)} of {len(acting)} hostile files found")
    for directory in options.models:
        models = models_in(directory)
        codes = {model: scan(model) for model in models}
        alarms = {model: result for model, result in codes.items() if result.exit_code == 1}
        for model, result in alarms.items():
            first = next(f for f in result.findings if f.severity != "note")
            print(f"alarm: {model.relative_to(directory)}: {first.where}: {first.message}")
        told = sum(result.exit_code == 0 for result in codes.values())
        print(f"{directory}: {len(models)} models, {told} without findings, {len(alarms)} alarms")


if __name__ == "__main__":
    main()
