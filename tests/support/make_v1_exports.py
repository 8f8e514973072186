"""Makes SavedModels as TensorFlow 1 exports them, of many kinds, and what a session computes.

python -m support.make_v1_exports FOLDER [KIND...]; `support.run_v1_exports` makes and runs them.

Beside each export KIND lie KIND.inputs.npz, what its signature is given, and KIND.outputs.npz, what
`tf.compat.v1.saved_model.load` and a session, as in a server, give for it.  Parts of sparse and
ragged tensors go by the names that ckptkit gives them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

v1 = tf.compat.v1
RNG = np.random.RandomState(7)
X = RNG.randn(4, 3).astype(np.float32)
WORDS = np.array([b"a", b"c", b"nobody", b"b"], object)
KINDS: dict[str, Callable[[Path], Mapping[str, Any]]] = {}


def kind(make: Callable[[Path], Mapping[str, Any]]) -> Callable[[Path], Mapping[str, Any]]:
    """Register what builds a graph and returns x (what is given), inputs, outputs and options."""
    KINDS[make.__name__] = make
    return make


def _kernel(name: str, rows: int, columns: int, *, resource: bool = False) -> Any:
    first = RNG.randn(rows, columns).astype(np.float32)
    return v1.get_variable(name, initializer=first, use_resource=resource)


def _table(folder: Path) -> Any:
    file = folder / "words.txt"
    file.write_text("a\nb\nc\n")
    name = tf.constant(str(file))
    v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, name)
    rows = tf.lookup.TextFileInitializer(
        name,
        *(tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
        *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
    )
    return tf.lookup.StaticVocabularyTable(rows, 1)


@kind
def reference(folder: Path) -> Mapping[str, Any]:
    """Variables that are nodes of the graph, one of them partitioned."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    split = v1.fixed_size_partitioner(3)
    parts = v1.get_variable("wide", [3, 6], partitioner=split, use_resource=False)
    hidden = tf.matmul(x, tf.convert_to_tensor(parts), name="hidden")
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": hidden @ _kernel("w", 6, 2)}}


@kind
def resource(folder: Path) -> Mapping[str, Any]:
    """Resource variables, on devices of a cluster that is not here."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    y = tf.nn.relu(x @ _kernel("w", 3, 4, resource=True)) @ _kernel("v", 4, 2, resource=True)
    device = "/job:worker/task:7/device:GPU:3"
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": y}, "device": device}


@kind
def loop(folder: Path) -> Mapping[str, Any]:
    """Control flow of TensorFlow 1: a while loop that reads a variable, and a cond."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    w = _kernel("w", 3, 3)
    _, y = v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.tanh(y @ w)), (0, x))
    y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.matmul(y, w), lambda: tf.matmul(y, w + 1.0))
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": y}}


@kind
def table(folder: Path) -> Mapping[str, Any]:
    """A vocabulary in an asset, filled by an init op."""
    words = v1.placeholder(tf.string, [None], "words")
    y = tf.gather(_kernel("w", 4, 2), _table(folder).lookup(words))
    return {"given": {"words": WORDS}, "inputs": {"words": words}, "outputs": {"y": y}}


@kind
def legacy(folder: Path) -> Mapping[str, Any]:
    """A vocabulary, whose init op is a legacy_init_op."""
    return {**table(folder), "legacy": True}


@kind
def frozen(folder: Path) -> Mapping[str, Any]:
    """Constants instead of variables, and an asset."""
    words = v1.placeholder(tf.string, [None], "words")
    rows = tf.constant(RNG.randn(4, 2).astype(np.float32))
    y = tf.gather(rows, _table(folder).lookup(words))
    return {"given": {"words": WORDS}, "inputs": {"words": words}, "outputs": {"y": y}}


