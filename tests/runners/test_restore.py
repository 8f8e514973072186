"""Where a model lies in a file, and what a restore of each kind of file does; TensorFlow judges."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.operations.execution.coverage import coverage
from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.runners.marks import is_marked
from support.command_line import ckptkit as command
from support.places import environment

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of every case of `support.restore_many`."""
    done = subprocess.run(
        [sys.executable, "-m", "support.restore_many", str(tmp_path_factory.mktemp("restored"))],
        env=environment(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def covered(result: dict[str, Any]) -> RestoreCoverage:
    return coverage(
        ckptkit.open(result["file"]),
        ckptkit.open(result["path"]),
        is_marked,
        error=result["error"],
        places=result["root_children"],
        by=result["by"],
        pairs=result["pairs"],
        left_out=result["left_out"],
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("alike", ["fits 2 places", "'online', 'target'", "alike#online"]),
        ("deep, alike", ["fits 2 places", "'agent/online', 'agent/target'"]),
        ("neither", ["alike, and none wholly", "'first', 'second'"]),
        ("alike#nowhere", ["no object 'nowhere'", "online, target"]),
        ("unbuilt", ["not built: head"]),
        ("empty", ["has no variables yet"]),
        ("module from a file of Keras", ["no model of Keras"]),
    ],
)
def test_what_is_open_is_asked(results: dict[str, Any], case: str, words: list[str]) -> None:
    for word in words:
        assert word in results[case]["refused"]


@pytest.mark.parametrize(
    ("case", "places", "total"),
    [
        ("alike#online", ["online"], 4),
        ("alike whole", ["online", "target"], 8),
        ("alike whole, one", ["target"], 4),
        ("shared", ["best"], 4),
        ("other shape", ["generator"], 4),
        ("with its optimizer", ["net"], 14),
        ("beside its optimizer", ["model", "optimizer"], 14),
        ("deep", ["trainer/net"], 4),
        ("deep, named", ["agent/target"], 4),
        ("stack", ["model"], 8),
        ("holder", ["module"], 5),
    ],
)
def test_where_a_model_lies(
    results: dict[str, Any], case: str, places: list[str], total: int
) -> None:
    assert results[case]["root_children"] == places
    found = covered(results[case])
    assert found.ok and found.counts["restored"] == found.total == total
    others = {v.file_name for v in found.variables if v.status == "unused"}
    assert not any(name.startswith(tuple(f"{place}/" for place in places)) for name in others)


def test_variables_of_one_name_go_by_their_object_paths(results: dict[str, Any]) -> None:
    found = covered(results["stack"])
    names = {variable.name for variable in found.variables}
    assert "layers/0/w" in names and "layers/2/b" in names
    assert names == {naming.name for _, naming in ckptkit.ls(results["stack"]["file"]).tensors}


@pytest.mark.parametrize(
    ("case", "by"),
    [
        ("one.weights.h5", "Keras"),
        ("one.weights.json", "Keras"),
        ("one.h5", "Keras"),
        ("one.keras", "Keras"),
        ("one.npz", "ckptkit"),
    ],
)
def test_a_file_of_each_kind_is_restored_wholly(
    results: dict[str, Any], case: str, by: str
) -> None:
    found = covered(results[case])
    assert results[case]["by"] == by
    assert found.ok and found.verdict == "4 of 4 variables with the file's bytes"


def test_factors_that_keras_merged_are_counted_and_a_note(results: dict[str, Any]) -> None:
    found = covered(results["adapted.keras"])
    assert found.ok and found.counts == {"restored": 4, "merged": 2}
    assert found.verdict.startswith("4 of 6 variables with the file's bytes, 2 factors of LoRA")
    assert [finding.code for finding in found.findings] == ["restore.merged"]


def test_what_a_file_of_names_lacks_is_named(results: dict[str, Any]) -> None:
    found = covered(results["less.npz"])
    assert not found.ok and found.counts == {"restored": 3, "missing": 1}
    assert len(results["less.npz"]["unrestored"]) == 1


def test_a_module_is_filled_by_names(results: dict[str, Any]) -> None:
    found = covered(results["module from npz"])
    assert found.counts == {"restored": 2, "missing": 6}


def test_a_whole_h5_file_is_run(results: dict[str, Any]) -> None:
    report = ckptkit.check(results["one.h5"]["file"], against=results["one.keras"]["file"])
    assert report.ok and len(report.rows) == 1


def test_code_in_a_file_is_no_finding(results: dict[str, Any]) -> None:
    holding = Path(results["one.keras"]["file"]).with_name("lambda.keras")
    done = command("check", holding, "--on", "CPU:0", "--on", "CPU:0,threads=1")
    assert done.code == 2 and "which Keras does not run in safe mode" in done.err


def test_tables_beside_a_model_are_a_note(results: dict[str, Any]) -> None:
    found = covered(results["beside its optimizer"])
    [note] = found.findings
    assert note.severity == "note" and "'asked' of the file" in note.message


# --- on backends without trackables: the same code, which runs on TensorFlow too ------------------

WITHOUT_TRACKABLES = [
    *("alike", "alike#online", "alike#nowhere", "shared", "other shape", "neither", "deep"),
    *("with its optimizer", "deep, alike", "deep, named", "less.npz"),
    *("one.weights.h5", "one.weights.json", "one.h5", "one.keras", "one.npz"),
]


@pytest.mark.parametrize("case", WITHOUT_TRACKABLES)
def test_without_trackables_a_restore_is_the_same(results: dict[str, Any], case: str) -> None:
    one, other = results[case], results[f"keras: {case}"]
    if "refused" in one:
        assert _same_names(one["refused"]) == _same_names(other["refused"])
        return
    assert one["root_children"] == other["root_children"]
    first, second = covered(one), covered(other)
    assert first.counts == second.counts and first.ok == second.ok
    names = [{_same_names(v.name) for v in found.variables} for found in (first, second)]
    assert names[0] == names[1]


def _same_names(text: str) -> str:
    """Return a text without the numbers that models made later get."""
    return re.sub(r"sequential_\d+", "sequential", text)


def test_several_models_by_name_are_covered_whole(results: dict[str, Any]) -> None:
    found = covered(results["keras: both"])
    assert found.ok and found.counts == {"restored": 8}


def test_objects_written_without_tensorflow_have_the_names_of_tensorflow(
    results: dict[str, Any],
) -> None:
    paths = results["own"]
    own, others = ckptkit.open(paths["own"]), ckptkit.open(paths["of tensorflow"])
    told = {
        naming.name: naming.role
        for naming in others.names.values()
        if any(path.startswith("net/") for path in naming.aliases)
    }
    assert len(told) == 14
    assert told.items() <= {n.name: n.role for n in own.names.values()}.items()
    for name in told:
        assert own[name].tobytes() == others[name].tobytes()
