"""`ckptkit.open` and `ckptkit.load`: a mapping, views without a copy, checksums."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit._io.files import close_handles
from ckptkit.dtypes import DTYPES
from ckptkit.errors import (
    ChangedError,
    ChecksumError,
    PathNotFoundError,
    TruncatedError,
    UnknownTensorError,
)
from support.goldens import golden
from support.odd_bundles import write_odd_bundle
from support.values import FIXED_DTYPES, corpus, same_bits, values_of
from support.weights import write_bundle

TF_DTYPES = [name for name in FIXED_DTYPES if DTYPES[name].enum] + ["string"]
ADAM = golden("tf2.21.0/adam/ckpt").path


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    tensors = {name: (name, values_of(name, (4, 3))) for name in TF_DTYPES}
    return write_odd_bundle(tmp_path / "c", tensors, padding=1)


def damage(prefix: Path, key: str) -> None:
    shard = Path(f"{prefix}.data-00000-of-00001")
    data = bytearray(shard.read_bytes())
    data[ckptkit.open(prefix).specs[key].offset or 0] ^= 1
    shard.write_bytes(data)


# --- a mapping ------------------------------------------------------------------------------------


def test_it_is_a_mapping_in_the_order_of_the_file() -> None:
    checkpoint = ckptkit.open(ADAM)
    assert isinstance(checkpoint, Mapping)
    assert len(checkpoint) == len(list(checkpoint)) == 24
    assert list(checkpoint) == [naming.name for naming in checkpoint.names.values()]
    assert list(checkpoint.keys()) == list(checkpoint)
    assert len(list(checkpoint.values())) == len(list(checkpoint.items())) == 24
    assert checkpoint.get("nothing") is None
    assert checkpoint.get("hidden/bias") is not None


def test_membership_reads_nothing(prefix: Path) -> None:
    checkpoint = ckptkit.open(prefix)
    Path(f"{prefix}.data-00000-of-00001").unlink()
    assert "float32" in checkpoint
    assert "float33" not in checkpoint
    assert 32 not in checkpoint  # type: ignore[comparison-overlap]
    with pytest.raises(PathNotFoundError):
        checkpoint["float32"]


def test_membership_agrees_with_look_up() -> None:
    checkpoint = ckptkit.open(ADAM)
    for name in ("hidden/bias", "gamma", "bias", "model/_operations/1/bias", "", "x"):
        try:
            checkpoint.key(name)
            found = True
        except UnknownTensorError:
            found = False
        assert (name in checkpoint) == found


def test_a_miss_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nearest: hidden/kernel"):
        ckptkit.open(ADAM)["hiden/kernel"]


def test_specs_names_and_structure() -> None:
    checkpoint = ckptkit.open(ADAM)
    assert checkpoint.specs.keys() == checkpoint.names.keys()
    assert checkpoint.structure is not None
    assert checkpoint.path == ADAM
    assert checkpoint.problems() == []
    array = checkpoint["hidden/kernel"]
    spec = checkpoint.specs[checkpoint.key("hidden/kernel")]
    assert (array.shape, array.dtype.name, array.nbytes) == (spec.shape, spec.dtype, spec.nbytes)


def test_any_form_of_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ADAM.parent)
    for path in (ADAM, str(ADAM), "ckpt", Path("ckpt.index"), "./ckpt"):
        assert len(ckptkit.open(path)) == 24


# --- arrays ---------------------------------------------------------------------------------------


def test_every_dtype_and_shape(tmp_path: Path) -> None:
    tensors = corpus(TF_DTYPES)
    for big_endian in (False, True):
        path = write_odd_bundle(tmp_path / f"c{big_endian}", tensors, big_endian=big_endian)
        checkpoint, loaded = ckptkit.open(path), ckptkit.load(path)
        assert set(checkpoint) == set(loaded) == set(tensors)
        for name, (_dtype, values) in tensors.items():
            for array in (checkpoint[name], loaded[name]):
                assert array.shape == values.shape
                assert same_bits(array.reshape(-1), values.reshape(-1))


def test_views_of_the_file_without_a_copy(prefix: Path) -> None:
    checkpoint = ckptkit.open(prefix)
    for name in TF_DTYPES:
        one, two = checkpoint[name], checkpoint[name]
        is_view = name != "string"
        assert np.shares_memory(one, two) == is_view, name
        assert one.flags.writeable != is_view
        if is_view:
            with pytest.raises(ValueError, match="read-only"):
                one[0, 0] = 0


def test_a_view_outlives_its_checkpoint(tmp_path: Path) -> None:
    values = values_of("float32", (1000,))
    path = write_bundle(tmp_path / "c", {"v": values})
    view = ckptkit.open(path)["v"]
    close_handles()
    for file in tmp_path.iterdir():
        file.unlink()
    assert view.tobytes() == values.tobytes()


def test_loaded_arrays_are_the_caller_s_own(prefix: Path) -> None:
    loaded = ckptkit.load(prefix)
    for name, array in loaded.items():
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert not any(np.shares_memory(array, x) for key, x in loaded.items() if key != name)


def test_a_data_file_that_is_cut_or_grows_is_another(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "c", {"a": np.zeros(4, np.float32), "b": np.ones(9, np.float32)})
    shard = Path(f"{path}.data-00000-of-00001")
    whole = shard.read_bytes()
    checkpoint = ckptkit.open(path)
    kept = checkpoint["b"]
    shard.with_name("new").write_bytes(whole[:16])
    shard.with_name("new").replace(shard)
    for name in "ab":
        with pytest.raises(ChangedError):
            checkpoint[name]
    first = next(name for name in "ab" if checkpoint.specs[name].offset == 0)
    other = "b" if first == "a" else "a"
    checkpoint = ckptkit.open(path)
    shard.write_bytes(whole[: checkpoint.specs[first].nbytes])
    checkpoint = ckptkit.open(path)
    checkpoint[first]
    with pytest.raises(TruncatedError):
        checkpoint[other]
    assert kept.tolist() == [1] * 9


# --- laziness and checksums -----------------------------------------------------------------------


def test_opening_reads_headers_alone(prefix: Path) -> None:
    Path(f"{prefix}.data-00000-of-00001").unlink()
    checkpoint = ckptkit.open(prefix)
    assert checkpoint.specs["float32"].shape == (4, 3)
    assert [type(problem) for problem in checkpoint.problems()] == [PathNotFoundError]


def test_a_damaged_tensor_stops_load_and_not_its_neighbours(prefix: Path) -> None:
    damage(prefix, "float32")
    with pytest.raises(ChecksumError, match="float32"):
        ckptkit.load(prefix)
    assert set(ckptkit.load(prefix, names=["!float32"])) == set(TF_DTYPES) - {"float32"}
    checkpoint = ckptkit.open(prefix)
    assert checkpoint["float32"].shape == (4, 3)  # a view: no checksum is compared
    with pytest.raises(ChecksumError):
        list(checkpoint.store.blocks("float32"))


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_load_filters_and_takes_any_number_of_threads(jobs: int) -> None:
    weights = ckptkit.load(ADAM, roles=["weight"], jobs=jobs)
    assert len(weights) == 8
    assert "hidden/bias@momentum" not in weights
    some = ckptkit.load(ADAM, names=["*bias"], roles=["weight"], jobs=jobs)
    assert set(some) == {"hidden/bias", "scores/bias"}


# --- pickling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    checkpoint = ckptkit.open(f"{ADAM}#model")
    array = checkpoint["hidden/bias"]  # a mapping is open now
    again = pickle.loads(pickle.dumps(checkpoint, protocol))
    assert set(again) == set(checkpoint)
    assert again.subtree == "model"
    assert np.array_equal(again["hidden/bias"], array)
    assert np.array_equal(copy.deepcopy(checkpoint)["hidden/bias"], array)
    assert len(pickle.dumps(checkpoint)) < 1000  # its path, not its contents


def test_errors_pickle(prefix: Path) -> None:
    damage(prefix, "float32")
    with pytest.raises(ChecksumError) as caught:
        ckptkit.load(prefix)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.where) == (
        ChecksumError,
        str(caught.value),
        caught.value.where,
    )
    assert again.hint


def _sum(store: object) -> float:
    return float(sum(part.sum() for _start, part in store.blocks("v")))  # type: ignore[attr-defined]


def test_a_store_travels_to_another_process(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "c", {"v": np.arange(10, dtype=np.float64)})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_sum, ckptkit.open(path).store).result() == 45


# --- closing --------------------------------------------------------------------------------------


def open_files() -> list[str]:
    """Return the files that this process has open or mapped."""
    fds = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    maps = [line.split(maxsplit=5)[-1].strip() for line in lines]
    return [*fds, *maps]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_closed_checkpoint_holds_no_file(prefix: Path) -> None:
    close_handles()
    here = os.path.realpath(prefix)
    with ckptkit.open(prefix) as checkpoint:
        total = float(checkpoint["float32"].sum())
        assert any(file.startswith(here) for file in open_files())
    assert not any(file.startswith(here) for file in open_files())
    assert float(checkpoint["float32"].sum()) == total  # opened anew
    checkpoint.close()
    checkpoint.close()
    assert not any(file.startswith(here) for file in open_files())


def test_arrays_outlive_the_checkpoint(prefix: Path) -> None:
    with ckptkit.open(prefix) as checkpoint:
        view = checkpoint["float32"]
    assert same_bits(np.asarray(view), values_of("float32", (4, 3)))


def test_an_error_inside_is_not_swallowed(prefix: Path) -> None:
    with pytest.raises(UnknownTensorError), ckptkit.open(prefix) as checkpoint:
        checkpoint["nothing"]
