"""`check`: it passes only what was compared; runs are made up here, and real in the second half."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ckptkit.errors import UsageError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.check.api import check
from ckptkit.operations.check.report import Report
from ckptkit.operations.findings import Finding
from ckptkit.reports.check import github as check_github
from ckptkit.reports.check import lines as check_report
from ckptkit.reports.check import rows as check_rows
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import ModelSpec
from support.command_line import ckptkit, refused
from support.goldens import golden
from support.machine import Arrays, Machine

EXPORT = str(golden("tf2.21.0/saved_model_export/model").path)
MODULE = str(golden("tf2.21.0/module_saved_model/model").path)
LOOKUP = str(golden("tf2.21.0/lookup/model").path)
CHECKPOINT = str(golden("tf2.21.0/adam/ckpt").path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.replacing(monkeypatch)


def failing(kind: str, message: str = "no more") -> Callable[..., Arrays]:
    def compute(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
        if spec.xla:
            raise RunnerError(message, kind=kind)
        return {"output_0": inputs["features"][:, :2]}

    return compute


XLA = ["CPU:0", "xla:CPU:0"]


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


# --- what passes, what fails, what cannot be told -------------------------------------------------


def test_two_runners_that_agree(machine: Machine) -> None:
    report = check(EXPORT, on=XLA)
    assert report.ok and report.exit_code == 0
    assert [row.result.status for row in report.rows] == ["equal"]
    assert report.rows[0].tier == "T2"
    assert [run.runner for run in report.runs] == XLA
    assert report.verdict == "ok: 1 of 1 output as they should be"


def test_one_model_on_one_runner_is_nothing_to_compare(machine: Machine) -> None:
    for on in (["CPU:0"], ["CPU:0", "CPU:0"]):
        with pytest.raises(UsageError, match="nothing to compare"):
            check(EXPORT, on=on)
    assert machine.asked == []
    assert "nothing to compare" in refused("check", EXPORT)


def test_a_difference_fails(machine: Machine) -> None:
    machine.compute = lambda _s, spec, x: {
        "output_0": x["features"][:, :2] * (1.01 if spec.xla else 1)
    }
    report = check(EXPORT, on=XLA)
    assert report.exit_code == 1
    [row] = report.failed
    assert row.result.status == "differs" and (row.result.needed or 0) > 1e-3
    assert "scaled" in check_rows.row_text(row) or "1.01" in check_rows.row_text(row)


def lacking(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
    return {} if spec.xla else {"output_0": inputs["features"]}


def more(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
    return {"output_0": inputs["features"]} | ({"b": inputs["features"]} if spec.xla else {})


def shaped(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
    return {"output_0": inputs["features"][:, : 2 if spec.xla else 3]}


def typed(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
    return {"output_0": inputs["features"].astype("f8" if spec.xla else "f4")}


def undefined(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
    values = inputs["features"].copy()
    values[0, 0] = np.nan if spec.xla else 0
    return {"output_0": values}


def nothing(_subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
    return {"output_0": inputs["features"][:0]}


@pytest.mark.parametrize(
    ("compute", "status"),
    [
        (lacking, "missing"),
        (more, "extra"),
        (shaped, "shape"),
        (typed, "dtype"),
        (undefined, "nonfinite"),
        (nothing, "empty"),
    ],
)
def test_never_a_pass(compute: Any, status: str, machine: Machine) -> None:
    machine.compute = compute
    report = check(EXPORT, on=XLA)
    assert status in [row.result.status for row in report.failed]
    assert report.exit_code == 1


def test_no_outputs_at_all_are_no_pass(machine: Machine) -> None:
    machine.compute = lambda _s, _r, _x: {}
    assert check(EXPORT, on=XLA).exit_code == 2


def test_a_tolerance_that_lets_anything_pass_tells_nothing(machine: Machine) -> None:
    machine.compute = lambda _s, spec, x: {
        "output_0": x["features"] * 1e-13 + (1e-13 if spec.xla else 0)
    }
    report = check(EXPORT, on=XLA, atol=1e-5)
    assert [row.result.status for row in report.meaningless] == ["meaningless"]
    assert report.exit_code == 2 and "too small to tell" in report.verdict


@pytest.mark.parametrize(("tolerance", "code"), [("auto", 0), ("strict", 1)])
def test_strict_means_every_bit(tolerance: str, code: int, machine: Machine) -> None:
    machine.compute = lambda _s, spec, x: {
        "output_0": np.nextafter(x["features"], np.float32(9)) if spec.xla else x["features"]
    }
    report = check(EXPORT, on=XLA, tolerance=tolerance)
    assert report.exit_code == code
    assert report.rows[0].tier == ("T0" if code else "T2")


def test_a_file_of_tolerances(machine: Machine, tmp_path: Path) -> None:
    machine.compute = lambda _s, spec, x: {
        "output_0": x["features"] * (1.01 if spec.xla else 1),
        "b": x["features"],
    }
    rules = tmp_path / "tolerances"
    rules.write_text("output_* rtol=0.02\n")
    report = check(EXPORT, on=XLA, tolerance=rules)
    first = report.rows[0].result
    assert (first.status, first.tolerance.reason) == (
        "within",
        "output_*",
    )
    assert report.ok
    rules.write_text("output_* rtol=x\n")
    with pytest.raises(UsageError, match="line 1"):
        check(EXPORT, on=XLA, tolerance=rules)


# --- children -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("died", "run.died"),
        ("timeout", "run.timeout"),
        ("memory", "run.memory"),
        ("InvalidArgumentError", "run.failed"),
    ],
)
def test_a_child_that_fails_is_a_finding_with_its_cause(
    kind: str, code: str, machine: Machine
) -> None:
    machine.compute = failing(kind, "signal 11")
    report = check(EXPORT, on=XLA)
    assert report.exit_code == 1
    assert codes(report) == [code]
    assert "on xla:CPU:0: signal 11" in report.findings[0].message
    assert report.runs[-1].error == "signal 11"


@pytest.mark.parametrize("kind", ["missing", "UsageError", "MissingDependencyError"])
def test_what_is_not_here_is_no_verdict(kind: str, machine: Machine) -> None:
    machine.compute = failing(kind, "no GPU here")
    with pytest.raises(RunnerError, match="no GPU here"):
        check(EXPORT, on=XLA)
    assert "no GPU here" in refused("check", EXPORT, "--on", "CPU:0", "--on", "xla:CPU:0")


def test_inputs_that_a_model_refuses_are_drawn_in_other_sizes(machine: Machine) -> None:
    tried = []

    def compute(_subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        tried.append(inputs["x"].shape)
        if inputs["x"].shape[1] != 8:
            raise RunnerError("wrong size", kind="InvalidArgumentError")
        return {"y": inputs["x"]}

    machine.compute = compute
    model_signature = {"f": ModelSignature((TensorInfo("x", "float32", (None, None)),), ())}
    patch = pytest.MonkeyPatch()
    from ckptkit.operations.execution import inputs as _check_inputs

    with patch.context() as patched:
        patched.setattr(_check_inputs, "signatures_of_file", lambda _subject: model_signature)
        report = check(EXPORT, on=XLA, signature="f")
        assert report.ok and len(report.runs) == 2
        machine.compute = failing("InvalidArgumentError")
        machine.compute = lambda *_: (_ for _ in ()).throw(
            RunnerError("never", kind="InvalidArgumentError")
        )
        with pytest.raises(UsageError, match="took none of the inputs"):
            check(EXPORT, on=XLA, signature="f")
    assert len(set(tried)) > 1


@pytest.mark.parametrize(
    "devices",
    [
        {"CPU:0": {"ops": 9, "heavy": 4}},
        {"GPU:0": {"ops": 9, "heavy": 4}, "CPU:0": {"ops": 2, "heavy": 1}},
        {"CPU:0": {"ops": 3, "heavy": 0}},
    ],
)
def test_a_gpu_check_that_ran_on_the_cpu_fails(devices: Any, machine: Machine) -> None:
    machine.devices = lambda spec: (
        devices if spec.device == "GPU" else {"CPU:0": {"ops": 9, "heavy": 4}}
    )
    report = check(EXPORT, on=["CPU:0", "GPU:0"])
    assert report.exit_code == 1 and codes(report) == ["run.device"]
    assert all(row.result.ok for row in report.rows)


def test_lookups_of_a_gpu_check_may_run_on_the_cpu(machine: Machine) -> None:
    machine.devices = lambda spec: {
        "CPU:0": {"ops": 3, "heavy": 0 if spec.device == "GPU" else 2},
        **({"GPU:0": {"ops": 7, "heavy": 3}} if spec.device == "GPU" else {}),
    }
    assert check(EXPORT, on=["CPU:0", "GPU:0"]).ok


# --- two models -----------------------------------------------------------------------------------


def test_against_runs_the_reference_on_the_first_runner(machine: Machine) -> None:
    report = check(EXPORT, against=EXPORT, on=XLA)
    assert machine.asked == [(EXPORT, "CPU:0"), (EXPORT, "CPU:0"), (EXPORT, "xla:CPU:0")]
    assert len(report.rows) == 2 and report.ok


@pytest.mark.needs_tf
@pytest.mark.parametrize(("factor", "severity"), [(1.0, "note"), (2.0, "warning")])
def test_against_names_the_words_that_differ(
    factor: float, severity: str, machine: Machine, tmp_path: Path
) -> None:
    """Beside outputs that differ they may be the cause; else they are worth knowing."""
    import shutil

    new = tmp_path / "new"
    shutil.copytree(LOOKUP, new)
    words = new / "assets" / "words.txt"
    words.write_bytes(words.read_bytes().upper())

    def compute(subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        scale = factor if str(subject) == str(new) else 1.0
        return {"output_0": np.float32(scale) * np.vectorize(len)(inputs["inputs"]).astype("f4")}

    machine.compute = compute
    report = check(new, against=LOOKUP)
    (said,) = [finding for finding in report.findings if finding.code == "model.vocabularies"]
    assert report.exit_code == (factor != 1.0)
    assert said.severity == severity
    assert "words.txt" in said.message and "entry 1 is" in said.message


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (lambda x: x * 255, "divided by 255"),
        (lambda x: x / 255, "multiplied by 255"),
        (lambda x: (x + 1) * 127.5, "x / 127.5 - 1"),
    ],
)
def test_inputs_that_are_scaled_otherwise_are_recognised(
    way: Any, words: str, machine: Machine, tmp_path: Path
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(EXPORT, other)

    def compute(subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        x = inputs["features"].astype("f8")
        x = way(x) if str(subject) == str(other) else x
        return {"output_0": np.tanh(x).astype("f4") + x.astype("f4")}

    machine.compute = compute
    report = check(other, against=EXPORT)
    assert report.exit_code == 1
    assert "input.scaled" in codes(report)
    assert words in next(f.message for f in report.findings if f.code == "input.scaled")


def test_labels_that_agree_by_chance_tell_nothing_of_the_inputs(
    machine: Machine, tmp_path: Path
) -> None:
    """Of two classes and three examples, one of six ways to prepare them often gives the same."""
    import shutil

    few = tmp_path / "few.npz"
    np.savez(few, features=np.random.default_rng(0).normal(size=(3, 3)).astype("f4"))

    other = tmp_path / "other"
    shutil.copytree(EXPORT, other)
    seed = 0

    def compute(subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        x = inputs["features"].astype("f8")
        way = seed if str(subject) == str(other) else -1
        weights = np.random.default_rng(abs(way)).normal(size=x.shape[-1])
        return {"output_0": (x @ weights > weights[0] * 3).astype("i8")}

    machine.compute = compute
    differed = 0
    for seed in range(60):  # noqa: B007 - `compute` reads it
        report = check(other, against=EXPORT, inputs=few)
        differed += bool(report.failed)
        assert "input.scaled" not in codes(report)
    assert differed > 20


@pytest.mark.parametrize("code", ["output.random", "output.batch"])
def test_a_model_in_training_mode_is_recognised(
    code: str, machine: Machine, tmp_path: Path
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(EXPORT, other)
    rng = np.random.default_rng(1)

    def compute(subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        x = inputs["features"].astype("f4")
        if str(subject) == str(other):
            x = x * (rng.random(x.shape) > 0.2) if code == "output.random" else x - x.mean(axis=0)
        return {"output_0": np.tanh(x).astype("f4")}

    machine.compute = compute
    report = check(other, against=EXPORT)
    assert [f.code for f in report.findings if f.severity == "error"] == [code]
    assert "training mode" in report.findings[0].hint


# --- what can be asked wrongly --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([EXPORT, "--on", "TPU:0"], "is no device"),
        ([EXPORT, "--against", EXPORT, "--golden", "."], "exclude each other"),
        ([EXPORT, "--golden", "nowhere"], "nowhere"),
        pytest.param([EXPORT, "--model", "m:f"], "no module 'm'", marks=pytest.mark.needs_tf),
        (["nowhere"], "nowhere"),
        ([CHECKPOINT], "--model package.module:function"),
        ([CHECKPOINT, "--like", CHECKPOINT], "holds no model"),
        ([CHECKPOINT, "--like", EXPORT, "--model", "m:f"], "exclude each other"),
        ([f"{EXPORT}#variables"], "not a part of it"),
        pytest.param(
            [EXPORT, "--against", EXPORT, "--signature", "nope"],
            "there are: serve",
            marks=pytest.mark.needs_tf,
        ),
        ([EXPORT, "--against", EXPORT, "--range", "x=0"], "is no range"),
        ([EXPORT, "--against", EXPORT, "--range", "nope=0:1"], "inputs are features"),
        ([EXPORT, "--against", EXPORT, "--rename", "a"], "OLD=NEW"),
        ([EXPORT, "--against", EXPORT, "--rename", "a=b"], "no input or output 'a'"),
        ([EXPORT, "--against", EXPORT, "--rtol", "-1"], "rtol"),
        ([EXPORT, "--against", EXPORT, "--tolerance", "strict", "--rtol", "1"], "exclude"),
        ([EXPORT, "--against", EXPORT, "--tolerance", "nowhere"], "nowhere"),
        ([EXPORT, "--against", EXPORT, "--inputs", "nowhere.npz"], "nowhere.npz"),
        ([EXPORT, "--against", EXPORT, "--max-memory", "much"], "is not a size"),
    ],
)
def test_refusals(arguments: list[str], words: str, machine: Machine) -> None:
    assert words in refused("check", *arguments)


def test_inputs_of_a_file(machine: Machine, tmp_path: Path) -> None:
    seen = []

    def compute(_subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        seen.append(inputs["features"])
        return {"output_0": inputs["features"]}

    machine.compute = compute
    np.savez(tmp_path / "a.npz", features=np.ones((5, 3)))
    np.save(tmp_path / "b.npy", np.zeros((2, 3), "f4"))
    report = check(EXPORT, on=XLA, inputs=[tmp_path / "a.npz", tmp_path / "b.npy"])
    assert [row.case for row in report.rows] == ["a", "b"]
    assert seen[0].shape == (5, 3) and seen[0].dtype == "float32"
    np.savez(tmp_path / "a.npz", x=np.ones((5, 3), "f4"))
    with pytest.raises(UsageError, match="features"):
        check(EXPORT, on=XLA, inputs=tmp_path / "a.npz")


def test_drawn_inputs_stay_in_their_range(machine: Machine) -> None:
    seen = []

    def compute(_subject: ModelSpec, _spec: RunnerSpec, inputs: Arrays) -> Arrays:
        seen.append(inputs["features"])
        return {"output_0": inputs["features"]}

    machine.compute = compute
    check(EXPORT, on=XLA, ranges=["features=5:6"], seed=3)
    check(EXPORT, on=XLA, ranges={"features": (5, 6)}, seed=3)
    assert np.array_equal(seen[0], seen[2])
    assert seen[0].min() >= 5 and seen[0].max() <= 6 and seen[0].std() > 0


# --- reports --------------------------------------------------------------------------------------


@pytest.fixture
def failed(machine: Machine) -> Report:
    def compute(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
        if spec.threads:
            raise RunnerError("died: 100%, at a:b\x1b[31m", kind="died")
        values = inputs["features"].copy()
        values[1, 2] += 0.5 if spec.xla else 0
        return {"output_0": values, "second": inputs["features"]}

    machine.compute = compute
    return check(EXPORT, on=[*XLA, "CPU:0,threads=1"])


def test_text(failed: Report) -> None:
    text = "\n".join(check_report.lines(failed))
    assert "no outputs: died: 100%" in text and "\x1b" not in text
    assert re.search(r"xla:CPU:0 +drawn +output_0 +differs", text)
    assert re.search(r"xla:CPU:0 +drawn +second +equal", text)
    assert text.splitlines()[-1].startswith("failed: 1 of 2 outputs as they should be; 1 finding")


def test_json(failed: Report) -> None:
    document = json.loads("\n".join(check_report.lines(failed, "json")))
    assert document["schema"] == "ckptkit.check/1" and document["exit_code"] == 1
    assert [row["status"] for row in document["outputs"]] == ["differs", "equal"]
    assert document["outputs"][0]["worst"]["index"] == [1, 2]
    assert [run["error"] for run in document["runs"]][:2] == ["", ""]
    assert document["findings"][0]["code"] == "run.died"


def test_junit(failed: Report, tmp_path: Path) -> None:
    suites = ElementTree.fromstring("\n".join(check_report.lines(failed, "junit")))
    assert suites.attrib == {"tests": "3", "failures": "2", "errors": "0"}
    cases = {case.attrib["name"]: case for case in suites.iter("testcase")}
    failure = cases["xla:CPU:0 drawn output_0"].find("failure")
    assert failure is not None and failure.attrib["type"] == "differs"
    assert cases["xla:CPU:0 drawn second"].find("failure") is None
    assert cases["run.died"].find("failure") is not None


def test_junit_of_nothing_compared_is_an_error(machine: Machine) -> None:
    machine.compute = lambda _s, _r, _x: {}
    suites = ElementTree.fromstring("\n".join(check_report.lines(check(EXPORT, on=XLA), "junit")))
    assert suites.attrib["errors"] == "1" and suites.attrib["tests"] == "1"


def test_github_annotations_are_one_line_each(failed: Report) -> None:
    lines = list(check_report.lines(failed, "github"))
    command = r"::(error|warning|notice) (file=[^:,]*,)?title=[^:,]*::.*"
    assert all(re.fullmatch(command, line) for line in lines)
    assert lines[0].endswith(f"::{failed.verdict}")
    assert "died: 100%25" in lines[-1]
    assert any("title=differs%3A xla%3ACPU%3A0 drawn output_0::" in line for line in lines)


def test_what_github_shows_of_many_findings(
    failed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten annotations of a level are shown: verdict, outputs, findings of each code together."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    golden_directory = tmp_path / "golden"
    golden_directory.mkdir()
    (golden_directory / "manifest.json").touch()
    changed = [
        Finding("error", "weight.changed", str(golden_directory), f"w{number}: other bytes")
        for number in range(30)
    ]
    others = [Finding("error", f"outputs.{number}", "nowhere", "m") for number in range(20)]
    rows = (failed.failed[0],) * 12
    report = replace(failed, rows=rows, run_findings=(*changed, *others))
    lines = list(check_report.lines(report, "github"))
    assert len(lines) == 10 and all(line.startswith("::error ") for line in lines)
    assert lines[0].endswith(f"::{report.verdict}")
    assert sum("title=differs" in line for line in lines) == 4
    assert "title=8 more outputs::" in lines[5]
    assert lines[6].startswith("::error file=golden/manifest.json,title=weight.changed (30)::")
    assert "w19: other bytes" in lines[6] and lines[6].endswith("%0Aand 10 more")
    assert "(18)" in lines[-1]


class Annotation(NamedTuple):
    level: str
    properties: dict[str, str]
    message: str


def as_the_runner_reads(line: str) -> Annotation:
    """Read a workflow command as actions/runner does (src/Runner.Common/ActionCommand.cs)."""
    assert line.startswith("::") and "\n" not in line and "\r" not in line
    head, _, message = line[2:].partition("::")
    level, _, text = head.partition(" ")
    pairs = (part.split("=", 1) for part in text.strip().split(",") if part)
    properties = {key: unescaped(value, ":,") for key, value in pairs}
    return Annotation(level, properties, unescaped(message, ""))


def unescaped(text: str, more: str) -> str:
    for character in ("\r", "\n", *more, "%"):
        text = text.replace(f"%{ord(character):02X}", character)
    return text


HOSTILE = "50%, a:b, %0A::error::no\n::stop-commands::x\r::add-mask::é"


def test_the_runner_reads_what_was_said(
    failed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever names and messages hold, it is one command, and its text is the text."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    file = tmp_path / "a, b:c %0A=d.keras"
    file.touch()
    findings = (Finding("warning", "weight.drift", str(file), HOSTILE),)
    report = replace(failed, subject=str(file), run_findings=findings)
    read = [as_the_runner_reads(line) for line in check_report.lines(report, "github")]
    assert read[0].level == "error" and read[0].message == report.verdict
    assert read[0].properties == {"file": file.name, "title": f"ckptkit check {file}"}
    assert [item.level for item in read[1:]] == ["error", "warning"]
    said = read[-1]
    assert said.properties["file"] == file.name and said.properties["title"] == "weight.drift"
    shown = "50%, a:b, %0A::error::no\\n::stop-commands::x\\r::add-mask::é [weight.drift]"
    assert said.message.endswith(shown)


def test_a_file_outside_of_the_repository_is_no_property(
    failed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "checkout"))
    outside = tmp_path / "model.keras"
    outside.touch()
    lines = check_report.lines(replace(failed, subject=str(outside)), "github")
    assert "file" not in as_the_runner_reads(next(iter(lines))).properties


def test_a_summary_stays_below_what_a_step_may_have(
    failed: Report, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a larger one GitHub shows nothing; what other commands of the step wrote counts too."""
    many = tuple(Finding("error", "weight.other", "w", "é" * 100) for _ in range(9000))
    whole = [*check_github.summary(replace(failed, run_findings=many))]
    size = sum(len(line.encode()) + 1 for line in whole)
    assert size <= 1024 * 1024 < size + 400 and whole[-1].startswith("Cut here")
    assert whole[0].startswith("### failed")
    summary = tmp_path / "summary.md"
    summary.write_text("x" * (1024 * 1024 - 100))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = ckptkit("check", EXPORT, "--on", "CPU:0", "--on", "xla:CPU:0", "--format", "github")
    assert done.out and summary.stat().st_size <= 1024 * 1024


def test_github_summary_is_appended(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = ckptkit("check", EXPORT, "--on", "CPU:0", "--on", "xla:CPU:0", "--format", "github")
    assert done.code == 0 and done.out.startswith("::notice ")
    text = summary.read_text()
    assert text.startswith("before\n### ok: 1 of 1 output") and "| xla:CPU:0 | drawn" in text


def test_a_summary_does_not_run_markdown(failed: Report) -> None:
    text = "\n".join(check_github.summary(failed))
    assert "<" not in text.replace("\\<", "")


def test_options_of_output(machine: Machine, tmp_path: Path) -> None:
    two = ("--on", "CPU:0", "--on", "xla:CPU:0")
    assert ckptkit("check", EXPORT, *two, "--quiet").out == ""
    out, junit = tmp_path / "r.json", tmp_path / "r.xml"
    done = ckptkit("check", EXPORT, *two, "--format", "json", "-o", out, "--junit", junit)
    assert done.code == 0 and done.out == "" and "ok:" in done.err
    assert json.loads(out.read_text())["exit_code"] == 0
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "0"
    text = ckptkit("check", EXPORT, *two, "--verbose").out
    assert "CPU:0 5 ops (2 heavy)" in text and "tensorflow 2.21.0" in text
