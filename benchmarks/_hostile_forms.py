"""More hostile files: known acts in forms that other readers of a format take too.

Members packed by other methods, groups of HDF5 in its newer layout, code in every place of a Keras
config that is deserialized, ops that read or write by an attribute, graphs behind other graphs.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks._hostile_cases import (
    WORD,
    Place,
    _archive,
    _evil,
    _function,
    _keras,
    _lambda,
    _layer,
    _legacy,
    _plain,
    _sequential,
    _zipped,
    case,
    write_keras,
)
from benchmarks._hostile_graphs import (
    _as_output,
    _asset,
    _edited,
    _exported,
    _in_signature,
    _secret,
    _session_model,
    _write,
)

raw, v1 = tf.raw_ops, tf.compat.v1

# --- archives -------------------------------------------------------------------------------------

for _name, _method in {"deflate": 8, "bzip2": 12, "lzma": 14}.items():
    case(f"npz: an object packed by {_name}", "numpy")(
        _archive(lambda p: [("a.npy", _evil(p))], _method)
    )


@case("npz: another archive in the comment", "numpy")
def _(place: Place) -> Path:
    """The last end record that has room wins, whatever the first says of a comment."""
    path = place.directory / "weights.npz"
    plain, evil = _zipped(_plain()), _zipped(("a.npy", _evil(place)))
    path.write_bytes(plain[:-2] + struct.pack("<H", len(evil)) + evil)
    return path


@case("npz: an object in a file of 64-bit sizes", "numpy")
def _(place: Place) -> Path:
    path = place.directory / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w", force_zip64=True) as to:
        to.write(_evil(place))
    return path


def _packed(method: int) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        path = write_keras(
            place.directory / "plain.keras", json.dumps(_sequential(_lambda(place))).encode()
        )
        packed = place.directory / "model.keras"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", method) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        path.unlink()
        return packed

    return make


for _name, _method in {"deflate": 8, "bzip2": 12, "lzma": 14}.items():
    case(f"keras: Lambda in a config packed by {_name}", "keras")(_packed(_method))


# --- HDF5 -----------------------------------------------------------------------------------------


def _newest(write: Callable[[Any, Any, Place], None]) -> Callable[[Place], Path]:
    """Return a maker of a file in the newest layout of HDF5."""

    def make(place: Place) -> Path:
        import h5py

        other = place.outside.parent / "other.h5"
        with h5py.File(other, "w") as file:
            file["values"] = [WORD]
            file["numbers"] = list(WORD.encode())
        path = place.directory / "model.weights.h5"
        with h5py.File(path, "w", libver="latest") as file:
            file.create_group("layers/dense/vars")["0"] = [1.0, 2.0]
            write(file, h5py, place)
        return path

    return make


def _link_among_many(file: Any, h5py: Any, place: Place) -> None:
    group = file["layers"]
    for number in range(40):
        group.create_group(f"dense_{number}/vars")["0"] = [1.0]
    group["zz"] = h5py.ExternalLink(str(place.outside.parent / "other.h5"), "values")


def _link_through_link(file: Any, h5py: Any, place: Place) -> None:
    file["outside"] = h5py.ExternalLink(str(place.outside.parent / "other.h5"), "/")
    file["layers/inside"] = h5py.SoftLink("/outside/values")


def _numbered_source(file: Any, h5py: Any, place: Place) -> None:
    """A virtual dataset whose sources are numbered: other%b.h5."""
    with h5py.File(place.outside.parent / "other0.h5", "w") as other:
        other["numbers"] = list(WORD.encode())
    space = h5py.h5s.create_simple((1, len(WORD)), (h5py.h5s.UNLIMITED, len(WORD)))
    space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), block=(1, len(WORD)))
    source = h5py.h5s.create_simple((len(WORD),))
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    pattern = str(place.outside.parent / "other%b.h5").encode()
    create.set_virtual(space, pattern, b"numbers", source)
    h5py.h5d.create(file.id, b"virtual", h5py.h5t.NATIVE_INT64, space, create)


def _raw_in_parts(file: Any, h5py: Any, place: Place) -> None:
    parts = [(str(place.secret), at, 1) for at in range(len(WORD))]
    file.create_dataset("layers/raw", (len(WORD),), "u1", external=parts)


_NEWEST = {
    "external link among many": _link_among_many,
    "external link behind a soft link": _link_through_link,
    "numbered virtual sources": _numbered_source,
    "values in parts of other files": _raw_in_parts,
}
for _name, _maker in _NEWEST.items():
    case(f"weights.h5, newest layout: {_name}", "h5py")(_newest(_maker))


# --- Keras ----------------------------------------------------------------------------------------


def _wrapped(place: Place) -> dict[str, Any]:
    steps = _layer("Reshape", name="r", target_shape=[1, 1])
    return _sequential(steps, _layer("TimeDistributed", name="t", layer=_lambda(place)))


def _wrapped_activation(place: Place) -> dict[str, Any]:
    steps = _layer("Reshape", name="r", target_shape=[1, 1])
    inner = _layer("Activation", name="a", activation=_function(place))
    return _sequential(steps, _layer("TimeDistributed", name="t", layer=inner))


_CONFIGS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "Lambda in a wrapper": _wrapped,
    "lambda as an activation in a wrapper": _wrapped_activation,
}
for _name, _config in _CONFIGS.items():
    case(f"keras: {_name}", "keras")(_keras(_config))
case("h5: Lambda in a wrapper", "keras")(_legacy(_wrapped, str))
case("keras: Lambda, config with a mark in front", "keras")(
    _keras(lambda p: _sequential(_lambda(p)), partial(str.encode, encoding="utf-8-sig"))
)


# --- ops of TensorFlow ----------------------------------------------------------------------------


def _identity_dump(place: Place) -> Any:
    return raw.DebugIdentityV2(
        input=tf.constant(1.0), tfdbg_context_id="c", op_name="o", output_slot=0,
        tensor_debug_mode=2, tfdbg_run_id="r", debug_urls=[f"file://{place.outside}/dump"],
    )  # fmt: skip


def _snapshot(place: Place) -> Any:
    dataset = tf.data.Dataset.range(3).snapshot(str(place.outside / "snapshot"))
    return dataset.reduce(tf.constant(0, tf.int64), lambda a, b: a + b)


def _mapped_file(place: Place) -> Any:
    """A constant whose bytes are those of a file."""
    values = raw.ImmutableConst(
        dtype=tf.uint8, shape=[len(WORD)], memory_region_name=_secret(place)
    )
    return tf.strings.reduce_join(
        tf.gather([chr(n) for n in range(256)], tf.cast(values, tf.int32))
    )


def _remapped(place: Place) -> Any:
    """The positions of words in a file, which tell them."""
    old = place.outside.parent / "old"
    old.write_text(f"{WORD}\n")
    found = raw.GenerateVocabRemapping(
        new_vocab_file=_secret(place), old_vocab_file=str(old),
        new_vocab_offset=0, num_new_vocab=1,
    )  # fmt: skip
    return tf.where(found.num_present == 1, WORD, "")


def _recorded(place: Place) -> Any:
    path = place.outside.parent / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(64):
            writer.write(WORD)
    return raw.RecordInput(file_pattern=str(path), file_buffer_size=8, batch_size=1)


_ACTS: dict[str, Callable[[Place], Any]] = {
    "DebugIdentityV2": _identity_dump,
    "SnapshotDatasetV2": _snapshot,
    "ImmutableConst": _mapped_file,
    "GenerateVocabRemapping": _remapped,
    "RecordInput": _recorded,
}
for _name, _act in _ACTS.items():
    case(f"signature, by an attribute or a directory: {_name}", "v2")(_in_signature(_act))


def _named_by_content(read: Callable[[Any], Any]) -> Callable[[Place], Path]:
    """Return a maker of an export whose asset holds the path that is read next."""

    def make(place: Place) -> Path:
        module, asset = _asset(place, _secret(place))
        return _exported(
            lambda: tf.io.read_file(read(asset.asset_path)), place.directory / "export", module
        )

    return make


def _line(path: Any) -> Any:
    lines = tf.data.TextLineDataset(path)
    return lines.reduce(tf.constant(""), lambda before, line: before + line)


def _key(path: Any) -> Any:
    return raw.MatchingFiles(pattern=tf.io.read_file(path))[0]


_CONTENTS: dict[str, Callable[[Any], Any]] = {
    "its content": tf.io.read_file,
    "a line of it": _line,
    "a pattern in it": _key,
}
for _name, _read in _CONTENTS.items():
    case(f"v2 asset: a path that is {_name}", "v2")(_named_by_content(_read))


@case("v2 asset: its variable, filled otherwise by another loader", "v1")
def _(place: Place) -> Path:
    """A session fills the variable of an export's asset by a placeholder that the export names."""
    module, asset = _asset(place)

    def edit(message: Any) -> None:
        [graph] = message.meta_graphs
        [given] = graph.asset_file_def
        name = given.tensor_info.name.partition(":")[0]
        node = next(node for node in graph.graph_def.node if node.name == name)
        other = graph.graph_def.node.add()
        other.CopyFrom(node)
        other.name = "other"
        given.tensor_info.name = "other:0"
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(_secret(place)))

    path = _exported(lambda: tf.io.read_file(asset.asset_path), place.directory / "export", module)
    return _edited(path, edit)


