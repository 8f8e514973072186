"""PyTorch files: every tensor as torch reads it, nothing of a pickle run, lies told."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError, UnsupportedError
from ckptkit.stores.constants import StoreOfConstants
from ckptkit.stores.pytorch.detection import MAGIC
from ckptkit.stores.pytorch.pickle_machine import Global, Persistent, PickledCall, read_pickle
from ckptkit.stores.pytorch.reader import open_pytorch
from ckptkit.stores.pytorch.tensors import list_tensors
from support.command_line import ckptkit as run
from support.command_line import refused
from support.places import ROOT
from support.pytorch_files import (
    QuantisedTensor,
    Storage,
    Tensor,
    TensorOfBytes,
    write_archive,
    write_pytorch,
)

FOLDERS = sorted(
    ROOT.glob("fixtures/pytorch/torch*"), key=lambda p: [*map(int, p.name[5:].split("."))]
)
NEWEST = FOLDERS[-1]
FILES = [
    (folder, name)
    for folder in FOLDERS
    for name in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"]
]


def test_there_are_goldens_of_two_versions() -> None:
    assert len(FOLDERS) >= 2


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda value: getattr(value, "name", value))
def test_tensors_are_what_torch_reads(folder: Path, name: str) -> None:
    import hashlib

    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["files"][name]
    store = open_pytorch(folder / name)
    assert expected.keys() <= store.specs.keys()
    for key, (dtype, shape, digest) in expected.items():
        spec = store.specs[key]
        assert (spec.dtype, list(spec.shape)) == (dtype, shape), key
        whole = store.read(key)
        assert hashlib.sha256(whole.tobytes()).digest()[:16].hex() == digest, key
        blocks = b"".join(values.tobytes() for _, values in store.blocks(key, 5))
        assert blocks == whole.tobytes(), key
        assert store.read(key, 1, 4).tobytes() == whole[1:4].tobytes(), key


def test_what_a_training_checkpoint_is_made_of() -> None:
    ck = ckptkit.open(NEWEST / "training.pth")
    roles = {key: naming.role for key, naming in ck.names.items()}
    assert roles["model.conv.weight"] == "weight"
    assert roles["model.norm.num_batches_tracked"] == "counter"
    assert roles["optimizer.state.0.exp_avg"] == "slot"
    assert roles["optimizer.state.0.step"] == "counter"


def test_ties_and_parts_are_told() -> None:
    assert "head.weight" in " ".join(open_pytorch(NEWEST / "state_dict.pt").notes)
    sparse = open_pytorch(NEWEST / "sparse.pt")
    assert "sparse is a sparse tensor" in " ".join(sparse.notes)
    assert {"sparse.indices", "sparse.values", "sparse.shape", "dense"} == set(sparse.specs)
    assert tuple(sparse.read("sparse.shape")) == (3, 3)


def test_a_part_of_a_tensor_is_nowhere_called_the_whole() -> None:
    store = open_pytorch(NEWEST / "shared.pt")
    whole = {"everywhere", "plain"}  # which every process has
    parts = {"rows[3:5]", "columns[:,4:8]", "old[3:5]", "summed[to be reduced]"}
    assert store.specs.keys() == whole | parts
    (note,) = store.notes
    assert note.startswith("one process's part of tensors that several processes share: rows[3:5]")


def test_a_part_under_two_names_of_a_module_is_listed_once() -> None:
    with zipfile.ZipFile(NEWEST / "shared.pt") as archive:
        data = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        part = read_pickle(archive.read(data), "a").value["rows"]
    module = PickledCall(Global("models", "Net"), ())
    module.state = {"_parameters": {"w": part}, "_buffers": {}, "_modules": {}, "_flat": [part]}
    assert list(list_tensors(module, "a").tensors) == ["w[3:5]"]


def test_tensors_of_one_storage_with_other_marks_are_two() -> None:
    assert open_pytorch(NEWEST / "marked.pt").notes == ()


def test_quantised_tensors_stand_for_what_torch_makes_of_them() -> None:
    import hashlib

    expected = json.loads((NEWEST / "expected.json").read_text(encoding="utf-8"))["numbers"]
    store = open_pytorch(NEWEST / "quantised.pt")
    assert isinstance(store, StoreOfConstants)
    found = store.quantisations()
    assert found.keys() == expected.keys()
    for key, (_, _, digest) in expected.items():
        numbers = found[key].numbers(0, store.read(key), store.specs[key].shape)
        assert hashlib.sha256(numbers.tobytes()).digest()[:16].hex() == digest, key
    assert (
        "tensor is quantised: its integers are listed as they are stored, scale 0.0123"
        in (store.notes[0])
    )
    shown = run("show", NEWEST / "quantised.pt", "channel").out
    assert "3 scales along axis 0, 0.03 to 0.11, zero point 0 to 9" in shown


def test_integers_with_other_scales_differ(tmp_path: Path) -> None:
    was, scale = struct.pack("<d", np.float32(0.07)), struct.pack("<d", 0.08)
    new = tmp_path / "new.pt"
    with zipfile.ZipFile(NEWEST / "quantised.pt") as old, zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, old.read(name).replace(was, scale))
    found = run("diff", NEWEST / "quantised.pt", new)
    assert found.code == 1 and "1 changed" in found.out and "2 equal" in found.out


def quantised(
    path: Path, scales: np.ndarray[Any, Any], zeros: np.ndarray[Any, Any], dtype: str = "qint8"
) -> Path:
    """Write a file of one tensor of two rows and two columns, with scales for each row."""
    kept = {"1": scales, "2": zeros}
    parts = [
        Tensor(Storage(key, array.size, str(array.dtype)), 0, array.shape, (1,))
        for key, array in kept.items()
    ]
    stored = QuantisedTensor(
        Storage("0", 2 if dtype == "quint4x2" else 4, dtype),
        (2, 2),
        ("per_channel_affine", *parts, 0),
        (2, 1),
    )
    data = {"0": b"\1\2" if dtype == "quint4x2" else b"\1\2\3\4"}
    return write_archive(
        path, {"w": stored}, data | {key: array.tobytes() for key, array in kept.items()}
    )


ZEROS = np.zeros(2, np.int64)


@pytest.mark.parametrize("dtype", ["qint8", "quint4x2"])
def test_what_integers_stand_for_is_part_of_a_digest(tmp_path: Path, dtype: str) -> None:
    one, other, same = (
        quantised(tmp_path / f"{name}.pt", np.array(scales), ZEROS, dtype)
        for name, scales in (("one", [0.5, 1]), ("other", [0.5, 2]), ("same", [0.5, 1]))
    )
    digests = [ckptkit.open(path).digest("weights") for path in (one, other, same)]
    assert digests[0] == digests[2] != digests[1]
    assert run("diff", one, other).code == 1
    assert run("diff", one, same).code == 0


def test_scales_are_compared_with_their_checksum(tmp_path: Path) -> None:
    scales = np.array([0.5, 1.25])
    path = quantised(tmp_path / "a.pt", scales, ZEROS)
    damaged = tmp_path / "b.pt"
    data = path.read_bytes().replace(scales.tobytes(), np.nextafter(scales, 2).tobytes())
    damaged.write_bytes(data)
    assert "CRC-32" in refused("diff", damaged, path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e300, 0.0, -1.0])
def test_scales_that_are_no_ordinary_numbers(tmp_path: Path, scale: float) -> None:
    path = quantised(tmp_path / "a.pt", np.array([scale, 1]), np.array([0.0, np.nan]))
    assert run("diff", path, path).code == 0
    shown = run("show", path, "w")
    assert shown.code == 0 and "zero point nan" in shown.out


def test_scales_that_are_no_real_numbers_are_refused(tmp_path: Path) -> None:
    path = quantised(tmp_path / "a.pt", np.ones(2, np.complex64), ZEROS)
    assert "a quantisation by values of complex64" in refused("show", path, "w")


def test_scales_that_are_far_too_many_are_not_read(tmp_path: Path) -> None:
    scales = Tensor(Storage("1", 1 << 20, "float64"), 0, (1 << 20, 900), (1, 0))
    zeros = Tensor(Storage("2", 2, "int64"), 0, (2,), (1,))
    how = ("per_channel_affine", scales, zeros, 0)
    stored = QuantisedTensor(Storage("0", 4, "qint8"), (2, 2), how, (2, 1))
    data = {"0": bytes(4), "1": bytes(8 << 20), "2": bytes(16)}
    path = write_archive(tmp_path / "a.pt", {"w": stored}, data)
    assert "expected at most 2 scales, found 943,718,400" in refused("show", path, "w")


def test_scales_in_the_same_bytes_over_and_over(tmp_path: Path) -> None:
    count = 1 << 12
    value = {}
    for number in range(50):
        length = count - number
        scales = Tensor(Storage("1", count, "int64"), number, (length,), (1,))
        how = ("per_channel_affine", scales, scales, 0)
        value[f"w{number}"] = QuantisedTensor(Storage("0", 4, "qint8"), (length, 0), how, (1, 1))
    data = {"0": bytes(4), "1": bytes(8 * count)}
    path = write_archive(tmp_path / "a.pt", value, data)
    assert "the same bytes over and over" in refused("show", path, "w0")


def test_attributes_nested_very_deeply_are_left_out(tmp_path: Path) -> None:
    def text(word: str) -> bytes:
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    depth = 50_000  # each path to what is so deep would be as long
    empty = b"".join(text(name) + b"}" for name in ("_parameters", "_buffers", "_modules"))
    nested = text("deep") + b"]" * depth + b"a" * (depth - 1)
    path = tmp_path / "module.pt"
    with zipfile.ZipFile(path, "w") as archive:
        start = b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}("
        archive.writestr("a/data.pkl", start + empty + nested + b"ub.")
    assert "values nested more than 200 deep are not listed: deep.0.0" in run("ls", path).out


def test_integers_that_are_converted_leave_what_they_stand_for(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    done = run("convert", NEWEST / "quantised.pt", out)
    assert done.code == 0
    assert "the output does not say what they stand for (scales, zero points): " in (
        done.out + done.err
    )


def test_a_set_of_files_with_quantised_tensors(tmp_path: Path) -> None:
    shutil.copy(NEWEST / "quantised.pt", tmp_path / "part.bin")
    alone = open_pytorch(NEWEST / "quantised.pt")
    index = {"metadata": {}, "weight_map": dict.fromkeys(alone.specs, "part.bin")}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    assert run("diff", path, NEWEST / "quantised.pt").code == 0
    assert "3 scales along axis 0" in run("show", path, "channel").out


def test_forms_that_are_not_read_are_named() -> None:
    assert "TorchScript" in refused("ls", NEWEST / "script.pt")


def old_form(*parts: bytes) -> bytes:
    """A file of before 1.6; parts: what follows the magic number."""
    return MAGIC + b"".join(parts)


def test_files_of_before_1_6_are_read_without_checksums() -> None:
    path = NEWEST / "old.pt"
    assert ckptkit.open(path).store.format == "pytorch-old"
    assert "keeps no checksum" in run("verify", path).out
    found = run("scan", path)
    assert found.code == 0, found.out
    assert run("diff", path, FOLDERS[0] / "old.pt", "--structure").code == 0


def test_a_file_of_before_1_6_that_names_what_it_calls(tmp_path: Path) -> None:
    evil = b"cposix\nsystem\n(S'true'\ntR."
    path = tmp_path / "old.pt"
    numbers = pickle.dumps(1001, 2), pickle.dumps({}, 2)
    path.write_bytes(old_form(*numbers, evil, pickle.dumps([], 2)))
    assert "calls os.system" in run("scan", path).out or "posix.system" in run("scan", path).out
    assert run("scan", path).code == 1
    assert run("ls", path).code == 0


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (20, "ends before"),
        (-1, "ends within it"),
        (-500, "ends"),
    ],
)
def test_a_file_of_before_1_6_that_ends_early(tmp_path: Path, cut: int, said: str) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes((NEWEST / "old.pt").read_bytes()[:cut])
    assert said in refused("ls", path)


def test_a_file_of_before_1_6_that_lies(tmp_path: Path) -> None:
    data = bytearray((NEWEST / "old.pt").read_bytes())
    spec = open_pytorch(NEWEST / "old.pt").specs["conv.bias"]
    assert spec.offset is not None
    data[spec.offset - 8] += 1  # one element more than its id says
    (tmp_path / "old.pt").write_bytes(data)
    assert "elements: expected" in refused("ls", tmp_path / "old.pt")


def test_commands() -> None:
    assert run("verify", NEWEST / "training.pth").code == 0
    assert run("scan", NEWEST / "training.pth").code == 0
    diff = run("diff", NEWEST / "state_dict.pt", NEWEST / "training.pth")
    assert diff.code == 0, diff.out
    found = run("scan", NEWEST / "module.pt").out
    assert "__main__.Net" in found
    assert "torch.nn.modules.conv.Conv2d" in found


def test_a_set_of_files(tmp_path: Path) -> None:
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    shutil.copy(NEWEST / "state_dict.pt", tmp_path / names[0])
    shutil.copy(NEWEST / "one.bin", tmp_path / names[1])
    keys = [*open_pytorch(NEWEST / "state_dict.pt").specs]
    weight_map = {**dict.fromkeys(keys, names[0]), "tensor": names[1]}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    assert [*ckptkit.open(index).store.specs] == [*weight_map]
    assert ckptkit.load(index)["tensor"].tolist() == [0, 1, 2, 3, 4]
    assert run("verify", index).code == 0
    assert run("scan", index).code == 0
    (tmp_path / names[1]).unlink()
    assert f"{names[1]} is missing" in run("ls", index).out


# -- hostile ---------------------------------------------------------------------------------------


class _Acts:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def saved(path: Path, value: Any, protocol: int = 2, **members: bytes) -> Path:
    """Write a value as torch.save does, without any tensor."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=protocol))
        archive.writestr("archive/version", "3\n")
        for name, content in members.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", content)
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    ("acts", "said"),
    [
        (_Acts(os.system, "touch ran"), "system"),
        (_Acts(subprocess.Popen, ["touch", "ran"]), "subprocess.Popen"),
        (_Acts(eval, "open('ran', 'w')"), "builtins.eval"),
        (_Acts(exec, "1"), "exec"),
    ],
    ids=["system", "popen", "eval", "exec"],
)
def test_what_a_pickle_calls_is_an_error_and_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acts: _Acts, said: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "model.pt", {"x": acts}, protocol)
    for command in ("ls", "verify", "needs"):
        run(command, path)
    found = run("scan", path)
    assert found.code == 1
    assert said in found.out
    assert "[pickle.call]" in found.out
    assert not (tmp_path / "ran").exists()


