"""`ckptkit.load`: every value, every checksum, in parts and by threads, copied or mapped."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit._io.memory import FreshMemory
from ckptkit.dtypes import Array
from ckptkit.errors import ChecksumError, TruncatedError, UsageError
from ckptkit.operations import load as load_module
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support.goldens import GOLDEN

ARRAYS: dict[str, Array] = {
    "large": np.arange(3 << 20, dtype=np.float32).reshape(3, -1),  # several parts, huge pages
    "odd": np.arange(100_003, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.int64),
}


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(load_module, "PART_BYTES", 1 << 21)
    tensors = [TensorToWrite(key, str(a.dtype), a.shape) for key, a in ARRAYS.items()]
    write_tensor_bundle(tmp_path / "ckpt", tensors, lambda key: iter([(0, ARRAYS[key].ravel())]))
    return tmp_path / "ckpt"


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("jobs", [None, 1, 3])
def test_values_dtypes_and_shapes(bundle: Path, jobs: int | None, copy: bool) -> None:
    loaded = ckptkit.load(bundle, jobs=jobs, copy=copy)
    assert loaded.keys() == ARRAYS.keys()
    for name, array in loaded.items():
        assert array.dtype == ARRAYS[name].dtype and array.shape == ARRAYS[name].shape
        np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize("copy", [True, False])
def test_arrays_are_the_callers_own(bundle: Path, copy: bool) -> None:
    before = Path(f"{bundle}.data-00000-of-00001").read_bytes()
    for array in ckptkit.load(bundle, copy=copy).values():
        array[...] = 1
    assert Path(f"{bundle}.data-00000-of-00001").read_bytes() == before
    np.testing.assert_array_equal(ckptkit.load(bundle, copy=copy)["large"], ARRAYS["large"])


def test_views_outlive_the_file(bundle: Path) -> None:
    loaded = ckptkit.load(bundle, copy=False)
    Path(f"{bundle}.data-00000-of-00001").unlink()
    np.testing.assert_array_equal(loaded["large"], ARRAYS["large"])


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("place", [0, 5 << 20, (12 << 20) - 1])
def test_a_flipped_bit_in_any_part_is_an_error(bundle: Path, place: int, copy: bool) -> None:
    start = ckptkit.open(bundle).specs["large"].offset
    assert start is not None
    with Path(f"{bundle}.data-00000-of-00001").open("r+b") as file:
        file.seek(start + place)
        byte = file.read(1)[0]
        file.seek(start + place)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(ChecksumError, match=r"large.*checksum of the stored bytes"):
        ckptkit.load(bundle, copy=copy)
    assert ckptkit.load(bundle, names=["odd"], copy=copy)["odd"].size == 100_003


@pytest.mark.parametrize("copy", [True, False])
def test_a_short_file_is_refused_before_memory_is_taken(bundle: Path, copy: bool) -> None:
    data = Path(f"{bundle}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(TruncatedError, match="cut short"):
        ckptkit.load(bundle, copy=copy)


def test_a_slow_part_ends_the_use_of_huge_pages(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(FreshMemory, "use_huge_pages", lambda _self, start, _n: asked.append(start))
    monkeypatch.setattr(load_module, "SLOW_BYTES_PER_S", 1e99)
    ckptkit.load(bundle, jobs=1)
    assert asked == [0]
    monkeypatch.setattr(load_module, "SLOW_BYTES_PER_S", 0)
    ckptkit.load(bundle, jobs=1)
    assert len(asked) > 5


def test_strings_and_every_dtype(tmp_path: Path) -> None:
    path = GOLDEN / "tf2.21.0/dtypes/ckpt"
    copied, viewed = ckptkit.load(path), ckptkit.load(path, copy=False)
    assert copied.keys() == viewed.keys() and len(copied) > 20
    for name, array in copied.items():
        assert array.tobytes() == viewed[name].tobytes() or array.dtype == object
    shutil.copytree(path.parent, tmp_path / "copy")
    assert ckptkit.load(tmp_path / "copy" / "ckpt", roles=["weight"]).keys() <= copied.keys()


def test_a_filter_that_leaves_nothing_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no tensor passes the filter"):
        ckptkit.load(bundle, names=["nothing*"])
