"""A layer of a user's own, for the zoo of Keras 2 models: of Keras 2 and of Keras 3 alike."""

from __future__ import annotations

import os
from typing import Any

try:
    if os.environ.get("TF_USE_LEGACY_KERAS") != "1":
        raise ImportError
    import tf_keras as keras
except ImportError:
    try:
        import keras
    except ImportError:
        from tensorflow import keras


@keras.utils.register_keras_serializable(package="zoo")
class Scaled(keras.layers.Layer):  # type: ignore[misc,unused-ignore]
    """Multiplies by a weight, and by a number."""

    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.scale * self.factor

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}
