"""`record`, and `check` against what it wrote; runs are made up here (tests/support/machine.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.errors import CkptkitError, OutputError, UsageError
from ckptkit.golden.golden import read_golden
from ckptkit.operations.check.api import check
from ckptkit.operations.check.report import Report
from ckptkit.operations.record.api import record
from ckptkit.operations.record.changes import changes
from ckptkit.operations.record.pipeline import RecordError
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import ModelSpec
from support.command_line import ckptkit, refused
from support.goldens import golden
from support.machine import Arrays, Machine

EXPORT = golden("tf2.21.0/saved_model_export/model").path


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine.replacing(monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXPORT, tmp_path / "model"))


@pytest.fixture
def kept(machine: Machine, model: Path, tmp_path: Path) -> Path:
    record(model, tmp_path / "golden", noise=False)
    return tmp_path / "golden"


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def test_what_is_written(machine: Machine, model: Path, tmp_path: Path) -> None:
    made: Any = record(model, tmp_path / "a", noise=False, cases=2, batch=3)
    record(model, tmp_path / "b", noise=False, cases=2, batch=3)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        *("binding.json", "drawn0.inputs.npz", "drawn0.outputs.npz"),
        *("drawn1.inputs.npz", "drawn1.outputs.npz", "manifest.json"),
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    read: Any = read_golden(tmp_path / "a")
    assert [case.name for case in read.cases] == ["drawn0", "drawn1"]
    assert read.cases[0].inputs["features"].shape == (3, 3)
    assert not np.array_equal(read.cases[0].inputs["features"], read.cases[1].inputs["features"])
    assert np.array_equal(read.cases[1].outputs["output_0"], made.cases[1].outputs["output_0"])
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()


def test_the_noise_is_measured(machine: Machine, model: Path, tmp_path: Path) -> None:
    def compute(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
        x = inputs["features"].astype("f4")
        step = 1e-3 if spec.xla else 1e-4 if len(x) == 1 else 1e-5 if spec.threads else 0
        return {"output_0": x * np.float32(1 + step)}

    machine.compute = compute
    made: Any = record(model, tmp_path / "golden")
    rms = float(np.sqrt(np.mean(np.square(made.cases[0].outputs["output_0"], dtype="f8"))))
    noise = made.noise["output_0"]
    assert noise["max_scaled"] == pytest.approx(noise["max_abs"] / rms)
    sources = {name: float(text) for name, text in made.options["noise_sources"].items()}
    assert list(sources) == ["repeats", "one thread", "one example at a time", "XLA"]
    assert sources["repeats"] == 0
    assert 0 < sources["one thread"] < sources["one example at a time"] < sources["XLA"]
    assert {runner for _, runner in machine.asked} == {"CPU:0", "CPU:0,threads=1", "xla:CPU:0"}


def test_noise_widens_what_passes(machine: Machine, model: Path, tmp_path: Path) -> None:
    def noisy(scale: float) -> Any:
        return lambda _s, spec, x: {"output_0": x["features"] * (1 + scale * bool(spec.xla))}

    machine.compute = noisy(1e-3)
    record(model, tmp_path / "quiet", noise=False)
    record(model, tmp_path / "noisy")
    assert check(model, golden=tmp_path / "quiet", on="xla:CPU:0").exit_code == 1
    report = check(model, golden=tmp_path / "noisy", on="xla:CPU:0")
    assert [row.result.status for row in report.rows] == ["noise"]
    assert check(model, golden=tmp_path / "noisy", on="xla:CPU:0", tolerance="strict").failed


def test_a_model_that_does_not_run_otherwise_is_recorded(
    machine: Machine, model: Path, tmp_path: Path
) -> None:
    def compute(_subject: ModelSpec, spec: RunnerSpec, inputs: Arrays) -> Arrays:
        if spec.xla or len(inputs["features"]) == 1:
            raise RunnerError("no", kind="InvalidArgumentError")
        return {"output_0": inputs["features"]}

    machine.compute = compute
    done = ckptkit("record", model, "-o", tmp_path / "golden")
    assert done.code == 0
    assert "note: it does not run with XLA" in done.out
    assert "note: it does not run with one example at a time" in done.out


@pytest.mark.parametrize("kind", ["died", "timeout", "memory"])
def test_a_model_that_dies_is_not_recorded(
    kind: str, machine: Machine, model: Path, tmp_path: Path
) -> None:
    def compute(*_: Any) -> Arrays:
        raise RunnerError("signal 11", kind=kind)

    machine.compute = compute
    with pytest.raises(RecordError, match="signal 11"):
        record(model, tmp_path / "golden")
    assert not (tmp_path / "golden").exists()
    assert ckptkit("record", model, "-o", tmp_path / "golden").code == 1


def test_a_gpu_that_did_nothing_is_not_recorded(
    machine: Machine, model: Path, tmp_path: Path
) -> None:
    machine.devices = lambda _spec: {"CPU:0": {"ops": 9, "heavy": 4}}
    with pytest.raises(RecordError, match="ran elsewhere"):
        record(model, tmp_path / "golden", on="GPU:0")


def test_no_page_takes_the_place_of_what_was_recorded(
    machine: Machine, kept: Path, model: Path
) -> None:
    page = kept / "binding.json"
    done = ckptkit("record", model, "-o", kept, "--no-noise", "--overwrite", "--html", page)
    assert done.code == 2 and "would be written over" in done.err
    assert check(model, golden=kept, on="CPU:0").ok


def test_a_golden_is_replaced_only_when_asked(machine: Machine, kept: Path, model: Path) -> None:
    before = (kept / "manifest.json").read_bytes()
    asked = len(machine.asked)
    with pytest.raises(OutputError, match="overwrite replaces it"):
        record(model, kept)
    assert len(machine.asked) == asked, "nothing runs for a golden that is not written"
    assert (kept / "manifest.json").read_bytes() == before
    machine.compute = lambda _s, _r, x: {"output_0": x["features"][:, :2] * 2 + 0.1}
    done = ckptkit("record", model, "-o", kept, "--no-noise", "--overwrite")
    assert done.code == 0
    assert "changed: case drawn: output_0: differs" in done.out
    done = ckptkit("record", model, "-o", kept, "--no-noise", "--overwrite")
    assert "nothing changed" in done.out


def test_other_directories_are_left_alone(machine: Machine, model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    with pytest.raises(OutputError, match="no golden"):
        record(model, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--on", "TPU"], "is no device"),
        pytest.param(["--signature", "nope"], "there are", marks=pytest.mark.needs_tf),
        (["--range", "nope=0:1"], "inputs are features"),
        (["--inputs", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_refusals(
    arguments: list[str], words: str, machine: Machine, model: Path, tmp_path: Path
) -> None:
    assert words in refused("record", model, "-o", tmp_path / "golden", *arguments)


def test_changes_names_what_changed(machine: Machine, model: Path, tmp_path: Path) -> None:
    one = record(model, tmp_path / "one", noise=False)
    two = record(model, tmp_path / "two", noise=False, seed=5)
    assert changes(one, two) == ["case drawn: other inputs"]
    assert changes(one, one) == []


# --- check --golden -------------------------------------------------------------------------------


def test_the_same_model_passes(kept: Path, model: Path) -> None:
    report = check(model, golden=kept)
    assert report.ok and not report.findings
    assert [(row.result.status, row.tier) for row in report.rows] == [("equal", "T1")]
    assert report.reference == str(kept)


def test_other_weights_are_a_finding_and_outputs_are_compared(
    kept: Path, machine: Machine, model: Path, tmp_path: Path
) -> None:
    other = _reweighted(model, tmp_path / "other")
    report = check(other, golden=kept)
    assert report.exit_code == 1
    assert any("scores/kernel" in f.where + f.message for f in report.findings)
    assert [row.result.status for row in report.rows] == ["equal"]
    asked = len(machine.asked)
    machine.compute = lambda _s, _r, x: {"output_0": x["features"][:, :2] * 3}
    report = check(other, golden=kept)
    assert report.failed and len(machine.asked) == asked + 1, "weights explain it: no other run"


def _reweighted(model: Path, path: Path) -> Path:
    """Copy a SavedModel with other weights in it."""
    import ckptkit as package

    weights = package.load(model)
    np.savez(
        path.with_suffix(".npz"),
        **{  # type: ignore[arg-type]
            name: array + (name == "scores/kernel")
            for name, array in weights.items()
            if name.startswith("scores")
        },
    )
    package.convert(path.with_suffix(".npz"), path, to="saved_model", like=model)
    return path


def test_a_renamed_input_names_both(kept: Path, machine: Machine, model: Path) -> None:
    _rename_input(kept, "features", "pixels")
    report = check(model, golden=kept)
    assert "input.renamed" in codes(report)
    text = next(f.message for f in report.findings if f.code == "input.renamed")
    assert "'pixels'" in text and "'features'" in text
    assert [row.result.ok for row in report.rows] == [True], "compared all the same"
    assert check(model, golden=kept, rename=["pixels=features"]).ok
    with pytest.raises(UsageError, match="no input or output 'nothing'"):
        check(model, golden=kept, rename=["nothing=features"])


def _rename_input(directory: Path, old: str, new: str) -> None:
    """Make a golden one whose input is called otherwise."""
    from dataclasses import replace

    from ckptkit.golden.golden import write_golden
    from ckptkit.model_io.signature import ModelSignature

    read = read_golden(directory)
    cases = tuple(
        replace(case, inputs={new if k == old else k: v for k, v in case.inputs.items()})
        for case in read.cases
    )
    inputs = tuple(
        info._replace(name=new) if info.name == old else info
        for info in read.model_signature.inputs
    )
    model_signature = ModelSignature(inputs, read.model_signature.outputs)
    write_golden(
        directory, replace(read, cases=cases, model_signature=model_signature), overwrite=True
    )


def test_a_golden_that_was_edited_is_refused(kept: Path, model: Path) -> None:
    manifest = kept / "manifest.json"
    document = json.loads(manifest.read_text())
    document["cases"] = []
    manifest.write_text(json.dumps(document))
    with pytest.raises(CkptkitError, match="no cases"):
        check(model, golden=kept)
    assert "no cases" in refused("check", model, "--golden", kept)


def test_a_golden_has_inputs_of_its_own(kept: Path, model: Path) -> None:
    for option in (["--inputs", "."], ["--range", "features=0:1"]):
        assert "its own inputs" in refused("check", model, "--golden", kept, *option)


def test_scaled_inputs_are_recognised_against_a_golden(
    kept: Path, machine: Machine, model: Path
) -> None:
    machine.compute = lambda _s, _r, x: {"output_0": x["features"][:, :2] * 2 * 255}
    report = check(model, golden=kept, on=["CPU:0", "xla:CPU:0"])
    assert codes(report) == ["input.scaled"]
    assert "divided by 255" in report.findings[0].message
    assert len(machine.asked) == 1 + 2 + 1, "recorded, two runners, one look for the reason"
