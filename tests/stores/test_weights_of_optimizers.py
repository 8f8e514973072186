"""`--weights-only` keeps the model's variables and nothing else, whatever the optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from support.goldens import Golden, golden, goldens
from support.places import DOCS

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


START, END = "<!-- optimizers: weights kept -->\n", "<!-- end -->\n"


def test_the_table_in_the_docs(request: pytest.FixtureRequest) -> None:
    """`pytest --regen` writes it."""
    rows: dict[str, dict[str, str]] = {}
    for producer, items in PRODUCERS.items():
        for item in items:
            names = ckptkit.open(item.path).names
            weights = {key for key, row in item.tensors.items() if row.role == "weight"}
            kept = {key for key, naming in names.items() if naming.role == "weight"}
            stem = item.name.split("/")[1]
            optimizer = stem.removeprefix("saver_").removeprefix("estimator_")
            exact = kept == weights
            cell = f"{len(kept)} of {len(names)}" if exact else "**wrong**"
            rows.setdefault(optimizer.removeprefix("legacy_"), {})[producer] = cell
    lines = [
        f"| optimizer | {' | '.join(PRODUCERS)} |",
        f"|---|{'---|' * len(PRODUCERS)}",
        *(
            f"| {optimizer} | {' | '.join(cells.get(p, '') for p in PRODUCERS)} |"
            for optimizer, cells in sorted(rows.items())
        ),
    ]
    page = DOCS / "formats.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    table, _, after = rest.partition(END)
    wanted = "\n".join(lines) + "\n"
    if request.config.getoption("--regen"):
        page.write_text(f"{before}{START}{wanted}{END}{after}", encoding="utf-8")
    else:
        assert table == wanted, "run: pytest --regen"
