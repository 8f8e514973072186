"""Models of architectures that no reference fixture has, sound and with one fault in their code.

`build?{"name": NAME, "fault": FAULT}` is what `ckptkit check --model` calls; weights come from a
seed.  `benchmarks._architecture_mutants` says which faults the code of each can have; plain modules
are in `benchmarks._module_architectures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import _module_architectures as modules

layers: Any = keras.layers


def build(name: str, fault: str = "") -> Any:
    """Return a model, with weights from a seed and one fault in its code."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = BUILDERS[name](fault)
    rng = np.random.default_rng(len(name))
    for variable in modules.variables_of(model):
        if variable.dtype in ("float32", tf.float32) and "seed" not in variable.name:
            variable.assign(_values(rng, variable))
    return model


def _values(rng: Any, variable: Any) -> Any:
    shape = tuple(variable.shape)
    if variable.name.split(":")[0] in ("moving_variance", "variance", "gamma"):
        return rng.uniform(0.5, 1.5, shape).astype("f4")
    fan = int(np.prod(shape[:-1])) if len(shape) > 1 else 4
    return (rng.standard_normal(shape) / np.sqrt(fan)).astype("f4")


# --- files of Keras -------------------------------------------------------------------------------


def _unet(fault: str) -> Any:
    x = image = keras.Input((16, 16, 2), name="image")
    skips = []
    for depth, width in enumerate((4, 8)):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"down{depth}")(x)
        x = layers.BatchNormalization(name=f"down{depth}_norm")(x)
        x = layers.ReLU(name=f"down{depth}_relu")(x)
        skips.append(x)
        x = layers.MaxPooling2D(name=f"down{depth}_pool")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="gelu", name="bottom")(x)
    for depth, width in ((1, 8), (0, 4)):
        x = layers.Conv2DTranspose(width, 2, strides=2, padding="same", name=f"up{depth}")(x)
        x = layers.Concatenate(name=f"join{depth}")([x, skips[depth]])
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"up{depth}_conv")(x)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x), name="u")


def _separable(fault: str) -> Any:
    x = image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, strides=1, padding="same", name="stem")(x)
    for number in range(2):
        y = layers.DepthwiseConv2D(3, padding="same", name=f"deep{number}")(x)
        y = layers.BatchNormalization(name=f"deep{number}_norm")(y)
        y = layers.Conv2D(8, 1, activation="relu", name=f"point{number}")(y)
        x = layers.Add(name=f"add{number}")([x, y])
    x = layers.SeparableConv2D(12, 3, activation="elu", name="separable")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(image, layers.Dense(5, name="classes")(x), name="separable_net")


def _conv_lstm(fault: str) -> Any:
    x = frames = keras.Input((4, 6, 6, 1), name="frames")
    x = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, name="motion")(x)
    x = layers.TimeDistributed(layers.Conv2D(2, 3, activation="tanh", name="frame"), name="each")(x)
    x = layers.TimeDistributed(layers.Flatten(), name="flat")(x)
    x = layers.LSTM(6, name="memory")(x)
    return keras.Model(frames, layers.Dense(3, name="next")(x), name="video")


def _tower() -> Any:
    x = inputs = keras.Input((6,), name="features")
    for number in range(3):  # of one shape
        x = layers.Dense(6, activation="tanh", name=f"tower{number}")(x)
    return keras.Model(inputs, layers.LayerNormalization(name="tower_norm")(x), name="tower")


def _siamese(fault: str) -> Any:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    tower = _tower()
    one, two = tower(left), tower(right)
    apart = layers.Subtract(name="apart")([one, two])
    near = layers.Dot(axes=1, normalize=True, name="near")([one, two])
    joined = layers.Concatenate(name="joined")([apart, near])
    joined = layers.Dense(5, activation="relu", name="compare")(joined)
    return keras.Model([left, right], layers.Dense(1, name="same")(joined), name="siamese")


def _many_outputs(fault: str) -> Any:
    inputs = {"age": keras.Input((1,), name="age"), "scores": keras.Input((7,), name="scores")}
    x = layers.Concatenate(name="all")(list(inputs.values()))
    trunk = layers.Dense(8, activation="silu", name="trunk")(x)
    left = layers.Dense(8, activation="relu", name="left")(trunk)
    right = layers.Dense(8, activation="relu", name="right")(trunk)
    outputs = {
        "risk": layers.Dense(1, activation="sigmoid", name="risk")(left),
        "group": layers.Dense(4, activation="softmax", name="group")(right),
    }
    return keras.Model(inputs, outputs, name="many")


_WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "far"]


def _text(fault: str) -> Any:
    words = keras.Input((5,), dtype="string", name="words")
    x = layers.StringLookup(vocabulary=_WORDS, mask_token="", name="lookup")(words)
    x = layers.Embedding(11, 6, mask_zero=True, name="vectors")(x)
    x = layers.Bidirectional(layers.LSTM(4, name="reader"), name="both")(x)
    return keras.Model(words, layers.Dense(3, activation="softmax", name="tone")(x), name="text")


def _normalised(fault: str) -> Any:
    x = table = keras.Input((8,), name="table")
    x = layers.Normalization(mean=np.arange(8.0), variance=np.arange(1.0, 9.0), name="scaled")(x)
    x = layers.Dense(8, name="first")(x)
    x = layers.LayerNormalization(name="by_row")(x)
    x = layers.Dense(8, activation="softplus", name="second")(x)
    x = layers.GroupNormalization(groups=2, name="by_group")(x)
    x = layers.Dense(8, activation="relu", name="third")(x)
    x = layers.BatchNormalization(name="by_column")(x)
    x = layers.Dense(6, name="fourth")(x)
    x = layers.UnitNormalization(name="to_unit")(x)
    return keras.Model(table, layers.Dense(2, name="last")(x), name="normalised")


