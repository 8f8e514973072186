"""The steps of a recording, each of which takes and returns plain values.

resolve      what the subject means: a model, or weights and what they go into
run          the outputs that are kept, on inputs that the model takes
noise        the same inputs again, and run otherwise: how far outputs differ by themselves
sensitivity  which variables the outputs see
float64      the outputs of the model rebuilt in float64, where asked for
layers       values inside of the model, where asked for
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit.errors import CkptkitError, UsageError
from ckptkit.golden.golden import Case, Golden, sampled
from ckptkit.operations.execution.inputs import Prepared, prepare, with_outputs
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, binding_of
from ckptkit.operations.record.noise import REPEATS, Noise, other_runners, other_runs
from ckptkit.operations.record.request import RecordRequest
from ckptkit.operations.record.sensitivity import OutputSensitivity, is_measured_on, measure
from ckptkit.runners.fork_server import sharing_imports
from ckptkit.runners.introspect import float64_outputs
from ckptkit.runners.spec import RunnerSpec, runner_for
from ckptkit.text import list_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


class RecordError(CkptkitError):
    """The model did not do what could be recorded: it died, or was not wholly restored."""

    exit_code = 1
    code = "record"


@dataclass(frozen=True)
class RecordedRun:
    """The subject, where it ran, and the run whose outputs are kept."""

    runs: Runs
    subject: ResolvedSubject
    spec: RunnerSpec
    prepared: Prepared

    @property
    def cases(self) -> list[Arrays]:
        """The inputs, one case each."""
        return list(self.prepared.cases.values())

    @property
    def outputs(self) -> Sequence[Arrays]:
        """The outputs of each case, as first computed."""
        return self.prepared.run.outputs[: len(self.prepared.cases)]


def run_record(request: RecordRequest) -> Golden:
    """Carry out a recording; raises what `ckptkit.record` raises."""
    with sharing_imports(), tempfile.TemporaryDirectory(prefix="ckptkit-record-") as directory:
        scratch = Path(directory)
        subject = request.source.resolve(request.subject, scratch, request.limits.timeout_s)
        run = _run(request, subject, scratch)
        noise = _noise(request, run)
        sensitivity = _sensitivity(request, run, noise)
        float64 = _float64(request, run)
        layers = _layers(request, run)
    prepared = run.prepared
    return Golden(
        subject=Path(str(subject.subject)).name,
        kind=subject.subject.kind,
        signature=prepared.signature,
        model_signature=with_outputs(prepared.model_signature, run.outputs[0]),
        binding=binding_of(subject, full=True),
        environment=dict(prepared.run.environment),
        runner=run.spec.text,
        cases=tuple(
            Case(name, inputs, *(sampled(part, request.inputs.seed) for part in parts))
            for (name, inputs), *parts in zip(
                prepared.cases.items(), run.outputs, layers, float64, strict=True
            )
        ),
        noise=noise.by_output,
        blind=sensitivity.blind,
        options={
            "inputs": prepared.text,
            "model": subject.subject.code,
            "noise_sources": noise.sources,
            **({"coverage": sensitivity.to_json()} if request.sensitivity else {}),
            **_faults(sensitivity),
        },
    )


def _run(request: RecordRequest, subject: ResolvedSubject, scratch: Path) -> RecordedRun:
    """Run the model; raises RecordError where it gives nothing to hold others against."""
    spec = runner_for(request.runner, subject.subject.kind)
    options = {"imports": list(request.imports)}
    runs = Runs(request.limits, scratch, options, coverage=subject.coverage)
    runs.count.expected = _expected_runs(request, spec)
    _refuse_findings(runs)
    prepared = prepare(runs, subject, spec, request.inputs, REPEATS if request.noise else 1)
    _refuse_findings(runs)
    assert prepared is not None  # else it is a finding
    run = RecordedRun(runs, subject, spec, prepared)
    if not any(array.size for case in run.outputs for array in case.values()):
        raise RecordError("it gives no elements at all", where=str(subject.subject))
    return run


def _expected_runs(request: RecordRequest, spec: RunnerSpec) -> int:
    """Return how many runs there are going to be, where each does what it should."""
    noise = len(other_runners(spec)) if request.noise else 0
    sensitivity = request.sensitivity and is_measured_on(spec)
    return 1 + noise + sensitivity + request.float64 + bool(request.layers)


def _refuse_findings(runs: Runs) -> None:
    """Raise RecordError where the run is nothing to hold others against."""
    found = [f for f in runs.findings if f.severity == "error"]
    if runs.coverage is not None and not runs.coverage.ok:
        found = [f for f in runs.coverage.findings if f.severity == "error"]
    if found:
        raise RecordError(
            f"not recorded: {found[0].message}", where=found[0].where, hint=found[0].hint
        )


def _noise(request: RecordRequest, run: RecordedRun) -> Noise:
    """Measure how far outputs differ when the same inputs are given again, or run otherwise."""
    noise = Noise()
    if not request.noise:
        return noise
    count = len(run.cases)
    again = run.prepared.run.outputs[count:]
    repeats = [again[n * count : (n + 1) * count] for n in range(REPEATS - 1)]
    noise.add("repeats", run.outputs, repeats)
    other_runs(run.runs, run.subject, run.spec, run.cases, run.prepared, noise)
    return noise


def _sensitivity(request: RecordRequest, run: RecordedRun, noise: Noise) -> OutputSensitivity:
    """Return which variables the outputs see; raises RecordError where they are too few."""
    if not request.sensitivity:
        return OutputSensitivity()
    prepared = run.prepared
    found = measure(
        run.runs,
        run.subject,
        run.spec,
        run.cases,
        prepared.run.outputs[0],
        prepared.run.environment,
        prepared.signature,
        noise.by_output,
        thorough=request.thorough,
    )
    least = request.min_coverage
    if least is None:
        return found
    if found.share is None:
        raise RecordError(f"not recorded: what the outputs see is not known: {found.why_not}")
    if found.share < least:
        raise RecordError(
            f"not recorded: the outputs see {found.share:.1%} of the variables, "
            f"not {least:.1%}; blind to {list_text(found.blind, 5)}",
            where=str(run.subject.subject),
            hint=say("‹inputs› with examples that reach them, or more of them: ‹batch›, ‹cases›"),
        )
    return found


def _faults(found: OutputSensitivity) -> dict[str, object]:
    """Return what a golden says of faults that it would let pass."""
    if not found.faults:
        return {}
    return {"faults": {"tried": found.faults, "passing": list(found.passing)}}


def _float64(request: RecordRequest, run: RecordedRun) -> Sequence[Arrays]:
    """Return the outputs in float64, per case; {} for each where they were not asked for."""
    if not request.float64:
        return [{} for _ in run.cases]
    with run.runs.counted("float64"):
        return float64_outputs(
            run.subject.subject, run.cases, run.runs.limits, options=run.runs.options
        )


def _layers(request: RecordRequest, run: RecordedRun) -> Sequence[Arrays]:
    """Return what was asked for of the inside of the model, per case."""
    if not request.layers:
        return [{} for _ in run.cases]
    found = run.runs.execute(
        run.subject,
        run.spec,
        run.cases,
        run.prepared.signature,
        layers=request.layers,
        quiet=True,
    )
    if found is None:
        raise RecordError("its layers cannot be looked at", where=str(run.subject.subject))
    if not any(found.layers):
        raise UsageError(f"no layer is called {' or '.join(request.layers)}")
    return [dict(layers) for layers in found.layers]
