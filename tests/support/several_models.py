"""Models that hang side by side, or below others, as `file.py:callable` names them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

L = keras.layers


def net(hidden: int = 8) -> Any:
    return keras.Sequential(
        [keras.Input((4,)), L.Dense(hidden, activation="relu", name="h"), L.Dense(2, name="q")]
    )


def compiled() -> Any:
    model = net()
    model.compile("adam")
    return model


def adapted() -> Any:
    model = net()
    model.get_layer("h").enable_lora(2)
    return model


def deeper() -> Any:
    return keras.Sequential([keras.Input((4,)), L.Dense(8, name="h"), L.Dense(3, name="other")])


def parts() -> Any:
    return tf.train.Checkpoint(online=net(), target=net())


class Linear(tf.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = tf.Variable(tf.random.normal([inputs, outputs]), name="w")
        self.b = tf.Variable(tf.random.normal([outputs]), name="b")

    def __call__(self, x: Any) -> Any:
        return x @ self.w + self.b


class Stack(tf.Module):  # type: ignore[misc]
    """Layers whose variables share their names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [Linear(4, 4) for _ in range(3)]
        self.out = Linear(4, 2)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def stack() -> Any:
    return Stack()


class Holder(tf.Module):  # type: ignore[misc]
    """A module that holds a model and a layer of Keras, and a variable of its own."""

    def __init__(self, build: bool = True) -> None:
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((4,)), L.Dense(3, name="code")])
        self.head = L.Dense(2, name="head")
        if build:
            self.head.build((None, 3))
        self.scale = tf.Variable([1.0, 2.0], name="scale")


def holder() -> Any:
    return Holder()


def unbuilt() -> Any:
    return Holder(build=False)


class Trainer(tf.Module):  # type: ignore[misc]
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def empty() -> Any:
    return Trainer()


def both() -> dict[str, Any]:
    """Return two models by name, for runners that have no tf.train.Checkpoint."""
    return {"online": net(), "target": net()}
