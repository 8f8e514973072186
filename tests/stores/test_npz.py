"""npz: values in every order numpy writes, headers taken apart by us, nothing unpickled, bounds."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import (
    ChecksumError,
    CkptkitError,
    FormatError,
    OutputError,
    TruncatedError,
    UnknownTensorError,
    UnsupportedError,
)
from ckptkit.stores.base import StoredNames
from ckptkit.stores.npz import column_major as _fortran
from ckptkit.stores.npz.npy import decode_descr
from ckptkit.stores.npz.reader import NpzStore, open_npz
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.writing import TensorToWrite
from support.values import (
    FIXED_DTYPES,
    STRINGS,
    Array,
    blocks_of,
    check_same_bytes,
    check_store,
    corpus,
    out_tensors,
    same_bits,
    values_of,
)

# numpy before 1.24 warns where its old name of bool is asked for
NUMPY_DTYPES = [name for name in FIXED_DTYPES if name == "bool" or hasattr(np, name)]


def npz_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> NpzStore:
    """Write a zip of these members and open it."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return open_npz(path)


def npy(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def raw_npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path, compress: bool) -> None:
    tensors = corpus([*FIXED_DTYPES, "string"])
    path = tmp_path / "all.npz"
    assert write_npz(path, out_tensors(tensors), blocks_of(tensors), compress=compress) == (path,)
    store = open_npz(path)
    check_store(store, tensors)
    assert (store.format, store.style, store.producer) == ("npz", "", "ckptkit")
    assert store.shards == (path,)
    assert not store.missing_shards
    assert not store.notes
    check_store(pickle.loads(pickle.dumps(store)), tensors)


@pytest.mark.parametrize("compress", [False, True])
def test_plain_numpy_reads_what_we_write(tmp_path: Path, compress: bool) -> None:
    tensors = corpus([*NUMPY_DTYPES, "bfloat16"])
    words = np.array([b"alpha", b"", b"be"], object)
    tensors["words"] = ("string", words)
    path = tmp_path / "m.npz"
    write_npz(path, out_tensors(tensors), blocks_of(tensors), compress=compress)
    with np.load(path, allow_pickle=False) as loaded:
        assert set(loaded.files) == {*tensors, "ckptkit.json"}
        for key, (dtype, values) in tensors.items():
            if dtype == "bfloat16":
                values = values.view(np.uint16)
            elif dtype == "string":
                values = values.astype("S5")
            assert same_bits(loaded[key], values), key
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_we_read_what_numpy_writes(tmp_path: Path, savez: Any) -> None:
    tensors = corpus(NUMPY_DTYPES)
    path = tmp_path / "m.npz"
    savez(path, **{key: values for key, (_, values) in tensors.items()})
    store = open_npz(path)
    check_store(store, tensors)
    assert store.structure is None
    assert store.producer is None


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">c8", ">c16", ">f8", ">u8", "=f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_byte_order_and_column_major(tmp_path: Path, dtype: str, order: Any, method: int) -> None:
    values = np.arange(60).reshape(3, 4, 5).astype(dtype, order=order)
    store = npz_of(tmp_path / "m.npz", {"a.npy": npy(values)}, method)
    native = values.astype(values.dtype.newbyteorder("=")).copy(order="C")
    check_store(store, {"a": (store.specs["a"].dtype, native)}, step=7)
    swapped = dtype.startswith(">") and values.itemsize > 1
    assert store.mappable("a") == (not swapped and order == "C" and method == zipfile.ZIP_STORED)


@pytest.mark.parametrize("slab", [1, 100, 5000, 1 << 20])
@pytest.mark.parametrize("piece", [1, 10**9])
def test_column_major_in_slabs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slab: int, piece: int
) -> None:
    monkeypatch.setattr(_fortran, "SLAB_BYTES", slab)
    monkeypatch.setattr(_fortran, "_PIECE_BYTES", piece)
    values = np.asfortranarray(np.arange(7 * 5 * 3 * 2, dtype=np.int32).reshape(7, 5, 3, 2))
    store = npz_of(tmp_path / "m.npz", {"a.npy": npy(values)})
    check_store(store, {"a": ("int32", values.copy(order="C"))}, step=11)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 4), max_size=4), st.booleans(), st.integers(1, 9))
