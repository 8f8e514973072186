"""Models in every form that a runtime takes, and what damages one weight of each form.

Called where the backend of Keras is chosen by the environment: TensorFlow to make the files, the
runtime's own to damage a `.keras` file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SEED = 20
ENDINGS = {"litert": ".tflite", "onnx": ".onnx", "keras-jax": ".keras", "keras-torch": ".keras"}
MIN_ELEMENTS = 4  # of a weight that is damaged


class Damaged(NamedTuple):
    """A file with one weight damaged; layers: that it can be said to be in."""

    weight: str
    layers: frozenset[str]
    data: bytes


def residual() -> Any:
    """Convolutions, depthwise and strided ones, normalisations and a shortcut."""
    import keras
    from keras import layers

    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    y = layers.ReLU(6, name="depth_relu")(layers.BatchNormalization(name="depth_norm")(y))
    y = layers.BatchNormalization(name="point_norm")(layers.Conv2D(8, 1, name="point")(y))
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="swish", name="down")(x)
    x = layers.Dense(12, activation="tanh", name="hidden")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(5, name="logits")(x))


def attention() -> Any:
    """An embedding, attention, layer normalisations, a feed-forward block."""
    import keras
    from keras import layers

    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 16, name="words")(tokens)
    x = layers.LayerNormalization(name="norm1")(
        layers.Add()([x, layers.MultiHeadAttention(2, 8, name="attend")(x, x)])
    )
    y = layers.Dense(16, name="down")(layers.Dense(32, activation="tanh", name="up")(x))
    x = layers.LayerNormalization(name="norm2")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(4, name="logits")(x))


def recurrent(unroll: bool = False) -> Any:
    """A GRU and an LSTM; unroll: as LiteRT's converter needs it."""
    import keras
    from keras import layers

    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(50, 12, name="words")(tokens)
    x = layers.GRU(10, return_sequences=True, unroll=unroll, name="gru")(x)
    x = layers.LSTM(6, unroll=unroll, name="lstm")(x)
    return keras.Model(tokens, layers.Dense(3, name="logits")(x))


MODELS: dict[str, Callable[..., Any]] = {
    "residual": residual,
    "attention": attention,
    "recurrent": recurrent,
}


def drawn(model: Any) -> Any:
    """Return the model with all of its weights drawn from a seed."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    for variable in model.weights:
        values = rng.normal(0, 0.3, variable.shape).astype("float32")
        positive = "variance" in variable.path or "gamma" in variable.path
        variable.assign(np.abs(values) + 0.5 if positive else values)
    return model


def make(name: str, directory: Path) -> None:
    """Write a model in every form, and a golden of its SavedModel with layers."""
    import tensorflow as tf

    from ckptkit.operations.record.api import record

    model = drawn(MODELS[name]())
    exported = directory / name
    model.save(directory / f"{name}.keras")
    model.export(str(exported), verbose=False)
    model.export(str(directory / f"{name}.onnx"), format="onnx", verbose=False)
    source = exported
    if name == "recurrent":
        source = directory / "unrolled"
        drawn(recurrent(unroll=True)).export(str(source), verbose=False)
    lite = tf.lite.TFLiteConverter.from_saved_model(str(source)).convert()
    (directory / f"{name}.tflite").write_bytes(lite)
    record(exported, directory / f"{name}.golden", noise=False, blind=False, layers=["*"])


def damaged(path: Path, runtime: str) -> Iterator[Damaged]:
    """Yield copies of a file, each with one weight scaled or reversed."""
    ways = {"onnx": _onnx, "litert": _lite}
    yield from ways.get(runtime, _keras)(path)


def _damage(value: Any, number: int) -> Any:
    """Return a weight scaled (every other one) or reversed."""
    import numpy as np

    scaled = (value * np.float32(1.3)).astype(value.dtype)
    return scaled if number % 2 else value.reshape(-1)[::-1].reshape(value.shape).copy()


def _is_damaged(value: Any) -> bool:
    return value.dtype.name == "float32" and value.size >= MIN_ELEMENTS and bool(value.any())


def _keras(path: Path) -> Iterator[Damaged]:
    import keras
    import numpy as np

    model = keras.saving.load_model(path, compile=False)
    out = path.with_name("one.keras")
    for number, variable in enumerate(model.weights):
        value = np.asarray(keras.ops.convert_to_numpy(variable.value))
        if _is_damaged(value):
            variable.assign(_damage(value, number))
            model.save(out)
            variable.assign(value)
            layers = frozenset(variable.path.split("/")[:-1])
            yield Damaged(variable.path, layers, out.read_bytes())


def _onnx(path: Path) -> Iterator[Damaged]:
    import onnx

    model = onnx.load(str(path))
    ops = [(list(node.input), list(node.output)) for node in model.graph.node]
    for number, weight in enumerate(model.graph.initializer):
        value = onnx.numpy_helper.to_array(weight)
        if _is_damaged(value):
            copy = type(model).FromString(model.SerializeToString())
            new = onnx.numpy_helper.from_array(_damage(value, number), weight.name)
            copy.graph.initializer[number].CopyFrom(new)
            yield Damaged(weight.name, _layers(weight.name, ops), copy.SerializeToString())


def _lite(path: Path) -> Iterator[Damaged]:
    from ai_edge_litert.interpreter import Interpreter

    data = path.read_bytes()
    interpreter = Interpreter(str(path))
    names = {item["index"]: item["name"] for item in interpreter.get_tensor_details()}
    ops = [
        ([names.get(i, "") for i in op["inputs"]], [names[i] for i in op["outputs"]])
        for op in interpreter._get_ops_details()
    ]
    made = {int(index) for op in interpreter._get_ops_details() for index in op["outputs"]}
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for number, item in enumerate(interpreter.get_tensor_details()):
        if item["index"] in made or item["dtype"].__name__ != "float32":
            continue
        value = interpreter.get_tensor(item["index"])
        if _is_damaged(value) and data.count(value.tobytes()) == 1:
            new = data.replace(value.tobytes(), _damage(value, number).tobytes())
            yield Damaged(item["name"], _layers(item["name"], ops), new)


def _layers(weight: str, ops: list[tuple[list[str], list[str]]]) -> frozenset[str]:
    """Return the layers that a weight's name tells; else those of what is computed from it next."""
    names = {weight}
    while names:
        found = {part.rpartition("_")[0] for name in names for part in _scopes(name)}
        if found:
            return frozenset(found)
        names = {name for inputs, outputs in ops if names & set(inputs) for name in outputs}
    return frozenset()


def _scopes(name: str) -> Iterator[str]:
    """Yield the scopes of layers in a converter's name; the first is the model's."""
    for op in name.split(";"):
        yield from op.split("/")[1:-1]
