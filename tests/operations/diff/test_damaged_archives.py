"""Damage that the CRC-32 of a member shows is an error, and no difference: however it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.command_line import ckptkit as run
from support.command_line import refused
from support.pytorch_files import QuantisedTensor, Storage, Tensor, write_archive

Array = np.ndarray[Any, Any]
INTEGERS = np.arange(-12, 12, dtype=np.int8)
SCALES = np.linspace(0.5, 1, 4)
FLOATS = (INTEGERS * np.float32(0.5)).reshape(4, 6)


def part_of(key: str, array: Array, dtype: str) -> Tensor:
    """Return a tensor that is the end of its storage, so that no checksum is of it alone."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return Tensor(Storage(key, array.size + 4, dtype), 4, array.shape, strides)


def written(path: Path, name: str = "w", *, scales: bool = False, scale: float = 0.5) -> Path:
    """Write one quantised tensor, a part of its storage, as its scales are."""
    how: tuple[Any, ...] = ("per_tensor_affine", scale, 0)
    if scales:
        zeros = Tensor(Storage("2", 4, "int64"), 0, (4,), (1,))
        how = ("per_channel_affine", part_of("1", SCALES, "float64"), zeros, 0)
    stored = QuantisedTensor(Storage("0", 28, "qint8"), (4, 6), how, (6, 1))
    storage, _, *rest = stored.arguments
    stored.arguments = storage, 4, *rest
    data = {"0": bytes(4) + INTEGERS.tobytes(), "2": bytes(32)}
    data["1"] = bytes(32) + SCALES.tobytes()
    return write_archive(path, {name: stored}, data)


def damaged(path: Path, was: bytes) -> Path:
    """Return a copy with one bit turned in bytes that are there once."""
    data = path.read_bytes()
    assert data.count(was) == 1
    copy = path.with_name(f"damaged-{path.name}")
    copy.write_bytes(data.replace(was, bytes((was[0] ^ 64,)) + was[1:]))
    return copy


@pytest.fixture
def quantised(tmp_path: Path) -> Path:
    return damaged(written(tmp_path / "a.pt"), INTEGERS.tobytes())


def test_quantised_tensors(quantised: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "b.pt", scale=0.25)
    assert "CRC-32" in refused("diff", quantised, other)
    assert "CRC-32" in refused("diff", other, quantised)


def test_quantised_tensors_of_another_name(quantised: Path, tmp_path: Path) -> None:
    assert "CRC-32" in refused("diff", written(tmp_path / "b.pt", "v"), quantised)


def test_one_tensor_and_statistics(quantised: Path) -> None:
    assert "CRC-32" in refused("show", quantised, "w")
    assert "CRC-32" in refused("ls", quantised, "--stats")


def test_scales(tmp_path: Path) -> None:
    path = damaged(written(tmp_path / "a.pt", scales=True), SCALES.tobytes())
    assert "CRC-32" in refused("show", path, "w")


def test_tensors_beside_others_that_are_laid_out_anew(tmp_path: Path) -> None:
    def layers(path: Path, recurrent: str, bias: Array) -> Path:
        arrays = {
            f"{recurrent}/kernel": np.ones((3, 8), np.float32),
            f"{recurrent}/recurrent_kernel": np.ones((2, 8), np.float32),
            f"{recurrent}/bias": bias,
            "dense/kernel": FLOATS,
        }
        return write_archive(
            path,
            {name: part_of(name, array, "float32") for name, array in arrays.items()},
            {name: bytes(16) + array.tobytes() for name, array in arrays.items()},
        )

    bias = np.arange(16, dtype=np.float32)
    old = layers(tmp_path / "old.pt", "cu_dnnlstm", bias)
    new = layers(tmp_path / "new.pt", "lstm", bias.reshape(2, 8).sum(axis=0))
    assert run("diff", old, new).code == 0
    assert "CRC-32" in refused("diff", damaged(old, FLOATS.tobytes()), new)
