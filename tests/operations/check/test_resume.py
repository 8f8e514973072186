"""`check` of a run that goes on: no finding on sound ones, planted faults found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, UnsupportedError, UsageError
from ckptkit.operations.check.report import Report
from ckptkit.reports.check.lines import lines
from ckptkit.runners.fork_server import sharing_imports
from support import more_resumed_runs, resumed_runs
from support.command_line import ckptkit as run_command
from support.goldens import golden
from support.scripts import run_script

CODE = f"{resumed_runs.__file__}:"
ADAM = golden("tf2.21.0/adam/ckpt").path
MODEL_FILE = golden("tf2.21.0/saved_model_export/model").path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    top = tmp_path_factory.mktemp("runs")
    run_script("-m", "support.resumed_runs", top)
    with sharing_imports():  # one import for the runs of all tests here
        yield top


def resumed(run: Path, fault: str = "", *, end: int = 10, **options: object) -> Report:
    code = f"{CODE}run?{json.dumps({'fault': fault})}"
    steps = {"steps": end - 4, "against": run / f"ckpt-{end}"} | options
    return ckptkit.check(run / "ckpt-4", resume=code, **steps)  # type: ignore[arg-type]


def told(report: Report, code: str) -> str:
    """Return the messages of all findings of a code."""
    return "\n".join(finding.message for finding in report.findings if finding.code == code)


# --- sound runs -----------------------------------------------------------------------------------


@pytest.mark.needs_tf
@pytest.mark.parametrize("kind", ["", pytest.param("late", marks=pytest.mark.slow)])
def test_a_sound_run_goes_on_to_the_bit(runs: Path, kind: str) -> None:
    report = resumed(runs / "sound", kind)
    assert report.ok and report.exit_code == 0 and report.mode == "resume"
    assert report.resumed is not None
    assert [step for step, _ in report.resumed.compared] == [2, 3, 4, 6]
    assert report.resumed.first_difference is None and not report.resumed.not_restored
    # what metrics report need not go on, nor what an object decides not to save
    assert [finding.code for finding in report.findings] == ["resume.unsaved_metrics"]
    assert "counts/_batches, mean/count" in told(report, "resume.unsaved_metrics")
    assert report.verdict == (
        "ok: 6 steps on, the same as the run that never stopped (4 checkpoints compared)"
    )


@pytest.mark.needs_tf
def test_the_reference_loop_goes_on_to_the_bit(runs: Path) -> None:
    run = runs / "reference"
    report = ckptkit.check(
        run / "ckpt-15", resume=f"{CODE}reference", steps=5, against=run / "ckpt-20"
    )
    assert report.ok and not report.findings


@pytest.fixture(scope="module")
def more_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    top = tmp_path_factory.mktemp("more_runs")
    run_script("-m", "support.more_resumed_runs", top)
    with sharing_imports():
        yield top


def resumed_of(top: Path, name: str, lost: str) -> Report:
    code = f"{more_resumed_runs.__file__}:{name}?{json.dumps({'lost': lost})}"
    run = top / name
    return ckptkit.check(run / "ckpt-3", resume=code, steps=4, against=run / "ckpt-7")


@pytest.mark.slow
@pytest.mark.parametrize("name", more_resumed_runs.LOSSES)
def test_sound_runs_of_other_kinds_go_on_to_the_bit(more_runs: Path, name: str) -> None:
    report = resumed_of(more_runs, name, "")
    assert report.ok and report.resumed is not None
    assert [step for step, _ in report.resumed.compared] == [1, 2, 4]
    assert {finding.code for finding in report.findings} <= {"resume.unsaved_metrics"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lost"),
    [(name, lost) for name, losses in more_resumed_runs.LOSSES.items() for lost in losses],
)
def test_what_runs_of_other_kinds_lose_is_named(more_runs: Path, name: str, lost: str) -> None:
    report = resumed_of(more_runs, name, lost)
    assert report.exit_code == 1 and report.resumed is not None
    assert report.resumed.first_difference == 1
    said = "\n".join(finding.message for finding in report.findings)
    assert more_resumed_runs.LOSSES[name][lost] in said


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.needs_tf
@pytest.mark.parametrize(
    ("fault", "not_restored", "names"),
    [
        ("slots", "12 slot tensors", ["optimizer/_iterations", "hidden/kernel@momentum"]),
        ("iterations", "", ["optimizer/_iterations (by up to 4)"]),
        ("schedule", "", ["optimizer/learning_rate (by up to"]),
        ("average", "average/0", ["average/0", "average/1"]),
        ("generator", "StateVar", ["StateVar"]),
        ("seed", "1 counter tensor: seed", ["seed"]),
    ],
)
def test_planted_faults_are_named(
    runs: Path, fault: str, not_restored: str, names: list[str]
) -> None:
    report = resumed(runs / "sound", fault)
    assert report.exit_code == 1
    assert report.resumed is not None and report.resumed.first_difference == 2
    assert not_restored in told(report, "resume.not_restored")
    assert bool(not_restored) == bool(report.resumed.not_restored)
    assert all(name in told(report, "resume.differs") for name in names)
    assert "in one of the steps 1 to 2 of 6" in told(report, "resume.first_step")
    if fault == "average":
        in_all_forms(report)


def in_all_forms(report: Report) -> None:
    document = report.to_json()["resumed"]
    assert document["first_difference"] == 2 and len(document["not_restored"]) == 6
    assert {"name": "average/0", "role": "weight", "status": "removed"} in document["different"]
    for fmt in ("table", "json", "markdown", "html", "junit", "github", "sarif"):
        assert "average/0" in "\n".join(lines(report, fmt)), fmt


@pytest.mark.needs_tf
def test_what_no_checkpoint_of_the_run_keeps_is_named(runs: Path) -> None:
    report = resumed(runs / "forgetful", "forgetful")
    assert report.exit_code == 1
    assert told(report, "resume.unsaved") == (
        "training changes what no checkpoint keeps: StateVar, average (6 so called), "
        "seed_generator/seed_generator_state"
    )
    assert not told(report, "resume.not_restored")
    assert told(report, "resume.first_step")


@pytest.mark.slow
@pytest.mark.needs_tf
def test_what_the_checkpoint_lacks_starts_afresh(runs: Path) -> None:
    report = resumed(runs / "forgetful")
    assert "average/0" in told(report, "resume.no_value")
    assert report.exit_code == 1


@pytest.mark.needs_tf
def test_the_step_is_told_where_each_was_saved(runs: Path) -> None:
    report = resumed(runs / "sound", "late_noise")
    assert report.resumed is not None and report.resumed.first_difference == 3
    assert "the two part in step 3 of 6" in told(report, "resume.first_step")
    assert not report.resumed.not_restored


@pytest.mark.slow
@pytest.mark.needs_tf
def test_a_tolerance_lets_what_is_near_pass(runs: Path) -> None:
    assert resumed(runs / "sound", "noise", tolerance="strict").exit_code == 1
    assert resumed(runs / "sound", "noise", atol=1e-2).ok


@pytest.mark.slow
@pytest.mark.needs_tf
def test_numbers_that_count_no_steps_are_not_compared(runs: Path) -> None:
    report = resumed(runs / "sound", steps=5)
    assert "ckpt-6, ckpt-7, ckpt-8" in told(report, "resume.between")
    assert "done (by up to 1)" in told(report, "resume.differs")


@pytest.mark.slow
@pytest.mark.needs_tf
def test_a_step_that_fails_is_a_finding(runs: Path) -> None:
    run = runs / "sound"
    report = ckptkit.check(run / "ckpt-4", resume=f"{CODE}broken", steps=6, against=run / "ckpt-10")
    assert report.exit_code == 1 and "no batch 0" in told(report, "run.failed")


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.needs_tf
def test_code_that_keeps_no_contract_is_refused(runs: Path) -> None:
    run = runs / "sound"
    with pytest.raises(CkptkitError, match=r"NoneType.*a tf.train.Checkpoint, a function"):
        ckptkit.check(run / "ckpt-4", resume=f"{CODE}nothing", steps=6, against=run / "ckpt-10")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "steps is for resume"),
        ({"resume": "a:b", "against": ADAM}, "resume wants steps and against"),
        ({"resume": "a:b", "steps": 3}, "resume wants steps and against"),
        ({"resume": "a:b", "steps": 0, "against": ADAM}, "steps is at least 1"),
        ({"resume": "a:b", "steps": 1, "against": ADAM, "model": "c:d"}, "model would do nothing"),
        ({"resume": "a:b", "steps": 1, "against": ADAM, "on": "xla:CPU:0"}, "not on xla:CPU:0"),
        ({"resume": "a:b", "steps": 1, "against": ADAM, "on": ["CPU:0", "CPU:1"]}, "runs once"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ckptkit.check(ADAM, **options)  # type: ignore[arg-type]


def test_only_checkpoints_go_on() -> None:
    with pytest.raises(UnsupportedError, match="whole TensorFlow checkpoint"):
        ckptkit.check(MODEL_FILE, resume="a:b", steps=1, against=ADAM)


def test_the_command_speaks_of_its_options(tmp_path: Path) -> None:
    for part in ADAM.parent.glob(f"{ADAM.name}.*"):
        shutil.copy(part, tmp_path)
    result = run_command("check", tmp_path / ADAM.name, "--resume", "a:b", "--steps", 3)
    assert result.code == 2 and "--resume wants --steps and --against" in result.err
