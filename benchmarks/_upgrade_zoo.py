"""Keras 2 models of every kind that people keep, made and saved by Keras 2 itself.

Run by an interpreter that has tf_keras, or TensorFlow up to 2.15: `python _upgrade_zoo.py DIRECTORY
[NAME ...]` writes DIRECTORY/NAME/model.keras, model.h5 and saved/ (those that Keras 2 can write),
inputs.npz, and outputs.npz with what the model computes of them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import tf_keras as keras
except ImportError:  # TensorFlow up to 2.15 is Keras 2 itself
    from tensorflow import keras

import tensorflow as tf

layers = keras.layers
Model = Any
ZOO: dict[str, Callable[[], Model]] = {}


def kept(function: Callable[[], Model]) -> Callable[[], Model]:
    """Make a model one of the zoo."""
    ZOO[function.__name__] = function
    return function


# -- images ----------------------------------------------------------------------------------------


@kept
def plain_cnn() -> Model:
    return keras.Sequential(
        [
            layers.Conv2D(8, 3, activation="relu", input_shape=(16, 16, 3)),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.DepthwiseConv2D(3, padding="same", depthwise_regularizer="l2"),
            layers.SeparableConv2D(8, 3, activation="swish"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(5, activation="softmax", kernel_constraint="max_norm"),
        ]
    )


@kept
def residual_cnn() -> Model:
    image = keras.Input((16, 16, 3), name="image")
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(8, 3, use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(epsilon=1e-4, momentum=0.9)(x)
    y = layers.LeakyReLU(alpha=0.2)(x)
    y = layers.Conv2D(8, 3, padding="same", kernel_regularizer=keras.regularizers.l2(1e-4))(y)
    x = layers.Add()([x, y])
    x = layers.ReLU(max_value=6.0)(x)
    x = layers.Conv2DTranspose(4, 2, strides=2)(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Cropping2D(((1, 1), (2, 2)))(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.AveragePooling2D(2)(x)
    return keras.Model(image, layers.Flatten()(x))


@kept
def volumes() -> Model:
    volume = keras.Input((6, 6, 6, 2))
    x = layers.Conv3D(4, 2, activation="elu")(volume)
    x = layers.MaxPooling3D(2)(x)
    x = layers.Conv3DTranspose(3, 2)(x)
    return keras.Model(volume, layers.GlobalMaxPooling3D()(x))


@kept
def tower_of_ops() -> Model:
    """A functional model with TensorFlow's own functions between its layers."""
    x = inputs = keras.Input((8, 6))
    y = tf.nn.relu(layers.Dense(6)(x)) * 0.5 + x
    y = tf.reduce_mean(y, axis=1, keepdims=True) - y
    y = tf.concat([y[:, 1:, :], tf.tanh(y[:, :1, :])], axis=1)
    z = tf.reshape(y, [-1, 48])
    z = tf.matmul(tf.expand_dims(z, 1), tf.expand_dims(z, 2))
    z = tf.squeeze(z, axis=[1, 2])
    w = tf.transpose(y, [0, 2, 1])
    w = tf.clip_by_value(tf.exp(-tf.square(w)), 0.1, 0.9)
    w = tf.math.reduce_sum(w, axis=[1, 2])
    return keras.Model(inputs, [1.0 / (1.0 + tf.abs(z)), w, tf.cast(y > 0, "float32")])


@kept
def augmented() -> Model:
    image = keras.Input((12, 12, 3))
    x = layers.Resizing(16, 16)(image)
    x = layers.RandomFlip("horizontal", seed=1)(x)
    x = layers.RandomRotation(0.1)(x)
    x = layers.RandomZoom(0.1)(x)
    x = layers.RandomContrast(0.2)(x)
    x = layers.RandomTranslation(0.1, 0.1)(x)
    x = layers.CenterCrop(14, 14)(x)
    x = layers.Rescaling(1 / 255.0, offset=-0.5)(x)
    x = layers.GaussianNoise(0.1)(x)
    x = layers.SpatialDropout2D(0.1)(x)
    return keras.Model(image, layers.Conv2D(2, 3)(x))


# -- sequences -------------------------------------------------------------------------------------


@kept
def lstm_masked() -> Model:
    words = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True)(words)
    x = layers.LSTM(5, return_sequences=True, recurrent_dropout=0.1)(x)
    x = layers.LSTM(4, go_backwards=True, unit_forget_bias=False, implementation=1)(x)
    return keras.Model(words, layers.Dense(3)(x))


@kept
def gru_both() -> Model:
    x = sequence = keras.Input((7, 3))
    x = layers.Masking(mask_value=0.0)(x)
    x = layers.GRU(4, return_sequences=True, reset_after=False)(x)
    x = layers.GRU(5, return_sequences=True)(x)
    return keras.Model(sequence, layers.SimpleRNN(3, activation="relu", unroll=True)(x))


