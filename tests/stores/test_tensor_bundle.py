"""The tensor bundle store: values of every kind of bundle, and damage found wherever it lies."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit._io import crc32c as _crc32c
from ckptkit._io.files import close_handles
from ckptkit.dtypes import DTYPES
from ckptkit.errors import (
    ChangedError,
    ChecksumError,
    CkptkitError,
    FormatError,
    MissingDependencyError,
    PathNotFoundError,
    TruncatedError,
    UnsupportedError,
)
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.table_writer import varint
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.command_line import ckptkit as run
from support.crafted import bundle_items, entry, header, string_tensor, write_graph, write_index
from support.goldens import golden
from support.odd_bundles import Extents, write_odd_bundle
from support.values import (
    TF_DTYPES,
    blocks_of,
    check_store,
    corpus,
    out_tensors,
    same_bits,
    values_of,
)
from support.weights import write_bundle

# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("padding", [0, 3])  # as tf.train.Saver once wrote, and unaligned
def test_every_dtype_and_shape(
    tmp_path: Path, big_endian: bool, num_shards: int, padding: int
) -> None:
    tensors = corpus(TF_DTYPES)
    prefix = write_odd_bundle(
        tmp_path / "c", tensors, big_endian=big_endian, num_shards=num_shards, padding=padding
    )
    store = open_bundle(prefix)
    check_store(store, tensors)
    assert (store.format, store.style, store.big_endian) == (
        "tensor-bundle",
        "name-based",
        big_endian,
    )
    assert len(store.shards) == num_shards
    assert not store.missing_shards
    check_store(pickle.loads(pickle.dumps(store)), tensors)


def test_mappable_tensors_are_those_in_native_order(tmp_path: Path) -> None:
    tensors = {name: (name, values_of(name, (3,))) for name in TF_DTYPES}
    native = open_bundle(write_odd_bundle(tmp_path / "n", tensors))
    foreign = open_bundle(write_odd_bundle(tmp_path / "f", tensors, big_endian=True))
    assert sys.byteorder == "little"
    assert {name for name in tensors if native.mappable(name)} == set(TF_DTYPES) - {"string"}
    assert {name for name in tensors if foreign.mappable(name)} == {
        name for name in TF_DTYPES if DTYPES[name].itemsize == 1
    }


def grid(shape: tuple[int, ...], cuts: tuple[tuple[int, ...], ...]) -> list[Extents]:
    """Return the rectangles between `cuts` of each axis."""
    parts: list[list[tuple[int, int]]] = [[]]
    for size, inner in zip(shape, cuts, strict=True):
        edges = [0, *inner, size]
        steps = [(a, b - a) for a, b in pairwise(edges)]
        parts = [[*part, step] for part in parts for step in steps]
    return list(parts)


CUTS: dict[str, tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "rows": ((7, 3), ((2, 3), ())),
    "one row each": ((4, 5), ((1, 2, 3), ())),
    "columns": ((3, 7), ((), (1, 5))),
    "2x2": ((5, 6), ((2,), (1,))),
    "one row in columns": ((1, 9), ((), (4,))),
    "middle axis": ((2, 6, 3), ((), (1, 4), ())),
    "leading ones": ((1, 1, 8), ((), (), (3,))),
    "vector": ((11,), ((5,),)),
    "with an empty part": ((4,), ((2, 2),)),
    "of nothing": ((0, 3), ((), (1,))),
    "uncut": ((3, 3), ((), ())),
}


@pytest.mark.parametrize("case", CUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "bool"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_partitioned(tmp_path: Path, case: str, dtype: str, big_endian: bool) -> None:
    shape, cuts = CUTS[case]
    tensors = {"w": (dtype, values_of(dtype, shape)), "other": (dtype, values_of(dtype, (2,)))}
    store = open_bundle(
        write_odd_bundle(
            tmp_path / "c",
            tensors,
            slices={"w": grid(shape, cuts)},
            num_shards=2,
            big_endian=big_endian,
        )
    )
    for step in (1, 3, 4, 1000):
        check_store(store, tensors, step)
    spec = store.specs["w"]
    assert len(spec.slices) == len(grid(shape, cuts))
    assert (spec.shard, spec.offset, spec.crc32c) == (None, None, None)
    assert spec.nbytes == tensors["w"][1].nbytes
    assert not store.mappable("w")
    opened = ckptkit.open(store.path)["w"]
    assert opened.shape == shape
    assert same_bits(opened.reshape(-1), tensors["w"][1].reshape(-1))


def test_a_flip_in_a_slice_is_found(tmp_path: Path) -> None:
    tensors = {"w": ("float32", values_of("float32", (6, 2)))}
    prefix = write_odd_bundle(
        tmp_path / "c", tensors, slices={"w": grid((6, 2), ((2,), ()))}, num_shards=2
    )
    shard = Path(f"{prefix}.data-00001-of-00002")
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ChecksumError, match="slice at") as caught:
        list(open_bundle(prefix).blocks("w"))
    assert str(shard) in caught.value.where


@pytest.mark.parametrize("block_bytes", [1, 60, 1 << 18])
def test_snappy(tmp_path: Path, block_bytes: int) -> None:
    pytest.importorskip("cramjam")
    tensors = {
        f"layer_{n}/kernel": ("float32", values_of("float32", (2, n % 3))) for n in range(99)
    }
    prefix = write_odd_bundle(
        tmp_path / "c", tensors, compression="snappy", block_bytes=block_bytes
    )
    check_store(open_bundle(prefix), tensors)


def test_snappy_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cramjam")
    tensors = {f"layer_{n}/kernel": ("float32", values_of("float32", (2,))) for n in range(99)}
    prefix = write_odd_bundle(tmp_path / "c", tensors, compression="snappy")
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ckptkit-tf\[snappy\]'"):
        open_bundle(prefix)
    assert run("ls", prefix).code == 2


def test_variants_are_opaque_and_checked(tmp_path: Path) -> None:
    content = [b"first", b"", b"x" * 200]
    data, crc = b"", 0
    for item in content:
        crc = _crc32c.extend(crc, len(item).to_bytes(8, "little") + item)
        checksum = _crc32c.mask(crc).to_bytes(4, "little")
        crc = _crc32c.extend(crc, checksum)
        data += varint(len(item)) + item + checksum
    variant = entry((3,), 21, len(data), crc32c=_crc32c.mask(crc))
    prefix = write_index(tmp_path / "c", bundle_items(v=variant), data)
    store = open_bundle(prefix)
    assert b"".join(part.tobytes() for _start, part in store.blocks("v")) == data
    with pytest.raises(UnsupportedError, match="not numbers"):
        store.read("v")
    assert ckptkit.load(prefix) == {}
    index = Path(f"{prefix}.index").read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 4
        write_index(prefix, index, bytes(damaged))
        with pytest.raises(FormatError):
            list(open_bundle(prefix).blocks("v"))


def test_real_variants_of_tensorflow() -> None:
    """The golden's variant was written by TensorFlow itself; its checksums hold here too."""
    item = golden("tf2.21.0/objects/ckpt")
    store = open_bundle(item.path)
    variants = [key for key, row in item.tensors.items() if row.dtype == "variant"]
    assert variants
    for key in variants:
        assert sum(len(part) for _start, part in store.blocks(key)) == store.specs[key].nbytes


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    tensors = corpus(["float32", "string"])
    prefix = write_odd_bundle(tmp_path / "c", tensors, num_shards=5)
    close_handles()
    gc.collect()
    before = descriptors()
    check_store(open_bundle(prefix), tensors)
    assert descriptors() > before
    close_handles()
    gc.collect()
    assert descriptors() == before


