"""LiteRT models as stores: every constant as the interpreter reads it, lies told."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError, UnsupportedError
from ckptkit.stores.litert.reader import open_litert
from ckptkit.stores.locate import locate
from support.command_line import ckptkit as run
from support.flatbuffer_bytes import Constant, Table, flatbuffer, litert_model
from support.places import ROOT

FOLDERS = sorted(ROOT.glob("fixtures/litert/tf*"), key=lambda p: [*map(int, p.name[2:].split("."))])
NEWEST = FOLDERS[-1]
FILES = [
    (folder, name)
    for folder in FOLDERS
    for name in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"]
]
FLOAT, STRING, INT8, INT4, INT2 = 0, 5, 9, 17, 19


def test_there_are_goldens_of_two_versions() -> None:
    assert len(FOLDERS) >= 2


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda value: getattr(value, "name", value))
def test_tensors_are_what_the_interpreter_reads(folder: Path, name: str) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"][name]
    store = open_litert(folder / name)
    assert store.specs.keys() == expected.keys()
    for key, (dtype, shape, digest, scales, _zeros) in expected.items():
        spec = store.specs[key]
        assert (spec.dtype, list(spec.shape)) == (dtype, shape), key
        whole = store.read(key)
        data = b"\0".join(whole.tolist()) if dtype == "string" else whole.tobytes()
        assert hashlib.sha256(data).digest()[:16].hex() == digest, key
        parts = [values.copy() for _, values in store.blocks(key, 5)]
        assert [x for part in parts for x in part.tolist()] == whole.tolist(), key
        assert store.read(key, 1, 4).tolist() == whole[1:4].tolist(), key
        assert bool(scales) == any(note.startswith(f"{key} is quant") for note in store.notes)


def test_commands() -> None:
    for name in ("float.tflite", "int8.tflite", "words.tflite"):
        assert run("verify", NEWEST / name).code == 0
        assert run("scan", NEWEST / name).code == 0
    assert "300 scales along axis 0" in run("ls", NEWEST / "int8.tflite").out
    assert run("diff", NEWEST / "float.tflite", NEWEST / "float.tflite").code == 0
    assert run("diff", NEWEST / "float.tflite", NEWEST / "half.tflite").code == 1


def test_a_quantised_tensor_is_a_weight_however_small() -> None:
    ck = ckptkit.open(NEWEST / "int8.tflite")
    roles = {key: naming.role for key, naming in ck.names.items()}
    assert roles.pop("Mean/reduction_indices") == "config"
    assert set(roles.values()) == {"weight"}


def written(path: Path, *constants: Constant) -> Path:
    path.write_bytes(litert_model(*constants))
    return path


def test_small_integers_lie_several_to_a_byte(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m",
        Constant("four", INT4, [3], b"\x21\x0f"),
        Constant("two", INT2, [5], b"\x1b\x03"),
    )
    assert locate(path).format == "tflite"
    store = open_litert(path)
    assert store.read("four").tolist() == [1, 2, -1]
    assert store.read("two").tolist() == [-1, -2, 1, 0, -1]
    assert store.specs["four"].nbytes == 2


def test_how_a_tensor_is_quantised(tmp_path: Path) -> None:
    one = Constant("w", INT8, [2], b"\1\2", [0.5], [-3])
    store = open_litert(written(tmp_path / "m", one))
    assert store.notes == ("w is quantised: scale 0.5, zero point -3",)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_pruned_kernels_are_listed_with_their_zeros(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["pruned"]
    for name, (dtype, shape, digest, _scales, _zeros) in expected.items():
        store = open_litert(folder / name)
        (key,) = [key for key, spec in store.specs.items() if list(spec.shape) == shape]
        whole = store.read(key)
        assert store.specs[key].dtype == dtype
        assert hashlib.sha256(whole.tobytes()).digest()[:16].hex() == digest
        parts = [values for _, values in store.blocks(key, 50)]
        assert np.concatenate(parts).tolist() == whole.tolist()
        assert store.read(key, 20, 60).tolist() == whole[20:60].tolist()
        assert "the others are zeros" in store.notes[0]


def sparsity(order: list[int], blocks: list[int], *levels: Table) -> Table:
    """Return SparsityParameters."""
    return {
        0: ("i", struct.pack(f"<{len(order)}i", *order)),
        1: ("i", struct.pack(f"<{len(blocks)}i", *blocks)),
        2: list(levels),
    }


def dense(size: int) -> Table:
    return {0: ("b", 0), 1: ("i", size)}


def compressed(segments: list[int], indices: list[int]) -> Table:
    """Return an axis whose segments are of i32, whose indices are of u8."""
    starts = {0: ("i", struct.pack(f"<{len(segments)}i", *segments))}
    places = {0: ("B", bytes(indices))}
    return {0: ("b", 1), 2: ("B", 1), 3: starts, 4: ("B", 3), 5: places}


@pytest.mark.parametrize(
    ("kind", "data", "where", "expected"),
    [
        (
            *(INT8, b"\1\2\3"),
            sparsity([0, 1], [], dense(2), compressed([0, 1, 3], [3, 0, 2])),
            [[0, 0, 0, 1], [2, 0, 3, 0]],
        ),
        (  # by columns
            *(INT8, b"\1\2"),
            sparsity([1, 0], [], dense(4), compressed([0, 0, 1, 1, 2], [1, 0])),
            [[0, 0, 0, 2], [0, 1, 0, 0]],
        ),
        (  # blocks of two rows and two columns
            *(INT8, b"\1\2\3\4"),
            sparsity([0, 1, 2, 3], [0, 1], dense(1), compressed([0, 1], [1]), dense(2), dense(2)),
            [[0, 0, 1, 2], [0, 0, 3, 4]],
        ),
        (
            *(INT4, b"\xf1\x02"),
            sparsity([0, 1], [], dense(2), compressed([0, 2, 4], [0, 1, 2, 3])),
            [[1, -1, 0, 0], [0, 0, 2, 0]],
        ),
        (  # three values in two bytes
            *(INT4, b"\xf1\x02"),
            sparsity([0, 1], [], dense(2), compressed([0, 2, 3], [0, 1, 2])),
            [[1, -1, 0, 0], [0, 0, 2, 0]],
        ),
    ],
    ids=["rows", "columns", "blocks", "int4", "odd"],
)
def test_where_the_values_of_a_sparse_tensor_belong(
    tmp_path: Path, kind: int, data: bytes, where: Table, expected: list[list[int]]
) -> None:
    sparse = Constant("w", kind, [2, 4], data, sparsity=where)
    store = open_litert(written(tmp_path / "m", sparse))
    assert store.read("w").astype(int).reshape(2, 4).tolist() == expected
    flat = [values.astype(int).tolist() for _, values in store.blocks("w", 3)]
    assert sum(map(len, flat)) == 8 and [n for row in flat for n in row] == [
        n for row in expected for n in row
    ]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "an order of axes"),
        (sparsity([0, 1], [], dense(2), dense(4)), "places for 8 values of 2"),
        (sparsity([0, 1], [], dense(3), compressed([0, 1, 2], [0, 0])), "an axis of 2 elements"),
        (sparsity([0, 1], [], dense(2), compressed([0, 2], [0, 1])), "segments"),
        (sparsity([0, 1], [], dense(2), compressed([0, 2, 1], [0, 1])), "segments"),
        (sparsity([0, 1], [], dense(2), compressed([0, 1, 2], [0, 4])), "outside of its axis"),
        (sparsity([0, 1], [], dense(2), compressed([0, 2, 2], [1, 1])), "two values of one"),
        (sparsity([0, 1], [], dense(2), {0: ("b", 1)}), "without indices"),
        (sparsity([0, 1], [], dense(2), {0: ("b", 2)}), "neither dense nor compressed"),
        (sparsity([0, 1, 2], [1], dense(2), dense(1), dense(3)), "do not fill their axis"),
        (sparsity([0, 1, 2], [5], dense(2), dense(1), dense(3)), "blocks of an axis"),
        (sparsity([0, 1, 2], [1], dense(2), dense(1), dense(0)), "blocks without a size"),
    ],
)
def test_sparse_tensors_that_lie(tmp_path: Path, where: Table, said: str) -> None:
    sparse = Constant("w", INT8, [2, 4], b"\1\2", sparsity=where)
    store = open_litert(written(tmp_path / "m", sparse))
    with pytest.raises(FormatError, match=said):
        store.read("w")


def test_a_sparse_tensor_of_immense_size_is_listed_and_not_read(tmp_path: Path) -> None:
    where = sparsity([0], [], compressed([0, 1], [1]))
    sparse = Constant("w", INT8, [1 << 30], b"\1", sparsity=where)
    store = open_litert(written(tmp_path / "m", sparse))
    assert store.specs["w"].shape == (1 << 30,)
    with pytest.raises(UnsupportedError, match="1 values among 1,073,741,824 elements"):
        store.read("w")


def test_a_sparse_tensor_costs_no_more_than_its_values(tmp_path: Path) -> None:
    axes = [1] * 240
    where = sparsity([*range(241)], [], dense(60_000), *map(dense, axes))
    lies = Constant("w", INT8, [60_000, *axes], b"\1", sparsity=where)
    with pytest.raises(FormatError, match="places for more values"):
        open_litert(written(tmp_path / "lies", lies)).read("w")


def test_sparse_tensors_that_share_their_values_are_not_read(tmp_path: Path) -> None:
    where = sparsity([0, 1], [], compressed([0, 1], [5]), dense(1000))
    shape = ("i", struct.pack("<2i", 1000, 1000))
    tensors = [
        {0: shape, 1: ("b", INT8), 2: ("I", 1), 3: ("text", b"w%d" % number), 6: where}
        for number in range(40)
    ]
    for count in (1, 40):
        buffers: list[Table] = [{}, {0: ("B", bytes(1000))}]
        path = tmp_path / f"{count}.tflite"
        path.write_bytes(flatbuffer({2: [{0: tensors[:count]}], 4: buffers}))
        store = open_litert(path)
        if count == 1:
            assert store.read("w0").size == 1_000_000
        else:
            with pytest.raises(UnsupportedError, match="40,000,000 elements in"):
                store.read("w0")


def test_names_that_tensors_share(tmp_path: Path) -> None:
    first = Constant("w", FLOAT, [1], struct.pack("<f", 1))
    second = first._replace(data=struct.pack("<f", 2))
    store = open_litert(written(tmp_path / "m", first, second, second._replace(name="")))
    found = {key: store.read(key).tolist() for key in store.specs}
    assert found == {"w": [1.0], "subgraph_0/w": [2.0], "tensor_2": [2.0]}


@pytest.mark.parametrize(
    ("constant", "said"),
    [
        (Constant("w", FLOAT, [3], bytes(11)), "expected 12, found 11"),
        (Constant("w", FLOAT, [3], bytes(16)), "expected 12, found 16"),
        (Constant("w", FLOAT, [-3], bytes(12)), "impossible shape"),
        (Constant("w", FLOAT, [1 << 30] * 4, bytes(12)), "impossible shape"),
        (Constant("w", FLOAT, [1] * 300, bytes(4)), "256 axes"),
        (Constant("w", INT4, [3], bytes(1)), "expected 2, found 1"),
    ],
)
def test_descriptions_that_lie(tmp_path: Path, constant: Constant, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        open_litert(written(tmp_path / "m", constant))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<4i", 2, 16, 17, 99) + b"ab",
        struct.pack("<4i", 2, 18, 17, 18) + b"ab",
        struct.pack("<4i", 2, 0, 17, 18) + b"ab",
        struct.pack("<4i", 3, 16, 17, 18) + b"ab",
        b"\1",
    ],
)
def test_strings_that_lie(tmp_path: Path, data: bytes) -> None:
    store = open_litert(written(tmp_path / "m", Constant("w", STRING, [2], data)))
    with pytest.raises(FormatError, match="strings"):
        store.read("w")


def test_a_type_of_tomorrow_is_listed(tmp_path: Path) -> None:
    store = open_litert(written(tmp_path / "m", Constant("w", 99, [3], b"12345")))
    assert store.specs["w"].dtype == "litert#99"
    assert b"".join(values.tobytes() for _, values in store.blocks("w")) == b"12345"
    with pytest.raises(UnsupportedError):
        store.read("w")


def test_a_model_that_is_cut_short(tmp_path: Path) -> None:
    data = (NEWEST / "types.tflite").read_bytes()
    for size in range(8, len(data), 37):
        (tmp_path / "m").write_bytes(data[:size])
        try:
            store = open_litert(tmp_path / "m")
        except FormatError:
            continue
        # the end of the file may be padding, or what this does not look at
        assert store.specs.keys() <= open_litert(NEWEST / "types.tflite").specs.keys()


def test_damaged_models_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(11)
    path = tmp_path / "m.tflite"
    for name in ("types.tflite", "words.tflite"):
        data = (NEWEST / name).read_bytes()
        for _ in range(200):
            mutant = bytearray(data)
            for _ in range(draw.randint(1, 3)):
                mutant[draw.randrange(8, len(mutant))] = draw.randrange(256)
            path.write_bytes(mutant)
            try:
                store = open_litert(path)
            except CkptkitError:
                continue
            for key in store.specs:
                try:
                    store.read(key)
                except CkptkitError:
                    continue