_RUNS = b"\x80\x02cos\nsystem\n(X\x09\x00\x00\x00touch rantR"


@pytest.mark.parametrize("end", [b"", b"\xff.", b"0\x82\x01.", b"K\x01u."])
def test_a_pickle_that_breaks_off_has_run_what_stands_before(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _RUNS + end)
    found = run("scan", path)
    assert found.code == 1
    assert "system when it is loaded" in found.out and "[pickle.broken]" in found.out


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_every_pickle_of_a_file_of_before_1_6_is_judged(tmp_path: Path, place: int) -> None:
    """torch.load runs all five: one that calls something may still give the value that belongs."""
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {"a": 1}, []]
    pickles = [pickle.dumps(part, 2) for part in parts]
    path = tmp_path / "model.pt"
    pickles[place] = _RUNS + b"0" + pickles[place][2:]
    path.write_bytes(b"".join(pickles))
    assert "system when it is loaded" in run("scan", path).out
    assert run("ls", path).code == 0
    path.write_bytes(b"".join(pickles[:place]) + _RUNS)
    found = run("scan", path)
    assert "system when it is loaded" in found.out and "[pickle.broken]" in found.out


def test_pickles_where_none_belong_are_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "stored.pt", {"a": 1}, _0=_RUNS + b".")
    assert "stored.pt:archive/data/0: a Python pickle where the values" in run("scan", path).out
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2) + _RUNS + b".")
    assert "bytes behind the end of the pickle" in run("scan", path).out
    assert run("scan", saved(path, {"a": 1})).code == 0