@kept
def encoder_decoder() -> Model:
    source = keras.Input((None, 4), name="source")
    target = keras.Input((None, 3), name="target")
    _, h, c = layers.LSTM(6, return_state=True, name="encoder")(source)
    decoded, _, _ = layers.LSTM(6, return_sequences=True, return_state=True, name="decoder")(
        target, initial_state=[h, c]
    )
    return keras.Model([source, target], layers.TimeDistributed(layers.Dense(5))(decoded))


@kept
def bidirectional() -> Model:
    sequence = keras.Input((7, 3))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(sequence)
    x = layers.Bidirectional(
        layers.GRU(3, return_sequences=True),
        merge_mode="sum",
        backward_layer=layers.GRU(3, return_sequences=True, go_backwards=True, activation="relu"),
    )(x)
    x = layers.Bidirectional(layers.SimpleRNN(2), merge_mode="ave")(x)
    return keras.Model(sequence, x)


@kept
def bidirectional_states() -> Model:
    first, second = keras.Input((5, 3)), keras.Input((6, 2))
    states = layers.Bidirectional(layers.GRU(4, return_state=True))(first)
    x = layers.Bidirectional(layers.GRU(4))(second, initial_state=states[1:])
    return keras.Model([first, second], [x, states[0]])


@kept
def stacked_cells() -> Model:
    sequence = keras.Input((6, 3))
    cells = [layers.LSTMCell(4), layers.GRUCell(3), layers.SimpleRNNCell(2)]
    x = layers.RNN(cells, return_sequences=True)(sequence)
    return keras.Model(sequence, layers.RNN(layers.GRUCell(4, reset_after=False))(x))


@kept
def stateful() -> Model:
    return keras.Sequential(
        [
            layers.LSTM(
                4, stateful=True, return_sequences=True, batch_input_shape=(8, 5, 3), name="first"
            ),
            layers.GRU(3, stateful=True),
            layers.Dense(2),
        ]
    )


@kept
def conv_lstm() -> Model:
    frames = keras.Input((4, 8, 8, 2))
    x = layers.ConvLSTM2D(3, 3, return_sequences=True, padding="same")(frames)
    x = layers.TimeDistributed(layers.Conv2D(2, 3))(x)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    x = layers.ConvLSTM2D(2, 2)(x)
    return keras.Model(frames, x)


@kept
def hard_sigmoids() -> Model:
    """What computes something else in Keras 3, in every place where it can stand."""
    hard = {"recurrent_activation": "hard_sigmoid"}
    x = sequence = keras.Input((6, 3))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, **hard))(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True, reset_after=False, **hard))(x)
    x = layers.GRU(4, return_sequences=True, **hard)(x)
    cells = [layers.LSTMCell(4, **hard), layers.GRUCell(3, **hard)]
    x = layers.RNN(cells, return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(4, activation="hard_sigmoid"))(x)
    x = layers.Conv1D(4, 2, activation="hard_sigmoid")(x)
    return keras.Model(sequence, layers.Activation("hard_sigmoid", name="last")(x))


@kept
def temporal_convolutions() -> Model:
    sequence = keras.Input((24, 3))
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="gelu")(sequence)
    x = layers.SeparableConv1D(5, 3, strides=2)(x)
    x = layers.Conv1DTranspose(4, 3)(x)
    x = layers.UpSampling1D(2)(x)
    x = layers.Cropping1D(1)(x)
    x = layers.ZeroPadding1D(2)(x)
    x = layers.AveragePooling1D(2)(x)
    x = layers.LayerNormalization(axis=[1, 2])(x)
    x = layers.Permute((2, 1))(x)
    return keras.Model(
        sequence, [layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)]
    )


# -- attention -------------------------------------------------------------------------------------


@kept
def transformer() -> Model:
    tokens = keras.Input((10,), dtype="int32", name="tokens")
    x = layers.Embedding(30, 8)(tokens)
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.1)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, attended]))
    f = layers.Dense(16, activation="gelu")(x)
    f = layers.Dense(8)(f)
    x = layers.LayerNormalization()(x + f)
    return keras.Model(tokens, layers.Dense(30, activation="softmax")(x))


@kept
def attentions() -> Model:
    query, value = keras.Input((5, 6), name="query"), keras.Input((7, 6), name="value")
    a = layers.Attention(use_scale=True)([query, value])
    b = layers.AdditiveAttention()([query, value, value])
    c = layers.MultiHeadAttention(2, 3, output_shape=6)(
        query, value, key=value, use_causal_mask=False
    )
    return keras.Model([query, value], layers.Concatenate()([a, b, c]))


