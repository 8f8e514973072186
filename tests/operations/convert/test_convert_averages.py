"""`convert --ema` of a file that holds the averages alone, as TensorFlow 1 programs export them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptkit
from support.command_line import ckptkit as run
from support.weights import write_bundle

AVERAGES = {
    "box_net/box-0/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "box_net/box-0/bias": np.ones(3, np.float32),
    "box_net/box-0-bn-3/moving_mean": np.full(3, 2, np.float32),
}


@pytest.fixture
def shadow(tmp_path: Path) -> Path:
    """Return a checkpoint of shadow variables."""
    arrays = {f"{name}/ExponentialMovingAverage": a for name, a in AVERAGES.items()}
    return write_bundle(tmp_path / "shadow", arrays)


def test_they_are_listed_as_averages(shadow: Path) -> None:
    listing = ckptkit.ls(shadow)
    assert {t.naming.role for t in listing.tensors} == {"ema"}
    assert {t.naming.name for t in listing.tensors} == {f"{name}@ema" for name in AVERAGES}
    assert listing.totals["params"] == 0


@pytest.mark.parametrize("name", ["out.npz", "out.safetensors", "out"])
@pytest.mark.parametrize("more", [{}, {"weights_only": True}], ids=["all", "weights-only"])
def test_they_become_the_weights(
    shadow: Path, tmp_path: Path, name: str, more: dict[str, bool]
) -> None:
    to = {} if "." in name else {"to": "checkpoint"}
    ckptkit.convert(shadow, tmp_path / name, ema=True, **to, **more)  # type: ignore[arg-type]
    assert {t.naming.role for t in ckptkit.ls(tmp_path / name).tensors} == {"weight"}
    loaded = ckptkit.load(tmp_path / name)
    assert set(loaded) == set(AVERAGES)
    assert all(np.array_equal(loaded[key], a) for key, a in AVERAGES.items())


def test_they_fill_a_checkpoint_of_the_plain_names(shadow: Path, tmp_path: Path) -> None:
    plain = {name: np.zeros_like(array) for name, array in AVERAGES.items()}
    like = write_bundle(tmp_path / "like", plain)
    ckptkit.convert(shadow, tmp_path / "out", like=like, ema=True)
    loaded = ckptkit.load(tmp_path / "out")
    assert all(np.array_equal(loaded[key], a) for key, a in AVERAGES.items())


def test_a_file_without_averages_is_refused(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain", AVERAGES)
    result = run("convert", plain, tmp_path / "out.npz", "--ema")
    assert result.code == 2
    assert "holds no averaged variables" in result.err


def test_without_the_option_the_way_is_told(shadow: Path, tmp_path: Path) -> None:
    result = run("convert", shadow, tmp_path / "out.npz", "--weights-only")
    assert result.code == 2
    assert "--ema" in result.err
