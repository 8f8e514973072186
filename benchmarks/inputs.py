"""The files that are measured, made once by TensorFlow below `benchmarks/.cache`.

`python -m benchmarks.inputs NAME` makes one; `path` does so in a child process when it is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).resolve().parent / ".cache"
VARIABLES = 100_000


def path(name: str, *below: str) -> Path:
    """Return the path of an input (of a checkpoint, its prefix), making it when it is missing."""
    if name not in MAKERS:
        raise KeyError(name)
    if not (CACHE / name).is_dir():
        print(f"making {name} ...", file=sys.stderr)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run(
            [sys.executable, "-m", "benchmarks.inputs", name],
            check=True,
            cwd=CACHE.parents[1],
            env=environment,
        )
    return (CACHE / name).joinpath(*below)


def resnet50(directory: Path) -> None:
    """ResNet50 with Adam, 750 tensors, 307 MB: a checkpoint, a SavedModel, a Keras archive."""
    import keras
    import tensorflow as tf

    model = keras.applications.ResNet50(weights=None)
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(directory / "ckpt"))
    tf.saved_model.save(model, str(directory / "saved_model"))
    model.save(directory / "model.keras")


def vgg16(directory: Path) -> None:
    """VGG16, 32 tensors, 553 MB."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = keras.applications.VGG16(weights=None)
    tf.train.Checkpoint(model=model).write(str(directory / "ckpt"))


def variables(directory: Path) -> None:
    """100,000 variables of 50,000 layers in 500 blocks, as `tf.train.Checkpoint` lays them out.

    The object graph is put together by hand, and TensorFlow's SaveV2 writes it: making 100,000
    live variables and checkpointing them takes TensorFlow minutes.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2 as pb2

    graph = pb2.TrackableObjectGraph()
    keys, tensors = [], []
    value = tf.constant([[0.0, 1.0]])

    def node(parent: int | None, edge: str) -> int:
        graph.nodes.add()
        if parent is not None:
            graph.nodes[parent].children.add(node_id=len(graph.nodes) - 1, local_name=edge)
        return len(graph.nodes) - 1

    root = node(None, "")
    blocks = node(node(root, "model"), "blocks")
    for block in range(500):
        layers = node(node(blocks, str(block)), "layers")
        for layer in range(VARIABLES // 1000):
            above = node(layers, str(layer))
            for name in ("kernel", "bias"):
                key = f"model/blocks/{block}/layers/{layer}/{name}/.ATTRIBUTES/VARIABLE_VALUE"
                graph.nodes[node(above, name)].attributes.add(
                    name="VARIABLE_VALUE",
                    full_name=f"block_{block}/layer_{layer}/{name}",
                    checkpoint_key=key,
                )
                keys.append(key)
                tensors.append(value)
    keys.append("_CHECKPOINTABLE_OBJECT_GRAPH")
    tensors.append(tf.constant(graph.SerializeToString()))
    tf.raw_ops.SaveV2(
        prefix=str(directory / "ckpt"),
        tensor_names=keys,
        shape_and_slices=[""] * len(keys),
        tensors=tensors,
    )


MAKERS: dict[str, Callable[[Path], None]] = {
    "resnet50": resnet50,
    "variables": variables,
    "vgg16": vgg16,
}


def make(name: str) -> None:
    """Make one input; it appears when it is whole."""
    CACHE.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
    MAKERS[name](scratch)
    scratch.rename(CACHE / name)


if __name__ == "__main__":
    make(sys.argv[1])
