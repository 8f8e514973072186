"""Optimizer state of Keras 2.0 to 2.2 in `.h5` files: arrays without names, tied by order."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import ckptkit

Shape = tuple[int, ...]
WEIGHTS: dict[str, Shape] = {
    "dense/kernel": (3, 4),
    "dense/bias": (4,),
    "norm/gamma": (4,),
    "norm/beta": (4,),
    "norm/moving_mean": (4,),
    "norm/moving_variance": (4,),
}
TRAINED = [name for name in WEIGHTS if "moving_" not in name]


def write(path: Path, state: list[Shape], optimizer: str = "Adam") -> Path:
    """Write a model's file; state: shapes of the optimizer's arrays, in its own order."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.2.4"
        file.attrs["training_config"] = (
            f'{{"optimizer_config": {{"class_name": "{optimizer}", "config": {{}}}}}}'
        )
        model = file.create_group("model_weights")
        model.attrs["layer_names"] = [b"dense", b"norm"]
        for layer in ("dense", "norm"):
            names = [name for name in WEIGHTS if name.startswith(layer)]
            group = model.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
            for name in names:
                group[f"{name}:0"] = np.ones(WEIGHTS[name], np.float32)
        names = [f"{optimizer}/iterations:0"]
        names += [
            f"training/{optimizer}/Variable{f'_{n}' if n else ''}:0" for n in range(len(state))
        ]
        group = file.create_group("optimizer_weights")
        group.attrs["weight_names"] = [name.encode() for name in names]
        group[names[0]] = np.int64(7)
        for name, shape in zip(names[1:], state, strict=True):
            group[name] = np.zeros(shape, np.float32)
    return path


@pytest.mark.parametrize(
    ("optimizer", "slots", "placeholders"),
    [("Adam", ["m", "v"], 4), ("Adam", ["m", "v"], 0), ("SGD", ["momentum"], 0)],
)
def test_slots_are_tied_by_order(
    tmp_path: Path, optimizer: str, slots: list[str], placeholders: int
) -> None:
    state = [WEIGHTS[name] for _ in slots for name in TRAINED] + [(1,)] * placeholders
    names = ckptkit.open(write(tmp_path / "m.h5", state, optimizer)).names
    found = {key.rpartition("/")[2]: n for key, n in names.items() if n.role == "slot"}
    assert len(found) == len(state)
    expected = [(name, slot) for slot in slots for name in TRAINED] + [(None, None)] * placeholders
    for number, (owner, slot) in enumerate(expected):
        naming = found[f"Variable{f'_{number}' if number else ''}:0"]
        assert (naming.slot_of, naming.slot) == (owner, slot)


@pytest.mark.parametrize("state", [[(3, 4), (4,)], [(4,), (4,), (4,), (3, 4)]])
def test_they_stay_untied_where_shapes_do_not_agree(tmp_path: Path, state: list[Shape]) -> None:
    names = ckptkit.open(write(tmp_path / "m.h5", state)).names
    assert {n.slot_of for n in names.values() if n.role == "slot"} == {None}


def test_iterations_are_a_counter(tmp_path: Path) -> None:
    names = ckptkit.open(write(tmp_path / "m.h5", [])).names
    assert names["optimizer_weights/Adam/iterations:0"].role == "counter"
