"""The map of docs/convert.md: weights in PyTorch's layout compute what the Keras model computes.

PyTorch's layers are written down here, after its documentation of Linear, Conv2d, LSTM and GRU.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.convert.api import convert
from support.places import DOCS

pytestmark = [
    pytest.mark.needs_tf,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PAGE = DOCS / "convert.md"
RNG = np.random.default_rng(7)


def documented_rules(layer: str) -> list[str]:
    """Return the rules of one layer from the page."""
    [block] = re.findall(r"(?ms)^```\n# Keras to PyTorch\n(.*?)^```", PAGE.read_text("utf-8"))
    return [line for line in block.splitlines() if line.startswith(f".*{layer}/")]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def linear(w: dict[str, Any], x: Any) -> Any:
    return x @ w["fc.weight"].T + w["fc.bias"]


def conv(w: dict[str, Any], x: Any) -> Any:
    """Cross-correlation, NHWC in and out, of a weight (out, in, height, width); no padding."""
    weight = w["conv.weight"]
    _, _, height, width = weight.shape
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    out = np.zeros((len(x), rows, columns, weight.shape[0]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i : i + height, j : j + width]
            out[:, i, j] = np.einsum("bhwc,ochw->bo", patch, weight)
    return out


def lstm(w: dict[str, Any], x: Any) -> Any:
    """Gates i, f, g, o; the one bias of Keras is bias_ih, and bias_hh is zero."""
    hidden = w["lstm.weight_hh_l0"].shape[1]
    h = c = np.zeros((len(x), hidden))
    for step in range(x.shape[1]):
        gates = x[:, step] @ w["lstm.weight_ih_l0"].T + h @ w["lstm.weight_hh_l0"].T
        i, f, g, o = np.split(gates + w["lstm.bias_ih_l0"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru(w: dict[str, Any], x: Any) -> Any:
    """Gates r, z, n."""
    h = np.zeros((len(x), w["gru.weight_hh_l0"].shape[1]))
    for step in range(x.shape[1]):
        one = np.split(x[:, step] @ w["gru.weight_ih_l0"].T + w["gru.bias_ih_l0"], 3, axis=1)
        two = np.split(h @ w["gru.weight_hh_l0"].T + w["gru.bias_hh_l0"], 3, axis=1)
        r, z = sigmoid(one[0] + two[0]), sigmoid(one[1] + two[1])
        n = np.tanh(one[2] + r * two[2])
        h = (1 - z) * n + z * h
    return h


CASES = {
    "dense": ((5,), linear, []),
    "conv": ((6, 5, 3), conv, []),
    "lstm": ((4, 3), lstm, [".*lstm/.*/bias$ => lstm.bias_ih_l0"]),
    "gru": ((4, 3), gru, []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_documented_map_keeps_what_a_layer_computes(name: str, tmp_path: Path) -> None:
    import keras

    shape, compute, more = CASES[name]
    layer = {
        "dense": lambda: keras.layers.Dense(4, name=name),
        "conv": lambda: keras.layers.Conv2D(4, (3, 2), use_bias=False, name=name),
        "lstm": lambda: keras.layers.LSTM(4, name=name),
        "gru": lambda: keras.layers.GRU(4, name=name),
    }[name]()
    model = keras.Sequential([keras.Input(shape), layer])
    for variable in model.weights:
        variable.assign(RNG.normal(size=variable.shape).astype("float32"))
    source = tmp_path / "model.keras"
    model.save(source)
    rules = documented_rules(name)
    assert len(rules) == {"dense": 2, "conv": 1, "lstm": 2, "gru": 4}[name]
    out, back = tmp_path / "torch.safetensors", tmp_path / "back.map"
    rules += more
    assert convert(source, out, rules=rules, weights_only=True, inverse=back).ok
    weights = {key: np.asarray(array, np.float64) for key, array in ckptkit.open(out).items()}
    x = RNG.normal(size=(2, *shape)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    assert np.allclose(compute(weights, x.astype(np.float64)), expected, rtol=1e-4, atol=1e-5)
    lines = back.read_text().splitlines()
    again = convert(out, tmp_path / "again.keras", like=source, rules=lines, weights_only=True)
    assert again.ok
    assert ckptkit.diff(source, tmp_path / "again.keras", roles=["weight"], bitwise=True).same
