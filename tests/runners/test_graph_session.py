"""Graphs of TensorFlow 1, and what TensorFlow 2 does not load: they run in a session, as served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.golden.golden import read_golden
from ckptkit.runners.errors import RunnerError
from support.scripts import run_script

pytestmark = pytest.mark.needs_tf

KINDS = (
    *("counter", "defaults", "example", "frozen", "function", "hub", "inner", "legacy", "loop"),
    *("ragged", "reference", "refused", "resource", "sparse", "strings", "table"),
)
DEVICES = ("CPU:0", "CPU:1,threads=1")
COMPILED = ("function", "hub", "inner", "ragged", "reference", "refused", "resource")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of exports, and `results.json`: how each ran."""
    folder = tmp_path_factory.mktemp("exports")
    run_script("-m", "support.run_v1_exports", folder, folder / "results.json", "make")
    return folder


@pytest.fixture(scope="module")
def results(exports: Path) -> Mapping[str, Any]:
    """Return what became of each export on each runner, as `KIND RUNNER`."""
    found: Mapping[str, Any] = json.loads((exports / "results.json").read_text())
    return found


@pytest.mark.parametrize("on", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_a_session_computes(
    results: Mapping[str, Any], kind: str, on: str
) -> None:
    found = results[f"{kind} {on}"]
    assert found["in_session"]
    assert found["outputs"] == found["wanted"]
    assert set(found["apart"].values()) == {0.0}
    device = on.partition(",")[0]
    assert list(found["devices"]) == [device], "devices of the file are not those of this machine"


@pytest.mark.parametrize("kind", KINDS)
def test_xla_compiles_it_or_is_said_not_to(results: Mapping[str, Any], kind: str) -> None:
    found = results[f"{kind} xla:CPU:0"]
    if kind in COMPILED:
        assert found["outputs"] == found["wanted"]
        assert max(found["apart"].values()) < 1e-6
        assert found["devices"]["CPU:0"]["ops"] > 0
    else:
        assert found["refused"].startswith("XLA cannot compile the model")


def test_a_queue_that_nobody_fills_is_not_waited_for(results: Mapping[str, Any]) -> None:
    for on in (*DEVICES, "xla:CPU:0"):
        assert "waits for a queue (QueueDequeueV2)" in results[f"queue {on}"]["refused"]


def test_what_initialises_is_no_signature(results: Mapping[str, Any]) -> None:
    for kind in ("table", "frozen", "refused"):
        assert list(results[f"{kind} CPU:0"]["signatures"]) == ["serving_default"]


def test_inputs_go_by_their_parts(results: Mapping[str, Any]) -> None:
    inputs = {
        kind: results[f"{kind} CPU:0"]["signatures"]["serving_default"]["inputs"]
        for kind in ("sparse", "ragged")
    }
    sparse = [(row["name"], row["dtype"], row["shape"]) for row in inputs["sparse"]]
    assert sparse == [
        ("x/indices", "int64", [None, 2]),
        ("x/values", "float32", [None]),
        ("x/dense_shape", "int64", [2]),
    ]
    assert inputs["sparse"][0]["part"]["shape"] == [None, 5]
    assert [row["name"] for row in inputs["ragged"]] == ["x/values", "x/row_splits"]


def test_a_scalar_with_a_default_may_be_left_out(results: Mapping[str, Any]) -> None:
    assert results["defaults CPU:0"]["optional"] == {"serving_default": ["rate"]}
    assert not results["reference CPU:0"]["optional"]


def test_integers_stay_below_the_rows_that_they_index(results: Mapping[str, Any]) -> None:
    assert results["ragged CPU:0"]["int_high"] == 9


def test_record_and_check_of_sparse_inputs(exports: Path, tmp_path: Path) -> None:
    """Parts are given by a file, kept in the golden and given again, on another device too."""
    path, given = exports / "sparse", exports / "sparse.inputs.npz"
    ckptkit.record(path, tmp_path / "golden", inputs=given, noise=False, blind=False)
    golden = read_golden(tmp_path / "golden")
    wanted = np.load(exports / "sparse.outputs.npz")
    [case] = golden.cases
    assert set(case.outputs) == set(wanted.files)
    for name in wanted.files:
        np.testing.assert_array_equal(case.outputs[name], wanted[name])
    report = ckptkit.check(path, golden=tmp_path / "golden", on="CPU:1")
    assert report.ok, report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reference", "resource"])
def test_the_layer_that_differs_is_named(exports: Path, tmp_path: Path, kind: str) -> None:
    """A variable of a copy is changed: outputs differ, and what reads it is blamed."""
    values: dict[str, Any] = dict(ckptkit.load(exports / kind))
    values["w"] = values["w"] * np.float32(1.5)
    np.savez(tmp_path / "weights.npz", **values)
    ckptkit.convert(tmp_path / "weights.npz", tmp_path / "other", like=exports / kind)
    report = ckptkit.check(tmp_path / "other", against=exports / kind, on="CPU:1", localize=True)
    assert not report.ok
    assert report.localization is not None
    assert report.localization.first is not None
    assert [gap.name for gap in report.localization.first.changed] == ["w"]


@pytest.mark.slow
def test_variables_that_no_output_sees_are_found(exports: Path, tmp_path: Path) -> None:
    golden = ckptkit.record(exports / "loop", tmp_path / "golden", noise=False)
    assert golden.options["coverage"]["seen"] == 1
    assert not golden.blind


@pytest.mark.slow
def test_replicas_are_refused(exports: Path) -> None:
    with pytest.raises(RunnerError, match="has no MirroredStrategy"):
        ckptkit.check(exports / "reference", on=["CPU:0", "mirrored:CPUx2"])