def test_a_broken_tensor_does_not_hide_what_is_called(tmp_path: Path) -> None:
    value = {"w": Tensor(Storage("9", 6), 0, (6,), (1,)), "x": _Acts(os.system, "touch ran")}
    found = run("scan", write_archive(tmp_path / "a.pt", value, {}))
    assert found.code == 1
    assert "system when it is loaded" in found.out and "[pickle.broken]" in found.out


def test_plain_values_of_other_modules_are_no_alarm(tmp_path: Path) -> None:
    import argparse
    import datetime

    value = {
        "args": argparse.Namespace(lr=1),
        "at": datetime.date(2024, 1, 2),
        "o": OrderedDict(a=1),
    }
    assert run("scan", saved(tmp_path / "model.pt", value)).code == 0


def described(path: Path, *tensor: Any, length: int = 6, nbytes: int = 24) -> Path:
    """Write a file of one tensor of float32 with this description (offset, size, stride)."""
    data = struct.pack("<6f", *range(6))[:nbytes]
    return write_archive(path, {"w": Tensor(Storage("0", length), *tensor)}, {"0": data})


def test_a_description_of_ones_own(tmp_path: Path) -> None:
    store = open_pytorch(described(tmp_path / "a.pt", 1, (2, 2), (1, 2)))
    assert store.read("w").tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize(
    ("description", "more", "said"),
    [
        ((0, (7,), (1,)), {}, "reach past its storage"),
        ((5, (2,), (1,)), {}, "reach past its storage"),
        ((0, (2, 2), (1, 9)), {}, "reach past its storage"),
        ((0, (-1,), (1,)), {}, "negative or immense"),
        ((0, (2,), (-1,)), {}, "negative or immense"),
        ((0, (1 << 63,), (0,)), {}, "negative or immense"),
        ((0, (2, 2), (1,)), {}, "2 axes and 1 strides"),
        ((0, (1 << 40, 1 << 40), (0, 0)), {}, "a tensor of"),
        ((0, "text", (1,)), {}, "negative or immense"),
        ((0, (6,), (1,)), {"length": 5}, "bytes of its storage"),
        ((0, (6,), (1,)), {"nbytes": 20}, "bytes of its storage"),
    ],
)
def test_descriptions_that_lie(tmp_path: Path, description: Any, more: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        open_pytorch(described(tmp_path / "a.pt", *description, **more))


def test_a_tensor_that_repeats_itself_without_end_is_listed_and_not_read(tmp_path: Path) -> None:
    store = open_pytorch(described(tmp_path / "a.pt", 0, (1 << 40,), (0,)))
    with pytest.raises(UnsupportedError, match="over and over"):
        next(iter(store.blocks("w")))


def test_values_that_hold_themselves_end(tmp_path: Path) -> None:
    itself: list[Any] = []
    itself.append(itself)
    laughs: Any = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    store = open_pytorch(saved(tmp_path / "model.pt", {"itself": itself, "laughs": laughs}))
    assert not store.specs


def test_a_dict_that_stands_in_two_places_is_in_both(tmp_path: Path) -> None:
    weights = {"w": Tensor(Storage("0", 6), 0, (2, 3), (3, 1))}
    data = {"0": struct.pack("<6f", *range(6))}
    path = write_archive(tmp_path / "a.pt", {"model": weights, "ema": weights}, data)
    assert [*open_pytorch(path).specs] == ["model.w", "ema.w"]
    assert ckptkit.load(path)["ema.w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    laughs: Any = weights
    for _ in range(60):
        laughs = [laughs, laughs]
    with pytest.raises(FormatError, match="names without end"):
        open_pytorch(write_archive(tmp_path / "b.pt", laughs, data))


@pytest.mark.parametrize("protocol", range(6))
def test_the_machine_builds_what_python_does(protocol: int) -> None:
    value: dict[str, Any] = {
        "a": [1, -1, 255, 1 << 20, -(1 << 40), 1 << 100, 0.5, True, False, None],
        "b": ("text", "t\u00e9xt \U0001f600", b"bytes", (), (1,), (1, 2, 3)),
        "same": {1: "one", "x": {}},
    }
    found = read_pickle(pickle.dumps(value, protocol=protocol), "here")
    texts = found.value.pop("b")
    assert found.value == {key: value[key] for key in ("a", "same")}
    assert texts[:2] == value["b"][:2]
    named = read_pickle(pickle.dumps(OrderedDict(x=1), protocol=protocol), "here")
    assert isinstance(named.value, PickledCall)
    assert Global("collections", "OrderedDict") in named.globals


def _mutants(data: bytes, count: int) -> list[bytes]:
    draw = random.Random(7)
    found = []
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            way = draw.randrange(3)
            at = draw.randrange(len(mutant))
            if way == 0:
                mutant[at] = draw.randrange(256)
            elif way == 1:
                del mutant[at : at + draw.randint(1, 8)]
            else:
                mutant[at:at] = draw.randbytes(draw.randint(1, 8))
        found.append(bytes(mutant))
    return found


@pytest.mark.parametrize("make", [lambda data: _mutants(data, 400)], ids=["mutants"])
def test_damaged_pickles_are_read_or_refused(
    tmp_path: Path, make: Callable[[bytes], list[bytes]]
) -> None:
    with zipfile.ZipFile(NEWEST / "training.pth") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in members if name.endswith("data.pkl")]
    for number, mutant in enumerate(make(members[name])):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in members.items():
                archive.writestr(other, mutant if other == name else content)
        try:
            store = open_pytorch(path)
            for key in store.specs:
                store.read(key)
        except CkptkitError:
            pass
        path.unlink()


ARRAYS: dict[str, Any] = {
    "float32": np.arange(6, dtype="float32").reshape(2, 3) / 7,
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "big": np.arange(6, dtype=">i4").reshape(3, 2) * 70_000,
    "complex": (np.arange(4) + 2j).astype(">c16"),
    "bool": np.array([True, False, True]),
    "half": np.array([1.5, -2.0], "float16"),
    "empty": np.empty((0, 3), "float64"),
    "rank 0": np.array(2.5),
    "scalar": np.float64(0.25),
    "step": np.int64(7),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_numpy_are_listed_with_their_values(tmp_path: Path, protocol: int) -> None:
    store = open_pytorch(saved(tmp_path / "a.pt", {"net": ARRAYS, "n": 1}, protocol))
    assert store.notes == ()
    assert store.specs.keys() == {f"net.{name}" for name in ARRAYS}
    for name, array in ARRAYS.items():
        spec, values = store.specs[f"net.{name}"], store.read(f"net.{name}")
        expected = np.asarray(array).astype(array.dtype.newbyteorder("="))
        assert (spec.dtype, spec.shape) == (expected.dtype.name, array.shape)
        assert values.dtype == expected.dtype
        assert values.tobytes() == expected.tobytes()
        blocks = [part for _, part in store.blocks(f"net.{name}", 4)]
        assert b"".join(part.tobytes() for part in blocks) == expected.tobytes()
        assert store.read(f"net.{name}", 1, 3).tobytes() == values[1:3].tobytes()


def test_arrays_beside_tensors_are_no_weights_and_leave_names_as_they_are(tmp_path: Path) -> None:
    tensors = {"w": Tensor(Storage("0", 6), 0, (2, 3), (3, 1))}
    value = {
        "model": {**tensors, "mask": np.ones(3, "float32")},
        "rng": ("MT19937", np.arange(9, dtype="uint32"), 3),
        "best": np.float64(0.5),
        "epoch": np.int64(3),
    }
    ck = ckptkit.open(write_archive(tmp_path / "a.pt", value, {"0": bytes(24)}))
    found = {naming.name: naming.role for naming in ck.names.values()}
    assert found == {
        "w": "weight",
        "mask": "weight",
        "rng.1": "config",
        "best": "config",
        "epoch": "counter",
    }
    assert ck["best"] == 0.5 and list(ck["rng.1"]) == list(range(9))


@pytest.mark.parametrize("protocol", [2, 5])
def test_what_holds_values_and_is_no_tensor_is_named(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "masked": np.ma.array([1.0], mask=[True]),
        "objects": np.array([None, 3]),
        "text": np.array(["a", "bc"]),
        "date": np.datetime64("2026-01-01"),
    }
    notes = open_pytorch(saved(tmp_path / "a.pt", {**arrays, "n": 1}, protocol)).notes
    said = "arrays of numpy that are not plain numbers are not listed"
    assert notes == (f"{said}: masked, objects, text and 1 more",)
    storage = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
    assert list_tensors(storage, "a").notes == ("bare storages are not listed: all that was saved",)
    meta = PickledCall(Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (None, (3,)))
    assert list_tensors({"m": meta}, "a").notes == ("meta tensors are not listed: m",)


def test_arrays_that_lie_about_themselves_are_not_listed(tmp_path: Path) -> None:
    dtype = PickledCall(Global("numpy", "dtype"), ("f4", False, True))
    dtype.state = (3, "<", None, None, None, -1, -1, 0)
    for shape, data in (((3,), bytes(8)), ((-1,), bytes(8)), ((2.0,), bytes(8)), ((2,), [1, 2])):
        array = PickledCall(Global("numpy.core.multiarray", "_reconstruct"), ())
        array.args = (Global("numpy", "ndarray"), (0,), b"b")
        array.state = (1, shape, dtype, False, data)
        found = list_tensors({"a": array}, "a")
        assert not found.arrays and len(found.notes) == 1


def test_names_of_an_ordered_dict_that_python_2_pickled() -> None:
    storage = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
    tensor = PickledCall(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,)))
    mapping = PickledCall(Global("collections", "OrderedDict"), ([["lin0.weight", tensor]],))
    assert list(list_tensors(mapping, "a").tensors) == ["lin0.weight"]
    later = PickledCall(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 1, (2,), (1,)))
    mapping.items = [("lin0.weight", later)]
    assert [t.offset for t in list_tensors(mapping, "a").tensors.values()] == [1]