def test_column_major_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], big: bool, step: int
) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=">i4" if big else "<i4").reshape(shape)
    path = tmp_path_factory.mktemp("fortran") / "m.npz"
    store = npz_of(path, {"a.npy": npy(np.asfortranarray(values).reshape(shape, order="A"))})
    check_store(store, {"a": ("int32", values.astype("=i4"))}, step)


def test_numpy_strings(tmp_path: Path) -> None:
    members = {
        "s.npy": npy(np.array([b"ab", b"", b"c\0d"])),
        "u.npy": npy(np.array(["né", "", "日本"])),
        "big.npy": npy(np.array(["né", "x"], dtype=">U4")),
        "empty.npy": npy(np.array([b"", b""], dtype="S0")),
        "none.npy": npy(np.array([], dtype="U3")),
    }
    store = npz_of(tmp_path / "m.npz", members)
    assert store.read("s").tolist() == [b"ab", b"", b"c\0d"]
    assert store.read("u", 1).tolist() == [b"", "日本".encode()]
    assert store.read("big").tolist() == ["né".encode(), b"x"]
    assert store.read("empty").tolist()[-1] == b""
    assert list(store.blocks("none")) == []
    assert {spec.dtype for spec in store.specs.values()} == {"string"}


@pytest.mark.parametrize("data", [b"\x00\xd8\0\0", b"\xff\xff\xff\x7f"])
def test_strings_that_are_no_text(tmp_path: Path, data: bytes) -> None:
    header = "{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }"
    store = npz_of(tmp_path / "m.npz", {"a.npy": raw_npy(header, data)})
    with pytest.raises(FormatError, match="no Unicode text"):
        store.read("a")


def test_strings_that_fixed_width_would_lose_or_bloat(tmp_path: Path) -> None:
    tensors = {
        "nul": ("string", np.array([b"a\0", b"b"], object)),
        "long": ("string", np.array([b"x" * 100_000, *[b""] * 1000], object)),
        "plain": ("string", np.array([b"x\0y", b"b"], object)),
    }
    path = tmp_path / "m.npz"
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    check_store(open_npz(path), tensors)
    with np.load(path, allow_pickle=False) as loaded:
        assert [loaded[key].dtype.kind for key in ("nul", "long", "plain")] == ["u", "u", "S"]
    assert path.stat().st_size < 120_000


def test_names_roles_and_checkpoint_keys_are_kept(tmp_path: Path) -> None:
    listed = [
        TensorToWrite("a", "bfloat16", (2,), checkpoint_key="k"),
        TensorToWrite("a@m", "float32", (2,), name="a@momentum", role="slot", slot_of="a"),
    ]
    tensors = {t.key: (t.dtype, values_of(t.dtype, t.shape)) for t in listed}
    path = tmp_path / "m.npz"
    write_npz(path, listed, blocks_of(tensors))
    assert open_npz(path).structure == StoredNames(
        {"a": ("a", "weight", None), "a@m": ("a@momentum", "slot", "a")}, {"a": "k"}
    )


def test_same_input_same_bytes(tmp_path: Path) -> None:
    check_same_bytes(write_npz, tmp_path)


def test_stored_values_are_aligned_and_mappable(tmp_path: Path) -> None:
    tensors = corpus(["float32", "complex128", "bfloat16"])
    path = tmp_path / "m.npz"
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    store, data = open_npz(path), path.read_bytes()
    for key, spec in store.specs.items():
        assert store.mappable(key)
        assert spec.offset is not None
        assert spec.offset % 64 == 0
        assert data[spec.offset : spec.offset + spec.nbytes] == tensors[key][1].tobytes()