@case("v1: the graph of other tags", "v1")
def _(place: Place) -> Path:
    """A graph of no act comes first; loaders take the one of their tags."""
    path = _as_output(_write)(place)

    def edit(message: Any) -> None:
        first = message.meta_graphs.add()
        first.CopyFrom(message.meta_graphs[0])
        del first.graph_def.node[:]
        first.meta_info_def.tags[:] = ["train"]
        first.signature_def.clear()
        graphs = [message.meta_graphs[1], message.meta_graphs[0]]
        copies = [type(graph).FromString(graph.SerializeToString()) for graph in graphs]
        del message.meta_graphs[:]
        message.meta_graphs.extend(copies)

    return _edited(path, edit)


@case("v1: a graph beside another as text", "v1")
def _(place: Place) -> Path:
    """Loaders take the binary graph, which stands behind the text of a plain one in a listing."""
    path = _as_output(_write)(place)
    plain = _session_model(place._replace(directory=place.directory / "plain"), lambda *_: {})
    message = _message(plain)
    (path / "saved_model.pbtxt").write_text(str(message))
    return path


def _message(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    return message


@case("v1: a control input", "v1")
def _(place: Place) -> Path:
    """The output only waits for the op that acts."""

    def act(place: Place) -> Any:
        with tf.control_dependencies([_write(place)]):
            return tf.constant(1.0)

    return _as_output(act)(place)


@case("load: a table filled from a file of keys, by an initializer without a signature", "load v1")
def _(place: Place) -> Path:
    def body(variable: Any, saver: Any, y: Any) -> dict[str, Any]:
        return {"main_op": tf.group(_write(place), name="main")}

    return _session_model(place, body)