@keras.saving.register_keras_serializable("architectures")
class Mixing(keras.layers.Layer):  # type: ignore[misc]
    """A custom layer with settings: `x * (1 - rate) + (x @ kernel) * rate`, to a power."""

    def __init__(self, rate: float = 0.3, power: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.rate, self.power = rate, power

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x: Any) -> Any:
        mixed = x * (1 - self.rate) + keras.ops.matmul(x, self.kernel) * self.rate
        return mixed**self.power

    def get_config(self) -> Any:
        return {**super().get_config(), "rate": self.rate, "power": self.power}


def _custom(fault: str) -> Any:
    x = table = keras.Input((6,), name="table")
    for number, rate in enumerate((0.2, 0.5, 0.8)):
        x = Mixing(rate, name=f"mixing{number}")(x)
        x = layers.Activation("tanh", name=f"tanh{number}")(x)
    return keras.Model(table, layers.Dense(2, name="last")(x), name="custom")


def _half(fault: str) -> Any:
    with _Policy("mixed_bfloat16"):
        x = table = keras.Input((6,), name="table")
        x = layers.Dense(16, activation="relu", name="wide")(x)
        x = layers.LayerNormalization(name="norm")(x)
        x = layers.Dense(16, activation="tanh", name="middle")(x)
        x = layers.Dense(3, dtype="float32", name="last")(x)
    return keras.Model(table, x, name="half")


class _Policy:
    """What new layers compute in, within the block."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *_: object) -> None:
        keras.config.set_dtype_policy(self.before)


# --- code of Keras --------------------------------------------------------------------------------


class Vae(keras.Model):  # type: ignore[misc]
    """Two models in one; the mean of what the encoder says is decoded."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="vae")
        self.encoder = keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(8, activation="relu", name="narrow"),
                layers.Dense(4, name="mean_and_scale"),
            ],
            name="encoder",
        )
        other = "elu" if fault == "activation" else "relu"
        self.decoder = keras.Sequential(
            [
                keras.Input((2,)),
                layers.Dense(8, activation=other, name="widen"),
                layers.Dropout(0.4, name="drop"),
                layers.Dense(8, activation="sigmoid", name="again"),
            ],
            name="decoder",
        )
        self.halves = fault == "halves"
        self.noisy = fault == "dropout"

    def call(self, x: Any, training: bool = False) -> Any:
        mean, scale = keras.ops.split(self.encoder(x), 2, axis=-1)
        latent = scale if self.halves else mean
        return self.decoder(latent, training=True if self.noisy else training)


def _vae(fault: str) -> Any:
    model = Vae(fault)
    model(np.zeros((1, 8), "f4"))
    return model


class Ranker(keras.Model):  # type: ignore[misc]
    """Layers in a dict of lists; the inputs are a dict too."""

    def __init__(self, fault: str) -> None:
        super().__init__(name="ranker")
        self.fault = fault
        self.query = layers.Dense(6, activation="tanh", name="query")
        self.item = layers.Dense(6, activation="tanh", name="item")
        self.norm = layers.LayerNormalization(epsilon=0.1 if fault == "epsilon" else 1e-3)
        slope = 0.01 if fault == "slope" else 0.2
        self.slope = layers.LeakyReLU(negative_slope=slope, name="slope")
        self.hidden = [layers.Dense(6, name=f"hidden{i}") for i in range(2)]
        self.score = layers.Dense(1, name="score")

    def call(self, inputs: Any) -> Any:
        query, item = self.query(inputs["query"]), self.item(inputs["item"])
        if self.fault == "exchanged":
            query, item = self.item(inputs["query"]), self.query(inputs["item"])
        x = self.norm(query * item)
        for each in self.hidden:
            x = self.slope(each(x))
        return self.score(x)


def _ranker(fault: str) -> Any:
    model = Ranker(fault)
    model({"query": np.zeros((1, 5), "f4"), "item": np.zeros((1, 5), "f4")})
    return model


def _adapted(fault: str) -> Any:
    """Low-rank adapters beside frozen kernels."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="elu" if fault == "activation" else "relu", name="first"),
            layers.Dense(8, activation="relu", name="second"),
            layers.Dense(2, name="last"),
        ],
        name="adapted",
    )
    for name in ("first", "second"):
        model.get_layer(name).enable_lora(2, lora_alpha=4 if fault == "alpha" else 2)
    return model


BUILDERS: Mapping[str, Callable[[str], Any]] = {
    "unet": _unet,
    "separable": _separable,
    "conv_lstm": _conv_lstm,
    "siamese": _siamese,
    "many_outputs": _many_outputs,
    "text": _text,
    "normalised": _normalised,
    "custom": _custom,
    "half": _half,
    "vae": _vae,
    "ranker": _ranker,
    "adapted": _adapted,
    "nested_lists": modules.NestedLists,
    "flat": modules.Flat,
    "hand_rnn": modules.HandRnn,
    "graph_attention": modules.GraphAttention,
    "experts": modules.Experts,
    "keras_in_module": modules.KerasInModule,
    "tied_decoder": modules.TiedDecoder,
}