@pytest.mark.parametrize("compress", [False, True])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, compress: bool) -> None:
    size, block = 1 << 23, np.ones(1 << 16, np.float32)
    tensors = [TensorToWrite(f"w{i}", "float32", (size,)) for i in range(2)]
    path = tmp_path / "big.npz"
    tracemalloc.start()
    write_npz(
        path,
        tensors,
        lambda key: ((start, block) for start in range(0, size, len(block))),
        compress=compress,
    )
    total = sum(float(part.sum()) for _, part in open_npz(path).blocks("w1"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == size
    assert peak < 16 << 20


# --- dtypes without a counterpart -----------------------------------------------------------------


def test_objects_are_listed_and_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    objects = np.array([Bomb()], object)
    store = npz_of(tmp_path / "m.npz", {"bad.npy": npy(objects, allow_pickle=True)})
    assert store.specs["bad"].dtype == "object"
    assert "never loaded" in store.notes[0]
    for read in (lambda: store.read("bad"), lambda: list(store.blocks("bad"))):
        with pytest.raises(UnsupportedError, match="pickled Python objects"):
            read()
    assert not (tmp_path / "ran").exists()


def test_opaque_dtypes_are_bytes(tmp_path: Path) -> None:
    arrays: dict[str, Array] = {
        "bf16": np.array([1, 2], ml_dtypes.bfloat16),
        "date": np.array(["2020-01-01", "NaT"], "M8[s]"),
        "delta": np.array([3], "m8[ns]"),
        "record": np.array([(1, 2.5)], [("a", "<i4"), ("b", "<f8")]),
        "long": np.array([1.5], np.longdouble),
    }
    members = {f"{key}.npy": npy(values) for key, values in arrays.items()}
    store = npz_of(tmp_path / "m.npz", members)
    assert {key: spec.dtype for key, spec in store.specs.items()} == {
        "bf16": "void16",
        "date": "datetime64[s]",
        "delta": "timedelta64[ns]",
        "record": "record",
        "long": "float128",
    }
    for key, values in arrays.items():
        assert b"".join(part.tobytes() for _, part in store.blocks(key, 5)) == values.tobytes()
        with pytest.raises(UnsupportedError, match="has no array form"):
            store.read(key)
    assert any("'bf16'" in note and "bfloat16" in note for note in store.notes)


# --- headers --------------------------------------------------------------------------------------

GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        "{'descr':'<f4','fortran_order':False,'shape':(2,)}",
        '{"shape": (2L,), "fortran_order": False, "descr": "<f4"}   ',
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_headers_that_writers_make(tmp_path: Path, header: str, version: tuple[int, int]) -> None:
    data = np.array([1, 2], np.float32)
    members = {"a.npy": raw_npy(header, data.tobytes(), version)}
    if "2L" in header and version == (3, 0):  # there was no Python 2 any more
        with pytest.raises(FormatError, match="as Python 2 wrote it"):
            npz_of(tmp_path / "m.npz", members)
        return
    assert same_bits(npz_of(tmp_path / "m.npz", members).read("a"), data)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2 2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': [2]}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 'y'}",
        "{'descr': '<f4', 'descr': '<i4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2,)}",
        "{'descr': 'f' 'f', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<q4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4x', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 255 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 30 + ",)}",
        "(" * 9000,
        " " * 9990 + GOOD,
    ],
)
def test_headers_that_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(FormatError, match=r"m\.npz:a\.npy"):
        npz_of(tmp_path / "m.npz", {"a.npy": raw_npy(header, bytes(8))})


@pytest.mark.parametrize("header", [GOOD, "{'descr': '|V3', 'fortran_order': False, 'shape': ()}"])
@pytest.mark.parametrize("extra", [-1, 1])
def test_size_must_be_what_the_header_says(tmp_path: Path, header: str, extra: int) -> None:
    size = 8 if header is GOOD else 3
    kind = TruncatedError if extra < 0 else FormatError
    with pytest.raises(kind, match="expected"):
        npz_of(tmp_path / "m.npz", {"a.npy": raw_npy(header, bytes(size + extra))})


