"""Recurrent weights in CuDNN's layout: named, carried to LSTM and GRU, compared there.

The truth is what Keras 2 itself makes of the file: `plain_weights.h5` and `ckpt` were saved by LSTM
and GRU layers that had loaded `cudnn_weights.h5`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.operations.convert.api import MismatchError
from support.goldens import GOLDEN

HERE = GOLDEN / "tf2.15.1" / "cudnn"
ON_CUDNN = ("cudnn.h5", "cudnn_weights.h5")


@pytest.mark.parametrize("name", ON_CUDNN)
def test_named_in_a_listing(name: str) -> None:
    notes = ckptkit.ls(HERE / name).heading()["notes"]
    [note] = [note for note in notes if "CuDNN" in note]
    assert "bidirectional/forward_cu_dnnlstm_1" in note
    assert "CuDNNLSTM, CuDNNGRU" in note


@pytest.mark.parametrize("name", ["plain_weights.h5", "ckpt"])
def test_lstm_and_gru_are_not(name: str) -> None:
    assert not any("CuDNN" in note for note in ckptkit.ls(HERE / name).heading()["notes"])


@pytest.mark.parametrize("name", ON_CUDNN)
def test_carried_as_keras_does(name: str, tmp_path: Path) -> None:
    receipt = ckptkit.convert(HERE / name, tmp_path / "out", to="checkpoint", like=HERE / "ckpt")
    assert receipt.ok
    assert ckptkit.diff(tmp_path / "out", HERE / "plain_weights.h5").same
    pieces = [row["pieces"] for row in receipt.to_json()["tensors"]]
    transforms = {piece["transform"] for row in pieces for piece in row}
    assert {"sum of 2 parts", "reshape 2,9"} <= transforms
    assert len([row for row in pieces if row]) == 12  # of the 14, those of the dense layer stay
    assert any("CuDNN" in note for note in receipt.to_json()["notes"])


def test_compared_as_they_are_carried() -> None:
    result = ckptkit.diff(HERE / "cudnn.h5", HERE / "plain_weights.h5")
    assert result.same
    assert any(
        str(HERE / "cudnn.h5") in warning and "CuDNN" in warning for warning in result.warnings
    )
    turned = ckptkit.diff(HERE / "ckpt", HERE / "cudnn.h5")
    assert turned.same
    assert any(
        str(HERE / "cudnn.h5") in warning and "CuDNN" in warning for warning in turned.warnings
    )


def test_two_files_in_one_layout_are_compared_as_stored() -> None:
    result = ckptkit.diff(*(HERE / name for name in ON_CUDNN))
    assert result.same
    assert not result.warnings


def test_one_value_that_differs_is_found(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        name: np.array(value) for name, value in ckptkit.open(HERE / "cudnn.h5").items()
    }
    arrays["last/recurrent_kernel"][1, 2] += 1
    np.savez(tmp_path / "changed.npz", **arrays)
    [change] = ckptkit.diff(tmp_path / "changed.npz", HERE / "plain_weights.h5").differences
    assert change.old is not None
    assert change.old.naming.name == "last/recurrent_kernel"
    assert change.delta is not None
    assert change.delta.n_diff == 1


def test_no_map_leads_back_from_a_sum(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no map leads back"):
        ckptkit.convert(
            HERE / "cudnn.h5",
            tmp_path / "out",
            to="checkpoint",
            like=HERE / "ckpt",
            inverse=tmp_path / "inverse",
        )
    assert not (tmp_path / "out.index").exists()


def _layer(name: str, bias: tuple[int, ...], units: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    shapes = {"kernel": (4, 3 * units), "recurrent_kernel": (units, 3 * units), "bias": bias}
    return {f"{name}/{key}": rng.normal(size=shape).astype("f4") for key, shape in shapes.items()}


def _checkpoint(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    ckptkit.convert(path.with_suffix(".npz"), path, to="checkpoint")
    return path


def test_gru_that_resets_before_is_refused(tmp_path: Path) -> None:
    src = _checkpoint(tmp_path / "src", _layer("g", (18,)))
    like = _checkpoint(tmp_path / "like", _layer("g/gru_cell", (9,)))
    with pytest.raises(MismatchError) as refusal:
        ckptkit.convert(src, tmp_path / "out", to="checkpoint", like=like)
    assert "reset_after=False" in str(refusal.value.lines())
    warnings = ckptkit.diff(src, like).warnings
    assert any("CuDNN" in warning for warning in warnings)


def test_the_way_back_is_refused(tmp_path: Path) -> None:
    src = _checkpoint(tmp_path / "src", _layer("g/gru_cell", (2, 9)))
    like = _checkpoint(tmp_path / "like", _layer("g", (18,)))
    with pytest.raises(MismatchError) as refusal:
        ckptkit.convert(
            src,
            tmp_path / "out",
            to="checkpoint",
            like=like,
            allow_missing=["*bias"],
            allow_unused=["*bias"],
        )
    assert "CuDNNGRU" in str(refusal.value.lines())


def test_kept_where_both_have_it(tmp_path: Path) -> None:
    src = _checkpoint(tmp_path / "src", _layer("g", (18,)) | {"other": np.ones(2, "f4")})
    like = _checkpoint(tmp_path / "like", _layer("g", (18,)) | {"other": np.zeros(2, "f4")})
    receipt = ckptkit.convert(src, tmp_path / "out", to="checkpoint", like=like)
    assert not any(row["pieces"] for row in receipt.to_json()["tensors"])
    assert ckptkit.diff(tmp_path / "out", src).same


def test_a_scope_around_all_is_no_difference_though_layers_hold_scopes(tmp_path: Path) -> None:
    plain: dict[str, Any] = {
        "lstm/lstm_cell/kernel": np.ones((3, 8)),
        "dense/kernel": np.zeros((2, 3)),
    }
    np.savez(tmp_path / "plain.npz", **plain)
    around: dict[str, Any] = {f"sequential/{name}": value for name, value in plain.items()}
    np.savez(tmp_path / "around.npz", **around)
    for pair in (("plain.npz", "around.npz"), ("around.npz", "plain.npz")):
        assert ckptkit.diff(*(tmp_path / name for name in pair), mode="structure").same
