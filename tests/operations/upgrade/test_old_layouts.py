"""Weights of Keras 1 in the layout of Keras 2, as `preprocess_weights_for_loading` makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.upgrade.old_layouts import in_new_layout

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)


def write(path: Path, layers: Mapping[str, Mapping[str, Any]], backend: str = "tensorflow") -> None:
    """Write the weights of a file of Keras 1, a group per layer."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "1.2.2"
        file.attrs["backend"] = backend
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": []})
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = weights.create_group(name)
            group.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                group[key] = array


def laid_out(
    path: Path, layers: list[dict[str, Any]], *, is_keras1: bool = True, is_theano: bool = False
) -> dict[str, Any]:
    """Return the arrays in the new layout by name."""
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    found = in_new_layout(ckptkit.open(path), config, is_keras1=is_keras1, is_theano=is_theano)
    return {
        naming.name: found.store.read(key).reshape(found.specs[key].shape)
        for key, naming in found.names.items()
    }


def random(*shape: int) -> Any:
    return RNG.random(shape, dtype="float32")


def node(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, **config}}


def test_gates_of_an_lstm(tmp_path: Path) -> None:
    gates = {
        f"lstm_1_{kind}_{gate}": random(*shape)
        for gate in "icfo"
        for kind, shape in (("W", (4, 3)), ("U", (3, 3)), ("b", (3,)))
    }
    write(tmp_path / "old.h5", {"lstm_1": gates})
    found = laid_out(tmp_path / "old.h5", [node("LSTM", "lstm_1")])
    for kind, name in (("W", "kernel"), ("U", "recurrent_kernel"), ("b", "bias")):
        expected = np.concatenate([gates[f"lstm_1_{kind}_{gate}"] for gate in "ifco"], axis=-1)
        np.testing.assert_array_equal(found[f"lstm_1/{name}"], expected)


def test_both_directions_of_a_gru(tmp_path: Path) -> None:
    gates = {
        f"{way}_gru_1_{kind}_{gate}": random(*shape)
        for way in ("forward", "backward")
        for gate in "zrh"
        for kind, shape in (("W", (4, 3)), ("U", (3, 3)), ("b", (3,)))
    }
    write(tmp_path / "old.h5", {"both": gates})
    inner = node("GRU", "gru_1")
    found = laid_out(tmp_path / "old.h5", [node("Bidirectional", "both", layer=inner)])
    for way in ("forward", "backward"):
        expected = np.concatenate([gates[f"{way}_gru_1_U_{gate}"] for gate in "zrh"], axis=-1)
        np.testing.assert_array_equal(found[f"both/{way}_gru_1/recurrent_kernel"], expected)


def test_kernels_in_the_order_of_the_images(tmp_path: Path) -> None:
    kernel, line, plain = random(5, 3, 2, 4), random(3, 1, 6, 5), random(2, 4, 3, 5)
    write(
        tmp_path / "old.h5",
        {
            "th": {"th_W": kernel, "th_b": random(5)},
            "line": {"line_W": line, "line_b": random(5)},
            "tf": {"tf_W": plain, "tf_b": random(5)},
        },
    )
    layers = [
        node("Conv2D", "th", filters=5, data_format="channels_first"),
        node("Conv1D", "line", filters=5),
        node("Conv2D", "tf", filters=5, data_format="channels_last"),
    ]
    found = laid_out(tmp_path / "old.h5", layers)
    np.testing.assert_array_equal(found["th/kernel"], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(found["line/kernel"], line[:, 0])
    np.testing.assert_array_equal(found["tf/kernel"], plain)


def test_kernels_of_theano_are_turned_around(tmp_path: Path) -> None:
    kernel = random(3, 3, 2, 4)
    write(tmp_path / "old.h5", {"c": {"c_W": kernel, "c_b": random(4)}}, "theano")
    found = laid_out(tmp_path / "old.h5", [node("Conv2D", "c", filters=4)], is_theano=True)
    np.testing.assert_array_equal(found["c/kernel"], kernel[::-1, ::-1])


def test_a_layer_with_other_weights_than_its_class_has_is_refused(tmp_path: Path) -> None:
    from ckptkit.errors import FormatError

    write(tmp_path / "old.h5", {"d": {"d_W": random(2, 3)}})
    with pytest.raises(FormatError, match="without all of its weights"):
        laid_out(tmp_path / "old.h5", [node("Dense", "d")])