def test_a_mapping_of_any_class_keeps_its_names() -> None:
    storage = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
    tensor = PickledCall(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,)))
    mapping = PickledCall(Global("transformers.utils", "ModelOutput"), ())
    mapping.items = [("first", tensor), ("other", {"w": tensor})]
    assert list(list_tensors({"a": mapping}, "a").tensors) == ["a.first", "a.other.w"]


def _vector() -> PickledCall:
    """Return the call that makes a tensor of two elements, a new one each time."""
    storage = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 2))
    return PickledCall(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, (2,), (1,)))


def test_attributes_of_any_object_are_called_as_python_calls_them() -> None:
    plain = PickledCall(Global("mine", "Point"), ())
    plain.state = {"w": _vector(), "inner": {"b": _vector()}}
    with_slots = PickledCall(Global("mine", "Slots"), ())
    with_slots.state = (None, {"w": _vector()})
    of_its_own = PickledCall(Global("mine", "Other"), (3,))
    of_its_own.state = (_vector(), 5)
    value = {"a": plain, "b": with_slots, "c": of_its_own}
    assert list(list_tensors(value, "a").tensors) == ["a.w", "a.inner.b", "b.w", "c.1.0"]


def test_values_of_a_deque_and_a_set_are_listed() -> None:
    deque = PickledCall(Global("collections", "deque"), ((), 9))
    deque.values = [_vector(), _vector()]
    pairs = PickledCall(Global("builtins", "set"), ([("x", _vector())],))
    found = list_tensors({"deque": deque, "set": pairs}, "a")
    assert list(found.tensors) == ["deque.0", "deque.1", "set.0.0.1"]


