"""Published holes of loaders, one sample each, which `scan` finds and docs/reliability.md lists.

A sample has the shape of the hole, and harmless content.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.bombs import BOMBS
from support.hostile_models import keras_file, layer, model_with, nested, write_model

_Maker = Callable[[Path], Path]


class Hole(NamedTuple):
    """What a loader did, what `scan` says of it, and a maker of a sample: directory -> path.

    code: of the finding.  where: what the finding must name.
    """

    name: str
    what: str
    says: str
    code: str
    where: str
    make: _Maker


HOLES: list[Hole] = []


def hole(name: str, what: str, code: str, where: str) -> Callable[[_Maker], _Maker]:
    """Add a sample; the docstring of its maker is what `scan` says."""

    def add(make: _Maker) -> _Maker:
        HOLES.append(Hole(name, what, (make.__doc__ or "").strip(), code, where, make))
        return make

    return add


def _lambda() -> dict[str, Any]:
    return layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wAA"}})


@hole("CVE-2024-3660", "bytecode of a Lambda layer in a `.keras`", "keras.lambda", "config.json")
def _(directory: Path) -> Path:
    """an error with its place in the config; it is never unmarshalled."""
    return keras_file(directory / "m.keras", nested(_lambda(), 3))


@hole(
    "CVE-2025-1550",
    "a config that names any function of any module",
    "keras.unknown",
    "config.json.config.function",
)
def _(directory: Path) -> Path:
    """names both; nothing is imported by name."""
    named = {"module": "os", "class_name": "function", "config": "system"}
    named["registered_name"] = "function"
    return keras_file(directory / "m.keras", layer("Activation", function=named))


@hole(
    "CVE-2025-8747",
    "a load function of Keras itself, called by a config",
    "keras.unknown",
    "config.json",
)
def _(directory: Path) -> Path:
    """only classes that compute are on the list, not what else a module of Keras has."""
    return keras_file(directory / "m.keras", layer("get_file", "keras.utils", origin="x"))


@hole(
    "CVE-2025-9906",
    "`enable_unsafe_deserialization`, called by a config",
    "keras.unknown",
    "config.json",
)
def _(directory: Path) -> Path:
    """the same."""
    call = layer("enable_unsafe_deserialization", "keras.config")
    return keras_file(directory / "m.keras", nested(call, 1))


@hole("CVE-2025-9905", "a `.h5` for which `safe_mode` was ignored", "keras.lambda", "model_config")
def _(directory: Path) -> Path:
    """one policy for all formats."""
    return hdf5_model(directory / "m.h5", json.dumps(_lambda()))


@hole("PR 21575", "`TorchModuleWrapper`: a pickle in a config", "keras.unsafe", "config.json")
def _(directory: Path) -> Path:
    """an error by its class."""
    return keras_file(directory / "m.keras", layer("TorchModuleWrapper", module="gASV"))


@hole("PR 22035", "`TFSMLayer`: another SavedModel is loaded", "keras.unsafe", "config.json")
def _(directory: Path) -> Path:
    """an error by its class, and its path is reported."""
    return keras_file(directory / "m.keras", layer("TFSMLayer", filepath="/tmp/other"))


@hole("PR 23048", "an unset `safe_mode` meant unsafe", "keras.lambda", "config.json.config.activ")
def _(directory: Path) -> Path:
    """code is found wherever a config may hold a function, whatever the mode."""
    activation = {"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}}
    return keras_file(directory / "m.keras", layer("Dense", activation=activation))


@hole("CVE-2025-12058", "a vocabulary that is a path or an address", "keras.path", "vocabulary")
def _(directory: Path) -> Path:
    """the text is shown; nothing in a config is opened."""
    return keras_file(directory / "m.keras", layer("StringLookup", vocabulary="/etc/passwd"))


def _member(name: str, attributes: int = 0) -> _Maker:
    def make(directory: Path) -> Path:
        path = keras_file(directory / "m.keras", None)
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.external_attr = attributes << 16
            archive.writestr(info, b"x")
        return path

    return make


@hole("CVE-2024-55459", "an archive's member called `../x`", "archive.path", "../../x.json")
def _(directory: Path) -> Path:
    """an error for every member, whatever its suffix; nothing is unpacked."""
    return _member("../../x.json")(directory)


@hole("CVE-2025-12060", "a member that is a link", "archive.link", "assets/x")
def _(directory: Path) -> Path:
    """an error."""
    return _member("assets/x", 0o120777)(directory)


@hole("GHSA-hqp4-2352-xf5r", "an absolute name, a drive, a backslash", "archive.path", "C:")
def _(directory: Path) -> Path:
    """an error."""
    return _member("C:\\x")(directory)


def hdf5_model(path: Path, config: Any, write: Callable[[Any, Any], None] | None = None) -> Path:
    """Write a `.h5` file of Keras 2 without weights, with a config, and what `write` adds."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"d"]
        group = file.create_group("d")
        group.attrs["weight_names"] = [b"d/kernel:0"]
        group["d/kernel:0"] = [1.0]
        if config is not None:
            file.attrs["model_config"] = config
        if write is not None:
            write(h5py, file)
    return path


@hole("CVE-2026-1669", "values in an external file", "hdf5.link", "d/raw")
def _(directory: Path) -> Path:
    """an error that names the data set; the file is not opened."""

    def write(_h5py: Any, file: Any) -> None:
        file.create_dataset("d/raw", (4,), "u1", external=[("/etc/passwd", 0, 4)])

    return hdf5_model(directory / "m.h5", None, write)


