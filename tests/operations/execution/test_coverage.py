"""Restore coverage: each way in which a variable can miss its tensor gets its own name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.execution.coverage import coverage, structure_coverage
from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.runners.marks import is_marked, mark
from support.goldens import golden
from support.weights import write_bundle

RNG = np.random.default_rng(4)
MODEL: dict[str, Any] = {
    "conv/kernel": RNG.normal(size=(3, 4)).astype("f4"),
    "conv/bias": np.zeros(4, "f4"),
    "head/kernel": RNG.normal(size=(4, 2)).astype("f4"),
    "head/bias": np.ones(2, "f4"),
}
SLOTS = {f"{name}@m": array * 2 for name, array in MODEL.items()}


def marked(arrays: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {
        name: mark(array.dtype.name, array.shape) if name in names else array
        for name, array in arrays.items()
    }


def cover(
    tmp_path: Path, file: Mapping[str, Any], model: Mapping[str, Any], **more: Any
) -> RestoreCoverage:
    one, two = (tmp_path / name for name in ("file", "restored"))
    write_bundle(one, file)
    write_bundle(two, model)
    return coverage(ckptkit.open(one), ckptkit.open(two), is_marked, **more)


def statuses(found: RestoreCoverage) -> dict[str, str]:
    return {item.name: item.status for item in found.variables if item.status != "restored"}


def test_a_whole_restore(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL | SLOTS, MODEL | SLOTS)
    assert found.ok and not found.findings
    assert found.counts == {"restored": 8}
    assert found.verdict == "8 of 8 variables with the file's bytes"


def test_a_variable_that_kept_its_mark(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL, marked(MODEL, "head/kernel", "head/bias"))
    assert not found.ok
    assert statuses(found) == {"head/kernel": "not restored", "head/bias": "not restored"}
    [finding] = found.findings
    assert (finding.severity, finding.code) == ("error", "restore.not_restored")
    assert "2 variables in the file and not restored: head: bias, kernel" in finding.message
    assert {item.name for item in found.unrestored} == {"head/kernel", "head/bias"}


def test_a_missing_layer_is_one_finding(tmp_path: Path) -> None:
    file = {name: array for name, array in MODEL.items() if "head" not in name}
    found = cover(tmp_path, file, marked(MODEL, "head/kernel", "head/bias"))
    [finding] = found.findings
    assert finding.code == "restore.missing"
    assert "head: bias, kernel" in finding.message


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda a: a[:, :1], "shape", "kernel [4,2], in the file [4,1]"),
        (lambda a: a.astype("f8"), "dtype", "kernel float32, in the file float64"),
        (lambda a: a + np.float32(1e-3), "values", "8 of 8 elements differ"),
        (
            lambda a: np.where(a == a, a, a) * (1 + 2**-23 * (np.arange(8) == 3).reshape(4, 2)),
            "values",
            "1 of 8 elements differ",
        ),
    ],
)
def test_a_tensor_that_does_not_fit(change: Any, status: str, words: str, tmp_path: Path) -> None:
    file = dict(MODEL)
    file["head/kernel"] = np.asarray(change(MODEL["head/kernel"]))
    if status == "values":
        file["head/kernel"] = file["head/kernel"].astype("f4")
    model = MODEL if status == "values" else marked(MODEL, "head/kernel")
    found = cover(tmp_path, file, model)
    assert statuses(found) == {"head/kernel": status}
    assert words in found.findings[0].message
    assert not found.ok


def test_a_variable_with_another_tensors_bytes(tmp_path: Path) -> None:
    file = MODEL | {"other/kernel": MODEL["head/kernel"] * 3}
    model = MODEL | {"head/kernel": file["other/kernel"], "other/kernel": file["head/kernel"]}
    found = cover(tmp_path, file, model)
    assert statuses(found) == {"head/kernel": "values", "other/kernel": "values"}
    assert any("it holds other/kernel of the file" in f.message for f in found.findings)


def test_what_a_stopped_restore_did_not_reach_is_not_blamed(tmp_path: Path) -> None:
    file = dict(MODEL) | {"conv/kernel": np.zeros((5, 4), "f4")}
    error = "ValueError: Received incompatible tensor with shape (5, 4)"
    found = cover(tmp_path, file, marked(MODEL, *MODEL), error=error)
    assert statuses(found)["conv/kernel"] == "shape"
    assert statuses(found)["head/kernel"] == "not reached"
    assert [f.code for f in found.findings] == ["restore.shape", "restore.not_reached"]


def test_an_error_that_no_misfit_explains_is_told(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL, marked(MODEL, *MODEL), error="OpError: out of range")
    assert ("restore.raised", "OpError: out of range") in [
        (f.code, f.message) for f in found.findings
    ]


def test_no_optimizer_state_at_all_is_a_note(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL, MODEL | marked(SLOTS, *SLOTS))
    assert found.ok
    [note] = found.findings
    assert note.severity == "note"
    assert "training would start afresh" in note.message
    assert found.verdict == "4 of 8 variables with the file's bytes, 4 of training left as built"


@pytest.mark.parametrize(
    ("file", "model", "status"),
    [
        (np.array([7], "i8"), np.array([7], "i4"), "restored"),
        (np.array([1, 2**31], "i8"), np.array([1, 2**31], "u4"), "restored"),
        (np.array([7], "i4"), np.array([7], "i8"), "restored"),
        (np.array([7], "i8"), np.array([8], "i4"), "dtype"),
        (np.array([2**32 + 7], "i8"), np.array([7], "i4"), "dtype"),
        (np.array([-1], "i8"), np.array([2**64 - 1], "u8"), "dtype"),
        (np.array([7], "i8"), np.array([7], "f4"), "dtype"),
        (np.array([1], "i8"), np.array([1], "?"), "dtype"),
    ],
)
def test_integers_of_another_dtype_are_restored_where_their_numbers_are(
    file: Any, model: Any, status: str, tmp_path: Path
) -> None:
    found = cover(tmp_path, MODEL | {"seed": file}, MODEL | {"seed": model})
    assert statuses(found).get("seed", "restored") == status
    assert found.ok is (status == "restored")


@pytest.mark.parametrize(("steps", "severity"), [(0, "note"), (3, "error")])
def test_an_optimizer_that_made_no_step_has_no_slots(
    steps: int, severity: str, tmp_path: Path
) -> None:
    begun = {"iterations": np.int64(steps).reshape(()), "learning_rate": np.float32(1).reshape(())}
    found = cover(tmp_path, MODEL | begun, MODEL | begun | marked(SLOTS, *SLOTS))
    assert found.ok is (steps == 0)
    assert [finding.severity for finding in found.findings] == [severity]
    assert set(statuses(found)) == set(SLOTS)


@pytest.mark.parametrize("steps", [0, 1])
def test_an_optimizer_that_made_no_step_need_not_be_loaded(steps: int, tmp_path: Path) -> None:
    begun = {"iterations": np.array(steps, "i8"), "learning_rate": np.array(1, "f4")}
    found = cover(tmp_path, MODEL | begun, MODEL | marked(begun | SLOTS, *begun, *SLOTS))
    assert found.ok is (steps == 0)
    if found.ok:
        assert {finding.severity for finding in found.findings} == {"note"}
        assert "made no step" in found.findings[0].message


def test_half_of_the_slots_before_the_first_step_is_a_finding(tmp_path: Path) -> None:
    begun = {"iterations": np.int64(0).reshape(())}
    some = {name: array for name, array in SLOTS.items() if "conv" in name}
    gone = [name for name in SLOTS if "head" in name]
    found = cover(tmp_path, MODEL | begun | some, MODEL | begun | marked(SLOTS, *gone))
    assert not found.ok and set(statuses(found)) == set(gone)


def test_half_of_the_optimizer_state_is_a_finding(tmp_path: Path) -> None:
    some = {name: array for name, array in SLOTS.items() if "conv" in name}
    gone = [name for name in SLOTS if "head" in name]
    found = cover(tmp_path, MODEL | some, MODEL | marked(SLOTS, *gone))
    assert not found.ok
    assert set(statuses(found)) == set(gone)


def test_unused_slots_are_a_note_without_an_optimizer(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL | SLOTS, MODEL)
    assert found.ok
    assert [f.severity for f in found.findings] == ["note"]
    assert found.verdict.endswith("4 tensors of training unused")


def test_an_unused_weight_is_a_finding(tmp_path: Path) -> None:
    found = cover(tmp_path, MODEL | {"old_head/kernel": np.full((2, 2), 7, "f4")}, MODEL)
    assert not found.ok
    [finding] = found.findings
    assert finding.code == "restore.unused" and "old_head: kernel" in finding.message


@pytest.mark.parametrize(
    ("places", "severity"), [((), "error"), (("",), "error"), (("generator",), "note")]
)
def test_what_belongs_to_another_object_is_a_note(places: Any, severity: str) -> None:
    """A checkpoint of two models, one of which the code makes."""
    path = golden("tf2.21.0/gan/ckpt").path
    one = ckptkit.open(f"{path}#generator")
    found = coverage(ckptkit.open(path), one, is_marked, places=places)
    unused = {v.severity for v in found.variables if v.name.startswith("discriminator/")}
    assert unused == {severity}


def test_many_layers_are_named_in_short(tmp_path: Path) -> None:
    model = {f"layer{i:02}/kernel": np.full((2, 2), i, "f4") for i in range(40)}
    found = cover(tmp_path, {"layer00/kernel": model["layer00/kernel"]}, marked(model, *model))
    [finding] = [f for f in found.findings if f.code == "restore.missing"]
    assert "39 variables" in finding.message and "and 33 more layers" in finding.message
    assert len(found.to_json()["variables"]) == 40


def test_a_file_in_the_structure_of_another(tmp_path: Path) -> None:
    slots = {name: array for name, array in SLOTS.items() if name != "head/bias@m"}
    write_bundle(tmp_path / "file", {k: v for k, v in MODEL.items() if k != "head/bias"} | slots)
    write_bundle(tmp_path / "like", MODEL)
    found = structure_coverage(ckptkit.open(tmp_path / "file"), ckptkit.open(tmp_path / "like"))
    assert statuses(found) == {"head/bias": "missing", **dict.fromkeys(slots, "unused")}
    assert not found.compared
    assert [f.severity for f in found.findings] == ["error", "note"]


def test_no_variables_are_no_success(tmp_path: Path) -> None:
    assert not cover(tmp_path, {}, {}).ok


@pytest.mark.parametrize("left", ["conv/bias", "head/kernel"])
def test_variables_of_equal_values_are_not_one_stored_twice(tmp_path: Path, left: str) -> None:
    """A layer that was just made, or a copy as target networks are, has its own place in the file.

    TensorFlow says so too: `assert_consumed` raises.
    """
    found = cover(tmp_path, {**MODEL, f"target/{left}": MODEL[left]}, MODEL)
    assert not found.ok and statuses(found) == {f"target/{left}": "unused"}
    assert found.verdict == "4 of 4 variables with the file's bytes, 1 tensor of the file unused"
