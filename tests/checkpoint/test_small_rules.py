"""Small rules of names and roles, each by itself: files seldom show their edges."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.checkpoint.checkpoint import shard_problems
from ckptkit.checkpoint.keras_names import name_keras
from ckptkit.checkpoint.name_patterns import glob_matcher, shortened_matcher
from ckptkit.checkpoint.object_state import ObjectVariable, infer_object_roles
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.stores.base import KerasStructure, KerasVariable, Slice, TensorSpec
from ckptkit.stores.npz.npy import decode_descr
from support.goldens import GOLDEN
from support.weights import write_bundle

# --- patterns, selections -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("net/…/kernel", "net/a/b/kernel", "net//kernel"),
        ("net/.../kernel", "deep/net/a/kernel", "subnet/a/kernel"),
        ("de…se/bias", "dense/bias", "dese/bias"),
        ("a…", "a.b", "a"),
        ("….b", "a/x.b", "axb"),
    ],
)
def test_a_shortened_name_stands_for_what_it_was_made_of(
    name: str, fits: str, does_not: str
) -> None:
    matches = shortened_matcher(name)
    assert matches is not None and matches(fits) and not matches(does_not)


def test_a_whole_name_was_not_shortened() -> None:
    assert shortened_matcher("net/kernel") is shortened_matcher("a..b") is None


def test_a_glob_fits_the_whole_or_an_ending() -> None:
    fits = glob_matcher("conv*")
    assert fits("conv1/kernel") and fits("net/conv1") and not fits("my_conv1")


def test_a_plain_string_is_a_list_of_one() -> None:
    chosen = Selection("weight", "net/*", "float32")
    assert (chosen.roles, chosen.names, chosen.dtypes) == (("weight",), ("net/*",), ("float32",))
    assert chosen and not Selection() and Selection(dtypes="int8")


def test_a_subtree_has_its_own_tensors_alone() -> None:
    path = GOLDEN / "tf2.21.0" / "gan" / "ckpt"
    whole, part = ckptkit.open(path), ckptkit.open(f"{path}#generator")
    assert set(part.specs) == set(part.names) < set(whole.specs)
    assert set(whole.specs) == set(whole.store.specs)


# --- files of Keras -------------------------------------------------------------------------------


def keras_names(variables: dict[str, KerasVariable | None]) -> dict[str, str]:
    specs = {key: TensorSpec(key, "float32", (2,), 8) for key in variables}
    structure = KerasStructure({k: v for k, v in variables.items() if v is not None})
    return {key: naming.name for key, naming in name_keras(specs, structure).items()}


def test_what_the_structure_does_not_know_is_called_by_its_key() -> None:
    found = keras_names({"a/vars/0": KerasVariable(("dense",), "kernel"), "b/vars/0": None})
    assert found == {"a/vars/0": "dense/kernel", "b/vars/0": "b/vars/0"}


def test_those_that_want_one_name_take_their_next() -> None:
    same = KerasVariable(("dense",), "kernel", aliases=("first/kernel", "dense/kernel"))
    other = KerasVariable(("dense",), "kernel", aliases=("second/kernel",))
    found = keras_names({"a/vars/0": same, "b/vars/0": other})
    assert found == {"a/vars/0": "first/kernel", "b/vars/0": "second/kernel"}


def test_one_that_has_no_other_name_keeps_it() -> None:
    plain = KerasVariable(("dense",), "kernel")
    other = KerasVariable(("dense",), "kernel", aliases=("second/kernel",))
    found = keras_names({"a/vars/0": plain, "b/vars/0": other})
    assert found == {"a/vars/0": "dense/kernel", "b/vars/0": "second/kernel"}


# --- object graphs --------------------------------------------------------------------------------


def variable(path: str, dtype: str, shape: tuple[int, ...] = ()) -> ObjectVariable:
    return ObjectVariable(1, path, "", TensorSpec(path, dtype, shape, 8))


@pytest.mark.parametrize(
    ("path", "dtype", "has_keras", "role"),
    [
        ("steps", "int64", False, "counter"),
        ("net/steps", "int64", False, "counter"),
        ("net/steps", "int64", True, None),
        ("steps", "int64", True, "counter"),
        ("flag", "bool", False, "config"),
        ("net/flag", "bool", True, None),
        ("temperature", "float32", False, None),
        ("learning_rate", "float32", False, "config"),
        ("net/learning_rate", "float32", True, "config"),
        ("words", "string", False, "table"),
    ],
)
def test_scalars_go_by_dtype_name_and_who_made_the_graph(
    path: str, dtype: str, has_keras: bool, role: str | None
) -> None:
    found = infer_object_roles([variable(path, dtype)], has_keras=has_keras)
    assert {at: r.role for at, r in found.items()} == ({1: role} if role else {})
    words = infer_object_roles([variable(path, dtype, (3,))], has_keras=has_keras)
    assert {r.role for r in words.values()} == ({"table"} if dtype == "string" else set())


# --- numpy's headers ------------------------------------------------------------------------------


def test_more_axes_than_a_tensor_can_have_are_refused(tmp_path: Path) -> None:
    shape = "".join("1, " for _ in range(255))
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"
    header = text.ljust(64 * (len(text) // 64 + 1) + 64 - 11).encode() + b"\n"
    path = tmp_path / "a.npz"
    np.savez(path, w=np.zeros(1, "f4"))
    with zipfile.ZipFile(path, "w") as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        archive.writestr("w.npy", start + header + bytes(4))
    with pytest.raises(FormatError, match="axes of the array"):
        ckptkit.ls(path)


@pytest.mark.parametrize(
    ("descr", "dtype", "width"),
    [
        ("<f4", "float32", 4),
        ("f", "float32", 4),
        ("?", "bool", 1),
        (">i2", "int16", 2),
        ("|O", "object", None),
        ("|S", "string", 0),
        ("|S7", "string", 7),
        ("<U3", "string", 12),
        ("|V5", "void40", 5),
        ("<f16", "float128", 16),
        ("<c24", "complex192", 24),
        ("<M8[ns]", "datetime64[ns]", 8),
        ("<m", "timedelta64", 0),
        ("<M[s]", "datetime64[s]", 0),
    ],
)
def test_descrs_of_numpy(descr: str, dtype: str, width: int | None) -> None:
    name, encoding, nbytes = decode_descr(descr, "here")
    assert (name, nbytes) == (dtype, width)
    assert encoding.byteorder == ("big" if descr[0] == ">" else "little")


@pytest.mark.parametrize("descr", ["<f3", "f12345", "<i3", "x", "<M4[s]", "l", "<f10", ""])
def test_descrs_that_numpy_does_not_have_are_refused(descr: str) -> None:
    with pytest.raises(FormatError, match=r"^here: unknown numpy dtype"):
        decode_descr(descr, "here")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x93NUMPY\x01\x00", "not an npy file"),
        (b"\x93NUMPY\x01\x00\x00", "not an npy file"),
        (b"\x93NUMPX\x01\x00\x00\x00", "not an npy file"),
        (b"\x93NUMPY\x01\x00\x00\x00", "npy header is no dict"),
        (b"\x93NUMPY\x01\x00\x05\x00", "npy header is cut short"),
        (b"\x93NUMPY\x02\x00\x05\x00", "npy header is cut short"),
        (b"\x93NUMPY\x04\x00\x05\x00", "npy version"),
    ],
)
def test_members_that_end_within_the_header(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(CkptkitError, match=words):
        ckptkit.ls(path)


# --- data files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claims:
    """As much of a store as says what lies where."""

    specs: dict[str, TensorSpec]
    shards: tuple[Path, ...]
    path: Path = Path("claims")


def problems(shards: tuple[Path, ...], *specs: TensorSpec) -> list[str]:
    store: Any = Claims({spec.key: spec for spec in specs}, shards)
    return [f"{type(each).__name__} {each}" for each in shard_problems(store)]


def lying(key: str, offset: int, nbytes: int, shard: int = 0) -> TensorSpec:
    return TensorSpec(key, "int8", (nbytes,), nbytes, shard, offset)


def test_a_data_file_holds_what_its_tensors_claim(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(10))
    assert problems((data,), lying("a", 0, 4), lying("b", 4, 6)) == []
    assert problems((data,)) == []
    [short] = problems((data,), lying("a", 0, 4), lying("b", 4, 7), lying("c", 8, 1))
    assert short.startswith(f"TruncatedError {data}: cut short: b ends at byte 11")
    [forged] = problems((data,), lying("a", 0, 10), lying("b", 9, 1))
    assert forged.startswith(f"FormatError {data}: its tensors overlap")
    assert "they claim 11 of its 10 bytes" in forged


def test_slices_lie_in_data_files_of_their_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(bytes(4))
    two.write_bytes(bytes(4))
    parts = Slice((0,), (4,), 0, 0, 4, None), Slice((4,), (4,), 1, 1, 4, None)
    whole = TensorSpec("w", "int8", (8,), 8, slices=parts)
    [short] = problems((one, two), whole)
    assert f"{two}: cut short: w ends at byte 5" in short
    [gone] = problems((one, tmp_path / "gone"), whole)
    assert gone.startswith("PathNotFoundError") and "this data file is missing" in gone


# --- names that are near --------------------------------------------------------------------------


@pytest.mark.parametrize(("others", "is_found"), [(1999, True), (2000, False)])
def test_a_miss_is_compared_with_2000_names(tmp_path: Path, others: int, *, is_found: bool) -> None:
    """Of more names, with those that share a word with it first."""
    names = [*(f"{at:04}" for at in range(others)), "kernel"]
    path = write_bundle(tmp_path / "ckpt", dict.fromkeys(names, np.zeros(1, np.uint8)))
    with pytest.raises(KeyError) as caught:
        ckptkit.open(path)["kernal"]
    assert ("kernel" in str(caught.value)) is is_found
