"""safetensors: values, verdicts equal to the reference reader's, sharded sets, streaming writes."""

from __future__ import annotations

import json
import pickle
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import FormatError, OutputError, TruncatedError, UnknownTensorError, UsageError
from ckptkit.stores.base import StoredNames, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.safetensors import large_header
from ckptkit.stores.safetensors.header import CODES, parse_header
from ckptkit.stores.safetensors.large_header import parse_large_header
from ckptkit.stores.safetensors.reader import open_safetensors, open_safetensors_index
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.writing import TensorToWrite
from support.safetensors_headers import F32, HEADERS
from support.values import (
    FIXED_DTYPES,
    blocks_of,
    check_same_bytes,
    check_store,
    corpus,
    out_tensors,
    same_bits,
    values_of,
    yielding,
)

Entry = dict[str, Any]


def file_bytes(header: str | bytes, data: bytes = b"") -> bytes:
    """Return a file of this header text and data."""
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int, **more: Any) -> Entry:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def reference_accepts(data: bytes) -> bool:
    deserialize: Any = safetensors.deserialize  # typed where the package is, Any where it is not
    try:
        deserialize(data)
    except safetensors.SafetensorError:
        return False
    return True


def we_accept(data: bytes) -> bool:
    """Our verdict on the bytes of a file, without a file (as `read_header` slices it)."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > 100_000_000 or 8 + length > len(data):
        return False
    text, data_bytes = data[8 : 8 + length], len(data) - 8 - length
    # the road of large headers: what it takes is what the other says, and it refuses nothing
    packed = parse_large_header(lambda at, nbytes: text[at : at + nbytes], length, data_bytes)
    try:
        header = parse_header(text, data_bytes, "x")
    except FormatError:
        assert packed is None, text
        return False
    if packed is not None:
        assert packed.metadata == header.metadata
        assert list(packed.specs.values()) == [
            TensorSpec(name, CODES[code].dtype, shape, end - begin, 0, header.data_start + begin)
            for name, (code, shape, begin, end) in header.tensors.items()
        ]
    return True


def has_duplicate_keys(data: bytes) -> bool:
    """Whether some object of the header has a key twice; the one case where we are stricter."""
    found = False

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or len(dict(pairs)) != len(pairs)
        return dict(pairs)

    length = int.from_bytes(data[:8], "little")
    json.loads(data[8 : 8 + length], object_pairs_hook=hook)
    return found


# --- values ---------------------------------------------------------------------------------------


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = corpus([*FIXED_DTYPES, "string"])
    path = tmp_path / "all.safetensors"
    assert write_safetensors(path, out_tensors(tensors), blocks_of(tensors)) == (path,)
    store = open_safetensors(path)
    check_store(store, tensors)
    assert (store.format, store.style, store.producer) == ("safetensors", "", "ckptkit")
    assert store.shards == (path,)
    assert not store.missing_shards
    check_store(pickle.loads(pickle.dumps(store)), tensors)


def test_the_reference_reads_what_we_write(tmp_path: Path) -> None:
    known = ["float32", "float64", "float16", "int8", "uint64", "bool", "complex64"]
    tensors = corpus(known)
    path = tmp_path / "m.safetensors"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors), metadata={"format": "tf"})
    loaded = safetensors.numpy.load_file(path)
    assert loaded.keys() == tensors.keys()
    for key, (_, values) in tensors.items():
        assert same_bits(loaded[key], values), key
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "tf"


def test_we_read_what_the_reference_writes(tmp_path: Path) -> None:
    tensors = corpus(["float32", "bfloat16", "float8_e4m3fn", "float8_e8m0fnu", "int64", "uint8"])
    specs = {
        key: safetensors.TensorSpec(
            dtype=values.dtype.name,
            shape=values.shape,
            data_ptr=values.ctypes.data,
            data_len=values.nbytes,
        )
        for key, (_, values) in tensors.items()
    }
    path = tmp_path / "m.safetensors"
    safetensors.serialize_file(specs, path, {"format": "pt"})
    store = open_safetensors(path)
    check_store(store, tensors)
    assert store.producer == "safetensors (pt)"
    assert store.structure is None


def test_four_bit_floats_are_unpacked_low_bits_first(tmp_path: Path) -> None:
    path = tmp_path / "f4.safetensors"
    header = {"a": entry("F4", [3, 2], 0, 3)}
    path.write_bytes(file_bytes(json.dumps(header), bytes([0x21, 0x43, 0x65])))
    store = open_safetensors(path)
    assert store.specs["a"].dtype == "float4_e2m1fn"
    assert not store.mappable("a")
    nibbles = np.arange(1, 7, dtype=np.uint8)
    for start in range(6):
        for stop in range(start, 7):
            assert store.read("a", start, stop).view(np.uint8).tolist() == list(nibbles[start:stop])
    assert [(s, v.view(np.uint8).tolist()) for s, v in store.blocks("a", 4)] == [
        (0, [1, 2, 3, 4]),
        (4, [5, 6]),
    ]


def test_six_bit_floats_are_opaque(tmp_path: Path) -> None:
    path = tmp_path / "f6.safetensors"
    path.write_bytes(file_bytes(json.dumps({"a": entry("F6_E2M3", [4], 0, 3)}), b"abc"))
    store = open_safetensors(path)
    assert b"".join(part.tobytes() for _, part in store.blocks("a")) == b"abc"
    with pytest.raises(Exception, match="no array form"):
        store.read("a")


def test_mappable_bytes_are_the_values(tmp_path: Path) -> None:
    tensors = corpus(["float32", "complex128", "string", "bfloat16"])
    path = tmp_path / "m.safetensors"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    store = open_safetensors(path)
    data = path.read_bytes()
    for key, spec in store.specs.items():
        assert store.mappable(key) == (spec.dtype != "string")
        if store.mappable(key):
            assert spec.offset is not None
            values = tensors[key][1]
            assert data[spec.offset : spec.offset + spec.nbytes] == values.tobytes()
            assert spec.offset % values.itemsize == 0 or not spec.nbytes


def test_names_roles_and_checkpoint_keys_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {k: ("float32", values_of("float32", (2,))) for k in ("a", "a@m", "plain")}
    listed = [
        TensorToWrite("a", "float32", (2,), checkpoint_key="net/a/.ATTRIBUTES/VARIABLE_VALUE"),
        TensorToWrite("a@m", "float32", (2,), name="a@momentum", role="slot", slot_of="a"),
        TensorToWrite("plain", "float32", (2,)),
    ]
    write_safetensors(path, listed, blocks_of(tensors))
    structure = open_safetensors(path).structure
    assert structure == StoredNames(
        {
            "a": ("a", "weight", None),
            "a@m": ("a@momentum", "slot", "a"),
            "plain": ("plain", "weight", None),
        },
        {"a": "net/a/.ATTRIBUTES/VARIABLE_VALUE"},
    )


def test_same_input_same_bytes(tmp_path: Path) -> None:
    check_same_bytes(write_safetensors, tmp_path)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    size, block = 1 << 24, np.ones(1 << 16, np.float32)
    tensors = [TensorToWrite(f"w{i}", "float32", (size,)) for i in range(2)]

    def blocks(key: str) -> Any:
        return ((start, block) for start in range(0, size, len(block)))

    path = tmp_path / "big.safetensors"
    tracemalloc.start()
    write_safetensors(path, tensors, blocks)
    total = sum(float(part.sum()) for _, part in open_safetensors(path).blocks("w1"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == size
    assert path.stat().st_size > 8 * size
    assert peak < 16 << 20


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:60])
@pytest.mark.parametrize("data_bytes", [0, 3, 4, 5])
def test_verdict_is_the_references(header: str, data_bytes: int) -> None:
    data = file_bytes(header, bytes(data_bytes))
    assert we_accept(data) == reference_accepts(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\0\0\0\0\0\0",
        (1000).to_bytes(8, "little") + b"{}",  # attack 1: the header claims more than there is
        (100_000_001).to_bytes(8, "little") + b"{}",
        b"\xff" * 8 + b"{}",
        (1 << 63).to_bytes(8, "little"),
        file_bytes(b'{"\xff":1}'),
        file_bytes(
            json.dumps({f"w{i}": entry("F32", [2, 2], 0, 16) for i in range(5000)}), bytes(16)
        ),
        file_bytes("{}"),
        file_bytes("{}", b"\0"),
    ],
    ids=range(10),
)
def test_attack_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "attack.safetensors"
    path.write_bytes(data)
    if reference_accepts(data):
        assert open_safetensors(path).specs == {}
    else:
        with pytest.raises(FormatError, match=re.escape(str(path))):
            open_safetensors(path)


SEEDS = [
    (
        json.dumps(
            {
                "a": entry("F32", [2], 0, 8),
                "b": entry("BF16", [1, 2], 8, 12),
                "__metadata__": {"k": "v"},
            }
        ),
        12,
    ),
    (json.dumps({"z": entry("F4", [4, 0], 0, 0), "q": entry("F4", [3, 2], 0, 3)}), 3),
    ('{"q":["I64",[],[0,8]]}', 8),
    (json.dumps({"a": entry("U8", [3, 1], 0, 3, extra={"k": [1, 2.5e3, "é", None, True]})}), 3),
    ('{"__metadata__":null,"k":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}', 3),
]
TOKENS = [
    *b"0 1 -0 -1 1.0 1e2 00 .5 5. +1 1e400 0e400 NaN Infinity null true 0x1 ' /**/".split(),
    *b'[] {} , : [ ] { } "F32" "U8" "dtype" "shape" "data_offsets" "__metadata__" ""'.split(),
    *b"18446744073709551615 18446744073709551616 9223372036854775808".split(),
    *rb"\u00e9 \ud800 \udc0f \n".split(),
    *b'" \x00 \x1f \x7f \xff \xc3\xa9 \xef\xbb\xbf'.split(b" "),
    *(b" ", b"\t", b"\n"),
]


def mutated(rng: random.Random) -> bytes:
    """Return a valid file with one to three changes to its header or length."""
    text, data_bytes = rng.choice(SEEDS)
    header = text.encode()
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        at = rng.randrange(len(header) + 1)
        match rng.randrange(7):
            case 0 if at < len(header):
                flipped = header[at] ^ 1 << rng.randrange(8)
                header = header[:at] + bytes([flipped]) + header[at + 1 :]
            case 1:
                header = header[:at] + rng.choice(TOKENS) + header[at:]
            case 2:
                header = header[:at] + header[at + rng.randrange(1, 12) :]
            case 3:
                header = header[:at] + header[at : at + rng.randrange(1, 30)] + header[at:]
            case 4:
                data_bytes = max(0, data_bytes + rng.choice([-1, 1, 4, 8]))
            case _:
                parts = list(re.finditer(rb'-?\d+|"[^"]*"|\[[^\[\]]*\]|\{[^{}]*\}', header))
                if parts:
                    part = rng.choice(parts)
                    header = header[: part.start()] + rng.choice(TOKENS) + header[part.end() :]
    return file_bytes(header, bytes(data_bytes))


def same_verdict(data: bytes) -> bool:
    reference, ours = reference_accepts(data), we_accept(data)
    return ours == reference or (reference and has_duplicate_keys(data))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
def test_a_large_header_is_read_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separators: tuple[str, str], order: int
) -> None:
    names = [f"block_{number}/é\x7f" for number in range(150)][::order]
    entries = {name: entry("F32", [2, 1], 8 * at, 8 * at + 8) for at, name in enumerate(names)}
    header = {"__metadata__": {"format": "np", "long": "\\" * 400}, **dict(sorted(entries.items()))}
    text = json.dumps(header, separators=separators, ensure_ascii=False) + "  "
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(text, bytes(8 * len(names))))
    kept = open_safetensors(path)
    for name, value in (("LARGE_HEADER", 0), ("_PIECE", 60), ("_AHEAD", 200)):
        monkeypatch.setattr(large_header, name, value)
    packed = open_safetensors(path)
    assert isinstance(packed.specs, PackedSpecs) and not isinstance(kept.specs, PackedSpecs)
    assert list(packed.specs.items()) == list(kept.specs.items())
    assert packed.producer == kept.producer == "safetensors (np)"
    assert reference_accepts(path.read_bytes())


def test_verdicts_on_mutated_headers() -> None:
    rng = random.Random(20240229)
    accepted = 0
    for _ in range(20_000):
        data = mutated(rng)
        assert same_verdict(data), data
        accepted += reference_accepts(data)
    assert accepted > 300  # the mutations are not all fatal


shapes = st.lists(st.integers(0, 5) | st.sampled_from([1 << 31, 1 << 62, 1 << 63]), max_size=4)


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.sampled_from([*CODES, "X"]), shapes, st.integers(-1, 2)), max_size=4),
    st.integers(-1, 1),
)
def test_verdicts_on_layouts(tensors: list[tuple[str, list[int], int]], tail: int) -> None:
    header: dict[str, Any] = {}
    end = 0
    for index, (code, shape, slip) in enumerate(tensors):
        bits = CODES[code].bits if code in CODES else 8
        nbytes = min(int(np.prod([1, *shape], dtype=object)) * bits // 8, 4096)
        begin = max(0, end + (slip if slip < 2 else 0))
        header[f"t{index}"] = entry(code, shape, begin, begin + nbytes)
        end = begin + nbytes
    data = file_bytes(json.dumps(header), bytes(max(0, end + tail)))
    assert we_accept(data) == reference_accepts(data)


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "__metadata__", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_verdicts_on_any_json(value: Any) -> None:
    data = file_bytes(json.dumps(value))
    assert we_accept(data) == reference_accepts(data)
    data = file_bytes(
        json.dumps({"a": entry("U8", [1], 0, 1, more=value), "__metadata__": value}), b"x"
    )
    assert we_accept(data) == reference_accepts(data)


@pytest.mark.parametrize(
    "header",
    [f'{{"a":{F32},"a":{F32}}}', f'{{"__metadata__":{{"x":"1","x":"2"}},"a":{F32}}}'],
)
def test_a_name_twice_is_refused(header: str) -> None:
    """The format disallows it; the reference keeps the last, so it shows another content."""
    with pytest.raises(FormatError, match="given twice"):
        parse_header(header.encode(), 4, "x")


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    tensors = corpus(["float32", "string"])
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    data = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(TruncatedError):
            open_safetensors(cut)
    cut.write_bytes(data + b"\0")
    with pytest.raises(FormatError, match="something was appended"):
        open_safetensors(cut)


def test_unknown_name(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_bytes("{}"))
    with pytest.raises(UnknownTensorError, match="no tensor 'w'"):
        open_safetensors(path).read("w")


@pytest.mark.parametrize(
    "kept",
    [
        "no json",
        "[]",
        '{"version":2,"tensors":{}}',
        '{"version":true,"tensors":{}}',
        '{"version":1,"tensors":{"a":[]}}',
        '{"version":1,"tensors":{"a":{"role":1}}}',
        '{"version":1,"tensors":{"a":{"dtype":"int4","shape":[-1]}}}',
        '{"version":1,"tensors":{"a":{"dtype":"int4","shape":[5]}}}',
        '{"version":1,"tensors":{"a":{"dtype":"bfloat16","shape":[4]}}}',
        '{"version":1,"tensors":{"a":{"dtype":"string","shape":[1]}}}',
        '{"version":1,"tensors":{"a":{"dtype":"complex128","shape":[4]}}}',
        '{"version":1,"tensors":{"a":{"dtype":"resource","shape":[4]}}}',
    ],
)
def test_metadata_that_makes_no_sense_is_ignored_with_a_note(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "m.safetensors"
    header = {"a": entry("U8", [4], 0, 4), "__metadata__": {"ckptkit": kept}}
    path.write_bytes(file_bytes(json.dumps(header), b"abcd"))
    store = open_safetensors(path)
    assert len(store.notes) == 1
    assert store.read("a").tobytes() == b"abcd"
    assert store.specs["a"].dtype == "uint8"


def test_damaged_end_offsets_of_strings(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    kept = '{"version":1,"tensors":{"a":{"dtype":"string","shape":[2]}}}'
    for ends in ((3, 2), (1, 9), (1 << 63, 2), (1, 1)):
        data = b"".join(end.to_bytes(8, "little") for end in ends) + b"xy"
        header = {"a": entry("U8", [18], 0, 18), "__metadata__": {"ckptkit": kept}}
        path.write_bytes(file_bytes(json.dumps(header), data))
        store = open_safetensors(path)
        with pytest.raises(FormatError, match=r"strings|end offsets"):
            list(store.blocks("a"))
        with pytest.raises(FormatError, match=r"strings|end offsets"):
            store.read("a")


# --- several files --------------------------------------------------------------------------------


def write_set(directory: Path, **options: Any) -> tuple[dict[str, Any], tuple[Path, ...]]:
    tensors = corpus(["float32", "bfloat16", "string"])
    paths = write_safetensors(
        directory / "model.safetensors.index.json",
        out_tensors(tensors),
        blocks_of(tensors),
        shard_size=100,
        **options,
    )
    return tensors, paths


def test_a_set_of_files_comes_back(tmp_path: Path) -> None:
    tensors, paths = write_set(tmp_path)
    assert len(paths) > 3
    assert paths[0].name == f"model-00001-of-{len(paths) - 1:05d}.safetensors"
    store = open_safetensors_index(paths[-1])
    check_store(store, tensors)
    assert store.shards == paths[:-1]
    assert not store.notes
    assert isinstance(store.structure, StoredNames)
    weight_map = json.loads(paths[-1].read_text())["weight_map"]
    assert weight_map.keys() == tensors.keys()
    loaded: dict[str, Any] = {}
    for path in paths[:-1]:
        with safetensors.safe_open(path, framework="np") as file:
            loaded |= dict.fromkeys(file.keys(), path.name)
    assert loaded == weight_map


def test_shard_size_alone_makes_a_set(tmp_path: Path) -> None:
    tensors = corpus(["float32"])
    path = tmp_path / "m.safetensors"
    paths = write_safetensors(path, out_tensors(tensors), blocks_of(tensors), shard_size=10**9)
    assert [p.name for p in paths] == ["m-00001-of-00001.safetensors", "m.safetensors.index.json"]


def test_missing_and_extra_files_of_a_set(tmp_path: Path) -> None:
    tensors, paths = write_set(tmp_path)
    extra = tmp_path / "model-00001-of-00009.safetensors"
    extra.write_bytes(file_bytes("{}"))
    paths[0].unlink()
    store = open_safetensors_index(paths[-1])
    assert store.missing_shards == (paths[0],)
    assert any("is missing" in note for note in store.notes)
    assert any(extra.name in note for note in store.notes)
    assert 0 < len(store.specs) < len(tensors)


@pytest.mark.parametrize(
    "file", ["../m.safetensors", "/etc/passwd", "a/b", "a\\b", "", "..", "x\0y", 5]
)
def test_an_index_never_leads_outside(tmp_path: Path, file: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(FormatError, match="weight_map sends 'w'"):
        open_safetensors_index(index)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map":[]}', "{", '{"weight_map":{},"weight_map":{}}']
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(FormatError, match=re.escape(str(index))):
        open_safetensors_index(index)


def test_an_index_and_files_of_two_saves(tmp_path: Path) -> None:
    _, paths = write_set(tmp_path)
    content = json.loads(paths[-1].read_text())
    content["weight_map"]["new"] = paths[0].name
    paths[-1].write_text(json.dumps(content))
    with pytest.raises(FormatError, match="says that 'new' is in here"):
        open_safetensors_index(paths[-1])
    del content["weight_map"]["new"]
    content["weight_map"].pop("float32/7")
    content["metadata"]["total_size"] += 1
    paths[-1].write_text(json.dumps(content))
    notes = " ".join(open_safetensors_index(paths[-1]).notes)
    assert "does not send there" in notes
    assert "claims" in notes


def test_a_set_is_replaced_under_free_names(tmp_path: Path) -> None:
    _, old = write_set(tmp_path)
    with pytest.raises(OutputError, match="already exists"):
        write_set(tmp_path)
    tensors, new = write_set(tmp_path, overwrite=True)
    assert set(new) & set(old) == {old[-1]}
    assert sorted(tmp_path.iterdir()) == sorted(new)
    check_store(open_safetensors_index(new[-1]), tensors)


# --- refusals of the writer -----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["__metadata__", "lone \ud800"])
def test_names_that_cannot_be_written(tmp_path: Path, key: str) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(OutputError, match=str(path)):
        write_safetensors(path, [TensorToWrite(key, "float32", ())], blocks_of({}))
    assert not list(tmp_path.iterdir())


def test_a_name_given_twice_and_opaque_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(OutputError, match="two tensors would be written as 'a'"):
        write_safetensors(path, [TensorToWrite("a", "float32", ())] * 2, blocks_of({}))
    with pytest.raises(OutputError, match="no form in other formats"):
        write_safetensors(path, [TensorToWrite("a", "variant", ())], blocks_of({}))
    with pytest.raises(UsageError, match="is taken"):
        write_safetensors(path, [], blocks_of({}), metadata={"ckptkit": "x"})


def test_blocks_that_break_the_promise(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    listed = [TensorToWrite("a", "float32", (4,))]
    good = np.zeros(4, np.float32)
    wrong: list[list[tuple[int, Any]]] = [
        [],
        [(0, good[:2])],
        [(0, good[:2]), (3, good[:1])],
        [(0, good), (4, good[:1])],
        [(0, good.astype(np.float64))],
        [(0, good.reshape(2, 2))],
    ]
    for blocks in wrong:
        with pytest.raises(OutputError, match="'a'"):
            write_safetensors(path, listed, yielding(blocks))
    assert not list(tmp_path.iterdir())


def test_a_header_beyond_the_limit_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptkit.stores.safetensors import writer

    monkeypatch.setattr(writer, "MAX_HEADER", 100)
    tensors = corpus(["int8"])
    with pytest.raises(OutputError, match="more than the 100 of the format"):
        write_safetensors(tmp_path / "m.safetensors", out_tensors(tensors), blocks_of(tensors))
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.safetensors.index.json"):
        with pytest.raises(OutputError, match="no such directory"):
            write_safetensors(tmp_path / "no" / name, [], blocks_of({}))


def test_strings_that_change_while_they_are_written(tmp_path: Path) -> None:
    contents = [b"one", b"one", b"three"]  # measured, then lengths, then bytes
    passes = iter([np.array([content], object) for content in contents])
    listed = [TensorToWrite("a", "string", (1,))]
    with pytest.raises(OutputError, match="changed while written"):
        write_safetensors(tmp_path / "m.safetensors", listed, lambda key: iter([(0, next(passes))]))
    assert not list(tmp_path.iterdir())


def test_metadata_without_tensors_is_ignored_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for kept in ('{"version":1}', '{"version":1,"tensors":{"a":{"dtype":"int4"}}}'):
        header = {"a": entry("U8", [4], 0, 4), "__metadata__": {"ckptkit": kept}}
        path.write_bytes(file_bytes(json.dumps(header), b"abcd"))
        store = open_safetensors(path)
        assert len(store.notes) == 1
        assert (store.style, store.model, store.specs["a"].dtype) == ("", None, "uint8")


def test_a_total_size_in_floats(tmp_path: Path) -> None:
    _, paths = write_set(tmp_path)
    content = json.loads(paths[-1].read_text())
    content["metadata"]["total_size"] *= 1.0
    paths[-1].write_text(json.dumps(content))
    assert not open_safetensors_index(paths[-1]).notes
