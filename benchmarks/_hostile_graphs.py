"""The corpus of hostile graphs: SavedModels and graphs of TensorFlow that act when loaded or run.

Loaders: "v2" is tf.saved_model.load, and then every signature is called; "v1" is the loader of
TensorFlow 1 in a session, and then every output is fetched; "v1 in v2" the first on an export of
TensorFlow 1, "load" and "load v1" without calling anything.  "graph" imports a GraphDef and fetches
all; "meta" imports a `.meta` file and restores.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks._hostile_cases import WORD, Place, case

v1 = tf.compat.v1
raw = tf.raw_ops
Body = Callable[[Place], Any]  # what a graph computes: tensors or ops


def _touched(place: Place) -> str:
    return str(place.outside / "touched")


def _secret(place: Place) -> str:
    return str(place.secret)


# --- what acts ------------------------------------------------------------------------------------


def _write(place: Place) -> Any:
    return raw.WriteFile(filename=_touched(place), contents="x")


def _save(place: Place) -> Any:
    return raw.SaveV2(
        prefix=_touched(place),
        tensor_names=["v"],
        shape_and_slices=[""],
        tensors=[tf.constant(1.0)],
    )


def _old_save(place: Place) -> Any:
    return raw.Save(filename=_touched(place), tensor_names=["v"], data=[tf.constant(1.0)])


def _slices(place: Place) -> Any:
    return raw.SaveSlices(
        filename=_touched(place),
        tensor_names=["v"],
        shapes_and_slices=[""],
        data=[tf.constant([1.0])],
    )


def _print(place: Place) -> Any:
    return raw.PrintV2(input="x", output_stream=f"file://{_touched(place)}")


def _summary(place: Place) -> Any:
    writer = raw.SummaryWriter(shared_name="", container="")
    made = raw.CreateSummaryFileWriter(
        writer=writer, logdir=str(place.outside), max_queue=1, flush_millis=1, filename_suffix="x"
    )
    with tf.control_dependencies([made] if made is not None else []):
        written = raw.WriteScalarSummary(
            writer=writer, step=tf.constant(0, tf.int64), tag="t", value=tf.constant(1.0)
        )
    with tf.control_dependencies([written] if written is not None else []):
        return raw.FlushSummaryWriter(writer=writer)


def _drain(dataset: Any) -> Any:
    """Return what a data set of texts gives, joined, inside of a graph."""
    return dataset.reduce(tf.constant(""), lambda a, b: tf.strings.join([a, tf.as_string(b)]))


def _texts(place: Place) -> Any:
    return _drain(tf.data.TextLineDataset(_secret(place)))


def _fixed(place: Place) -> Any:
    return _drain(tf.data.FixedLengthRecordDataset(_secret(place), len(WORD)))


def _records(place: Place) -> Any:
    path = str(place.secret.with_suffix(".tfrecord"))
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(WORD.encode())
    return _drain(tf.data.TFRecordDataset(path))


def _csv(place: Place) -> Any:
    rows = tf.data.experimental.CsvDataset(_secret(place), [tf.string])
    return _drain(rows.map(lambda text: text))


def _files(place: Place) -> Any:
    return raw.MatchingFiles(pattern=str(place.secret.with_name("the word*")))


def _file_set(place: Place) -> Any:
    return _drain(
        tf.data.Dataset.list_files(str(place.secret.with_name("the word*")), shuffle=False)
    )


def _sql(place: Place) -> Any:
    path = str(place.secret.with_suffix(".sqlite"))
    with sqlite3.connect(path) as base:
        base.execute("create table t (w text)")
        base.execute("insert into t values (?)", (WORD,))
    base.close()
    rows = tf.data.experimental.SqlDataset("sqlite", path, "select w from t", (tf.string,))
    return _drain(rows.map(lambda text: text))


def _cache(place: Place) -> Any:
    return tf.data.Dataset.range(3).cache(_touched(place)).reduce(tf.constant(0, tf.int64), tf.add)


def _written_set(place: Place) -> Any:
    texts = tf.data.Dataset.from_tensor_slices(["x"])
    return raw.DatasetToTFRecord(
        input_dataset=texts._variant_tensor, filename=_touched(place), compression_type=""
    )


def _table(place: Place) -> Any:
    table = raw.AnonymousHashTable(key_dtype=tf.string, value_dtype=tf.int64)
    filled = raw.InitializeTableFromTextFileV2(
        table_handle=table, filename=_secret(place), key_index=-2, value_index=-1, vocab_size=-1
    )
    with tf.control_dependencies([filled] if filled is not None else []):
        keys, _values = raw.LookupTableExportV2(
            table_handle=table, Tkeys=tf.string, Tvalues=tf.int64
        )
    return keys


def _restored(place: Place) -> Any:
    prefix = str(place.secret.parent / "ckpt")
    raw.SaveV2(
        prefix=prefix, tensor_names=["v"], shape_and_slices=[""], tensors=[tf.constant(WORD)]
    )
    return lambda: raw.RestoreV2(
        prefix=prefix, tensor_names=["v"], shape_and_slices=[""], dtypes=[tf.string]
    )[0]


def _merged(place: Place) -> Any:
    prefix = str(place.secret.parent / "ckpt")
    raw.SaveV2(prefix=prefix, tensor_names=["v"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
    return lambda: raw.MergeV2Checkpoints(
        checkpoint_prefixes=[prefix], destination_prefix=_touched(place)
    )


def _vocabulary(place: Place) -> Any:
    return raw.GenerateVocabRemapping(
        new_vocab_file=_secret(place), old_vocab_file=_secret(place), num_new_vocab=1,
        new_vocab_offset=0,
    )  # fmt: skip


ACTS: dict[str, Body] = {
    "WriteFile": _write,
    "ReadFile": lambda p: raw.ReadFile(filename=_secret(p)),
    "SaveV2": _save,
    "Save": _old_save,
    "SaveSlices": _slices,
    "PrintV2 to a file": _print,
    "summaries": _summary,
    "TextLineDataset": _texts,
    "FixedLengthRecordDataset": _fixed,
    "TFRecordDataset": _records,
    "CSVDataset": _csv,
    "MatchingFiles": _files,
    "MatchingFilesDataset": _file_set,
    "SqlDataset": _sql,
    "CacheDataset": _cache,
    "DatasetToTFRecord": _written_set,
    "InitializeTableFromTextFileV2": _table,
    "RestoreV2": _restored,
    "MergeV2Checkpoints": _merged,
}


# --- exports of TensorFlow 2 ----------------------------------------------------------------------


def _exported(body: Callable[[], Any], path: Path, module: Any = None) -> Path:
    module = module or tf.Module()

    def serve(x: Any) -> dict[str, Any]:
        made = body()
        with tf.control_dependencies([made] if isinstance(made, tf.Operation) else []):
            result = {"y": tf.identity(x)}
        if isinstance(made, tf.Tensor):
            result["made"] = made
        return result

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 1], name="x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


def _in_signature(act: Body) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        prepared = act(place) if act in (_restored, _merged) else None
        body = prepared if callable(prepared) else lambda: act(place)
        return _exported(body, place.directory / "export")

    return make


for _name, _act in ACTS.items():
    case(f"v2 signature: {_name}", "v2")(_in_signature(_act))


def write_file_model(place: Place) -> Path:
    """Write a SavedModel whose signature writes a file."""
    return _in_signature(_write)(place)


def _in_branch(place: Place) -> Any:
    return tf.cond(tf.constant(value=True), lambda: _once(place), lambda: 0)


def _once(place: Place) -> Any:
    with tf.control_dependencies([_write(place)]):
        return tf.constant(1)


def _in_loop(place: Place) -> Any:
    return tf.while_loop(lambda i: i < 1, lambda i: (i + _once(place),), [0])[0]


def _in_map(place: Place) -> Any:
    mapped = tf.data.Dataset.range(1).map(lambda _x: _once(place))
    return mapped.reduce(0, tf.add)


def _in_function(place: Place) -> Any:
    inner = tf.function(lambda: _once(place))
    return tf.function(lambda: inner())()


_INNER: dict[str, Body] = {
    "in a branch": _in_branch,
    "in a loop": _in_loop,
    "in a data set's map": _in_map,
    "in a function of a function": _in_function,
}
for _name, _act in _INNER.items():
    case(f"v2 signature: WriteFile {_name}", "v2")(_in_signature(_act))


def _asset(place: Place, text: str = "word\n") -> tuple[Any, Any]:
    path = place.directory / "words.txt"
    path.write_text(text)
    module = tf.Module()
    module.asset = tf.saved_model.Asset(str(path))
    return module, module.asset


def _up(place: Place) -> str:
    """Return how to get from an exported asset to the root, and from there to the secret."""
    return "/.." * 40 + str(place.secret)


_JOINS: dict[str, Callable[[Any, Place], Any]] = {
    "a join": lambda a, p: tf.strings.join([a, _up(p)]),
    "a join's separator": lambda a, p: tf.strings.join([a, _secret(p)], separator="/.." * 40),
    "a join of joins": lambda a, p: tf.strings.join(
        [tf.strings.join([a, "/."]), tf.strings.join(["./..", "/.." * 40, _secret(p)])]
    ),
    "a replacement": lambda a, p: tf.strings.regex_replace(a, "^.*$", _secret(p)),
    "a choice": lambda a, p: tf.where(tf.constant(value=False), a, _secret(p)),
    "a part of a text": lambda a, p: tf.strings.substr(_secret(p) + a, 0, len(_secret(p))),
    "a reduction": lambda a, p: tf.strings.reduce_join([a, _up(p)]),
    "a format": lambda a, p: (
        tf.strings.format("{}", tf.constant(_secret(p)))
        if a is None
        else tf.strings.join(["", _secret(p)])
    ),
    "an addition": lambda a, p: a + _up(p),
}


def _beside_asset(join: Callable[[Any, Place], Any]) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        module, asset = _asset(place)
        return _exported(
            lambda: tf.io.read_file(join(asset.asset_path, place)),
            place.directory / "export",
            module,
        )

    return make


for _name, _join in _JOINS.items():
    case(f"v2 asset: led out by {_name}", "v2")(_beside_asset(_join))


@case("v2 asset: a link", "v2")
def _(place: Place) -> Path:
    module, asset = _asset(place)
    path = _exported(lambda: tf.io.read_file(asset.asset_path), place.directory / "export", module)
    (path / "assets/words.txt").unlink()
    (path / "assets/words.txt").symlink_to(place.secret)
    return path


@case("v2 asset: a directory that is a link", "v2")
def _(place: Place) -> Path:
    module, asset = _asset(place)
    path = _exported(lambda: tf.io.read_file(asset.asset_path), place.directory / "export", module)
    (path / "assets").rename(place.outside.parent / "assets")
    (place.outside.parent / "assets/words.txt").write_text(WORD)
    (path / "assets").symlink_to(place.outside.parent / "assets")
    return path


def _edited(path: Path, edit: Callable[[Any], None], text: bool = False) -> Path:
    """Change the SavedModel in a directory as a message."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(file.read_bytes())
    edit(model)
    file.unlink()
    if text:
        (path / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    else:
        file.write_bytes(model.SerializeToString())
    return path


@case("v2 asset: a name that leads out", "v2")
def _(place: Place) -> Path:
    module, asset = _asset(place)
    path = _exported(lambda: tf.io.read_file(asset.asset_path), place.directory / "export", module)

    def edit(model: Any) -> None:
        model.meta_graphs[0].asset_file_def[0].filename = f"..{_up(place)}"

    return _edited(path, edit)


@case("v2 asset: an absolute name", "v2")
def _(place: Place) -> Path:
    module, asset = _asset(place)
    path = _exported(lambda: tf.io.read_file(asset.asset_path), place.directory / "export", module)

    def edit(model: Any) -> None:
        model.meta_graphs[0].asset_file_def[0].filename = f"../../..{_up(place)}"

    return _edited(path, edit, text=True)


def _resource(method: str) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        from tensorflow.python.trackable import resource

        class Evil(resource.CapturableResource):  # type: ignore[misc]
            def _create_resource(self) -> Any:
                if method == "create":
                    with tf.control_dependencies([_write(place)] if tf.inside_function() else []):
                        return raw.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
                return raw.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

            def _initialize(self) -> Any:
                if method == "initialize" and tf.inside_function():
                    return _write(place)
                return None

        module = tf.Module()
        module.evil = Evil()
        handle = module.evil.resource_handle
        return _exported(
            lambda: raw.LookupTableSizeV2(table_handle=handle), place.directory / "export", module
        )

    return make


for _name in ("create", "initialize"):
    case(f"v2: a resource that writes when loaded, to {_name} it", "load")(_resource(_name))


@case("v2 as text: WriteFile", "v2")
def _(place: Place) -> Path:
    return _edited(write_file_model(place), lambda _model: None, text=True)


@case("v2: a table of a file outside", "load")
def _(place: Place) -> Path:
    """Keys are given back by the table that is filled when the model is loaded."""
    module, _asset_of_it = _asset(place)
    start = tf.lookup.TextFileInitializer(module.asset.asset_path, tf.string, -2, tf.int64, -1)
    module.table = tf.lookup.StaticHashTable(start, -1)
    path = _exported(
        lambda: module.table.lookup(tf.constant(WORD)), place.directory / "export", module
    )

    def edit(model: Any) -> None:
        model.meta_graphs[0].asset_file_def[0].filename = f"..{_up(place)}"

    return _edited(path, edit)


# --- exports of TensorFlow 1 ----------------------------------------------------------------------


def _session_model(
    place: Place,
    body: Callable[[Any, Any, Any], dict[str, Any]],
    edit: Callable[[Any], None] | None = None,
) -> Path:
    """Export a graph as TensorFlow 1 does.

    body: (variable, saver, output) -> more arguments of the builder; "restore", "save" and
    "filename" replace what the saver says, "outputs" are those of the signature.
    """
    path = place.directory / "export"
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        variable = v1.get_variable("v", [], use_resource=True, initializer=v1.zeros_initializer())
        y = tf.identity(x + variable, name="y")
        saver = v1.train.Saver()
        given = body(variable, saver, y)
        session.run(v1.global_variables_initializer())
        if "restore" in given:
            saver.saver_def.restore_op_name = given.pop("restore").name
        builder = v1.saved_model.Builder(str(path))
        outputs = given.pop("outputs", {"y": y})
        signature = v1.saved_model.predict_signature_def({"x": x}, outputs)
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, saver=saver, **given
        )
        builder.save()
    return _edited(path, edit) if edit else path


