"""Goldens on disk: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import (
    ChecksumError,
    CkptkitError,
    FormatError,
    OutputError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.golden.binding import bind
from ckptkit.golden.golden import (
    MAX_WHOLE,
    Case,
    Golden,
    is_golden,
    read_golden,
    sampled,
    write_golden,
)
from ckptkit.model_io.array_files import as_array, load_arrays, save_arrays
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.model_io.tiers import tier_named
from support.goldens import GOLDEN
from support.values import FIXED_DTYPES, same_bits, values_of

Array = npt.NDArray[Any]
LARGE = np.arange(MAX_WHOLE // 4 + 10, dtype=np.float32)


def golden(**changes: Any) -> Golden:
    """Return a golden with all that one can hold."""
    outputs = {
        "scores": np.array([[0.25, math.nan], [math.inf, -0.0]], np.float32),
        "short": np.ones((2, 1), ml_dtypes.bfloat16),
        "text": np.array([b"a", b"", b"tail\0"], object),
        "large": LARGE,
    }
    made = Golden(
        subject="model",
        kind="saved_model",
        signature="serving_default",
        model_signature=ModelSignature(
            (TensorInfo("x", "float32", (None, 2)),),
            (TensorInfo("scores", "float32", (None, 2)), TensorInfo("text", "string", None)),
        ),
        binding=bind(GOLDEN / "tf2.21.0" / "saved_model_export" / "model"),
        environment={"runtime": "tensorflow", "versions": {"tensorflow": "2.21.0"}, "xla": False},
        runner="CPU:0",
        cases=(
            Case(
                "case0",
                {"x": np.ones((2, 2), np.float32)},
                sampled(outputs, 20),
                {"a/layer": np.ones(3)},
            ),
            Case("case1", {}, {"scores": np.zeros((1, 2), np.float32)}),
        ),
        noise={"scores": {"max_abs": 1e-7, "max_scaled": math.inf, "runs": 3}},
        blind=("hidden/bias",),
        options={"seed": 20, "ranges": {"x": [0, 255]}},
    )
    return replace(made, **changes)


def same(one: Any, other: Any) -> bool:
    """Whether two kept values are the same, bit by bit."""
    if isinstance(one, Sample):
        return (
            isinstance(other, Sample)
            and (one.dtype, one.shape, one.seed, one.norms)
            == (other.dtype, other.shape, other.seed, other.norms)
            and same_bits(one.values, other.values)
        )
    return same_bits(one, other)


def test_it_says_what_it_holds() -> None:
    made = golden()
    lines = str(made).splitlines()
    assert lines[-1] == "model: 2 cases, 4 outputs, bound to 2 variables"
    assert "noise of scores: inf of its rms" in lines
    rows = [(row["case"], row["output"], row["dtype"]) for row in made.records()]
    assert ("case0", "text", "string") in rows and ("case1", "scores", "float32") in rows
    assert json.dumps(made.to_json(), allow_nan=False)
    assert "bound to 2 variables" in made._repr_html_()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = golden()
    write_golden(tmp_path / "g", made)
    found = read_golden(tmp_path / "g")
    assert is_golden(tmp_path / "g")
    assert not is_golden(tmp_path)
    assert replace(found, cases=()) == replace(made, cases=(), binding=found.binding)
    assert found.binding.to_json() == made.binding.to_json()
    for one, other in zip(made.cases, found.cases, strict=True):
        assert one.name == other.name
        for part in ("inputs", "outputs", "layers"):
            left, right = getattr(one, part), getattr(other, part)
            assert set(left) == set(right)
            assert all(same(left[name], right[name]) for name in left)


def test_the_same_golden_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_golden(tmp_path / name, golden())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        *("binding.json", "case0.inputs.npz", "case0.layers.npz", "case0.outputs.npz"),
        *("case1.inputs.npz", "case1.outputs.npz", "manifest.json"),
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one" / "manifest.json").read_text()


def test_plain_numpy_opens_the_arrays(tmp_path: Path) -> None:
    write_golden(tmp_path / "g", golden())
    with np.load(tmp_path / "g" / "case0.outputs.npz", allow_pickle=False) as arrays:
        assert arrays["scores"].shape == (2, 2)
        assert arrays["short"].dtype == np.uint16


def test_large_outputs_are_sampled(tmp_path: Path) -> None:
    write_golden(tmp_path / "g", golden())
    assert sum(path.stat().st_size for path in (tmp_path / "g").iterdir()) < 1 << 20
    kept = read_golden(tmp_path / "g").cases[0].outputs["large"]
    assert isinstance(kept, Sample)
    tolerance = tier_named("T1", "").tolerance
    for new, status in ((LARGE, "equal"), (LARGE * 2, "differs"), (LARGE[1:], "shape")):
        [result] = compare_outputs({"y": kept}, {"y": new}, tolerance)
        assert result.status == status


def test_git_shows_which_variable_changed(tmp_path: Path) -> None:
    write_golden(tmp_path / "g", golden())
    lines = (tmp_path / "g" / "binding.json").read_text().splitlines()
    assert sum('"scores/kernel"' in line for line in lines) == 1
    assert max(map(len, lines)) < 3000


def test_only_a_golden_is_replaced(tmp_path: Path) -> None:
    write_golden(tmp_path / "g", golden())
    with pytest.raises(OutputError, match="already exists"):
        write_golden(tmp_path / "g", golden())
    write_golden(tmp_path / "g", golden(subject="other"), overwrite=True)
    assert read_golden(tmp_path / "g").subject == "other"
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"holds no manifest.json"):
        write_golden(other, golden(), overwrite=True)
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        ((), "at least one"),
        ((Case("a", {}, {"y": LARGE[:2]}),) * 2, "each by a name"),
        ((Case("../a", {}, {"y": LARGE[:2]}),), "the name of a case"),
        ((Case("", {}, {"y": LARGE[:2]}),), "the name of a case"),
        ((Case("a", {}, {}),), "nothing could be compared"),
    ],
)
def test_goldens_that_prove_nothing_are_not_written(
    tmp_path: Path, cases: tuple[Case, ...], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        write_golden(tmp_path / "g", golden(cases=cases))
    assert not (tmp_path / "g").exists()


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def drop_cases(manifest: dict[str, Any]) -> None:
    manifest["cases"] = []


def escape(manifest: dict[str, Any]) -> None:
    manifest["cases"][0]["name"] = "../case0"


def newer(manifest: dict[str, Any]) -> None:
    manifest["schema"] = "ckptkit.golden/2"


def no_runner(manifest: dict[str, Any]) -> None:
    del manifest["runner"]


def other_dtype(manifest: dict[str, Any]) -> None:
    manifest["cases"][0]["outputs"]["arrays"]["scores"]["dtype"] = "float64"


def less(manifest: dict[str, Any]) -> None:
    del manifest["cases"][0]["outputs"]["arrays"]["scores"]


def more(manifest: dict[str, Any]) -> None:
    manifest["cases"][0]["outputs"]["arrays"]["z"] = {"dtype": "bool", "shape": []}


def odd_sample(manifest: dict[str, Any]) -> None:
    manifest["cases"][0]["outputs"]["arrays"]["large"]["sampled"]["shape"] = [3]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (drop_cases, FormatError, "no cases"),
        (escape, FormatError, "the name of a case"),
        (newer, UnsupportedError, "update ckptkit"),
        (no_runner, FormatError, "'runner': expected str, found nothing"),
        (other_dtype, FormatError, r"expected float64 \[2, 2\], found float32 \[2, 2\]"),
        (less, FormatError, "arrays in the file"),
        (more, FormatError, "arrays in the file"),
        (odd_sample, FormatError, "samples of 3 elements"),
    ],
)
def test_manifests_that_are_refused(
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    error: type[CkptkitError],
    said: str,
) -> None:
    write_golden(tmp_path / "g", golden())
    edit(tmp_path / "g" / "manifest.json", change)
    with pytest.raises(error, match=said):
        read_golden(tmp_path / "g")


def test_files_that_are_missing_or_edited(tmp_path: Path) -> None:
    write_golden(tmp_path / "g", golden())
    for name in ("binding.json", "case0.outputs.npz", "case1.inputs.npz"):
        shutil.copytree(tmp_path / "g", tmp_path / name)
        path = tmp_path / name / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ChecksumError, match="it was edited"):
            read_golden(tmp_path / name)
        path.unlink()
        with pytest.raises(PathNotFoundError, match="a file of the golden is missing"):
            read_golden(tmp_path / name)
    with pytest.raises(PathNotFoundError, match="no golden here"):
        read_golden(tmp_path)
    with pytest.raises(PathNotFoundError, match="no such directory"):
        read_golden(tmp_path / "gone")


@settings(max_examples=50)
@given(data=st.data())
def test_no_manifest_is_a_crash(data: st.DataObject, tmp_path_factory: Any) -> None:
    root = tmp_path_factory.getbasetemp() / "tampered"
    if not root.exists():
        write_golden(root, golden())
        shutil.copy(root / "manifest.json", root / "manifest.kept")
    value: Any = json.loads((root / "manifest.kept").read_text())
    node, key = value, data.draw(st.sampled_from(sorted(value)))
    while isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
        node = node[key]
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = data.draw(st.sampled_from(keys))
    node[key] = data.draw(
        st.sampled_from([None, -1, 1.5, "x", [], {}, [1, "a"], {"a": 1}, True, [{}], "NaN"])
    )
    (root / "manifest.json").write_text(json.dumps(value))
    try:
        assert read_golden(root).cases
    except CkptkitError as error:
        assert str(root) in str(error)


# --- arrays ---------------------------------------------------------------------------------------


PLAIN = [dtype for dtype in FIXED_DTYPES if not dtype.startswith("q")]  # numpy has no quantised


@pytest.mark.parametrize("dtype", [*PLAIN, "string"])
def test_arrays_of_every_dtype(dtype: str, tmp_path: Path) -> None:
    arrays = {
        "x".join(map(str, shape)) or "scalar": values_of(dtype, shape, seed)
        for seed, shape in enumerate([(), (0,), (3, 0, 2), (7,), (5, 3)])
    }
    described = save_arrays(tmp_path / "a.npz", arrays)
    found = load_arrays(tmp_path / "a.npz", described)
    assert set(found) == set(arrays)
    assert all(same_bits(found[name], arrays[name]) for name in arrays)


@settings(max_examples=60)
@given(names=st.lists(st.text(max_size=12), unique=True, max_size=5))
def test_any_name_will_do(names: list[str], tmp_path_factory: Any) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return
    path = tmp_path_factory.getbasetemp() / "named.npz"
    arrays = {name: np.full(1, index) for index, name in enumerate(names)}
    described = save_arrays(path, arrays, overwrite=True)
    found = load_arrays(path, json.loads(json.dumps(described)))
    assert {name: int(values[0]) for name, values in found.items()} == {
        name: index for index, name in enumerate(names)
    }


def test_values_are_brought_to_one_form() -> None:
    assert as_array(["a", "é"]).tolist() == [b"a", "é".encode()]
    assert as_array(np.arange(3, dtype=">i4")).dtype == np.dtype("=i4")
    assert as_array(np.ones((2, 3)).T).flags.c_contiguous
    assert as_array(2.5).shape == ()
    for value in ([{}, 1], np.zeros(2, "M8[s]"), np.array([None])):
        with pytest.raises(UsageError):
            as_array(value)