def test_a_key_that_is_an_object_stands_for_its_number() -> None:
    """An optimizer that was pickled whole keeps its slots by parameter."""
    weight, bias = _vector(), _vector()
    state = PickledCall(Global("collections", "defaultdict"), (Global("builtins", "dict"),))
    state.items = [(weight, {"momentum": _vector()}), ((bias, 1), {"momentum": _vector()})]
    optimizer = PickledCall(Global("torch.optim.sgd", "SGD"), ())
    optimizer.state = {"state": state, "param_groups": [{"params": [weight, bias]}]}
    keyed = {None: _vector(), (1, "a"): _vector(), b"c": _vector()}
    found = list_tensors({"o": optimizer, "k": keyed}, "a")
    assert list(found.tensors) == [
        *("o.state.0.momentum", "o.state.1.momentum"),
        *("o.param_groups.0.params.0", "o.param_groups.0.params.1"),
        *("k.None", "k.(1, 'a')", "k.b'c'"),
    ]
    assert sorted(found.slots) == ["o.state.0.momentum", "o.state.1.momentum"]


def test_parameters_without_values_are_named() -> None:
    meta = PickledCall(Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (None, (3,)))
    parameter = PickledCall(Global("torch._utils", "_rebuild_parameter"), (meta, True))
    lazy = PickledCall(Global("torch.nn.parameter", "UninitializedParameter"), (True,))
    assert list_tensors({"p": parameter, "lazy": lazy}, "a").notes == (
        "meta tensors are not listed: p",
        "parameters that have no shape yet are not listed: lazy",
    )