@kind
def defaults(folder: Path) -> Mapping[str, Any]:
    """Placeholders with a default, of which the signature takes one."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    training = v1.placeholder_with_default(False, [], "training")
    rate = v1.placeholder_with_default(0.5, [], "rate")
    w = _kernel("w", 3, 2)
    y = v1.cond(training, lambda: tf.nn.dropout(x, rate) @ w, lambda: x @ w * rate)
    return {"given": {"x": X}, "inputs": {"x": x, "rate": rate}, "outputs": {"y": y}}


@kind
def strings(folder: Path) -> Mapping[str, Any]:
    """Text in and out."""
    del folder
    text = v1.placeholder(tf.string, [None], "text")
    y = tf.strings.join(["<", tf.strings.lower(text), ">"])
    length = tf.strings.length(text)
    return {"given": {"text": WORDS}, "inputs": {"text": text}, "outputs": {"y": y, "n": length}}


@kind
def sparse(folder: Path) -> Mapping[str, Any]:
    """A sparse placeholder, and a sparse output."""
    del folder
    x = v1.sparse_placeholder(tf.float32, [None, 5], "x")
    y = tf.sparse.sparse_dense_matmul(x, _kernel("w", 5, 2))
    given = {
        "x/indices": np.array([[0, 1], [1, 4], [2, 0]], np.int64),
        "x/values": np.array([1, 2, 3], np.float32),
        "x/dense_shape": np.array([3, 5], np.int64),
    }
    return {"given": given, "inputs": {"x": x}, "outputs": {"y": y, "twice": x * 2.0}}


@kind
def ragged(folder: Path) -> Mapping[str, Any]:
    """A ragged placeholder, and a ragged output."""
    del folder
    x = v1.ragged.placeholder(tf.int64, 1, [], name="x")
    y = tf.reduce_sum(tf.gather(_kernel("w", 9, 2), x), axis=1)
    given = {
        "x/values": np.array([1, 2, 3, 8], np.int64),
        "x/row_splits": np.array([0, 1, 1, 4], np.int64),
    }
    return {"given": given, "inputs": {"x": x}, "outputs": {"y": y, "more": x + 1}}


@kind
def example(folder: Path) -> Mapping[str, Any]:
    """Serialized tf.train.Example, of dense and sparse features."""
    del folder
    text = v1.placeholder(tf.string, [None], "examples")
    features = {
        "a": tf.io.FixedLenFeature([3], tf.float32),
        "w": tf.io.FixedLenFeature([], tf.string, ""),
        "n": tf.io.VarLenFeature(tf.int64),
    }
    found = v1.io.parse_example(text, features)
    numbers = tf.sparse.reduce_sum(tf.cast(found["n"], tf.float32), 1)
    y = found["a"] @ _kernel("w", 3, 2)
    given = []
    for row in X:
        features = tf.train.Features(
            feature={
                "a": tf.train.Feature(float_list=tf.train.FloatList(value=row)),
                "w": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"w"])),
                "n": tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 2])),
            }
        )
        given.append(tf.train.Example(features=features).SerializeToString())
    outputs = {"y": y, "w": found["w"], "n": numbers}
    return {"given": {"e": np.array(given, object)}, "inputs": {"e": text}, "outputs": outputs}


@kind
def counter(folder: Path) -> Mapping[str, Any]:
    """A variable that each call changes."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    calls = v1.get_variable("calls", initializer=0.0, use_resource=False)
    with tf.control_dependencies([v1.assign_add(calls, 1.0)]):
        y = tf.identity(x @ _kernel("w", 3, 2))
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": y}}


@kind
def inner(folder: Path) -> Mapping[str, Any]:
    """A signature that is fed within the graph, behind what decodes its usual input."""
    del folder
    text = v1.placeholder(tf.string, [None], "text")
    x = tf.reshape(tf.strings.to_number(text), [-1, 3], name="decoded")
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": x @ _kernel("w", 3, 2)}}


@kind
def hub(folder: Path) -> Mapping[str, Any]:
    """A graph without tags, with the signature `default`, as modules of the hub were."""
    del folder
    x = v1.placeholder(tf.float32, [None, 3], "x")
    y = x @ _kernel("module/w", 3, 2)
    return {
        "given": {"default": X},
        "inputs": {"default": x},
        "outputs": {"default": y},
        "tags": (),
    }


@kind
def function(folder: Path) -> Mapping[str, Any]:
    """A function in the graph's library."""
    del folder
    from tensorflow.python.framework import function as functions

    @functions.Defun(tf.float32, tf.float32)  # type: ignore[untyped-decorator]
    def product(x: Any, w: Any) -> Any:
        return tf.nn.relu(x @ w)

    x = v1.placeholder(tf.float32, [None, 3], "x")
    y = product(x, _kernel("w", 3, 2))
    y.set_shape([None, 2])
    return {"given": {"x": X}, "inputs": {"x": x}, "outputs": {"y": y}}