@pytest.mark.parametrize("shape", ["(9999999999999999999,)", "(4294967296, 4294967296)"])
def test_a_huge_shape_allocates_nothing(tmp_path: Path, shape: str) -> None:
    header = GOOD.replace("(2,)", shape)
    tracemalloc.start()
    with pytest.raises(TruncatedError):
        npz_of(tmp_path / "m.npz", {"a.npy": raw_npy(header, bytes(8))})
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_not_npy_and_newer_versions(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an npy file"):
        npz_of(tmp_path / "a.npz", {"a.npy": b"GIF89a..."})
    with pytest.raises(FormatError, match="not an npy file"):
        npz_of(tmp_path / "b.npz", {"a.npy": b""})
    with pytest.raises(UnsupportedError, match="npy version"):
        npz_of(tmp_path / "c.npz", {"a.npy": raw_npy(GOOD, bytes(8), (4, 0))})


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_cut_anywhere_is_refused(tmp_path: Path, method: int) -> None:
    data = npy(np.arange(3.0))
    for length in range(len(data)):
        with pytest.raises(FormatError, match=r"a\.npy"):
            npz_of(tmp_path / "m.npz", {"a.npy": data[:length]}, method)


@settings(max_examples=500)
@given(st.integers(10, 128), st.binary(min_size=1, max_size=6))
def test_mutated_headers_are_read_or_refused(at: int, change: bytes) -> None:
    """Whatever stands in the header: the values that numpy reads, or one of our errors."""
    from tempfile import TemporaryDirectory

    data = npy(np.arange(6, dtype="<i4").reshape(2, 3))
    data = data[:at] + change + data[at + len(change) :]
    with TemporaryDirectory() as directory:
        try:
            store = npz_of(Path(directory) / "m.npz", {"a.npy": data})
            values = store.read("a").reshape(store.specs["a"].shape)
        except CkptkitError:
            return
        expected = np.load(io.BytesIO(data), allow_pickle=False)
    assert values.tolist() == expected.tolist()


# --- the archive ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_flipped_bit_in_a_value(tmp_path: Path, method: int, order: Any) -> None:
    path = tmp_path / "m.npz"
    values = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32, order=order)
    store = npz_of(path, {"a.npy": npy(values)}, method)
    data = bytearray(path.read_bytes())
    data[store.parts["a"].member.offset + 2000] ^= 4
    path.write_bytes(data)
    with pytest.raises((ChecksumError, FormatError), match=re.escape(str(path))):
        list(open_npz(path).blocks("a"))


def test_a_flipped_bit_in_carried_strings(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    tensors = {"s": ("string", np.array(STRINGS * 3, object))}
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    offset = open_npz(path).specs["s"].offset
    assert offset is not None
    data = bytearray(path.read_bytes())
    data[offset + 8 * 24 + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError):
        list(open_npz(path).blocks("s"))


def test_other_members_and_bad_metadata_are_noted(tmp_path: Path) -> None:
    members = {"a.npy": npy(np.zeros(2)), "readme.txt": b"x", "ckptkit.json": b"{"}
    store = npz_of(tmp_path / "m.npz", members)
    assert len(store.notes) == 2
    assert store.structure is None
    assert store.read("a").tolist() == [0, 0]
    with pytest.raises(UnknownTensorError, match="no tensor 'readme"):
        store.read("readme.txt")


def test_metadata_that_does_not_fit_is_ignored_with_a_note(tmp_path: Path) -> None:
    kept = b'{"version":1,"tensors":{"a":{"dtype":"bfloat16","shape":[3]}}}'
    store = npz_of(tmp_path / "m.npz", {"a.npy": npy(np.zeros(2, "<u2")), "ckptkit.json": kept})
    assert store.specs["a"].dtype == "uint16"
    assert "does not hold the bfloat16" in store.notes[0]


# --- refusals of the writer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/abs",
        "../up",
        "a/../b",
        "a//b",
        "a/",
        ".",
        "a\\b",
        "C:/x",
        "nul\0",
        "\ud800",
        "x" * 65533,
    ],
)
def test_names_that_cannot_be_written(tmp_path: Path, key: str) -> None:
    path = tmp_path / "m.npz"
    with pytest.raises(OutputError, match=re.escape(str(path))):
        write_npz(path, [TensorToWrite(key, "float32", ())], blocks_of({}))
    assert not list(tmp_path.iterdir())


def test_odd_names_are_kept(tmp_path: Path) -> None:
    keys = ["a:0", "conv/kernel", ".hidden", "..x", "日本", "a b", "x.npy", "-", "C:"]
    tensors = {key: ("int8", values_of("int8", (2,))) for key in keys}
    path = tmp_path / "m.npz"
    write_npz(path, out_tensors(tensors), blocks_of(tensors))
    check_store(open_npz(path), tensors)
    with np.load(path) as loaded:
        assert set(loaded.files) - {"ckptkit.json"} >= set(keys) - {"x.npy"}


