"""Empty tensors of shapes that no array has: one line from every command, and no memory."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ckptkit._io import crc32c
from ckptkit.stores.tensor_bundle.reader import open_bundle
from support.command_line import ckptkit, refused
from support.crafted import bundle_items, entry, frugal, write_index

SHAPES = {
    "one huge axis": (0, 1 << 40),
    "the largest axis": (0, (1 << 63) - 1),
    "huge axes": (1 << 40, 0, 1 << 40),
    "rank 65": (0, *[3] * 64),
    "rank 254": (0,) * 254,
}


def safetensors(path: Path, shape: tuple[int, ...]) -> Path:
    """Write a file with a full tensor `a` and an empty one `z` of this shape."""
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "z": {"dtype": "F16", "shape": list(shape), "data_offsets": [8, 8]},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return path


def bundle(prefix: Path, shape: tuple[int, ...]) -> Path:
    full = entry((2,), crc32c=crc32c.mask(crc32c.value(bytes(8))))
    empty = entry(shape, dtype=19, size=0, offset=8, crc32c=crc32c.mask(0))
    items = bundle_items(a=full, z=empty)
    return write_index(prefix, items, bytes(8))


@pytest.mark.parametrize("make", [safetensors, bundle])
@pytest.mark.parametrize("name", SHAPES)
def test_every_command(tmp_path: Path, name: str, make: object) -> None:
    is_bundle = make is bundle
    path = tmp_path / ("c" if is_bundle else "w.safetensors")
    other = tmp_path / ("d" if is_bundle else "x.safetensors")
    make(path, SHAPES[name])  # type: ignore[operator]
    make(other, (*SHAPES[name], 1))  # type: ignore[operator]
    with frugal():
        for fmt in ("table", "json", "csv", "markdown"):
            assert ckptkit("ls", path, "--format", fmt).code == 0
        shown = ckptkit("show", path, "z")  # rank and size decide whether numpy has such an array
        assert shown.code in (0, 2)
        assert shown.err.count("\n") == (shown.code == 2)
        assert ckptkit("show", path, "z", "--slice", "...").code in (0, 2)
        assert ckptkit("ls", path, "--digest").code == 0
        assert ckptkit("diff", path, path).code == 0
        for fmt in ("table", "json", "csv", "markdown"):
            assert ckptkit("diff", path, other, "--format", fmt).code in (1, 2)
        assert ckptkit("verify", path, "--values").code in (0, 1)
        for suffix in ("npz", "safetensors", "weights.h5"):
            converted = ckptkit("convert", path, tmp_path / f"out.{suffix}")
            assert converted.code in (0, 1, 2)
            assert "Traceback" not in converted.err


def test_a_shape_of_no_elements_is_shown(tmp_path: Path) -> None:
    path = bundle(tmp_path / "c", (0, 1 << 40))
    with frugal():
        result = ckptkit("show", path, "z")
    assert result.code == 0
    assert "0,1099511627776  (0 elements, 0 B)" in result.out
    assert open_bundle(path).read("z").shape == (0,)
    assert np.empty((0, 1 << 40), np.float16).size == 0  # numpy has such an array


def test_a_shape_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    assert "no array of that shape" in refused(
        "show", safetensors(tmp_path / "w.safetensors", (0,) * 65), "z"
    )