@hole("CVE-2026-12480", "a virtual dataset", "hdf5.link", "d/virtual")
def _(directory: Path) -> Path:
    """the same."""

    def write(h5py: Any, file: Any) -> None:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        file.create_virtual_dataset("d/virtual", layout)

    return hdf5_model(directory / "m.h5", None, write)


@hole("PR 22057", "a link to another HDF5 file", "hdf5.link", "d/link")
def _(directory: Path) -> Path:
    """the same, in `.h5`, `.weights.h5` and `.keras`."""

    def write(h5py: Any, file: Any) -> None:
        file["d/link"] = h5py.ExternalLink("other.h5", "x")

    return hdf5_model(directory / "m.weights.h5", None, write)


@hole("CVE-2026-0897", "a shape far beyond what is stored", "hdf5.bomb", "layers/dense/vars/0")
def _(directory: Path) -> Path:
    """an error; nothing of that size is set aside."""
    return BOMBS["h5_sparse"](directory)


@hole("PR 23010", "a zip bomb", "archive.bomb", "config.json")
def _(directory: Path) -> Path:
    """an error; the member is not inflated."""
    return BOMBS["keras_config"](directory)


@hole("PR 22729", "`registered_name`, which was ignored", "keras.unknown", "mine>Dense")
def _(directory: Path) -> Path:
    """a warning wherever it is not what Keras writes for the class."""
    named = {**layer("Dense"), "registered_name": "mine>Dense"}
    return keras_file(directory / "m.keras", named)


def _npy(descr: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + pickle.dumps([{}])


@hole("numpy: `.npy`", "pickled objects in an array", "npz.pickle", "a.npy")
def _(directory: Path) -> Path:
    """an error, at any depth of a record; what of a header is not understood is a warning."""
    path = directory / "a.npy"
    path.write_bytes(_npy("[('a', '<f4'), ('b', [('c', '|O')])]"))
    return path


@hole("numpy: `.npz`", "the same in an archive, under any name", "npz.pickle", "weights.bin")
def _(directory: Path) -> Path:
    """an error: members are told by their content, as numpy tells them."""
    path = directory / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.bin", _npy("'|O'"))
    return path


@hole("numpy: pickles", "a pickle, whatever the file is called", "pickle", "weights.npy")
def _(directory: Path) -> Path:
    """an error, of every protocol."""
    buffer = io.BytesIO()
    pickle.Pickler(buffer, 0).dump(Path("x"))
    path = directory / "weights.npy"
    path.write_bytes(buffer.getvalue())
    return path


@hole("TensorFlow: ops", "ops that touch files, print, or run code", "graph.writes-files", "hidden")
def _(directory: Path) -> Path:
    """an error, in the graph, any function, any initializer; unknown ops are a warning."""
    return write_model(directory / "m", model_with("WriteFile", "nested function"), "pb")


@hole("TensorFlow: assets", "an asset that is a link", "file.link", "assets/words.txt")
def _(directory: Path) -> Path:
    """an error for every link that leads out of the directory; they are followed to tell."""
    model = write_model(directory / "m", model_with("Identity", "graph"), "pb")
    (model / "assets").mkdir()
    (directory / "secret.txt").write_text("x")
    (model / "assets/words.txt").symlink_to(directory / "secret.txt")
    return model


@hole("TensorFlow: saver", "a restore op that writes", "graph.writes-files", "sneaked")
def _(directory: Path) -> Path:
    """an error: restoring is what a loader runs, so only reading the prefix is in order there."""
    return write_model(directory / "m", saver_tree(), "pb")


def const(name: str, *texts: str) -> dict[str, Any]:
    """Return a constant of texts."""
    value = {"tensor": {"string_val": list(texts)}}
    return {"name": name, "op": "Const", "attr": {"key": "value", "value": value}}


def saver_tree(*more: dict[str, Any], restore: str = "sneaked") -> dict[str, Any]:
    """Return a SavedModel with the saver of TensorFlow 1, whose restore op also needs `more`."""
    more = more or ({"name": "sneaked", "op": "SaveV2", "input": ["filename", "names", "names"]},)
    nodes = [
        const("default", "model"),
        {"name": "filename", "op": "PlaceholderWithDefault", "input": ["default"]},
        const("names", "v"),
        const("temporary", "_temp/part"),
        {"name": "joined", "op": "StringJoin", "input": ["filename", "temporary"]},
        {"name": "shard", "op": "ShardedFilename", "input": ["joined", "names", "names"]},
        {"name": "save", "op": "SaveV2", "input": ["shard", "names", "names", "names"]},
        {"name": "shards", "op": "Pack", "input": ["shard", "^save"]},
        {"name": "merge", "op": "MergeV2Checkpoints", "input": ["shards", "filename"]},
        {"name": "saved", "op": "Identity", "input": ["filename", "^merge"]},
        {"name": "read", "op": "RestoreV2", "input": ["filename", "names", "names"]},
        {"name": "restore", "op": "NoOp", "input": ["^read"]},
        *more,
    ]
    saver = {
        "filename_tensor_name": "filename:0",
        "save_tensor_name": "saved:0",
        "restore_op_name": restore,
    }
    return {"meta_graphs": {"graph_def": {"node": nodes}, "saver_def": saver}}