def _after_restore(make: Callable[[Any, Any, Place], Any]) -> Callable[[Place], Path]:
    """Return a maker of an export whose restore op does more than to restore."""

    def write(place: Place) -> Path:
        def body(variable: Any, saver: Any, y: Any) -> dict[str, Any]:
            graph = v1.get_default_graph()
            restore = graph.get_operation_by_name(saver.saver_def.restore_op_name)
            with tf.control_dependencies([restore]):
                done = make(graph.get_tensor_by_name(saver.saver_def.filename_tensor_name),
                            variable, place)  # fmt: skip
                with tf.control_dependencies([done]):
                    return {"restore": tf.no_op(name="restore_more")}

        return _session_model(place, body)

    return write


def _saved_to(prefix: Any, variable: Any) -> Any:
    return raw.SaveV2(
        prefix=prefix, tensor_names=["v"], shape_and_slices=[""], tensors=[variable.read_value()]
    )


_RESTORING: dict[str, Callable[[Any, Any, Place], Any]] = {
    "WriteFile": lambda f, v, p: _write(p),
    "SaveV2 to a text": lambda f, v, p: _saved_to(_touched(p), v),
    "SaveV2 to a join": lambda f, v, p: _saved_to(
        tf.strings.join([f, "/.." * 40 + _touched(p)]), v
    ),
    "SaveV2 to a separator": lambda f, v, p: _saved_to(
        tf.strings.join([f, _touched(p)], separator="/.." * 40), v
    ),
    "SaveV2 to a default": lambda f, v, p: _saved_to(
        v1.placeholder_with_default(_touched(p), []), v
    ),
    "SaveV2 to a variable": lambda f, v, p: _saved_to(tf.identity(_by_variable(p)), v),
    "MergeV2Checkpoints": lambda f, v, p: raw.MergeV2Checkpoints(
        checkpoint_prefixes=[f], destination_prefix=_touched(p), delete_old_dirs=False
    ),
    "MergeV2Checkpoints to a join": lambda f, v, p: raw.MergeV2Checkpoints(
        checkpoint_prefixes=[f],
        destination_prefix=tf.strings.join([f, "/.." * 40, _touched(p)]),
        delete_old_dirs=False,
    ),
}


