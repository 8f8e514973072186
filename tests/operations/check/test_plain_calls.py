"""A `tf.Module` whose code says no signature takes what it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from support.scripts import run_script

pytestmark = pytest.mark.needs_tf

CODE = """
import tensorflow as tf

class Dense(tf.Module):
    def __init__(self, i, o):
        super().__init__()
        self.w = tf.Variable(tf.random.stateless_normal([i, o], [1, 2]))
        self.b = tf.Variable(tf.zeros([o]))

    def __call__(self, x):
        return tf.nn.{activation}(x @ self.w + self.b)

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Dense(4, 8), Dense(8, 3)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

def build():
    return Net()

if __name__ == "__main__":
    tf.train.Checkpoint(model=build()).write("ckpt")
"""


def test_a_module_without_a_function_is_recorded_and_checked(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(CODE.replace("{activation}", "relu"))
    run_script(code, directory=tmp_path)
    np.savez(tmp_path / "x.npz", x=np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4))
    model, path, golden = f"{code}:build", tmp_path / "ckpt", tmp_path / "golden"
    with pytest.raises(UsageError, match="does not say what inputs it takes"):
        ckptkit.record(path, golden, model=model)
    ckptkit.record(path, golden, model=model, inputs=[tmp_path / "x.npz"], noise=False, blind=False)
    assert ckptkit.check(path, model=model, golden=golden).ok
    code.write_text(CODE.replace("{activation}", "elu"))
    report = ckptkit.check(path, model=model, golden=golden)
    assert report.exit_code == 1 and report.failed[0].result.status == "differs"
