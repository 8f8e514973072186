"""Models in every form that a runtime takes: `python tests/support/runtime_models.py DIRECTORY`.

Each function builds one, on whichever backend Keras runs; all values are drawn, biases and moving
averages too, so that none of them could be lost unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 20
SIZES = {"mlp": 6, "cnn": 12, "multi": 6, "lstm": 7}


def mlp(**_: Any) -> Any:
    """Two layers."""
    import keras
    from keras import layers

    return _drawn(
        keras.Sequential(
            [
                keras.Input((6,), name="x"),
                layers.Dense(16, activation="relu", name="hidden"),
                layers.Dense(5, name="logits"),
            ]
        )
    )


def cnn(**_: Any) -> Any:
    """Convolutions, batch normalization, pooling, softmax."""
    import keras
    from keras import layers

    return _drawn(
        keras.Sequential(
            [
                keras.Input((12, 12, 3), name="image"),
                layers.Conv2D(8, 3, activation="relu", name="conv1"),
                layers.BatchNormalization(name="norm1"),
                layers.MaxPooling2D(name="pool"),
                layers.Conv2D(8, 3, padding="same", name="conv2"),
                layers.BatchNormalization(name="norm2"),
                layers.ReLU(name="relu"),
                layers.GlobalAveragePooling2D(name="mean"),
                layers.Dense(5, activation="softmax", name="classes"),
            ]
        )
    )


def multi(**_: Any) -> Any:
    """Two inputs and two outputs of one shape: positions would mislead."""
    import keras
    from keras import layers

    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    mixed = layers.Dense(16, activation="relu", name="mix")(layers.Concatenate()([left, right]))
    gate = layers.Dense(16, activation="sigmoid", name="gate")(left)
    gated = layers.Multiply()([mixed, gate])
    outputs = [layers.Dense(4, name="score")(gated), layers.Dense(4, name="risk")(gated)]
    return _drawn(keras.Model([left, right], outputs))


def lstm(unroll: bool = False) -> Any:
    """Whole numbers, an embedding, gates.  unroll: as LiteRT's converter needs it."""
    import keras
    from keras import layers

    return _drawn(
        keras.Sequential(
            [
                keras.Input((7,), dtype="int32", name="tokens"),
                layers.Embedding(50, 12, name="words"),
                layers.LSTM(10, unroll=unroll, name="lstm"),
                layers.Dense(3, name="logits"),
            ]
        )
    )


def nested(**_: Any) -> Any:
    """Layers that are attributes of other layers: cells, the two ways of a Bidirectional."""
    import keras
    from keras import layers

    return _drawn(
        keras.Sequential(
            [
                keras.Input((4, 6), name="x"),
                layers.Bidirectional(layers.GRU(3, return_sequences=True), name="ways"),
                layers.TimeDistributed(layers.Dense(4, name="inner"), name="each"),
                layers.LSTM(3, name="lstm"),
            ]
        )
    )


MODELS: dict[str, Callable[..., Any]] = {"mlp": mlp, "cnn": cnn, "multi": multi, "lstm": lstm}


def _drawn(model: Any) -> Any:
    """Return the model with all of its weights drawn from a seed."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    for variable in model.weights:
        values = rng.normal(0, 0.3, variable.shape).astype("float32")
        if "variance" in variable.path or "gamma" in variable.path:
            values = np.abs(values) + 0.5
        variable.assign(values)
    return model


def write(directory: Path) -> None:
    """Write every model in every form."""
    import tensorflow as tf

    for name, build in MODELS.items():
        model = build()
        model.save(directory / f"{name}.keras")
        tf.train.Checkpoint(model=model).write(str(directory / f"{name}.ckpt"))
        model.export(str(directory / name), verbose=False)
        model.export(str(directory / f"{name}.onnx"), format="onnx", verbose=False)
        exported = directory / name
        if name == "lstm":
            exported = directory / "unrolled"
            lstm(unroll=True).export(str(exported), verbose=False)
        lite = tf.lite.TFLiteConverter.from_saved_model(str(exported)).convert()
        (directory / f"{name}.tflite").write_bytes(lite)
    _write_small(directory, tf)


def _write_small(directory: Path, tf: Any) -> None:
    """Write nested layers as a checkpoint; the MLP for one example, quantised, and in float16."""
    tf.train.Checkpoint(model=nested()).write(str(directory / "nested.ckpt"))
    one = tf.TensorSpec([1, 6], tf.float32, "x")
    mlp().export(str(directory / "one"), verbose=False, input_signature=[one])
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory / "one"))
    (directory / "one.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory / "mlp"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    (directory / "half.tflite").write_bytes(converter.convert())
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory / "mlp"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    rng = __import__("numpy").random.default_rng(SEED)
    converter.representative_dataset = lambda: (
        [rng.normal(size=(1, 6)).astype("float32")] for _ in range(100)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (directory / "int8.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