def _by_variable(place: Place) -> Any:
    held = v1.get_variable(
        "held", [], tf.string, initializer=v1.constant_initializer(_touched(place)),
        use_resource=True, collections=[],
    )  # fmt: skip
    with tf.control_dependencies([held.initializer]):
        return held.read_value()


for _name, _done in _RESTORING.items():
    case(f"v1 restore: {_name}", "load v1")(_after_restore(_done))
    if _name in ("WriteFile", "SaveV2 to a join", "MergeV2Checkpoints"):
        case(f"v1 restore, loaded by v2: {_name}", "load")(_after_restore(_done))


def _initial(place: Place) -> Path:
    return _session_model(place, lambda *_: {"main_op": tf.group(_write(place))})


def _legacy(place: Place) -> Path:
    return _session_model(place, lambda *_: {"legacy_init_op": tf.group(_write(place))})


case("v1 main op: WriteFile", "load v1")(_initial)
case("v1 main op, loaded by v2: WriteFile", "load")(_initial)
case("v1 legacy init op: WriteFile", "load v1")(_legacy)


@case("v1 init op by signature: WriteFile", "load v1")
def _(place: Place) -> Path:
    key = "__saved_model_init_op"

    def body(*_: Any) -> dict[str, Any]:
        with tf.control_dependencies([_write(place)]):
            tf.no_op(name="start")
        return {}

    def edit(model: Any) -> None:
        model.meta_graphs[0].signature_def[key].outputs[key].name = "start"

    return _session_model(place, body, edit)


