"""Files of Keras 2 and 3 in which only a number, or the order of layers, tells weights apart.

The `.h5` files are goldens of Keras 2; what Keras 3 makes of them, `load_weights`, is the truth.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from ckptkit.operations.convert.problems import MismatchError
from support.goldens import GOLDEN
from support.places import SUPPORT
from support.scripts import run_script

NUMBERED = GOLDEN / "tf2.15.1" / "numbered"
FROZEN = GOLDEN / "tf2.15.1" / "frozen"
FORMS = (".keras", ".weights.h5", ".legacy.h5", "_checkpoint", "_export")
MODELS = ("sequential", "wrapped", "nested")

pytestmark = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Keras 3 saves after it has loaded each golden."""
    folder = tmp_path_factory.mktemp("twins")
    run_script(SUPPORT / "make_numbered_twins.py", NUMBERED, folder)
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", MODELS)
def test_what_keras_3_loads_is_the_same(twins: Path, model: str, form: str) -> None:
    old, new = NUMBERED / f"{model}.h5", twins / f"{model}{form}"
    for one, two in ((old, new), (new, old)):
        result = ckptkit.diff(one, two)
        assert result.same, result
        bases = {row["basis"] for row in result.to_json()["entries"]}
        assert "content" not in bases


@pytest.mark.parametrize("model", MODELS)
def test_they_stay_paired_once_values_differ(twins: Path, model: str) -> None:
    """No content to go by: the same pairs by names and order."""
    old, new = NUMBERED / f"{model}.h5", twins / f"{model}_stepped.keras"
    for one, two in ((old, new), (new, old)):
        result = ckptkit.diff(one, two)
        assert result.counts["changed"] == len(result.changes) > 0
        assert ckptkit.diff(one, two, atol=0.1).same


@pytest.mark.parametrize("model", MODELS)
def test_convert_gives_what_keras_loads(twins: Path, tmp_path: Path, model: str) -> None:
    made = tmp_path / "made.keras"
    receipt = ckptkit.convert(
        NUMBERED / f"{model}.h5", made, like=twins / f"{model}_fresh.keras", overwrite=True
    )
    assert receipt.ok
    document = receipt.to_json()
    assert sum(document["paired_by"].values()) == len(document["tensors"])
    assert ckptkit.diff(made, twins / f"{model}.keras").same


@pytest.mark.parametrize("form", FORMS)
def test_layers_made_backwards_are_told_by_order_and_content(twins: Path, form: str) -> None:
    """Keras 2 numbered the last layer first: numbers say one thing, order and content another."""
    old, new = NUMBERED / "backwards.h5", twins / f"backwards{form}"
    for one, two in ((old, new), (new, old)):
        assert ckptkit.diff(one, two).same


def test_layers_made_backwards_are_not_guessed(twins: Path, tmp_path: Path) -> None:
    """Without equal contents, numbers against order is no evidence for either."""
    old = NUMBERED / "backwards.h5"
    result = ckptkit.diff(old, twins / "backwards_stepped.keras")
    assert not result.same and any("not paired" in warning for warning in result.warnings)
    with pytest.raises(MismatchError, match="order"):
        ckptkit.convert(old, tmp_path / "made.keras", like=twins / "backwards_fresh.keras")


def test_a_whole_model_under_its_scope(twins: Path) -> None:
    """Same layers, whole model; other weights, so that only names and order tell."""
    result = ckptkit.diff(NUMBERED / "sequential_model.h5", twins / "sequential.keras")
    assert result.counts["changed"] == len(result.changes) == 8


def test_a_frozen_nested_layer_is_said_to_be_swapped() -> None:
    result = ckptkit.diff(FROZEN / "saved.h5", FROZEN / "loaded.h5")
    assert result.counts == {**result.counts, "changed": 2, "equal": 2}
    hints = {change.name: change.hints for change in result.differences}
    assert hints == {
        "a/kernel": ("contents swapped with b/kernel",),
        "b/kernel": ("contents swapped with a/kernel",),
    }
