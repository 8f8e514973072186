"""The tensor bundle writer: TensorFlow and our own reader read what it writes, bit for bit."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import FormatError, OutputError
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, open_bundle
from ckptkit.stores.tensor_bundle.table import parse_table, read_table
from ckptkit.stores.tensor_bundle.table_writer import TableWriter
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite, plan_shards
from support.goldens import golden
from support.odd_bundles import write_odd_bundle
from support.values import (
    TF_DTYPES,
    blocks_of,
    check_store,
    corpus,
    out_tensors,
    same_bits,
    values_of,
    yielding,
)

# TensorFlow keeps quantized values in arrays of a record dtype, with the same bytes.
QUANTIZED = [name for name in TF_DTYPES if name.startswith(("qint", "quint"))]


def write(prefix: Path, tensors: dict[str, Any], step: int = 4, **options: Any) -> tuple[Path, ...]:
    return write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors, step), **options)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_size", [None, 1, 100, 10**6])
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    tmp_path: Path, shard_size: int | None
) -> None:
    tensors = corpus(TF_DTYPES)
    paths = write(tmp_path / "ckpt", tensors, shard_size=shard_size)
    assert paths[-1] == tmp_path / "ckpt.index"
    assert sorted(paths) == sorted(tmp_path.iterdir())
    store = open_bundle(tmp_path / "ckpt")
    check_store(store, tensors)
    assert store.shards == paths[:-1]
    for path in paths[:-1]:
        its = [spec for spec in store.specs.values() if store.shards[spec.shard or 0] == path]
        assert sum(spec.nbytes for spec in its) == path.stat().st_size  # no gaps
        if shard_size and len([spec for spec in its if spec.nbytes]) > 1:
            fixed = sum(spec.nbytes for spec in its if spec.dtype != "string")
            assert fixed <= shard_size
    for key, spec in store.specs.items():
        unit = tensors[key][1].itemsize if spec.dtype != "string" else 1
        assert not spec.nbytes or (spec.offset or 0) % min(unit, 8) == 0, key


@pytest.mark.needs_tf
@pytest.mark.parametrize("shard_size", [None, 100])
def test_tensorflow_reads_every_dtype(tmp_path: Path, shard_size: int | None) -> None:
    import tensorflow as tf

    tensors = corpus(TF_DTYPES)
    write(tmp_path / "ckpt", tensors, shard_size=shard_size)
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt"))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    assert shapes.keys() == tensors.keys()
    for key, (dtype, values) in tensors.items():
        assert dtypes[key].name == dtype
        assert tuple(shapes[key]) == values.shape
        read = np.asarray(reader.get_tensor(key), dtype=object if dtype == "string" else None)
        if dtype in QUANTIZED:
            assert read.tobytes() == values.tobytes(), key
        else:
            assert same_bits(read, values), key


@pytest.mark.needs_tf
def test_a_checkpoint_of_tensorflow_written_again_restores(tmp_path: Path) -> None:
    """Read by our reader, written by our writer, object graph and all: TensorFlow restores it."""
    import tensorflow as tf

    def objects(scale: float) -> Any:
        root = tf.train.Checkpoint()
        root.w = tf.Variable(tf.random.stateless_normal([5, 3], [1, 2]) * scale)
        root.half = tf.Variable(tf.cast(root.w, tf.bfloat16) * scale)
        root.step = tf.Variable(int(7 * scale), dtype=tf.int64)
        root.words = tf.Variable([b"alpha", b"", b"\xff\0"][:: int(np.sign(scale))])
        return root

    old = objects(1.0)
    prefix = Path(old.write(str(tmp_path / "old")))
    store = open_bundle(prefix)
    graph = store.read(OBJECT_GRAPH_KEY)[0]
    listed = [
        TensorToWrite(key, spec.dtype, spec.shape)
        for key, spec in store.specs.items()
        if key != OBJECT_GRAPH_KEY
    ]
    write_tensor_bundle(tmp_path / "new", listed, store.blocks, object_graph=graph, shard_size=64)
    restored = objects(-1.0)
    restored.read(str(tmp_path / "new")).assert_consumed()
    for name in ("w", "half", "step", "words"):
        got, expected = getattr(restored, name).numpy(), getattr(old, name).numpy()
        assert np.array_equal(got, expected), name
    assert open_bundle(tmp_path / "new").structure == store.structure
    assert read_table(tmp_path / "new.index")[0][0] == b""


@pytest.mark.needs_tf
def test_the_table_is_the_one_that_tensorflow_builds(tmp_path: Path) -> None:
    """An index of several blocks, rebuilt from its entries, is the same byte for byte."""
    import tensorflow as tf

    names = [f"layer_{i}/block{i % 7}/kernel{'x' * (i % 13)}" for i in range(7000)]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "many"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant([i]) for i in range(len(names))],
    )
    data = (tmp_path / "many.index").read_bytes()
    assert len(data) > 1 << 18  # more than one block
    rebuilt = io.BytesIO()
    table = TableWriter(rebuilt)
    for key, value in parse_table(data, "many"):
        table.add(key, value)
    table.finish()
    assert rebuilt.getvalue() == data


@pytest.mark.needs_tf
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_bundles_that_tensorflow_does_not_write_here(
    tmp_path: Path, big_endian: bool, compression: str
) -> None:
    """The helper that makes test files is right if TensorFlow and our reader agree on its files."""
    import tensorflow as tf

    tensors = corpus(["float32", "complex128", "int64", "bool", "bfloat16", "uint8", "string"])
    tensors["grid"] = ("float32", values_of("float32", (6, 5)))
    slices = {"grid": [[(0, 2), (0, 5)], [(2, 4), (0, 3)], [(2, 4), (3, 2)]]}
    prefix = write_odd_bundle(
        tmp_path / "odd",
        tensors,
        big_endian=big_endian,
        slices=slices,
        num_shards=3,
        compression=compression,
        block_bytes=200,
        padding=5,
    )
    store = open_bundle(prefix)
    assert store.big_endian == big_endian
    assert len(store.specs["grid"].slices) == 3
    reader = tf.train.load_checkpoint(str(prefix))
    for key, (dtype, values) in tensors.items():
        read = np.asarray(reader.get_tensor(key), dtype=object if dtype == "string" else None)
        assert same_bits(read, values), key
        whole = np.concatenate(
            [store.read(key, 0, 0), *(v.copy() for _, v in store.blocks(key, 7))]
        )
        assert same_bits(whole, values.reshape(-1)), key


# --- the files ------------------------------------------------------------------------------------


def test_same_input_same_bytes(tmp_path: Path) -> None:
    tensors = corpus(["float32", "int4", "string", "bool"])
    reverse = dict(reversed(tensors.items()))
    one = write(tmp_path / "one", tensors, object_graph=b"graph", shard_size=200)
    other = write(tmp_path / "other", reverse, 100, object_graph=b"graph", shard_size=200)
    assert [a.read_bytes() for a in one] == [b.read_bytes() for b in other]


def test_the_object_graph_is_a_string_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "ckpt", {}, object_graph=b"\x0a\x00")
    store = open_bundle(tmp_path / "ckpt")
    assert store.read(OBJECT_GRAPH_KEY).tolist() == [b"\x0a\x00"]
    assert store.specs[OBJECT_GRAPH_KEY].shape == ()
    assert store.style == "object-based"


def test_nothing_at_all_is_a_checkpoint_too(tmp_path: Path) -> None:
    paths = write(tmp_path / "ckpt", {})
    assert [path.name for path in paths] == ["ckpt.data-00000-of-00001", "ckpt.index"]
    assert dict(open_bundle(tmp_path / "ckpt").specs) == {}


def test_a_prefix_may_be_relative_or_end_in_a_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = corpus(["int8"])
    write(Path("ckpt"), tensors)
    write_tensor_bundle(f"{tmp_path}/", out_tensors(tensors), blocks_of(tensors))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".data-00000-of-00001",
        ".index",
        "ckpt.data-00000-of-00001",
        "ckpt.index",
    ]


def test_a_checkpoint_is_replaced_under_free_names(tmp_path: Path) -> None:
    tensors, prefix = corpus(["int16"]), tmp_path / "ckpt"
    first = write(prefix, corpus(["float32"]))
    (tmp_path / "ckpt-1.data-00000-of-00001").touch()  # of another prefix
    with pytest.raises(OutputError, match=r"ckpt\.index: already exists \(overwrite"):
        write(prefix, tensors)
    second = write(prefix, tensors, overwrite=True)
    assert second[0].name == "ckpt.data-00000-of-00002"
    assert not first[0].exists()
    check_store(open_bundle(prefix), tensors)
    third = write(prefix, tensors, overwrite=True)
    assert third[0].name == "ckpt.data-00000-of-00001"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"ckpt-1.data-00000-of-00001", *(path.name for path in third)}


def test_data_files_without_an_index_are_not_overwritten_unasked(tmp_path: Path) -> None:
    stray = tmp_path / "ckpt.data-00000-of-00007"
    stray.write_bytes(b"x")
    with pytest.raises(OutputError, match=re.escape(str(stray))):
        write(tmp_path / "ckpt", corpus(["int8"]))
    assert list(tmp_path.iterdir()) == [stray]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    size, block = 1 << 23, np.ones(1 << 16, np.float32)
    tensors = [TensorToWrite(f"w{i}", "float32", (size,)) for i in range(2)]
    tracemalloc.start()
    write_tensor_bundle(
        tmp_path / "big",
        tensors,
        lambda key: ((start, block) for start in range(0, size, len(block))),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "big.data-00000-of-00001").stat().st_size == 8 * size
    assert peak < 8 << 20


# --- the table ------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.dictionaries(st.binary(max_size=12), st.binary(max_size=40), max_size=60),
    st.integers(1, 300),
    st.sampled_from(["none", "snappy"]),
)
def test_a_table_reads_back(items: dict[bytes, bytes], block_bytes: int, compression: str) -> None:
    sink = io.BytesIO()
    table = TableWriter(sink, block_bytes=block_bytes, compression=compression)
    for item in sorted(items.items()):
        table.add(*item)
    table.finish()
    assert parse_table(sink.getvalue(), "t") == sorted(items.items())


def test_a_table_takes_rising_keys_only() -> None:
    table = TableWriter(io.BytesIO())
    table.add(b"b", b"")
    for key in (b"b", b"a", b""):
        with pytest.raises(ValueError, match="does not follow"):
            table.add(key, b"")


@settings(max_examples=200)
@given(st.lists(st.integers(0, 50)), st.integers(1, 60))
def test_shards_are_filled_in_order(sizes: list[int], shard_size: int) -> None:
    shards = plan_shards(sizes, shard_size)
    assert shards == sorted(shards)
    assert set(shards) == set(range(max(shards, default=-1) + 1))
    for shard in set(shards):
        its = [size for size, where in zip(sizes, shards, strict=True) if where == shard]
        assert sum(its) <= shard_size or len([size for size in its if size]) == 1
    assert plan_shards(sizes, None) == [0] * len(sizes)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorToWrite("a", "float8_e8m0fnu", ()), "TensorFlow has no dtype float8_e8m0fnu"),
        (TensorToWrite("a", "resource", ()), "no form in other formats"),
        (TensorToWrite("a", "dtype#99", ()), "no form in other formats"),
        (TensorToWrite("a", "float32", (-1,)), "has the shape"),
        (TensorToWrite("", "float32", ()), "is taken"),
        (TensorToWrite("\0a", "float32", ()), "is taken"),
        (TensorToWrite(OBJECT_GRAPH_KEY, "string", ()), "is taken"),
    ],
)
def test_tensors_that_cannot_be_written(
    tmp_path: Path, tensor: TensorToWrite, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        write_tensor_bundle(tmp_path / "ckpt", [tensor], blocks_of({}), object_graph=b"g")
    assert not list(tmp_path.iterdir())


def test_blocks_that_break_the_promise(tmp_path: Path) -> None:
    strings = np.array([b"a", "text"], object)
    wrong: list[tuple[TensorToWrite, list[tuple[int, Any]]]] = [
        (TensorToWrite("a", "int8", (2,)), [(0, np.zeros(1, np.int8))]),
        (TensorToWrite("a", "int8", (2,)), [(0, np.zeros(2, np.uint8))]),
        (TensorToWrite("a", "string", (2,)), [(0, strings)]),
    ]
    for tensor, blocks in wrong:
        with pytest.raises(OutputError, match="'a'"):
            write_tensor_bundle(tmp_path / "ckpt", [tensor], yielding(blocks))
    passes = iter([np.array([b"one"], object), np.array([b"three"], object)])
    with pytest.raises(OutputError, match="changed while written"):
        write_tensor_bundle(
            tmp_path / "ckpt",
            [TensorToWrite("a", "string", (1,))],
            lambda key: iter([(0, next(passes))]),
        )
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such directory"):
        write(tmp_path / "no" / "ckpt", corpus(["int8"]))


def test_variants_are_written_as_another_bundle_stores_them(tmp_path: Path) -> None:
    old = open_bundle(golden("tf2.21.0/objects/ckpt").path)
    (spec,) = (spec for spec in old.specs.values() if spec.dtype == "variant")
    tensor = TensorToWrite(spec.key, spec.dtype, spec.shape)
    write_tensor_bundle(tmp_path / "ckpt", [tensor], old.blocks)
    new = open_bundle(tmp_path / "ckpt")
    found = new.specs[spec.key]
    assert (found.nbytes, found.crc32c, found.shape) == (spec.nbytes, spec.crc32c, spec.shape)
    (was,), (now,) = ([values for _, values in store.blocks(spec.key)] for store in (old, new))
    assert was.tobytes() == now.tobytes()

    def cut(key: str) -> Iterator[tuple[int, Any]]:
        yield 0, was[:-1]

    with pytest.raises(FormatError):
        write_tensor_bundle(tmp_path / "other", [tensor], cut)
    assert not list(tmp_path.glob("other*"))
