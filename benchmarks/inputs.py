"""The files that are measured, made once below `benchmarks/.cache`, the models by TensorFlow.

`python -m benchmarks.inputs NAME` makes one; `path` does so in a child process when it is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parent / ".cache"
VARIABLES = 100_000
MILLION = 1_000_000


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


PAIR_SHAPES = {
    "fc1/kernel": (25_088, 4_096),
    "fc2/kernel": (4_096, 4_096),
    **{f"conv{i}/kernel": (3, 3, 256, 512) for i in range(4)},
    **{f"conv{i}/bias": (512,) for i in range(4)},
}


def pair(directory: Path) -> None:
    """Checkpoints A and B, the same, and C, which differs in every element; 497 MB each."""
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {k: rng.standard_normal(s, dtype=np.float32) for k, s in PAIR_SHAPES.items()}
    _write(directory / "A", arrays)
    _write(directory / "B", arrays)
    for array in arrays.values():
        array *= 1 + np.float32(1e-3) * rng.standard_normal(array.shape, dtype=np.float32)
    _write(directory / "C", arrays)


def dense(directory: Path) -> None:
    """40 tensors of 16 MiB of random numbers, 671 MB."""
    import numpy as np

    values = np.random.default_rng(1).standard_normal(4 << 20, np.float32)
    _write(directory / "ckpt", {f"layer_{i}/kernel": values for i in range(40)})


def zeros(directory: Path) -> None:
    """Checkpoints `one` and `two` of 20 GiB of zeros, which take no room on the disk."""
    from ckptkit._io.crc32c import crc_of_repeated
    from ckptkit.stores.tensor_bundle.table_writer import TableWriter
    from ckptkit.stores.tensor_bundle.writer import _IndexEntry, index_items
    from ckptkit.stores.writing import TensorToWrite

    nbytes = 1 << 30
    crc = crc_of_repeated(bytes(8), nbytes)
    tensors = [TensorToWrite(f"w{i:02}", "float32", (nbytes // 4,)) for i in range(20)]
    entries = {t.key: _IndexEntry(0, i * nbytes, nbytes, crc) for i, t in enumerate(tensors)}
    for name in ("one", "two"):
        with (directory / f"{name}.index").open("wb") as file:
            table = TableWriter(file)
            for key, value in index_items(tensors, entries, 1):
                table.add(key, value)
            table.finish()
        with (directory / f"{name}.data-00000-of-00001").open("wb") as file:
            file.truncate(nbytes * len(tensors))


def million(directory: Path) -> None:
    """1,000,000 variables of two zeros: a checkpoint without an object graph, and safetensors."""
    from ckptkit._io.crc32c import value
    from ckptkit.stores.tensor_bundle.table_writer import TableWriter
    from ckptkit.stores.tensor_bundle.writer import _IndexEntry, index_items
    from ckptkit.stores.writing import TensorToWrite

    crc = value(bytes(8))
    keys = [f"model/block_{at // 1000:03}/layer_{at % 1000:03}/kernel" for at in range(MILLION)]
    tensors = [TensorToWrite(key, "float32", (2,)) for key in keys]
    entries = {key: _IndexEntry(0, 8 * at, 8, crc) for at, key in enumerate(keys)}
    with (directory / "ckpt.index").open("wb") as file:
        table = TableWriter(file)
        for key, item in index_items(tensors, entries, 1):
            table.add(key, item)
        table.finish()
    with (directory / "ckpt.data-00000-of-00001").open("wb") as file:
        file.truncate(8 * MILLION)
    sparse(directory / "weights.safetensors", tensors=MILLION, nbytes=8)


def sparse(file: Path, *, tensors: int, nbytes: int) -> None:
    """Write a safetensors file of float32 zeros that takes no room."""
    header = json.dumps(
        {
            f"layer{n}/kernel": {
                "dtype": "F32",
                "shape": [nbytes // 4],
                "data_offsets": [n * nbytes, (n + 1) * nbytes],
            }
            for n in range(tensors)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + tensors * nbytes)


def _write(prefix: Path, arrays: Mapping[str, Any]) -> None:
    """Write a name-based checkpoint of float32 arrays."""
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from ckptkit.stores.writing import TensorToWrite

    tensors = [TensorToWrite(key, "float32", array.shape) for key, array in arrays.items()]
    write_tensor_bundle(prefix, tensors, lambda key: iter([(0, arrays[key].reshape(-1))]))


def small_model(directory: Path) -> None:
    """A small convolutional network, 28 variables: `model.keras`."""
    from ckptkit.fixtures import make as make_fixture

    make_fixture("functional_cnn", directory / "made")
    (directory / "made" / "model.keras").rename(directory / "model.keras")


MAKERS: dict[str, Callable[[Path], None]] = {
    "dense": dense,
    "million": million,
    "pair": pair,
    "resnet50": resnet50,
    "small_model": small_model,
    "variables": variables,
    "vgg16": vgg16,
    "zeros": zeros,
}


def make(name: str) -> None:
    """Make one input; it appears when it is whole."""
    CACHE.mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
    MAKERS[name](scratch)
    scratch.rename(CACHE / name)


if __name__ == "__main__":
    make(sys.argv[1])
