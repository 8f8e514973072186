"""`--weights-only` keeps the model's variables and nothing else, whatever the optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from support.goldens import Golden, golden, goldens

# Checkpoints of one model and one optimizer each, by who wrote them.
KERAS = (
    *("adam", "adamw", "sgd", "rmsprop", "loss_scale", "adagrad", "adadelta", "adamax"),
    *("nadam", "ftrl", "adafactor", "lion", "ema"),
)
LEGACY = ("adam", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "ftrl")
PRODUCERS = {
    "TF1 Saver": [g for g in goldens("checkpoint") if g.name.startswith("tf2.15.1/saver_")],
    "Estimator": [g for g in goldens("checkpoint") if g.name.startswith("tf2.15.1/estimator_")],
    "Keras 2": [golden(f"tf2.15.1/{name}/ckpt") for name in KERAS],
    "Keras 2, legacy": [golden(f"tf2.15.1/legacy_{name}/ckpt") for name in LEGACY],
    "Keras 3": [golden(f"tf2.21.0/{name}/ckpt") for name in KERAS],
}
CELLS = [
    pytest.param(item, id=f"{producer}: {item.name.split('/')[1]}")
    for producer, items in PRODUCERS.items()
    for item in items
]


@pytest.mark.parametrize("producer", [p for p in PRODUCERS if p != "Keras 2, legacy"])
def test_twelve_optimizers_each(producer: str) -> None:
    assert len(PRODUCERS[producer]) >= 12


@pytest.mark.parametrize("item", CELLS)
def test_weights_alone_are_kept(item: Golden, tmp_path: Path) -> None:
    expected = {key for key, row in item.tensors.items() if row.role == "weight"}
    assert len(expected) == len(item.weights)
    names = ckptkit.open(item.path).names
    assert {key for key, naming in names.items() if naming.role == "weight"} == expected
    ckptkit.convert(item.path, tmp_path / "w.npz", weights_only=True)
    kept = ckptkit.load(tmp_path / "w.npz")
    assert set(kept) == {names[key].name for key in expected}
    totals = ckptkit.ls(item.path).totals
    assert totals["params"] == sum(array.size for array in kept.values())
    assert totals["slots_without_variable"] == 0