# -- structure -------------------------------------------------------------------------------------


@kept
def nested_and_shared() -> Model:
    inner_input = keras.Input((4,))
    h = layers.Dense(6, activation="tanh", name="inner_dense")(inner_input)
    inner = keras.Model(inner_input, layers.BatchNormalization()(h), name="inner")
    tail = keras.Sequential([layers.InputLayer((6,)), layers.Dense(3)], name="tail")
    loose = keras.Sequential([layers.Dense(2), layers.Activation("relu")], name="loose")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    shared = layers.Dense(4, name="shared")
    a, b = inner(shared(left)), inner(shared(right))
    merged = layers.Subtract()([tail(a), tail(b)])
    return keras.Model([left, right], [merged, loose(layers.Maximum()([a, b]))])


@kept
def many_outputs() -> Model:
    image, vector = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="vector")
    x = layers.Flatten()(layers.Conv2D(3, 3)(image))
    x = layers.Concatenate()([x, vector])
    outputs = {
        "score": layers.Dense(1, activation="sigmoid", name="score")(x),
        "kind": layers.Dense(4, activation="softmax", name="kind")(x),
    }
    model = keras.Model({"image": image, "vector": vector}, outputs)
    model.compile(
        "adam", {"score": "mse", "kind": "categorical_crossentropy"}, metrics={"kind": "acc"}
    )
    return model


@kept
def compiled_by_name() -> Model:
    model = keras.Sequential([layers.Dense(4, input_dim=3, activation="selu"), layers.Dense(1)])
    model.compile("rmsprop", "mse", metrics=["mae"])
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    return model


@kept
def mixed_precision() -> Model:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x = image = keras.Input((10, 10, 3))
        x = layers.Conv2D(4, 3)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x)
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(4)(x)
        return keras.Model(image, layers.Activation("softmax", dtype="float32")(x))
    finally:
        keras.mixed_precision.set_global_policy("float32")


@kept
def bfloat_policy() -> Model:
    policy = keras.mixed_precision.Policy("mixed_bfloat16")
    vector = keras.Input((6,))
    return keras.Model(
        vector, layers.Dense(3, dtype="float32")(layers.Dense(5, dtype=policy)(vector))
    )


@kept
def initialised() -> Model:
    """Initialisers, regularisers and constraints, as objects and by name."""
    init, reg, con = keras.initializers, keras.regularizers, keras.constraints
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, kernel_initializer=init.VarianceScaling(2.0, "fan_out", "uniform")),
            layers.Dense(
                4, kernel_initializer=init.Orthogonal(0.5), bias_initializer=init.Constant(0.1)
            ),
            layers.Dense(
                4,
                kernel_regularizer=reg.L1L2(0.01, 0.02),
                bias_constraint=con.UnitNorm(axis=0),
                kernel_constraint=con.MinMaxNorm(0.1, 2.0),
                activity_regularizer="l1",
            ),
            layers.Dense(4, kernel_initializer="lecun_normal", activation=tf.nn.softplus),
            layers.ActivityRegularization(0.1),
            layers.ELU(0.5),
            layers.ThresholdedReLU(0.1),
            layers.AlphaDropout(0.1),
            layers.UnitNormalization(),
        ]
    )


@kept
def dense_dots() -> Model:
    a, b = keras.Input((4, 3)), keras.Input((5, 3))
    d = layers.Dot(axes=2, normalize=True)([a, b])
    r = layers.RepeatVector(2)(layers.Flatten()(d))
    e = layers.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d")(r)
    g = layers.GroupNormalization(groups=3)(e)
    s = layers.Softmax(axis=-1)(layers.Reshape((3, 4))(layers.Permute((2, 1))(g)))
    return keras.Model(
        [a, b], [layers.Minimum()([s, s]), layers.Average()([s, s]), layers.Multiply()([s, s])]
    )


# -- preprocessing ---------------------------------------------------------------------------------


@kept
def normalised() -> Model:
    adapted = layers.Normalization(axis=-1)
    adapted.adapt(np.random.RandomState(0).rand(50, 4).astype("float32") * 5)
    x = vector = keras.Input((4,))
    x = adapted(x)
    fixed = layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 1.0, 4.0])(x)
    bins = layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])(fixed)
    coded = layers.CategoryEncoding(num_tokens=4, output_mode="multi_hot")(bins)
    return keras.Model(vector, [layers.Dense(2)(fixed), coded])


@kept
def word_lookup() -> Model:
    words = keras.Input((3,), dtype="string")
    lookup = layers.StringLookup(vocabulary=["red", "green", "blue"], num_oov_indices=1)
    x = layers.Embedding(4, 5)(lookup(words))
    return keras.Model(words, layers.Flatten()(x))


