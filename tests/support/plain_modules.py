"""Plain modules whose ops have no scopes; code, for `check`: `plain_modules.py:NAME?{"bad": ...}`.

bad: attribute path of the object whose method computes something else.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_BAD = [""]


def _twisted(path: str, x: Any) -> Any:
    return x * 1.05 + 0.02 if path == _BAD[0] else x


def _drawn(*shape: int) -> Any:
    return tf.Variable(tf.random.normal(shape, stddev=0.4))


class Dense(tf.Module):  # type: ignore[misc]
    def __init__(self, before: int, after: int, path: str) -> None:
        super().__init__()
        self.w, self.b, self.path = _drawn(before, after), _drawn(after), path

    def __call__(self, x: Any) -> Any:
        return tf.nn.relu(_twisted(self.path, x @ self.w + self.b))


class Compiled(Dense):
    __call__ = tf.function(Dense.__call__)


class Block(tf.Module):  # type: ignore[misc]
    def __init__(self, path: str) -> None:
        super().__init__()
        self.up, self.down = Dense(4, 6, f"{path}/up"), Dense(6, 4, f"{path}/down")
        self.path = path

    def __call__(self, x: Any) -> Any:
        return x + _twisted(self.path, self.down(self.up(x)))


class Net(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = _drawn(7, 4)
        self.blocks = [Block(f"blocks/{number}") for number in range(2)]
        self.heads = {"one": Dense(4, 4, "heads/one"), "two": Compiled(4, 4, "heads/two")}
        self.tower = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="last")])
        self.output = Dense(4, 4, "output")  # as the names of outputs begin

    @tf.function(input_signature=[tf.TensorSpec([3, None], tf.int32, "ids")])  # type: ignore[untyped-decorator]
    def __call__(self, ids: Any) -> Any:
        x = tf.gather(self.table, ids % 7)
        x = tf.reduce_mean(x, axis=1)
        for block in self.blocks:
            x = block(x)
        x = self.heads["one"](x) - self.heads["two"](x)
        x = self.output(self.tower(x) + x)
        return {"scores": x @ tf.transpose(self.table)}  # tied


def net(bad: str = "") -> tf.Module:
    _BAD[0] = bad
    keras.utils.set_random_seed(4)
    return Net()