@kind
def queue(folder: Path) -> Mapping[str, Any]:
    """A graph that waits for a queue, which only the threads of a training loop fill."""
    del folder
    rows = v1.train.input_producer(tf.constant(X), shuffle=False)
    y = tf.expand_dims(rows.dequeue(), 0) @ _kernel("w", 3, 2)
    return {"given": {}, "inputs": {}, "outputs": {"y": y}, "runs": False}


def make(folder: Path, name: str) -> None:
    """Write one export, and its inputs and outputs."""
    with tf.Graph().as_default() as graph, v1.Session(config=_SOFT) as session:
        (folder / f"{name}.assets").mkdir()
        made = KINDS[name](folder / f"{name}.assets")
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {key: info(value) for key, value in made["inputs"].items()},
            {key: info(value) for key, value in made["outputs"].items()},
            "tensorflow/serving/predict",
        )
        builder = v1.saved_model.Builder(str(folder / name))
        init = v1.tables_initializer()
        builder.add_meta_graph_and_variables(
            session,
            list(made.get("tags", ["serve"])),
            {"default" if name == "hub" else "serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            **({"legacy_init_op": init} if made.get("legacy") else {"main_op": init}),
        )
        builder.save()
    del graph
    if "device" in made:
        _place(folder / name / "saved_model.pb", made["device"])
    given = {key: _plain(value) for key, value in made["given"].items()}
    np.savez(folder / f"{name}.inputs.npz", **given)
    if made.get("runs", True):
        np.savez(folder / f"{name}.outputs.npz", **computed(folder / name, made["given"]))


def _place(file: Path, device: str) -> None:
    """Give all ops of an export a device, as training on a cluster left it in the file."""
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for node in message.meta_graphs[0].graph_def.node:
        node.device = device
    file.write_bytes(message.SerializeToString())


def _plain(value: Any) -> Any:
    """Return text as numpy holds it without pickling."""
    return value.astype("S") if value.dtype == object else value


_SOFT = v1.ConfigProto(allow_soft_placement=True)


def make_refused(folder: Path) -> None:
    """Write an export of TensorFlow 2 whose objects it does not load, and whose graph is whole."""

    class Product(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(RNG.randn(3, 2).astype(np.float32), name="w")

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])  # type: ignore[untyped-decorator]
        def product(self, x: Any) -> dict[str, Any]:
            return {"y": tf.nn.relu(x @ self.w)}

    model = Product()
    path = folder / "refused"
    tf.saved_model.save(model, str(path), signatures=model.product)
    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    nodes = message.meta_graphs[0].object_graph_def.nodes
    nodes[0].children.add(node_id=len(nodes) + 9, local_name="gone")
    file.write_bytes(message.SerializeToString())
    np.savez(folder / "refused.inputs.npz", x=X)
    np.savez(folder / "refused.outputs.npz", **computed(path, {"x": X}))


def computed(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a session gives for an export's only signature."""
    with tf.Graph().as_default(), v1.Session(config=_SOFT) as session:
        tags = [] if path.name == "hub" else ["serve"]
        meta = v1.saved_model.load(session, tags, str(path), clear_devices=True)
        [signature] = [item for key, item in meta.signature_def.items() if not key.startswith("__")]
        feeds, fetches = (
            {f"{key}{part}": tensor for key, item in side.items() for part, tensor in _parts(item)}
            for side in (signature.inputs, signature.outputs)
        )
        return dict(session.run(fetches, {feeds[name]: value for name, value in given.items()}))


def _parts(info: Any) -> list[tuple[str, str]]:
    if info.WhichOneof("encoding") == "coo_sparse":
        coo = info.coo_sparse
        return [
            ("/indices", coo.indices_tensor_name),
            ("/values", coo.values_tensor_name),
            ("/dense_shape", coo.dense_shape_tensor_name),
        ]
    if info.WhichOneof("encoding") == "composite_tensor":
        values, splits = info.composite_tensor.components
        return [("/values", values.name), ("/row_splits", splits.name)]
    return [("", info.name)]


if __name__ == "__main__":
    for chosen in sys.argv[2:] or KINDS:
        make(Path(sys.argv[1]), chosen)
    make_refused(Path(sys.argv[1]))