def test_tensors_that_modules_hold_as_plain_attributes_are_no_weights() -> None:
    """Those under a listed name as well, such as an LSTM's, are not; nor does a circle matter."""
    weight, stride = _vector(), _vector()
    inner = PickledCall(Global("models", "Layer"), ())
    inner.state = {"_parameters": {}, "_buffers": {}, "_modules": {}, "scale": {"a": [_vector()]}}
    hidden = PickledCall(Global("models", "Layer"), ())
    hidden.state = {"_parameters": {"w": _vector()}, "_buffers": {}, "_modules": {}}
    module = PickledCall(Global("models", "Net"), ())
    module.state = {
        "training": True,
        "_parameters": {"w": weight},
        "_buffers": {},
        "_modules": {"0": inner},
        "_flat_weights": [weight],
        "layers": [inner, hidden],
        "stride": stride,
        "again": stride,
        "circle": [module],
    }
    found = list_tensors(module, "a")
    assert list(found.tensors) == ["w", "layers.1.w", "stride", "0.scale.a.0"]
    assert found.beside == set(found.tensors) - {"w"}
    assert found.notes == (
        "tensors that modules hold as plain attributes, which are in no state_dict(), "
        "are no weights: layers.1.w, stride, 0.scale.a.0",
    )


def test_a_tensor_of_an_unknown_dtype_is_listed_by_the_bits_that_its_name_tells(
    tmp_path: Path,
) -> None:
    half = TensorOfBytes(Storage("0", 12, ""), (3,), (1,), "complex32")
    values = {"half": half, "w": Tensor(Storage("1", 2), 0, (2,), (1,))}
    data = {"0": bytes(range(12)), "1": np.array([1, 2], "float32").tobytes()}
    path = write_archive(tmp_path / "a.pt", values, data)
    opened = ckptkit.open(path)
    spec = opened.specs["half"]
    assert (spec.dtype, spec.shape, spec.nbytes) == ("complex32", (3,), 12)
    assert opened["w"].tolist() == [1.0, 2.0]
    store = open_pytorch(path)
    assert b"".join(block.tobytes() for _, block in store.blocks("half")) == bytes(range(12))
    with pytest.raises(UnsupportedError, match="complex32"):
        store.read("half")
    for dtype, nbytes in (("complex32", 8), ("bits2x4", 2), ("float4_e2m1fn_x2", 2), ("int3", 2)):
        part = TensorOfBytes(Storage("0", 12, ""), (2,), (1,), dtype)
        path = write_archive(tmp_path / "b.pt", {"part": part}, data)
        assert open_pytorch(path).specs["part"].nbytes == nbytes