# --- rarer turns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_column_major_strings_and_opaque_values(tmp_path: Path, method: int) -> None:
    words = np.array([[b"a", b"bb", b""], [b"ccc", b"d", b"\0e"]])
    dates = np.array([[1, 2], [3, 4]], "M8[s]")
    members = {
        "words.npy": npy(np.asfortranarray(words)),
        "dates.npy": npy(np.asfortranarray(dates)),
    }
    store = npz_of(tmp_path / "m.npz", members, method)
    assert store.read("words", 1, 5).tolist() == [b"bb", b"", b"ccc", b"d"]
    assert [v for _, part in store.blocks("words", 2) for v in part] == words.ravel().tolist()
    stored = b"".join(part.tobytes() for _, part in store.blocks("dates"))
    assert stored == dates.tobytes(order="F")  # bytes as they are in the file


def test_deflated_members_that_end_early(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    store = npz_of(path, {"a.npy": npy(np.arange(50_000))}, zipfile.ZIP_DEFLATED)
    member = store.parts["a"].member
    data = bytearray(path.read_bytes())
    # An empty final block in the middle: what follows it is not part of the stream.
    data[member.offset + 5000 : member.offset + 5005] = b"\x01\0\0\xff\xff"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"m\.npz"):
        list(open_npz(path).blocks("a"))
    data[member.offset] = 0x07  # a reserved block type
    path.write_bytes(data)
    with pytest.raises(FormatError, match="deflated data"):
        open_npz(path)


def test_an_npy_header_that_is_not_text(tmp_path: Path) -> None:
    header = GOOD.replace("'descr'", "'d\xff'")
    with pytest.raises(FormatError, match="not UTF-8"):
        npz_of(tmp_path / "m.npz", {"a.npy": raw_npy(header, bytes(8), (3, 0))})


def test_what_the_store_says_of_itself(tmp_path: Path) -> None:
    store = npz_of(tmp_path / "m.npz", {"a.npy": npy(np.zeros(2))})
    assert (store.style, store.model, store.missing_shards) == ("", None, ())


def test_large_deflated_members_are_read_through_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptkit.stores.containers import byte_range as _byte_range
    from ckptkit.stores.containers import member_source

    monkeypatch.setattr(member_source, "_HELD_BYTES", 1000)
    values = np.arange(1000)
    store = npz_of(tmp_path / "m.npz", {"a.npy": npy(values)}, zipfile.ZIP_DEFLATED)
    assert store.read("a", 990).tolist() == list(range(990, 1000))
    for spool in _byte_range._spools.values():
        spool.close()
    _byte_range.forget_spools()


def test_strings_that_change_while_they_are_written(tmp_path: Path) -> None:
    passes = iter([np.array([b"one"], object), np.array([b"three"], object)])
    listed = [TensorToWrite("a", "string", (1,))]
    with pytest.raises(OutputError, match="changed while written"):
        write_npz(tmp_path / "m.npz", listed, lambda key: iter([(0, next(passes))]))
    with pytest.raises(OutputError, match="holds a str among its strings"):
        text = np.array(["text"], object)
        write_npz(tmp_path / "m.npz", listed, lambda key: iter([(0, text)]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("descr", ["?", "|?", *"bBhHiIqQefdFD", "<d", ">f", "|b1", "?1", "?8"])
def test_a_letter_alone_is_the_type_that_numpy_takes_it_for(descr: str) -> None:
    try:
        wanted = np.dtype(descr)
    except TypeError:
        with pytest.raises(FormatError, match="unknown numpy dtype"):
            decode_descr(descr, "w")
        return
    dtype, encoding, width = decode_descr(descr, "w")
    assert (dtype, width) == (wanted.name, wanted.itemsize)
    assert encoding.byteorder == ("big" if wanted.byteorder == ">" else "little")


@pytest.mark.parametrize("descr", ["l", "L", "p", "x", "?8"])
def test_letters_that_differ_by_platform_or_mean_nothing_are_refused(descr: str) -> None:
    with pytest.raises(FormatError, match=re.escape(f"unknown numpy dtype '{descr}'")) as caught:
        decode_descr(descr, "w.npy")
    assert "w.npy" in str(caught.value)