@kept
def text_vectors() -> Model:
    vectors = layers.TextVectorization(max_tokens=20, output_sequence_length=6)
    vectors.adapt(["the quick brown fox", "jumps over the lazy dog"])
    text = keras.Input((1,), dtype="string")
    x = layers.Embedding(20, 4)(vectors(text))
    return keras.Model(text, layers.GlobalAveragePooling1D()(x))


@kept
def integer_lookup() -> Model:
    ids = keras.Input((2,), dtype="int64")
    lookup = layers.IntegerLookup(output_mode="multi_hot")
    lookup.adapt(np.array([[12], [36], [36], [7]]))
    return keras.Model(ids, layers.Dense(3)(lookup(ids)))


@kept
def hashed() -> Model:
    words, other = keras.Input((1,), dtype="string"), keras.Input((1,), dtype="string")
    h = layers.Hashing(num_bins=7)(words)
    e = layers.Flatten()(layers.Embedding(7, 3)(h))
    s = layers.Hashing(num_bins=5, salt=[1, 2])(other)
    return keras.Model([words, other], [e, s])


# -- a class of one's own --------------------------------------------------------------------------


@kept
def custom_layer() -> Model:
    from upgrade_classes import Scaled  # type: ignore[import-not-found]  # beside this file

    x = vector = keras.Input((4,))
    return keras.Model(vector, Scaled(3, name="scaled")(layers.Dense(3)(x)))


# -- saving ----------------------------------------------------------------------------------------

_WORDS = np.array([b"red", b"blue", b"the dog", b"fox jumps", b"nothing"], object)


def inputs_of(model: Model, rng: np.random.RandomState) -> dict[str, Any]:
    """Return eight examples for each input of a model."""
    arrays: dict[str, Any] = {}
    for tensor in tf.nest.flatten(model.inputs):
        shape = [8, *[5 if n is None else n for n in tensor.shape[1:]]]
        name = tensor.node.layer.name if hasattr(tensor, "node") else tensor.name
        if tensor.dtype == tf.string:
            arrays[name] = _WORDS[rng.randint(0, len(_WORDS), shape)]
        elif tensor.dtype.is_integer:
            arrays[name] = rng.randint(0, 20, shape).astype(tensor.dtype.as_numpy_dtype)
        else:
            values = rng.rand(*shape) * 2 - 0.5
            if len(shape) == 3:
                values[:, -2:] = 0.0  # what a Masking layer leaves out
            arrays[name] = values.astype("float32")
    return arrays


def randomised(model: Model, rng: np.random.RandomState) -> None:
    """Give every float weight values that a fresh model does not have."""
    for layer in model._flatten_layers():
        # what a layer has adapted to is more than its weights; and some weights are words
        weights = [] if isinstance(layer, layers.Normalization) else layer._trainable_weights
        for weight in weights:
            value = weight.numpy()
            scale = 0.4 / np.sqrt(max(1, value.shape[0] if value.ndim else 1))
            weight.assign(value + rng.normal(0, scale, value.shape))
        for weight in layer._non_trainable_weights if weights else ():
            value = weight.numpy()
            if value.dtype.kind == "f":
                weight.assign(np.abs(value + rng.normal(0, 0.2, value.shape)))


def save(name: str, root: Path) -> None:
    """Make a model of the zoo, and save it in each form."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    rng = np.random.RandomState(4)
    model = ZOO[name]()
    randomised(model, rng)
    root.mkdir(parents=True, exist_ok=True)
    arrays = inputs_of(model, rng)
    fed = {key: tf.constant(value) for key, value in arrays.items()}
    values: Any = list(fed.values())
    outputs = (
        model(
            fed
            if isinstance(model._nested_inputs, dict)
            else values
            if len(values) > 1
            else values[0],
            training=False,
        )
        if hasattr(model, "_nested_inputs")
        else model(values[0], training=False)
    )
    named = outputs if isinstance(outputs, dict) else dict(enumerate(tf.nest.flatten(outputs)))
    np.savez(
        root / "inputs.npz",
        **{k: v.astype("S") if v.dtype == object else v for k, v in arrays.items()},
    )
    np.savez(root / "outputs.npz", **{str(k): v.numpy() for k, v in named.items()})
    if hasattr(model, "reset_states"):
        model.reset_states()
    for form in ("model.keras", "model.h5", "saved"):
        try:
            model.save(root / form)
        except Exception as error:  # what Keras 2 itself cannot save is not in the zoo
            shutil.rmtree(root / form, ignore_errors=True)
            (root / form).unlink(missing_ok=True)
            print(f"{name}/{form}: {type(error).__name__}: {str(error)[:120]}")


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parent))
    for wanted in sys.argv[2:] or ZOO:
        save(wanted, directory / wanted)