def test_forms_that_are_not_read_say_how_to_write_one_that_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt2", "w") as archive:
        archive.writestr("program/archive_format", "pt2")
        archive.writestr("program/models/model.json", "{}")
    assert "a program of torch.export" in refused("ls", tmp_path / "program.pt2")
    shard = write_pytorch(tmp_path / "__0_0.distcp", {"w": np.ones(2, "float32")})
    shard.write_bytes(2 * shard.read_bytes())  # several archives, one behind the other
    (tmp_path / ".metadata").write_bytes(pickle.dumps({}))
    for path in (tmp_path, shard):
        said = refused("ls", path)
        assert "a distributed checkpoint of PyTorch" in said and f"dcp_to_torch {tmp_path}" in said
    assert "a distributed checkpoint of PyTorch" in run("scan", shard).out


def test_weights_whose_names_extend_others_are_weights(tmp_path: Path) -> None:
    names = [f"{kind}_{of}_l0" for kind in ("weight", "bias") for of in ("ih", "hh")]
    shapes = {name: (8, 2) if "weight" in name else (8,) for name in names}
    arrays = {
        f"lstm.{name}{end}": np.ones(shape, "float32")
        for name, shape in shapes.items()
        for end in ("", "_reverse")
    }
    opened = ckptkit.open(write_pytorch(tmp_path / "lstm.pt", arrays))
    assert {naming.role for naming in opened.names.values()} == {"weight"}


