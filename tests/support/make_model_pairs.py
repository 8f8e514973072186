"""Save pairs of models whose weights are equal into a folder; run as a script, for TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

out = Path(sys.argv[1])
v1 = tf.compat.v1
layers = keras.layers


def sequential(activation: str = "relu") -> keras.Model:
    hidden = layers.Dense(4, activation=activation)
    return keras.Sequential([keras.Input((3,)), hidden, layers.Dropout(0.2), layers.Dense(2)])


def functional(
    rate: float = 0.3, cell: int = 3, factor: float = 2.0, crossed: bool = False
) -> keras.Model:
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(cell, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(4))(layers.Dropout(rate, name="rest")(x))
    x = layers.Lambda(lambda tensor: tensor + 1, output_shape=(7, 4))(x) * factor
    left = layers.GlobalAveragePooling1D(name="mean")(x)
    right = layers.GlobalMaxPooling1D(name="most")(x)
    x = layers.Concatenate()([right, left] if crossed else [left, right])
    return keras.Model(inputs, layers.Dense(2, name="scores")(x))


def words(vocabulary: Sequence[str], learnt: bool = False, again: bool = False) -> keras.Model:
    inputs = keras.Input((1,), dtype="string", name="word")
    lookup = layers.StringLookup(vocabulary=None if learnt else list(vocabulary))
    if learnt:
        lookup.adapt(tf.constant(list(vocabulary)))
    x = lookup(inputs)
    if again:  # a second list, which is the same in both models
        other = layers.StringLookup(vocabulary=list("abc"))(inputs)
        x = layers.Add()([x, other])
    x = layers.Flatten()(layers.Embedding(9, 2)(x))
    return keras.Model(inputs, layers.Dense(1)(x))


def save(name: str, model: keras.Model, forms: Sequence[str] = ("keras", "h5")) -> None:
    for form in forms:
        if form == "export":
            model.export(out / name, verbose=False)
        else:
            model.save(out / f"{name}.{form}")


def seeded(make: Any, *args: Any, **kwargs: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    return make(*args, **kwargs)


def served(name: str, dtype: Any, shape: Sequence[int | None], key: str = "scores") -> None:
    """Save a module with one weight, and a signature of this kind."""
    module = tf.Module()
    module.w = tf.Variable([1.0, 2.0])

    @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name="x")])  # type: ignore[untyped-decorator]
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {key: tf.cast(x, tf.float32) * module.w}

    tf.saved_model.save(module, out / name, signatures={"serving_default": call})


def with_asset_of_tensorflow1(name: str, lines: str, tags: Sequence[str] = ("serve",)) -> None:
    vocabulary = out / "vocab.txt"
    vocabulary.write_text(lines)
    with tf.Graph().as_default(), v1.Session() as session:
        text = v1.placeholder(tf.string, [None], name="text")
        asset = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        filler = tf.lookup.TextFileInitializer(
            asset, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, -1
        )
        table = tf.lookup.StaticHashTable(filler, -1)
        kernel = v1.get_variable("kernel", initializer=tf.constant([1.0, 2.0, 3.0]))
        scores = tf.gather(kernel, tf.maximum(table.lookup(text), 0))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(out / name))
        builder.add_meta_graph_and_variables(
            session,
            list(tags),
            {"serving_default": v1.saved_model.predict_signature_def({"t": text}, {"s": scores})},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()


def tabled(name: str, words: Sequence[str], filled: bool = False) -> None:
    """Save a checkpoint of a table that is filled as it runs, or an export of one that is not."""
    module: Any = tf.Module()
    numbers = tf.range(len(words), dtype=tf.int64)
    if filled:
        initializer = tf.lookup.KeyValueTensorInitializer(list(words), numbers)
        module.table = tf.lookup.StaticHashTable(initializer, -1)
    else:
        module.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        module.table.insert(list(words), numbers)
    module.rows = tf.Variable(tf.reshape(tf.range(8.0), [4, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "word")])  # type: ignore[untyped-decorator]
    def call(word: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"row": tf.gather(module.rows, module.table.lookup(word) + 1)}

    module.call = call
    if filled:
        tf.saved_model.save(module, out / name, signatures={"serving_default": call})
    else:
        tf.train.Checkpoint(module).write(str(out / name))


tabled("table_abc", "abc")
tabled("table_axc", "axc")
tabled("table_abc_export", "abc", filled=True)
tabled("table_axc_export", "axc", filled=True)
save("relu", seeded(sequential), ("keras", "h5", "export"))
save("relu_again", seeded(sequential), ("keras", "h5", "export"))  # other automatic names
save("tanh", seeded(sequential, "tanh"), ("keras", "h5", "export"))
save("plain", seeded(functional))
save("rate", seeded(functional, rate=0.5))
save("factor", seeded(functional, factor=3.0))
save("crossed", seeded(functional, crossed=True))
save("abc", seeded(words, "abc"), ("keras", "h5", "export"))
save("axc", seeded(words, "axc"), ("keras", "h5", "export"))
learnt = seeded(words, "abc", learnt=True)
save("learnt_abc", learnt, ("keras", "export"))
tf.train.Checkpoint(model=learnt).write(str(out / "learnt_abc_checkpoint"))
save("learnt_axc", seeded(words, "axc", learnt=True), ("keras", "export"))
save("two_abc", seeded(words, "abc", again=True))
save("two_abx", seeded(words, "abx", again=True))
keras.config.enable_unsafe_deserialization()
for name in ("relu", "plain", "abc", "learnt_abc"):
    again = keras.models.load_model(out / f"{name}.keras")
    again.compile("adam", "mse")
    save(f"{name}_saved_again", again, ("keras",) if name.startswith("learnt") else ("keras", "h5"))
served("one", tf.float32, [None, 2])
served("float64", tf.float64, [None, 2])
served("fixed", tf.float32, [4, 2])
served("renamed", tf.float32, [None, 2], key="logits")
with_asset_of_tensorflow1("tf1_abc", "a\nb\nc\n")
with_asset_of_tensorflow1("tf1_axc", "a\nx\nc\n")
with_asset_of_tensorflow1("tf1_gpu", "a\nb\nc\n", ("serve", "gpu"))
