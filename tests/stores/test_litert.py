"""LiteRT models as stores: every constant as the interpreter reads it, lies told."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError, UnsupportedError
from ckptkit.stores.litert.reader import open_litert
from ckptkit.stores.locate import locate
from support.command_line import ckptkit as run
from support.flatbuffer_bytes import Constant, litert_model
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


def test_a_sparse_tensor_is_its_values_one_after_another(tmp_path: Path) -> None:
    data = struct.pack("<3f", 1, 2, 3)
    sparse = Constant("w", FLOAT, [4, 8], data)._replace(is_sparse=True)
    store = open_litert(written(tmp_path / "m", sparse))
    assert store.specs["w"].shape == (3,)
    assert store.read("w").tolist() == [1, 2, 3]
    assert "w is sparse" in store.notes[0]


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
