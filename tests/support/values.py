"""Tensors of every dtype and many shapes, to be written and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptkit.dtypes import DTYPES, numpy_dtype
from ckptkit.stores.base import Store
from ckptkit.stores.writing import Blocks, TensorToWrite

Array = npt.NDArray[Any]
SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (5, 3), (2, 1, 3, 1, 2, 1, 1, 2))
FIXED_DTYPES = [name for name, row in DTYPES.items() if row.itemsize]
TF_DTYPES = [name for name in [*FIXED_DTYPES, "string"] if DTYPES[name].enum]
STRINGS = [b"", b"a", b"\0", b"tail\0", b"\xff\xfe", b"x" * 300, "né".encode(), b"line\nline"]
_BITS = {"bool": 1, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4_e2m1fn": 4}


def values_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return an array with random bits (NaN payloads and infinities among them)."""
    size = math.prod(shape)
    if dtype == "string":
        flat = np.empty(size, object)
        for index in range(size):
            flat[index] = STRINGS[(index + seed) % len(STRINGS)]
        return flat.reshape(shape)
    target = numpy_dtype(dtype)
    rng = np.random.default_rng([seed, *dtype.encode()])
    raw = rng.integers(0, 1 << _BITS.get(dtype, 8), size * target.itemsize, np.uint8)
    return raw.view(target).reshape(shape)


def corpus(dtypes: list[str]) -> dict[str, tuple[str, Array]]:
    """Return (dtype, values) by a name such as `float32/3x0x2`."""
    return {
        f"{dtype}/{'x'.join(map(str, shape)) or 'scalar'}": (dtype, values_of(dtype, shape, seed))
        for dtype in dtypes
        for seed, shape in enumerate(SHAPES)
    }


def out_tensors(tensors: Mapping[str, tuple[str, Array]]) -> list[TensorToWrite]:
    """Return the list that a writer is given."""
    return [TensorToWrite(key, dtype, values.shape) for key, (dtype, values) in tensors.items()]


def blocks_of(tensors: Mapping[str, tuple[str, Array]], step: int = 4) -> Blocks:
    """Return the blocks that a writer asks for, cut at `step` elements."""

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        flat = tensors[key][1].reshape(-1)
        for start in range(0, flat.size, step):
            yield start, flat[start : start + step]

    return blocks


def yielding(parts: list[tuple[int, Any]]) -> Blocks:
    """Return blocks that yield these parts for any key."""
    return lambda key: iter(parts)


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have one dtype, length and bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()


def check_same_bytes(
    write: Callable[[Path, list[TensorToWrite], Blocks], object], directory: Path
) -> None:
    """Assert that the same tensors give the same file, in any order and in blocks of any size."""
    tensors = corpus(["float32", "int4", "string", "bool"])
    listed = out_tensors(tensors)
    for name, order, step in (("a", listed, 4), ("b", listed[::-1], 100)):
        write(directory / name, order, blocks_of(tensors, step))
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()


def check_store(store: Store, tensors: Mapping[str, tuple[str, Array]], step: int = 3) -> None:
    """Assert that the store holds exactly these tensors, by blocks and by spans of odd sizes."""
    assert set(store.specs) == set(tensors)
    for key, (dtype, values) in tensors.items():
        spec, flat = store.specs[key], values.reshape(-1)
        assert (spec.key, spec.dtype, spec.shape) == (key, dtype, values.shape)
        done = 0
        for start, part in store.blocks(key, step):
            assert start == done
            assert 0 < len(part) <= step or dtype == "string"  # strings are cut by their bytes
            assert same_bits(part, flat[start : start + len(part)]), key
            done += len(part)
        assert done == flat.size
        for first, last in ((0, flat.size), (1, 4), (flat.size, flat.size), (2, 2)):
            assert same_bits(store.read(key, first, last), flat[first:last]), (key, first, last)