_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


@st.composite
def _tensors(draw: st.DrawFn) -> dict[str, tuple[str, Any]]:
    keys = draw(st.lists(_KEYS, min_size=1, max_size=8, unique=True))
    dtypes = st.sampled_from(TF_DTYPES)
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    chosen = [(draw(dtypes), draw(shapes), draw(st.integers(0, 9))) for _ in keys]
    return {
        key: (dtype, values_of(dtype, shape, seed))
        for key, (dtype, shape, seed) in zip(keys, chosen, strict=True)
    }


@settings(max_examples=60)
@given(_tensors(), st.sampled_from([None, 1, 30]), st.sampled_from([1, 50, 1 << 18]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, Any]],
    shard_size: int | None,
    block_bytes: int,
) -> None:
    prefix = tmp_path_factory.mktemp("round") / "c"
    write_tensor_bundle(
        prefix,
        out_tensors(tensors),
        blocks_of(tensors),
        shard_size=shard_size,
        block_bytes=block_bytes,
    )
    check_store(open_bundle(prefix), tensors)


@settings(max_examples=60)
@given(st.data())
def test_any_tiling_is_assembled(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    cuts = tuple(
        tuple(sorted(data.draw(st.sets(st.integers(1, size - 1))))) if size > 1 else ()
        for size in shape
    )
    tensors = {"w": ("int16", values_of("int16", shape))}
    prefix = tmp_path_factory.mktemp("tiles") / "c"
    write_odd_bundle(prefix, tensors, slices={"w": grid(shape, cuts)}, num_shards=2)
    store = open_bundle(prefix)
    check_store(store, tensors, data.draw(st.integers(1, 9)))
    assert same_bits(store.read("w", 2, 5), tensors["w"][1].reshape(-1)[2:5])


# --- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint whose index has several blocks and one of everything."""
    tensors = {
        "a/kernel": ("float32", values_of("float32", (2, 2))),
        "a/words": ("string", values_of("string", (3,))),
        "b/table": ("int16", values_of("int16", (4, 2))),
        "step": ("int64", values_of("int64", ())),
    }
    slices = {"b/table": grid((4, 2), ((1,), ()))}
    return write_odd_bundle(tmp_path / "c", tensors, slices=slices, block_bytes=60)


def test_every_flipped_bit_of_an_index_is_an_error(small: Path) -> None:
    """Never a shorter list, in the library or on the command line."""
    index = Path(f"{small}.index")
    clean = index.read_bytes()
    assert run("ls", small).code == 0
    for bit in range(8 * len(clean)):
        damaged = bytearray(clean)
        damaged[bit // 8] ^= 1 << bit % 8
        index.write_bytes(damaged)
        with pytest.raises(FormatError) as caught:
            open_bundle(small)
        assert caught.value.where.startswith(str(index))
        if bit // 8 % 8 == bit % 8:  # one of each byte, for the time that it takes
            result = run("ls", small)
            assert (result.code, result.out) == (2, ""), f"bit {bit}"
            assert result.err == f"ckptkit: {caught.value}\n"


def test_every_length_of_a_truncated_index_is_an_error(small: Path) -> None:
    index = Path(f"{small}.index")
    clean = index.read_bytes()
    for length in range(len(clean)):
        index.write_bytes(clean[:length])
        with pytest.raises(FormatError):
            open_bundle(small)
        assert run("ls", small).code == 2


@pytest.mark.parametrize("tail", [b"\0", b"x" * 100, b"\0" * (1 << 20)])
def test_bytes_behind_or_before_the_index_are_errors(small: Path, tail: bytes) -> None:
    index = Path(f"{small}.index")
    clean = index.read_bytes()
    for damaged in (clean + tail, tail + clean, clean + clean):
        index.write_bytes(damaged)
        with pytest.raises(FormatError):
            open_bundle(small)


def test_every_flipped_bit_of_the_data_is_found_when_read(small: Path) -> None:
    shard = Path(f"{small}.data-00000-of-00001")
    clean = shard.read_bytes()
    for bit in range(8 * len(clean)):
        damaged = bytearray(clean)
        damaged[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(damaged)
        with pytest.raises(FormatError) as caught:
            ckptkit.load(small)
        assert str(shard) in caught.value.where
        assert len(open_bundle(small).specs) == 4


def test_every_length_of_truncated_data_is_seen_by_ls(small: Path) -> None:
    shard = Path(f"{small}.data-00000-of-00001")
    clean = shard.read_bytes()
    for length in range(len(clean)):
        shard.write_bytes(clean[:length])
        result = run("ls", small)
        assert result.code == 2
        assert "a/kernel" in result.out
        assert result.err.count("\n") == 1
        assert "cut short" in result.err
        with pytest.raises(TruncatedError):
            ckptkit.load(small)


def test_a_cut_that_reaches_the_object_graph_still_lists(tmp_path: Path) -> None:
    prefix = write_graph(tmp_path / "c", b"", ["v"])
    Path(f"{prefix}.data-00000-of-00001").write_bytes(b"")
    result = run("ls", prefix)
    assert result.code == 2
    assert "v" in result.out
    assert "cut short" in result.err
    assert open_bundle(prefix).structure is None


def test_missing_and_superfluous_shards(tmp_path: Path) -> None:
    tensors = {f"v{n}": ("float32", values_of("float32", (3,))) for n in range(6)}
    prefix = write_odd_bundle(tmp_path / "c", tensors, num_shards=3)
    lost = Path(f"{prefix}.data-00001-of-00003")
    lost.rename(tmp_path / "elsewhere")
    store = open_bundle(prefix)
    assert store.missing_shards == (lost,)
    with pytest.raises(PathNotFoundError) as caught:
        list(store.blocks("v1"))
    assert caught.value.where == str(lost)
    assert len(list(store.blocks("v0"))) == 1
    result = run("ls", prefix)
    assert result.code == 2
    assert result.out.count("float32") >= 6
    assert "shards 2/3" in result.out
    assert result.err == (
        f"ckptkit: {lost}: this data file is missing (copy all files of the checkpoint; "
        "the index alone holds no values)\n"
    )


@pytest.mark.parametrize("what", ["directory", "fifo", "loop"])
def test_a_shard_that_is_no_file(tmp_path: Path, what: str) -> None:
    prefix = write_bundle(tmp_path / "c", {"v": np.zeros(3, np.float32)})
    shard = Path(f"{prefix}.data-00000-of-00001")
    shard.unlink()
    if what == "directory":
        shard.mkdir()
    elif what == "fifo":
        os.mkfifo(shard)
    else:
        shard.symlink_to(shard)
    result = run("ls", prefix)
    assert result.code == 2
    assert "v" in result.out
    assert result.err.count("\n") == 1
    with pytest.raises(CkptkitError):
        ckptkit.load(prefix)


def test_many_missing_shards_are_summed_up(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "c", {b"": header(5000), b"v": entry(shard_id=4999)})
    result = run("ls", prefix)
    assert result.code == 2
    assert result.err.count("\n") < 20
    assert "shards 0/5000" in result.out


@pytest.mark.parametrize("in_place", [False, True])
def test_a_data_file_that_changes_while_it_is_read(tmp_path: Path, in_place: bool) -> None:
    prefix = write_bundle(tmp_path / "c", {"v": np.zeros(1000, np.float32)})
    shard = Path(f"{prefix}.data-00000-of-00001")
    blocks = open_bundle(prefix).blocks("v", 10)
    next(blocks)
    new = shard if in_place else tmp_path / "new"
    new.write_bytes(b"\1" * 4000)
    new.replace(shard)
    with pytest.raises((ChangedError, ChecksumError)):
        for _ in blocks:
            pass


def test_string_values_and_keys_are_exact(tmp_path: Path) -> None:
    data, crc = string_tensor(b"tail\0\0")
    prefix = write_index(tmp_path / "c", bundle_items(s=entry((), 7, len(data), crc32c=crc)), data)
    assert open_bundle(prefix).read("s").tolist() == [b"tail\0\0"]
    assert ckptkit.load(prefix)["s"].tolist() == b"tail\0\0"
