"""ONNX models as stores: every tensor as onnx reads it, external data, lies told."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.locate import locate
from ckptkit.stores.onnx.reader import open_onnx
from support.command_line import ckptkit as run
from support.places import ROOT
from support.proto_bytes import field, number, onnx_model, onnx_tensor

FOLDERS = sorted(ROOT.glob("fixtures/onnx/onnx*"), key=lambda p: [*map(int, p.name[4:].split("."))])
NEWEST = FOLDERS[-1]
FILES = [
    (folder, name)
    for folder in FOLDERS
    for name in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"]
]


def test_there_are_goldens_of_two_versions() -> None:
    assert len(FOLDERS) >= 2


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda value: getattr(value, "name", value))
def test_tensors_are_what_onnx_reads(folder: Path, name: str) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"][name]
    store = open_onnx(folder / name)
    for key, (dtype, shape, digest) in expected.items():
        spec = store.specs[key]
        assert (spec.dtype, list(spec.shape)) == (dtype, shape), key
        whole = store.read(key)
        data = b"\0".join(whole.tolist()) if dtype == "string" else whole.tobytes()
        assert hashlib.sha256(data).digest()[:16].hex() == digest, key
        parts = [values.copy() for _, values in store.blocks(key, 5)]
        assert [x for part in parts for x in part.tolist()] == whole.tolist(), key
        assert store.read(key, 1, 4).tolist() == whole[1:4].tolist(), key
    if name != "constants.onnx":
        assert store.specs.keys() - {"k"} == expected.keys()


def test_constants_of_every_kind_have_the_names_that_nodes_use() -> None:
    ck = ckptkit.load(NEWEST / "constants.onnx")
    found = {key: ck[key].tolist() for key in ck}
    assert found["c_float"] == 1.25
    assert found["c_floats"] == [1.25, -2.0]
    assert found["c_int"] == -3
    assert found["c_ints"] == [1, -300, 1 << 40]
    assert found["c_string"] == b"word"
    assert found["c_strings"] == [b"a", b"b"]
    assert found["c_sparse.values"] == [1.5, 2.5]
    assert found["c_sparse.indices"] == [1, 4]
    assert found["c_sparse.shape"] == [6]
    names = ckptkit.open(NEWEST / "constants.onnx").names
    parts = [names[f"c_sparse.{part}"].role for part in ("values", "indices", "shape")]
    assert parts == ["weight"] * 3
    assert found["inside"] == 4.5
    assert found["of_branch"] == found["if/then_branch/of_branch"] == [9.0, 8.0]
    assert ckptkit.load(NEWEST / "function.onnx")["k"].tolist() == [3.0, 4.0]


def test_commands() -> None:
    for name in ("types.onnx", "beside.onnx", "constants.onnx", "torch.onnx"):
        assert run("verify", NEWEST / name).code == 0
        assert run("scan", NEWEST / name).code == 0
    assert "0.weight" in run("ls", NEWEST / "torch.onnx").out
    assert run("diff", NEWEST / "torch.onnx", FOLDERS[-1] / "torch.onnx").code == 0
    assert run("diff", NEWEST / "types.onnx", NEWEST / "beside.onnx").code == 1


def test_a_model_becomes_safetensors(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    assert run("convert", NEWEST / "torch.onnx", out, "--weights-only").code == 0
    old, new = ckptkit.load(NEWEST / "torch.onnx"), ckptkit.load(out)
    assert {key: new[key].tolist() for key in new} == {key: old[key].tolist() for key in old}


# -- what a file is --------------------------------------------------------------------------------


def test_a_model_is_known_by_its_content(tmp_path: Path) -> None:
    shutil.copy(NEWEST / "torch.onnx", tmp_path / "weights.data")
    assert locate(tmp_path / "weights.data").format == "onnx"
    (tmp_path / "t.pb").write_bytes(onnx_tensor("w", 1, [3], raw=bytes(12)))
    with pytest.raises(CkptkitError):
        locate(tmp_path / "t.pb")


def test_a_model_that_is_cut_short(tmp_path: Path) -> None:
    data = (NEWEST / "types.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for size in range(3, len(data), 41):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError):
            open_onnx(path)
    path.write_bytes(data[:-1])
    with pytest.raises(TruncatedError, match="cut short"):
        open_onnx(path)


# -- descriptions that lie -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (onnx_tensor("w", 1, [3], raw=bytes(11)), "expected 12, found 11"),
        (onnx_tensor("w", 1, [3], raw=bytes(13)), "expected 12, found 13"),
        (onnx_tensor("w", 22, [3], raw=bytes(1)), "expected 2, found 1"),
        (onnx_tensor("w", 0, [3], raw=bytes(12)), "without a data type"),
        (onnx_tensor("w", 1, [-3], raw=bytes(12)), "impossible shape"),
        (onnx_tensor("w", 1, [1 << 40, 1 << 40], raw=bytes(12)), "impossible shape"),
        (onnx_tensor("w", 1, [1 << 40], raw=bytes(12)), "bytes of float32"),
        (onnx_tensor("w", 1, [3], raw=bytes(12)) + field(3, b""), "segments"),
        (onnx_tensor("w", 1, [3], raw=bytes(12)) + b"\x0b", "wire type 3"),
        (onnx_tensor("w", 1, [3], raw=bytes(12)) + b"\x4a\x7f", "longer than what it lies in"),
        (onnx_tensor("w", 1, [3], raw=bytes(12)) + field(8, b"\xff"), "no UTF-8"),
    ],
)
def test_descriptions_that_lie(tmp_path: Path, tensor: bytes, said: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(tensor, b"" if said == "x" else onnx_tensor("v", 1, [], bytes(4))))
    with pytest.raises(FormatError, match=said):
        open_onnx(path)


@pytest.mark.parametrize(
    "tensor",
    [
        onnx_tensor("w", 1, [1 << 40]) + field(4, struct.pack("<2f", 1, 2)),
        onnx_tensor("w", 1, [2]) + field(4, bytes(7)),
        onnx_tensor("w", 7, [2]) + field(7, b"\x01"),
        onnx_tensor("w", 7, [1]) + field(7, b"\x81"),
        onnx_tensor("w", 7, [1]) + field(7, b"\x80" * 11 + b"\x01"),
        onnx_tensor("w", 8, [2]) + field(6, b"one"),
        onnx_tensor("w", 1, [2]),
    ],
)
def test_lists_that_do_not_fill_their_shape_are_listed_and_not_read(
    tmp_path: Path, tensor: bytes
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(tensor))
    store = open_onnx(path)
    for read in (lambda: store.read("w"), lambda: next(store.blocks("w"))):
        with pytest.raises(FormatError):
            read()


def test_a_dtype_of_tomorrow_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(onnx_tensor("w", 99, [3], raw=b"12345")))
    store = open_onnx(path)
    assert store.specs["w"].dtype == "onnx#99"
    assert b"".join(values.tobytes() for _, values in store.blocks("w")) == b"12345"
    with pytest.raises(UnsupportedError):
        store.read("w")


def sparse_model(path: Path, indices: bytes | None, dims: list[int], values: int = 2) -> Path:
    """Write a model of one sparse tensor, without values where they are to be 0."""
    parts = [] if indices is None else [field(2, indices)]
    if values:
        raw = struct.pack(f"<{values}f", *range(values))
        parts.append(field(1, onnx_tensor("s", 1, [values], raw)))
    sizes = b"".join(number(3, size % (1 << 64)) for size in dims)
    graph = field(2, b"g") + field(15, b"".join(parts) + sizes)
    path.write_bytes(number(1, 8) + field(7, graph) + field(8, number(2, 21)))
    return path


def places_of(*places: int, dims: tuple[int, ...] = (2,), data_type: int = 7) -> bytes:
    return onnx_tensor("i", data_type, dims, struct.pack(f"<{len(places)}q", *places))


@pytest.mark.parametrize(
    ("indices", "dims", "values", "said"),
    [
        (places_of(1, 6), [2, 3], 2, "index 1 of a sparse tensor: expected 0 to 5, found 6"),
        (places_of(-1, 5), [2, 3], 2, "index 0 of a sparse tensor: expected 0 to 5, found -1"),
        (places_of(1, 2, 2, 1, dims=(2, 2)), [2, 3], 2, "index 2 .*expected 0 to 1, found 2"),
        (places_of(1, 5), [2, -3], 2, "a sparse tensor of the shape"),
        (places_of(1, 5), [], 2, "a sparse tensor of the shape"),
        (places_of(1, 5), [2, 3], 0, "without values in a row"),
        (places_of(1, 5), [2, 3], 3, r"expected \[3\] or \[3, 2\], found \[2\]"),
        (places_of(1, 5, data_type=11), [2, 3], 2, "that are not int64"),
        (None, [2, 3], 2, "the shape of its indices: .* found none"),
    ],
)
def test_sparse_tensors_that_lie(
    tmp_path: Path, indices: bytes | None, dims: list[int], values: int, said: str
) -> None:
    path = sparse_model(tmp_path / "m.onnx", indices, dims, values)
    with pytest.raises(FormatError, match=said):
        list(open_onnx(path).blocks("s.indices"))
    assert run("verify", path).code in (1, 2)


def test_sparse_tensors_with_indices_of_either_form(tmp_path: Path) -> None:
    for places in (places_of(1, 5), places_of(0, 2, 1, 1, dims=(2, 2))):
        assert run("verify", sparse_model(tmp_path / "m.onnx", places, [2, 3])).code == 0


def test_names_that_two_tensors_share(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    two = [onnx_tensor("w", 1, [], raw=struct.pack("<f", n)) for n in (1, 2)]
    path.write_bytes(onnx_model(*two))
    store = open_onnx(path)
    assert {key: store.read(key).tolist() for key in store.specs} == {"w": [1.0], "w_(2)": [2.0]}
    assert "two tensors are called w" in store.notes[0]


def test_the_last_of_a_field_that_is_given_twice_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tensor = onnx_tensor("v", 1, [], raw=struct.pack("<f", 1)) + field(8, b"w")
    path.write_bytes(onnx_model(tensor + field(9, struct.pack("<f", 2))))
    assert open_onnx(path).read("w").tolist() == [2.0]


# -- external data ---------------------------------------------------------------------------------


def outside(directory: Path, location: str, **entries: str) -> Path:
    pairs = {"location": location, **entries}
    told = b"".join(
        field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs.items()
    )
    path = directory / "m.onnx"
    path.write_bytes(onnx_model(onnx_tensor("w", 1, [3]) + told + number(14, 1)))
    return path


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "", "a\\b", "link", "sub/link"]
)
def test_paths_out_of_the_directory_are_refused_and_found(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "model" / "sub" / "link").symlink_to(tmp_path / "secret")
    path = outside(tmp_path / "model", location)
    with pytest.raises(FormatError, match="external data"):
        open_onnx(path)
    assert run("ls", path).code == 2
    found = run("scan", path)
    assert found.code == 1
    assert "file.external" in found.out


def test_external_data_as_a_hub_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "r").mkdir(parents=True)
    model = outside(tmp_path / "blobs", "m.data")
    (tmp_path / "blobs" / "d").write_bytes(struct.pack("<3f", 1, 2, 3))
    (tmp_path / "snapshots" / "r" / "m.onnx").symlink_to(model)
    (tmp_path / "snapshots" / "r" / "m.data").symlink_to(tmp_path / "blobs" / "d")
    path = tmp_path / "snapshots" / "r" / "m.onnx"
    assert open_onnx(path).read("w").tolist() == [1, 2, 3]
    assert run("scan", path).code == 0


def test_external_data_by_offset_and_length(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(8) + struct.pack("<3f", 1, 2, 3) + bytes(4))
    assert open_onnx(outside(tmp_path, "d", offset="8", length="12")).read("w").tolist() == [
        1,
        2,
        3,
    ]
    with pytest.raises(FormatError, match="reach to the end"):
        open_onnx(outside(tmp_path, "d", offset="8")).read("w")
    with pytest.raises(TruncatedError):
        open_onnx(outside(tmp_path, "d", offset="16", length="12")).read("w")
    for entries in ({"length": "11"}, {"offset": "-1"}, {"offset": "x"}, {"offset": "9" * 30}):
        with pytest.raises(FormatError):
            open_onnx(outside(tmp_path, "d", **entries))
    with pytest.raises(UnsupportedError, match="memory of a process"):
        open_onnx(outside(tmp_path, "*/_ORT_MEM_ADDR_/*", offset="8"))


def test_a_data_file_that_is_missing_does_not_hide_the_list(tmp_path: Path) -> None:
    listed = run("ls", outside(tmp_path, "d"))
    assert listed.code == 2
    assert "w" in listed.out
    assert "d" in listed.out


# -- what it could do ------------------------------------------------------------------------------


def test_ops_of_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for domain, op, code in (
        ("", "Relu", 0),
        ("com.microsoft", "Gelu", 0),
        ("com.microsoft", "EPContext", 1),
        ("mine", "Thing", 1),
    ):
        node = field(4, op.encode()) + field(7, domain.encode())
        path.write_bytes(onnx_model(onnx_tensor("w", 1, [], raw=bytes(4)), nodes=[node]))
        found = run("scan", path)
        assert (found.code, op in found.out) == (code, bool(code)), (domain, op)
    assert run("scan", NEWEST / "function.onnx").code == 0


def test_damaged_models_are_read_or_refused(tmp_path: Path) -> None:
    data = (NEWEST / "types.onnx").read_bytes()
    draw = random.Random(11)
    path = tmp_path / "m.onnx"
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            mutant[draw.randrange(len(mutant))] = draw.randrange(256)
        path.write_bytes(mutant)
        try:
            store = open_onnx(path)
        except CkptkitError:
            continue
        for key in store.specs:
            try:
                store.read(key)
            except CkptkitError:
                continue


def test_float6_is_listed_by_its_name_and_compared_by_its_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path, raw in zip(paths, (b"\1\2\3", b"\1\2\7"), strict=True):
        path.write_bytes(onnx_model(onnx_tensor("w", 27, [4], raw)))
    assert ckptkit.open(paths[0]).specs["w"].dtype == "float6_e2m3fn"
    assert ckptkit.diff(paths[0], paths[0]).same
    assert not ckptkit.diff(*paths).same


def node_of(op: bytes, *inputs: bytes, **integers: int) -> bytes:
    settings = (field(1, key.encode()) + number(3, value) for key, value in integers.items())
    names = b"".join(field(1, name) for name in inputs)
    return names + field(2, b"y") + field(4, op) + b"".join(field(5, each) for each in settings)


ONES = struct.pack("<8f", *[1.0] * 8)


@pytest.mark.parametrize(
    ("scales", "zeros", "settings", "said"),
    [
        (onnx_tensor("s", 8, [1]) + field(6, b"x"), None, {}, "a quantisation by values of string"),
        (onnx_tensor("s", 1, [2], ONES[:8]), [3], {}, "of different lengths: 2, 3"),
        (
            onnx_tensor("s", 1, [4, 2], ONES),
            None,
            {"axis": 0, "block_size": 4},
            "scales of w: expected [2, 4], found [4, 2]",
        ),
    ],
)
def test_scales_that_are_none(
    scales: bytes, zeros: list[int] | None, settings: dict[str, int], said: str, tmp_path: Path
) -> None:
    tensors = [onnx_tensor("w", 3, [8, 4], bytes(32)), scales]
    if zeros is not None:
        tensors.append(onnx_tensor("z", 3, zeros, bytes(3)))
    dequantised = node_of(b"DequantizeLinear", b"w", b"s", b"z", **settings)
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_model(*tensors, nodes=[dequantised]))
    shown = run("show", path, "w")
    assert shown.code == 2 and said in shown.err


def test_a_recurrent_op_of_no_direction_is_none(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    empty = onnx_tensor("w", 1, [0, 8, 4], b"")
    path.write_bytes(onnx_model(empty, nodes=[node_of(b"LSTM", b"a/x", b"w")]))
    assert ckptkit.diff(path, path).same
