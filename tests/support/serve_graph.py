"""Trains small graphs of TensorFlow 1, and serves SavedModels that were made of them.

python -m support.serve_graph make DIR; python -m support.serve_graph serve MODELS DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
WORDS = np.array([b"b", b"a", b"unknown"], object)


def make(folder: Path) -> None:
    """Write folders plain, collections and table, each with checkpoints and what they compute."""
    for kind in ("plain", "collections", "table"):
        (folder / kind).mkdir()
        with tf.Graph().as_default() as graph:
            if kind == "table":
                (folder / kind / "words.txt").write_text("a\nb\n")
                fed = v1.placeholder(tf.string, [None], "words")
                rows = tf.lookup.TextFileInitializer(
                    str(folder / kind / "words.txt"),
                    *(tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
                    *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
                )
                table = tf.lookup.StaticVocabularyTable(rows, 1)
                x = tf.one_hot(table.lookup(fed), 5)
                given = WORDS
            else:
                fed = x = v1.placeholder(tf.float32, [None, 5], "x")
                given = np.random.RandomState(0).randn(4, 5).astype("f")
            target = v1.placeholder(tf.float32, [None, 2], "t")
            kernel = v1.get_variable("fc1/kernel", [5, 7], use_resource=kind == "collections")
            with tf.device("/job:worker/task:0/device:GPU:0"):
                hidden = tf.nn.relu(tf.matmul(x, kernel), name="h")
            out = v1.get_variable("fc2/kernel", [7, 2], use_resource=False)
            y = tf.identity(tf.matmul(hidden, out), "y")
            step = v1.train.get_or_create_global_step()
            loss = tf.reduce_mean((y - target) ** 2)
            train = v1.train.AdamOptimizer(0.1).minimize(loss, global_step=step)
            if kind == "collections":
                v1.add_to_collection("inputs", fed)
                v1.add_to_collection("outputs", y)
            savers = {"model": v1.train.Saver()}
            if kind == "plain":
                savers["old"] = v1.train.Saver(write_version=v1.train.SaverDef.V1)
            soft = v1.ConfigProto(allow_soft_placement=True)
            _clear_devices(graph)
            with v1.Session(graph=graph, config=soft) as session:
                session.run([v1.global_variables_initializer(), v1.tables_initializer()])
                for _ in range(3):
                    session.run(train, {fed: given, target: np.ones((len(given), 2), "f")})
                for name, saver in savers.items():
                    saver.save(session, str(folder / kind / f"{name}.ckpt"), global_step=step)
                np.savez(folder / kind / "y.npz", given=given, y=session.run(y, {fed: given}))


def _clear_devices(graph: tf.Graph) -> None:
    """Leave a device that every machine has in the graph that runs, and in the file."""
    for operation in graph.get_operations():
        if operation.device:
            operation._set_device("/device:CPU:0")


def serve(models: Path, folder: Path) -> None:
    """Write how far each model's outputs are from those of its session, eager and in a session."""
    for model in sorted(path for path in models.iterdir() if path.is_dir()):
        kind = model.name.partition("-")[0]
        recorded = np.load(folder / kind / "y.npz", allow_pickle=True)
        function = tf.saved_model.load(str(model)).signatures["serving_default"]
        [name] = function.structured_input_signature[1]
        outputs = function(**{name: tf.constant(recorded["given"].tolist())})
        ours = outputs.get("scores", outputs.get("y"))
        apart = {"eager": np.abs(ours.numpy() - recorded["y"]).max()}
        with tf.Graph().as_default(), v1.Session() as session:
            meta = v1.saved_model.load(session, ["serve"], str(model))
            signature = meta.signature_def["serving_default"]
            [fed] = signature.inputs.values()
            given = {fed.name: recorded["given"]}
            key = "scores" if "scores" in signature.outputs else "y"
            out = session.run(signature.outputs[key].name, given)
            apart["session"] = np.abs(out - recorded["y"]).max()
        np.savez(models / f"{model.name}.npz", **apart)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        with tf.Graph().as_default():
            make(Path(sys.argv[2]))
    else:
        serve(Path(sys.argv[2]), Path(sys.argv[3]))
