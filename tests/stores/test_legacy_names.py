"""Names of legacy `.h5` files come from the group, whatever TensorFlow 1 made of the variable's.

The layouts are those that tf.keras 2.15 writes in graph mode: a model saved, loaded beside itself
and saved again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ckptkit

Layers = Mapping[str, Mapping[str, tuple[int, ...]]]


def write(path: Path, layers: Layers, config: Any = None, slots: Mapping[str, str] = {}) -> Path:
    """Write a legacy file; equal places hold equal values.  slots: name -> weight it is of."""
    rng = np.random.default_rng(7)
    values = {}
    with h5py.File(path, "w") as file:
        base = file.create_group("model_weights") if config else file
        if config:
            file.attrs["model_config"] = json.dumps(config)
        base.attrs["layer_names"] = list(layers)
        for layer, variables in layers.items():
            group = base.create_group(layer)
            group.attrs["weight_names"] = list(variables)
            for name, shape in variables.items():
                values[name] = rng.normal(size=shape).astype("float32")
                group[name] = values[name]
        if slots:
            group = file.create_group("optimizer_weights")
            group.attrs["weight_names"] = list(slots)
            for name, weight in slots.items():
                group[name] = values[weight] / 2
    return path


def dense(scope: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{scope}/kernel:0": shape, f"{scope}/bias:0": shape[-1:]}


FIRST = {"dense": dense("dense", 4, 4), "dense_1": dense("dense_1", 4, 4)}
AGAIN = {"dense": dense("dense_2", 4, 4), "dense_1": dense("dense_1_1", 4, 4)}
NESTED = {
    "inner": {**dense("dense_1", 5, 4), **dense("dense", 4, 4)},
    "dense_2": dense("dense_2", 4, 4),
}
NESTED_AGAIN = {
    "inner": {**dense("dense_1_1", 5, 4), **dense("dense_4", 4, 4)},
    "dense_2": dense("dense_2_1", 4, 4),
}


def layer(name: str, class_name: str = "Dense", **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, **config}}


CONFIG = layer(
    "model",
    "Functional",
    input_layers=[],
    layers=[
        layer("inner", "Functional", input_layers=[], layers=[layer("dense_1"), layer("dense")]),
        layer("dense_2"),
    ],
)


def test_a_layer_is_called_by_its_group(tmp_path: Path) -> None:
    once, again = write(tmp_path / "a.h5", FIRST), write(tmp_path / "b.h5", AGAIN)
    assert set(ckptkit.open(again)) == set(ckptkit.open(once))
    assert "dense_2/kernel" in ckptkit.open(again)  # what the variable is called finds it, too
    result = ckptkit.diff(once, again)
    assert result.same and result.counts["equal"] == 4


def test_slots_go_with_the_variable_that_they_were_named_after(tmp_path: Path) -> None:
    config = layer("s", "Sequential", layers=[layer("dense"), layer("dense_1")])
    once = {f"training/Adam/{n[:-2]}/m:0": n for g in FIRST.values() for n in g}
    later = {f"training_2/Adam/{n[:-2]}/m:0": n for g in AGAIN.values() for n in g}
    result = ckptkit.diff(
        write(tmp_path / "a.h5", FIRST, config, once),
        write(tmp_path / "b.h5", AGAIN, config, later),
    )
    assert result.same and result.counts["equal"] == 8
    assert {c.old.naming.slot_of for c in result.changes if c.old and c.role == "slot"} == {
        f"{name}/{part}" for name in ("dense", "dense_1") for part in ("kernel", "bias")
    }


@pytest.mark.parametrize("config", [CONFIG, None], ids=["model", "weights"])
def test_layers_of_nested_models(tmp_path: Path, config: Any) -> None:
    once = write(tmp_path / "a.h5", NESTED, config)
    again = write(tmp_path / "b.h5", NESTED_AGAIN, config)
    if config:
        assert set(ckptkit.open(again)) == set(ckptkit.open(once))
    result = ckptkit.diff(once, again)
    assert result.same and result.counts["equal"] == 6
    back = ckptkit.diff(again, once)
    assert back.same


def nameless(path: Path, layers: Layers) -> Path:
    """Write a `.weights.h5` as Keras 2.15 does: groups count by class, nothing has a name."""
    rng = np.random.default_rng(7)  # equal places hold equal values
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for number, variables in enumerate(layers.values()):
            group = f"layers/dense_{number}" if number else "layers/dense"
            for at, shape in enumerate(variables.values()):
                file[f"{group}/vars/{at}"] = rng.normal(size=shape).astype("float32")
    return path


@pytest.mark.parametrize("order", [(1, 3, 2), (2, 1, 3), (3, 2, 1)])
def test_groups_without_names_are_places_in_the_list_of_layers(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    """Layers of a branched model are listed by depth, not in the order of their numbers."""
    layers = {f"dense_{n}": dense(f"dense_{n}", 4, 4) for n in order}
    named = write(tmp_path / "named.h5", layers)
    places = nameless(tmp_path / "places.weights.h5", layers)
    for old, new in ((named, places), (places, named)):
        result = ckptkit.diff(old, new)
        assert result.same and result.counts["equal"] == 6
        assert {change.evidence for change in result.changes} == {"order"}
    # where values changed as well, order alone tells
    with h5py.File(places, "r+") as file:
        file["layers/dense_1/vars/0"][...] += 1
    (change,) = ckptkit.diff(named, places).differences
    assert (change.status, change.name) == ("changed", f"dense_{order[1]}/kernel")
