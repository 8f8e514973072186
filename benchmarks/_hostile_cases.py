"""A corpus of hostile files, each made to act on the outside when its loader takes it.

What they do is harmless: they touch a file in a directory of their own (`outside`), or hand back
the word that a file there holds (`secret`).  A case is a function that writes a file or directory
and returns its path; the loader that it is made for is named beside it.  This module holds what
numpy, h5py and Keras load; `_hostile_graphs` the graphs of TensorFlow.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

WORD = "the word that nobody outside should read"


class Place(NamedTuple):
    """Where a case may write: its own directory, and what lies outside of the model."""

    directory: Path
    outside: Path
    secret: Path


Maker = Callable[[Place], Path]


class Case(NamedTuple):
    """One hostile file: its name, the loader that it is for, and how it is made."""

    name: str
    loader: str
    make: Maker


CASES: list[Case] = []


def case(name: str, loader: str) -> Callable[[Maker], Maker]:
    """Add a function that makes a hostile file to the corpus."""

    def add(make: Maker) -> Maker:
        CASES.append(Case(name, loader, make))
        return make

    return add


class Touch:
    """An object that touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


# --- numpy ----------------------------------------------------------------------------------------


def npy(header: str, data: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an array of this header, as it stands."""
    text = header.encode("utf-8" if version == (3, 0) else "latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def pickled(place: Place, protocol: int = 4) -> bytes:
    """Return the pickle of an array of objects, as numpy keeps it."""
    import numpy as np

    value = np.empty(1, object)
    value[0] = Touch(place.outside / "touched")
    return pickle.dumps(value, protocol)


def header_of(descr: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n"


_DESCRS = {
    "object": "'|O'",
    "object with a width": "'|O8'",
    "object in native order": "'=O'",
    "object by name": "'object'",
    "record with an object": "[('a', '<f4'), ('b', '|O')]",
    "record in a record": "[('a', [('b', '<i4'), ('c', [('d', '|O')])])]",
    "record with titles": "[(('title', 'a'), '|O'), ('b', '<f4')]",
    "object below a shape": "[('a', '|O', (2, 2)), ('b', '|u1')]",
    "escaped letter": "'|\\x4f'",
    "two texts side by side": "'|' 'O'",
    "text with a prefix": "u'|O'",
    "long quotes": "'''|O'''",
    "fields in one text": "'i4,O'",
    "shape in one text": "'(2,)O'",
    "dtype and shape": "('|O', (1,))",
}


def _array(descr: str, version: tuple[int, int] = (1, 0)) -> Maker:
    def make(place: Place) -> Path:
        path = place.directory / "array.npy"
        path.write_bytes(npy(header_of(descr), pickled(place), version))
        return path

    return make


for _name, _descr in _DESCRS.items():
    case(f"array: {_name}", "numpy")(_array(_descr))
case("array: version 2", "numpy")(_array("'|O'", (2, 0)))
case("array: version 3", "numpy")(_array("[('ö', '|O')]", (3, 0)))
case("array: long header", "numpy")(_array("'|O'" + " " * 12_000))


def _called(name: str) -> Maker:
    def make(place: Place) -> Path:
        path = place.directory / name
        path.write_bytes(npy(header_of("'|O'"), pickled(place)))
        return path

    return make


for _name in ("weights.npz", "model.h5", "model.keras", "model.safetensors", "model.tflite"):
    case(f"array called {_name}", "numpy")(_called(_name))


def _pickle(protocol: int, name: str) -> Maker:
    def make(place: Place) -> Path:
        path = place.directory / name
        path.write_bytes(pickle.dumps([1, Touch(place.outside / "touched")], protocol))
        return path

    return make


for _protocol in range(6):
    case(f"pickle of protocol {_protocol}", "numpy")(_pickle(_protocol, "weights.npy"))
for _name in ("weights.npz", "model.h5", "model.keras", "ckpt.index", "saved.safetensors"):
    case(f"pickle called {_name}", "numpy")(_pickle(0, _name))


@case("pickle that is cut short", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npy"
    path.write_bytes(pickle.dumps([Touch(place.outside / "touched"), 7], 2)[:-2])
    return path


def _raw_pickle(template: bytes) -> Maker:
    def make(place: Place) -> Path:
        path = place.directory / "weights.npy"
        target = str(place.outside / "touched").encode()
        path.write_bytes(template.replace(b"TARGET", target))
        return path

    return make


_OPCODES = {
    "GLOBAL and REDUCE": b"c_io\nopen\n(S'TARGET'\nS'w'\ntR.",
    "INST": b"(S'TARGET'\nS'w'\ni_io\nopen\n.",
    "OBJ": b"(c_io\nopen\nS'TARGET'\nS'w'\no.",
    "after other values": b"I1\n0S'a'\n0c_io\nopen\n(S'TARGET'\nS'w'\ntR.",
    "without a protocol": b"\x8c\x03_io\x8c\x04open\x93(S'TARGET'\nS'w'\ntR.",
}
for _name, _template in _OPCODES.items():
    case(f"pickle by {_name}", "numpy")(_raw_pickle(_template))


def _archive(members: Callable[[Place], list[tuple[str, bytes]]], method: int = 0) -> Maker:
    def make(place: Place) -> Path:
        path = place.directory / "weights.npz"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members(place):
                archive.writestr(name, data)
        return path

    return make


def _plain() -> tuple[str, bytes]:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.ones(3, np.float32))
    return "plain.npy", buffer.getvalue()


def _evil(place: Place) -> bytes:
    return npy(header_of("'|O'"), pickled(place))


_MEMBERS = {
    "a.npy": "among plain arrays",
    "a.NPY": "with a suffix in capitals",
    "weights": "without a suffix",
    "a.bin": "called .bin",
    "a.pkl": "called .pkl",
    "../../a.npy": "whose name leads out",
    "/a.npy": "of an absolute name",
    "C:\\a.npy": "on a drive",
    "ckptkit.json": "in place of names",
    "config.json": "in place of a config",
}


def _beside_plain(name: str, place: Place) -> list[tuple[str, bytes]]:
    return [_plain(), (name, _evil(place))]


for _name, _what in _MEMBERS.items():
    case(f"npz: array {_what}", "numpy")(_archive(partial(_beside_plain, _name)))
for _method, _what in ((8, "deflated"), (12, "bzip2"), (14, "lzma")):
    case(f"npz: {_what}", "numpy")(_archive(lambda place: [("a.npy", _evil(place))], _method))
case("npz: record", "numpy")(
    _archive(lambda p: [("a.npy", npy(header_of("[('a', '|O')]"), pickled(p)))])
)


@case("npz: a name twice", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", _plain()[1])
        archive.filelist[0].filename = "b.npy"  # so that zipfile does not warn
        archive.NameToInfo.clear()
        archive.writestr("a.npy", _evil(place))
        archive.filelist[0].filename = "a.npy"
    return path


@case("npz: after a pickle", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(*_plain())
    path.write_bytes(pickle.dumps(Touch(place.outside / "touched"), 2) + buffer.getvalue())
    return path


def _zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


@case("npz: bytes behind the end", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    path.write_bytes(_zipped(("a.npy", _evil(place))) + bytes(200))
    return path


@case("npz: two archives, one after the other", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    path.write_bytes(_zipped(_plain()) + _zipped(("a.npy", _evil(place))))
    return path


@case("npz: two headers that differ", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    data = bytearray(_zipped(("a.npy", _evil(place))))
    data[14:18] = bytes(4)  # the checksum of the local header
    path.write_bytes(data)
    return path


# --- HDF5 -----------------------------------------------------------------------------------------


def _h5(write: Callable[[Any, Any, Place], None], name: str = "model.h5", block: int = 0) -> Maker:
    def make(place: Place) -> Path:
        import h5py

        other = place.outside.parent / "other.h5"
        with h5py.File(other, "w") as file:
            file["values"] = [WORD]
            file["numbers"] = list(WORD.encode())
        path = place.directory / name
        with h5py.File(path, "w", userblock_size=block) as file:
            file.attrs["layer_names"] = [b"d"]
            group = file.create_group("d")
            group.attrs["weight_names"] = [b"d/kernel:0"]
            group["d/kernel:0"] = [1.0, 2.0]
            write(file, h5py, place)
        return path

    return make


def _external_link(file: Any, h5py: Any, place: Place) -> None:
    file["d/link"] = h5py.ExternalLink(str(place.outside.parent / "other.h5"), "values")


def _external_file(file: Any, h5py: Any, place: Place) -> None:
    parts = [(str(place.secret), 0, len(WORD))]
    file.create_dataset("d/raw", (len(WORD),), "u1", external=parts)


def _virtual(file: Any, h5py: Any, place: Place) -> None:
    layout = h5py.VirtualLayout((len(WORD),), "i8")
    source = str(place.outside.parent / "other.h5")
    layout[:] = h5py.VirtualSource(source, "numbers", (len(WORD),))
    file.create_virtual_dataset("d/virtual", layout)


_WRITERS = (
    ("external link", _external_link),
    ("external file", _external_file),
    ("virtual dataset", _virtual),
)
for _what, _write in _WRITERS:
    case(f"h5: {_what}", "h5py")(_h5(_write))
    case(f"weights.h5: {_what}", "h5py")(_h5(_write, "model.weights.h5"))
case("h5: external link behind a user block", "h5py")(_h5(_external_link, block=512))
case("h5: external file behind a long user block", "h5py")(_h5(_external_file, block=4096))


# --- Keras ----------------------------------------------------------------------------------------


def _layer(class_name: str, /, **config: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def _sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    given = _layer("InputLayer", batch_shape=[None, 1], dtype="float32", name="given")
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [given, *layers]},
        "registered_name": None,
    }


def _lambda(place: Place) -> dict[str, Any]:
    """Return a Lambda layer that touches a file when the model is built."""
    function = {"code": _code(place), "defaults": None, "closure": None}
    return _layer("Lambda", name="evil", function={"class_name": "__lambda__", "config": function})


def _function(place: Place) -> dict[str, Any]:
    """Return such a function where a config may name one."""
    return {"class_name": "__lambda__", "config": {"value": [_code(place), None, None]}}


def _code(place: Place) -> str:
    target = str(place.outside / "touched")
    code = compile(f"lambda x: (open({target!r}, 'w').close(), x)[1]", "evil", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(code)).decode()


def _lookup(place: Place, kind: str = "StringLookup", **more: Any) -> dict[str, Any]:
    return _layer(kind, name="lookup", vocabulary=str(place.secret), **more)


def _vectorization(place: Place) -> dict[str, Any]:
    import keras

    settings = keras.layers.TextVectorization(name="words").get_config()
    return _layer("TextVectorization", **{**settings, "vocabulary": str(place.secret)})


_CONFIGS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "Lambda": lambda p: _sequential(_lambda(p)),
    "Lambda in a model in a model": lambda p: _sequential(_sequential(_sequential(_lambda(p)))),
    "lambda as an activation": lambda p: _sequential(
        _layer("Activation", name="a", activation=_function(p))
    ),
    "Lambda by a dotted name": lambda p: _sequential(
        {**_lambda(p), "module": "keras", "class_name": "layers.Lambda"}
    ),
    "vocabulary of StringLookup": lambda p: _sequential(_lookup(p)),
    "vocabulary of TextVectorization": lambda p: _sequential(_vectorization(p)),
    "vocabulary in a nested model": lambda p: _sequential(_sequential(_lookup(p))),
}


def _keras(
    config: Callable[[Place], dict[str, Any]],
    encode: Callable[[str], bytes] = str.encode,
    name: str = "model.keras",
) -> Maker:
    def make(place: Place) -> Path:
        return write_keras(place.directory / name, encode(json.dumps(config(place))))

    return make


def write_keras(path: Path, config: bytes, front: bytes = b"") -> Path:
    """Write a `.keras` archive of this config, and weights without any."""
    import h5py

    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file.create_group("layers")
    with path.open("wb") as file:
        file.write(front)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0"}))
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", weights.getvalue())
    return path


for _what, _config in _CONFIGS.items():
    case(f"keras: {_what}", "keras")(_keras(_config))
for _encoding in ("utf-16", "utf-32"):
    case(f"keras: Lambda, config in {_encoding}", "keras")(
        _keras(_CONFIGS["Lambda"], partial(str.encode, encoding=_encoding))
    )


@case("keras: Lambda below a key given twice", "keras")
def _(place: Place) -> Path:
    evil, plain = json.dumps(_sequential(_lambda(place))), json.dumps({"name": "s", "layers": []})
    text = evil.replace('"config"', f'"config": {plain}, "config"', 1)
    return write_keras(place.directory / "model.keras", text.encode())


@case("keras: Lambda behind other bytes", "keras")
def _(place: Place) -> Path:
    config = json.dumps(_sequential(_lambda(place))).encode()
    return write_keras(place.directory / "model.keras", config, b"#!/bin/sh\n" * 10)


@case("keras: Lambda behind an HDF5 file", "keras")
def _(place: Place) -> Path:
    plain = _h5(lambda *_: None, "plain.h5")(place)
    config = json.dumps(_sequential(_lambda(place))).encode()
    return write_keras(place.directory / "model.keras", config, plain.read_bytes())


@case("keras: two configs in one archive", "keras")
def _(place: Place) -> Path:
    path = write_keras(place.directory / "model.keras", json.dumps(_sequential()).encode())
    with zipfile.ZipFile(path, "a") as archive:
        archive.NameToInfo.clear()
        archive.writestr("config.json", json.dumps(_sequential(_lambda(place))))
    return path


@case("keras: a model unpacked in a directory", "keras")
def _(place: Place) -> Path:
    packed = _keras(_CONFIGS["Lambda"], name="packed.keras")(place)
    path = place.directory / "model"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(path)
    packed.unlink()
    return path


@case("keras: a SavedModel in a layer", "keras")
def _(place: Place) -> Path:
    from benchmarks._hostile_graphs import write_file_model

    other = write_file_model(place._replace(directory=place.directory / "other"))
    layer = _layer("TFSMLayer", name="tf", filepath=str(other), call_endpoint="serving_default")
    return write_keras(place.directory / "model.keras", json.dumps(_sequential(layer)).encode())


def _legacy(
    config: Callable[[Place], dict[str, Any]], value: Callable[[str], Any], block: int = 0
) -> Maker:
    def write(file: Any, h5py: Any, place: Place) -> None:
        del file["d"], file.attrs["layer_names"]
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = []
        file.attrs["keras_version"] = "2.9.0"
        file.attrs["backend"] = "tensorflow"
        file.attrs["model_config"] = value(json.dumps(config(place)))

    return _h5(write, block=block)


def _fixed(text: str) -> Any:
    import numpy as np

    return np.bytes_(text.encode())


for _what in ("Lambda", "lambda as an activation", "vocabulary of StringLookup"):
    case(f"h5: {_what}", "keras")(_legacy(_CONFIGS[_what], str))
case("h5: Lambda, config of fixed length", "keras")(_legacy(_CONFIGS["Lambda"], _fixed))
case("h5: Lambda behind a user block", "keras")(_legacy(_CONFIGS["Lambda"], str, 1024))
