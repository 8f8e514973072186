"""The table of layers: nested models, classes whose configs have no name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ckptkit
from support.command_line import ckptkit as run
from support.goldens import golden
from support.keras_files import h5_bytes, layer, write_keras


def params(path: Path) -> dict[str, int | None]:
    model = ckptkit.open(path).store.model
    assert model is not None
    return {row.name: row.params for row in model.layers}


@pytest.mark.parametrize("version", ["2.12.1", "2.15.1", "2.16.2", "2.21.0"])
def test_layers_of_nested_models_in_h5_have_their_parameters(version: str) -> None:
    rows = params(golden(f"tf{version}/files_nested/model.h5").path)
    assert rows["inner/out"] == rows["inner"] == 9
    archive = params(golden(f"tf{version}/files_nested/model.keras").path)
    assert sum(n or 0 for n in rows.values()) == sum(n or 0 for n in archive.values())


def test_layers_that_the_names_do_not_tell_are_left_open(tmp_path: Path) -> None:
    """Keras 3.0 listed bare names: `kernel` in the group of a nested model is somebody's."""
    inner = layer("Sequential", "inner", layers=[layer("Dense", "one"), layer("Dense", "two")])
    config = layer("Sequential", "outer", layers=[inner, layer("Dense", "last")])
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "3.0.5"
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"inner", b"last"]
        for name in ("inner", "last"):
            group[f"{name}/kernel"] = np.zeros((2, 3), np.float32)
            group[name].attrs["weight_names"] = [b"kernel"]
    assert params(path) == {"inner": 6, "inner/one": None, "inner/two": None, "last": 6}


def test_a_layer_whose_config_has_no_name(tmp_path: Path) -> None:
    """A custom `get_config` may leave the name out; then the group in the file has it."""
    custom: dict[str, Any] = {"module": None, "class_name": "Scale", "config": {}}
    config = layer("Sequential", "net", layers=[custom, dict(custom, class_name="Gone")])
    values = {"layers/scale/vars/0": np.zeros(4, np.float32)}
    weights = h5_bytes(values=values, names={"layers/scale": "my_scale"})
    path = write_keras(tmp_path / "m.keras", weights, config)
    assert params(path) == {"my_scale": 4, "(Gone)": None}
    out = run("ls", path).out
    assert "\nmy_scale  Scale" in out and "\n(Gone)    Gone" in out