@case("v1 table initializer, loaded by v2: WriteFile", "load")
def _(place: Place) -> Path:
    def body(*_: Any) -> dict[str, Any]:
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, _write(place))
        return {}

    return _session_model(place, body)


@case("v1 local variable, loaded by v2: SaveV2", "load")
def _(place: Place) -> Path:
    def body(variable: Any, _saver: Any, _y: Any) -> dict[str, Any]:
        with tf.control_dependencies([_saved_to(v1.placeholder_with_default(_touched(place), []),
                                                variable)]):  # fmt: skip
            start = tf.constant(1.0)
        v1.get_variable("local", initializer=start, collections=[v1.GraphKeys.LOCAL_VARIABLES],
                        use_resource=True)  # fmt: skip
        return {}

    return _session_model(place, body)


@case("v1 signature: an asset's path that nobody feeds", "v1")
def _(place: Place) -> Path:
    (place.directory / "words.txt").write_text("word")

    def body(*_: Any) -> dict[str, Any]:
        name = tf.constant(str(place.directory / "words.txt"), name="asset")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, name)
        return {
            "outputs": {"made": tf.io.read_file(name)},
            "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        }

    def edit(model: Any) -> None:
        for node in model.meta_graphs[0].graph_def.node:
            if node.name == "asset":
                node.attr["value"].tensor.string_val[0] = _secret(place).encode()

    return _session_model(place, body, edit)


def _as_output(act: Body) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        def body(_variable: Any, _saver: Any, y: Any) -> dict[str, Any]:
            made = act(place)
            if isinstance(made, tf.Tensor):
                return {"outputs": {"made": made}}
            with tf.control_dependencies([made]):
                return {"outputs": {"made": tf.identity(y)}}

        return _session_model(place, body)

    return make


def _reader(kind: Callable[..., Any], **settings: Any) -> Body:
    """Return a graph that reads a file by a reader of TensorFlow 1, without a runner of queues."""

    def act(place: Place) -> Any:
        queue = v1.FIFOQueue(1, tf.string, shapes=[[]])
        with tf.control_dependencies([queue.enqueue(_secret(place))]):
            reader = kind(**settings)
            return reader.read(queue)[1]

    return act


_OLD: dict[str, Body] = {
    "WholeFileReader": _reader(v1.WholeFileReader),
    "TextLineReader": _reader(v1.TextLineReader),
    "FixedLengthRecordReader": _reader(v1.FixedLengthRecordReader, record_bytes=len(WORD)),
    "Print to a file": _print,
    "ReadFile": ACTS["ReadFile"],
    "MatchingFiles": _files,
}
for _name, _act in _OLD.items():
    case(f"v1 signature: {_name}", "v1")(_as_output(_act))


# --- bare graphs, and those beside checkpoints ----------------------------------------------------


def _graph(act: Body, name: str) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        with tf.Graph().as_default() as graph:
            act(place)
        v1.train.write_graph(graph, str(place.directory), name, as_text=name.endswith("txt"))
        return place.directory / name

    return make


for _name in ("graph.pb", "graph.pbtxt"):
    case(f"{_name}: WriteFile", "graph")(_graph(_write, _name))
case("graph.pb: TextLineDataset", "graph")(_graph(_texts, "graph.pb"))


def _checkpoint(act: Callable[[Any, Place], Any], as_text: bool) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        prefix = place.directory / "ckpt"
        with tf.Graph().as_default() as graph, v1.Session() as session:
            variable = v1.get_variable("v", [], initializer=v1.zeros_initializer())
            saver = v1.train.Saver()
            session.run(variable.initializer)
            saver.save(session, str(prefix), write_meta_graph=False)
            restore = graph.get_operation_by_name(saver.saver_def.restore_op_name)
            with tf.control_dependencies([restore]):
                done = act(variable, place)
            with tf.control_dependencies([done]):
                saver.saver_def.restore_op_name = tf.no_op(name="restore_more").name
            saver.export_meta_graph(f"{prefix}.meta", as_text=as_text)
        return prefix

    return make


case("checkpoint: WriteFile in its .meta", "meta")(_checkpoint(lambda v, p: _write(p), False))
case("checkpoint: WriteFile in its .meta as text", "meta")(
    _checkpoint(lambda v, p: _write(p), True)
)
case("checkpoint: SaveV2 in its .meta", "meta")(
    _checkpoint(lambda v, p: _saved_to(_touched(p), v), False)
)


@case("checkpoint: a data file that is a link", "bundle")
def _(place: Place) -> Path:
    prefix = place.directory / "ckpt"
    raw.SaveV2(
        prefix=str(prefix), tensor_names=["v"], shape_and_slices=[""], tensors=[tf.constant(WORD)]
    )
    data = place.directory / "ckpt.data-00000-of-00001"
    data.rename(place.outside.parent / "data")
    os.symlink(place.outside.parent / "data", data)  # noqa: PTH211 (the target comes first)
    return prefix
