"""The models of `benchmarks.restores`, for Keras 3 on any backend and for Keras 2 alike.

Each function takes the name of the library (`keras`, `tf_keras`) and returns a built model, as the
callable of `ckptkit check --model file.py:function?{"library": "keras"}` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

ROWS = 11  # of embeddings


def _library(name: str) -> Any:
    return import_module(name)


def functional(library: str) -> Any:
    """Return convolutions, normalisation and a head."""
    k = _library(library)
    image = k.Input((8, 8, 3), name="image")
    x = k.layers.Conv2D(4, 3, name="conv")(image)
    x = k.layers.BatchNormalization(name="norm")(x)
    x = k.layers.SeparableConv2D(4, 3, name="separable")(k.layers.ReLU()(x))
    x = k.layers.Dropout(0.5, seed=1)(k.layers.GlobalAveragePooling2D()(x))
    return k.Model(image, k.layers.Dense(3, name="scores")(x), name="functional")


def sequential(library: str) -> Any:
    """Return layers of one shape that have the names that Keras gives them."""
    k = _library(library)
    layers = [k.layers.Dense(6, activation="tanh") for _ in range(3)]
    return k.Sequential([k.Input((6,)), *layers, k.layers.Dense(2)])


def other_order(library: str) -> Any:
    """Return a Sequential whose layers are made in another order than they are used in."""
    k = _library(library)
    last, first = k.layers.Dense(6), k.layers.Dense(6, activation="tanh")
    return k.Sequential([k.Input((6,)), first, last])


def nested(library: str) -> Any:
    """Return models in models, whose layers have names of their own alone."""
    k = _library(library)
    inner = k.Sequential([k.Input((6,)), k.layers.Dense(6), k.layers.Dense(6)], name="inner")
    x = k.Input((6,), name="x")
    tower = k.Model(x, k.layers.Dense(6, name="head")(inner(x)), name="tower")
    y = k.Input((6,), name="y")
    return k.Model(y, k.layers.Dense(6, name="head")(tower(y)), name="nested")


def shared(library: str) -> Any:
    """Return a layer and a model that are used twice."""
    k = _library(library)
    one, two = k.Input((6,), name="one"), k.Input((6,), name="two")
    encoder = k.Sequential([k.Input((6,)), k.layers.Dense(5), k.layers.Dense(4)], name="encoder")
    dense = k.layers.Dense(4, name="shared")
    joined = k.layers.Concatenate()([dense(encoder(one)), dense(encoder(two))])
    return k.Model([one, two], k.layers.Dense(2, name="out")(joined), name="siamese")


def several(library: str) -> Any:
    """Return two inputs and two outputs, an embedding among the layers."""
    k = _library(library)
    words, numbers = k.Input((4,), dtype="int32", name="words"), k.Input((3,), name="numbers")
    table = k.layers.Embedding(ROWS, 5, name="table")
    x = k.layers.GlobalAveragePooling1D()(table(words))
    x = k.layers.Concatenate()([x, k.layers.LayerNormalization(name="norm")(numbers)])
    one, two = k.layers.Dense(2, name="kind")(x), k.layers.Dense(1, name="price")(x)
    return k.Model([words, numbers], [one, two], name="several")


def recurrent(library: str) -> Any:
    """Return recurrent layers, in both directions and stacked."""
    k = _library(library)
    x = k.Input((5, 3), name="x")
    y = k.layers.Bidirectional(k.layers.LSTM(4, return_sequences=True), name="both")(x)
    cells = [k.layers.LSTMCell(3), k.layers.LSTMCell(3)]
    y = k.layers.RNN(cells, return_sequences=True, name="stacked")(y)
    y = k.layers.TimeDistributed(k.layers.Dense(4), name="each")(y)
    return k.Model(x, k.layers.GRU(3, name="gru")(y), name="recurrent")


def attention(library: str) -> Any:
    """Return blocks of a transformer, alike but for their names."""
    k = _library(library)
    x = k.Input((4, 6), name="x")
    y = x
    for number in range(2):
        seen = k.layers.MultiHeadAttention(2, 3, name=f"attention_{number}")(y, y)
        y = k.layers.LayerNormalization(name=f"norm_{number}")(k.layers.Add()([y, seen]))
    return k.Model(x, k.layers.Dense(2, name="out")(y), name="attention")


def compiled(library: str) -> Any:
    """Return a compiled model whose optimizer has slots."""
    k = _library(library)
    model = k.Sequential([k.Input((4,)), k.layers.Dense(4), k.layers.Dense(4)], name="learner")
    model.compile(k.optimizers.Adam(1e-3), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def averaged(library: str) -> Any:
    """Return a compiled model whose optimizer averages the weights."""
    k = _library(library)
    model = k.Sequential([k.Input((4,)), k.layers.Dense(4), k.layers.Dense(4)], name="averaged")
    options = {"jit_compile": False} if library == "tf_keras" else {}
    model.compile(k.optimizers.SGD(1e-2, momentum=0.9, use_ema=True, **options), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def frozen(library: str) -> Any:
    """Return a model with a frozen part, nested."""
    k = _library(library)
    inner = k.Sequential([k.Input((4,)), k.layers.Dense(4, name="a"), k.layers.Dense(4, name="b")])
    inner.trainable = False
    x = k.Input((4,), name="x")
    return k.Model(x, k.layers.Dense(4, name="head")(inner(x)), name="frozen")


def statistics(library: str) -> Any:
    """Return statistics of data as weights, and layers with few."""
    k = _library(library)
    x = k.Input((3,), name="x")
    normalise = k.layers.Normalization(name="normalise")
    normalise.adapt(np.arange(12, dtype="float32").reshape(4, 3))
    y = k.layers.PReLU(name="slopes")(normalise(x))
    y = k.layers.UnitNormalization()(k.layers.Dense(3, use_bias=False, name="mix")(y))
    return k.Model(x, k.layers.GaussianNoise(0.1, seed=3)(y), name="statistics")


def augmented(library: str) -> Any:
    """Return layers with states of random generators."""
    k = _library(library)
    x = k.Input((8, 8, 3), name="x")
    y = k.layers.RandomFlip(seed=1, name="flip")(x)
    y = k.layers.Flatten()(k.layers.Dropout(0.2, seed=2)(y))
    return k.Model(x, k.layers.Dense(2, name="out")(y), name="augmented")


def half(library: str) -> Any:
    """Return a model of mixed precision."""
    k = _library(library)
    x = k.Input((4,), name="x")
    y = k.layers.Dense(5, name="hidden", dtype="mixed_bfloat16")(x)
    return k.Model(x, k.layers.Dense(2, name="out", dtype="float32")(y), name="half")


def subclassed(library: str) -> Any:
    """Return layers as attributes, in lists, and in dicts, several of a class."""
    k = _library(library)

    class Block(k.layers.Layer):  # type: ignore[misc,name-defined]
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(**options)
            self.inner = [k.layers.Dense(units), k.layers.Dense(units)]
            self.norm = k.layers.LayerNormalization()

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(
                name="scale", shape=(shape[-1],), initializer="ones", trainable=True
            )
            for layer in self.inner:
                layer.build(shape)
            self.norm.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            for layer in self.inner:
                x = layer(x) * self.scale
            return self.norm(x)

    class Net(k.Model):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.blocks = [Block(4), Block(4)]
            self.heads = {"b": k.layers.Dense(2), "a": k.layers.Dense(2)}
            self.stem = k.layers.Dense(4)

        def call(self, x: Any) -> Any:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return {name: head(x) for name, head in self.heads.items()}

    model = Net(name="net")
    model(np.zeros((1, 4), "float32"))
    return model


def tied(library: str) -> Any:
    """Return an embedding whose table is the projection of the output, too."""
    k = _library(library)

    class Projection(k.layers.Layer):  # type: ignore[misc,name-defined]
        def __init__(self, table: Any, **options: Any) -> None:
            super().__init__(**options)
            self.table = table

        def build(self, shape: Any) -> None:
            del shape
            self.bias = self.add_weight(name="bias", shape=(ROWS,), initializer="zeros")
            self.built = True

        def call(self, x: Any) -> Any:
            table = self.table.embeddings
            if library == "keras":
                return k.ops.matmul(x, k.ops.transpose(table)) + self.bias
            return k.backend.dot(x, k.backend.transpose(table)) + self.bias

    class Net(k.Model):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.table = k.layers.Embedding(ROWS, 4)
            self.mix = k.layers.Dense(4)
            self.out = Projection(self.table)

        def call(self, x: Any) -> Any:
            return self.out(self.mix(self.table(x)))

    model = Net(name="tied")
    model(np.zeros((1, 3), "int32"))
    return model


def counters(library: str) -> Any:
    """Return a layer whose weights are no floats, of several dtypes."""
    k = _library(library)

    class Counting(k.layers.Layer):  # type: ignore[misc,name-defined]
        def build(self, shape: Any) -> None:
            for dtype in ("int32", "int64", "uint8", "bool"):
                self._weight(dtype, shape)
            self.built = True

        def _weight(self, dtype: str, shape: Any) -> None:
            weight = self.add_weight(
                name=f"count_{dtype}", shape=(shape[-1],), dtype=dtype, initializer="zeros",
                trainable=False,
            )  # fmt: skip
            setattr(self, f"count_{dtype}", weight)

        def call(self, x: Any) -> Any:
            return x

    x = k.Input((4,), name="x")
    y = k.layers.Dense(4, name="first")(Counting(name="counting")(x))
    return k.Model(x, y, name="counters")


def adapted(library: str) -> Any:
    """Return layers with LoRA, as they are while they are trained."""
    model = functional_dense(library)
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("table").enable_lora(2)
    return model


def functional_dense(library: str) -> Any:
    """Return layers that can be quantised and adapted."""
    k = _library(library)
    words = k.Input((4,), dtype="int32", name="words")
    x = k.layers.Embedding(ROWS, 8, name="table")(words)
    x = k.layers.EinsumDense("abc,cd->abd", output_shape=(4, 8), name="einsum")(x)
    x = k.layers.Dense(8, activation="relu", name="hidden")(k.layers.Flatten()(x))
    return k.Model(words, k.layers.Dense(3, name="out")(x), name="dense")


def quantised(library: str, mode: str = "int8") -> Any:
    """Return a model that was quantised after it was made."""
    model = functional_dense(library)
    model.quantize(mode)
    return model


def net(library: str) -> Any:
    """Return one of two models of a file: see `pairs_of_models`."""
    k = _library(library)
    layers = [k.layers.Dense(6, activation="relu", name="h"), k.layers.Dense(2, name="q")]
    return k.Sequential([k.Input((4,)), *layers], name="net")


def wider(library: str) -> Any:
    """Return a model with the names of `net` and other shapes."""
    k = _library(library)
    layers = [k.layers.Dense(7, activation="relu", name="h"), k.layers.Dense(2, name="q")]
    return k.Sequential([k.Input((4,)), *layers], name="net")


def deeper(library: str) -> Any:
    """Return a model that holds all that `net` does, and more."""
    k = _library(library)
    layers = [k.layers.Dense(6, name="h"), k.layers.Dense(2, name="q"), k.layers.Dense(2, name="z")]
    return k.Sequential([k.Input((4,)), *layers], name="net")


BOTH = (
    *(functional, sequential, other_order, nested, shared, several, recurrent, attention),
    *(compiled, averaged, frozen, statistics, augmented, half, subclassed, tied, counters),
)
KERAS_3 = (adapted, functional_dense, quantised)