def test_a_view_of_an_unknown_dtype_has_its_own_bytes(tmp_path: Path) -> None:
    tensors = {
        "part": TensorOfBytes(Storage("0", 12, ""), (2,), (1,), "complex32", offset=1),
        "every_second": TensorOfBytes(Storage("0", 12, ""), (2,), (2,), "complex32"),
    }
    store = open_pytorch(write_archive(tmp_path / "a.pt", tensors, {"0": bytes(range(12))}))
    found = {key: list(store.blocks(key)) for key in tensors}
    assert [(start, bytes(data)) for start, data in found["part"]] == [(0, bytes(range(4, 12)))]
    whole = b"".join(bytes(data) for _, data in found["every_second"])
    assert whole == bytes([*range(4), *range(8, 12)])
    pieces = [(start, bytes(data)) for start, data in store.blocks("every_second", 1)]
    assert pieces == [(0, bytes(range(4))), (4, bytes(range(8, 12)))]


def test_a_tensor_that_is_a_key_is_named() -> None:
    key = _vector()
    assert list_tensors({"map": {key: 1}}, "a").notes == (
        "tensors that are keys of a dict are not listed: map",
    )
    assert list_tensors({"map": {key: 1}, "group": [key]}, "a").notes == ()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("net/.data/extern_modules net/net/model.pkl net/.data/serialization_id", "torch.package"),
        ("net/version net/.data/serialization_id", "saving it was not finished"),
        ("net/archive_format net/.data/serialization_id", "torch.export"),
    ],
)
def test_archives_of_torch_that_are_no_tensors_are_named(
    tmp_path: Path, members: str, said: str
) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        for name in members.split():
            archive.writestr(name, b"1")
    assert said in refused("ls", tmp_path / "net.pt")


@pytest.mark.parametrize(
    "how",
    [
        None,
        (1, 0.5),
        (Global("torch", "per_tensor_affine"), 10**400, 1),
        (Global("torch", "per_tensor_affine"), 0.5, 10**400),
        (Global("torch", "per_channel_affine"), 0.5, 1, 0),
    ],
)
def test_a_quantised_tensor_without_a_scale_is_refused(how: Any) -> None:
    storage = Persistent(("storage", Global("torch", "QInt8Storage"), "0", "cpu", 3))
    args: tuple[Any, ...] = (storage, 0, (3,), (1,), how, False, {})
    call = PickledCall(Global("torch._utils", "_rebuild_qtensor"), args)
    with pytest.raises(FormatError, match="without a scale and a zero point"):
        list_tensors({"w": call}, "a")


def sparse_call(indices: tuple[int, ...], values: tuple[int, ...], shape: Any) -> PickledCall:
    """What torch pickles of a sparse tensor, of parts of these shapes."""

    def part(sizes: tuple[int, ...]) -> PickledCall:
        storage = Persistent(("storage", Global("torch", "LongStorage"), "0", "cpu", 100))
        args: tuple[Any, ...] = (storage, 0, sizes, (1,) * len(sizes), False, {})
        return PickledCall(Global("torch._utils", "_rebuild_tensor_v2"), args)

    layout = PickledCall(Global("torch.serialization", "_get_layout"), ("torch.sparse_coo",))
    parts = (part(indices), part(values), shape, False)
    return PickledCall(Global("torch._utils", "_rebuild_sparse_tensor"), (layout, parts))


@pytest.mark.parametrize(
    ("indices", "values", "shape"),
    [
        ((2, 3), (2,), (3, 4)),
        ((1, 2), (2,), (3, 4)),
        ((3, 2), (2,), (3, 4)),
        ((2, 2), (2, 5), (3, 4, 6)),
        ((2,), (2,), (3, 4)),
        ((), (), ()),
        ((2, 2), (2,), (-3, 4)),
        ((2, 2), (2,), (True, 4)),
        ((2, 2), (2,), None),
    ],
)
def test_parts_that_are_of_no_sparse_tensor(
    indices: tuple[int, ...], values: tuple[int, ...], shape: Any
) -> None:
    with pytest.raises(FormatError, match=r"of a sparse tensor|a sparse tensor of an imposs"):
        list_tensors({"s": sparse_call(indices, values, shape)}, "a")


@pytest.mark.parametrize(
    ("indices", "values", "shape"),
    [
        ((2, 2), (2,), (3, 4)),
        ((2, 0), (0,), (3, 4)),
        ((1, 2), (2, 4), (3, 4)),
        ((0, 1), (1,), ()),
        ((1, 2), (2, 0), (3, 0)),
    ],
)
def test_parts_of_sparse_tensors(
    indices: tuple[int, ...], values: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    found = list_tensors({"s": sparse_call(indices, values, shape)}, "a")
    assert list(found.tensors) == ["s.indices", "s.values"]
    assert found.arrays["s.shape"].values().tolist() == list(shape)
