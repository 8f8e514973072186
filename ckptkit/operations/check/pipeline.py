"""The steps of a check, each of which takes and returns plain values.

    resolve    what the subject means: a model, or weights and what they go into
    reference  what its outputs are held against; a reference that is a model is run
    compare    run the subject on every runner, and judge each output
    beside     name what the files of two models hold otherwise beside weights
    explain    say why outputs differ, where one more run of the subject tells it
    localize   name the layer or the switch that makes them differ
    audit      put faults into the model, and say which the tolerance does not see

Every run is a child process; `Runs` keeps account of them: what was run where, what became of the
variables, and what there is to say of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptkit.operations.check.audit import audit_tolerance, findings_of_audit
from ckptkit.operations.check.beside import beside_weights
from ckptkit.operations.check.explain import explain_by_inputs
from ckptkit.operations.check.float64 import broken_ties, exact_outputs
from ckptkit.operations.check.references import CheckReference, ComparisonPlan, reference_of
from ckptkit.operations.check.report import Report
from ckptkit.operations.check.request import CheckRequest
from ckptkit.operations.execution.compared import ComparedRun
from ckptkit.operations.execution.inputs import SEED
from ckptkit.operations.execution.mapped import rows_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.tolerance import AUTO
from ckptkit.operations.findings import Finding
from ckptkit.operations.input_files import unchanged_inputs
from ckptkit.operations.localize.find import find
from ckptkit.operations.localize.values import Localization
from ckptkit.runners.fork_server import sharing_imports
from ckptkit.runners.spec import RunnerSpec


def run_check(request: CheckRequest) -> Report:
    """Carry out a check; raises what `ckptkit.check` raises."""
    source = request.source
    with (
        tempfile.TemporaryDirectory(prefix="ckptkit-check-") as directory,
        unchanged_inputs(request.subject, request.against, source.model, source.like),
        sharing_imports() if request.runs_several_times else nullcontext(),
    ):
        scratch = Path(directory)
        subject = request.source.resolve(request.subject, scratch, request.limits.timeout_s)
        runs = Runs(request.limits, scratch, request.options, coverage=subject.coverage)
        runs.count.expected = len(set(request.runners)) + (request.against is not None)
        reference = reference_of(request, runs, subject)
        runs.findings += reference.findings
        compared = _compare(request, runs, reference.comparison)
        runs.findings += _beside(reference, subject, compared)
        runs.findings += _explain(request, reference, compared)
        localization = _localize(request, runs, compared)
        audit = audit_tolerance(runs, compared, request.tolerance) if request.audit else None
        if audit is not None:
            runs.findings += findings_of_audit(audit, str(subject.subject))
    return Report(
        subject=str(subject.subject),
        mode=reference.mode,
        reference=reference.name,
        signature=reference.signature,
        inputs=reference.inputs,
        runs=tuple(runs.ran),
        rows=tuple(row for run in compared for row in run.rows),
        coverage=runs.coverage,
        run_findings=tuple(dict.fromkeys(runs.findings)),
        strict=request.strict,
        localization=localization,
        audit=audit,
    )


def _compare(
    request: CheckRequest, runs: Runs, comparison: ComparisonPlan | None
) -> list[ComparedRun]:
    """Run the subject on every runner and judge what it gives; one that gives nothing is left out.

    Where outputs differ by little, those of the reference in float64 break ties, if asked for.
    """
    if comparison is None:
        return []
    compared = [run for spec in comparison.specs if (run := _compare_on(request, comparison, spec))]
    ties = request.float64 and request.tolerance.tolerance == AUTO
    if ties and any(run.differs for run in compared):
        exact = exact_outputs(runs, comparison.source, comparison.cases)
        compared = [_without_ties(run, exact) if run.differs else run for run in compared]
    return compared


def _compare_on(
    request: CheckRequest, comparison: ComparisonPlan, spec: RunnerSpec
) -> ComparedRun | None:
    """Run the subject on one runner and judge what it gives; None where it gives nothing."""
    mapped, reference = comparison.mapped, comparison.outputs
    run = mapped.run(spec, list(comparison.cases.values()))
    if run is None:
        return None
    outputs = [mapped.outputs_of(case) for case in run.outputs]
    rows = rows_of(reference, outputs, run.environment, spec.text, request.tolerance)
    return ComparedRun(
        mapped,
        spec,
        run,
        rows,
        reference,
        comparison.cases,
        comparison.source,
        comparison.spec,
        comparison.signature,
    )


def _without_ties(run: ComparedRun, exact: Mapping[str, Mapping[str, Any]]) -> ComparedRun:
    outputs = [run.paired.outputs_of(case) for case in run.run.outputs]
    by_case = dict(zip(run.cases, outputs, strict=True))
    return replace(run, rows=broken_ties(run.rows, run.reference_outputs, by_case, exact))


def _beside(
    reference: CheckReference, subject: ResolvedSubject, compared: Sequence[ComparedRun]
) -> list[Finding]:
    """Name what two models' files hold otherwise beside their weights, and outputs may show."""
    if reference.mode != "against" or reference.comparison is None:
        return []
    source = reference.comparison.source
    if not isinstance(source, ResolvedSubject):
        return []
    differs = any(run.differs for run in compared)
    return list(beside_weights(source, subject, differs=differs))


def _explain(
    request: CheckRequest, reference: CheckReference, compared: Sequence[ComparedRun]
) -> list[Finding]:
    """Say why outputs differ, of the first run whose do: what holds there holds elsewhere too."""
    if reference.mode == "runners" or reference.explains:
        return []
    for run in compared:
        if run.differs:
            return explain_by_inputs(
                run.paired, run.spec, run.reference_outputs, run.cases, request.tolerance
            )
    return []


def _localize(
    request: CheckRequest, runs: Runs, compared: Sequence[ComparedRun]
) -> Localization | None:
    """Name the layer or the switch, where that was asked for."""
    if not request.localize:
        return None
    # The model of a golden without layers may lie where it did, beside the golden or the subject.
    near = [Path(), Path(request.golden or "").parent, Path(request.subject).parent]
    globs = request.layers or ("*",)
    found = find(runs, compared, request.tolerance, globs, request.localize, near)
    if found is None:
        return None
    return replace(found, again=_again(request, found.point))


def _again(request: CheckRequest, point: str | None) -> Mapping[str, Any]:
    """Return the keywords of `check` that look at one value again; what is as usual is left out."""
    inputs, tolerance = request.inputs, request.tolerance
    keywords: dict[str, Any] = {
        "on": [spec.text for spec in request.runners],
        "against": request.against,
        "golden": request.golden,
        "inputs": [os.fspath(file) for file in inputs.files],
        "seed": inputs.seed if inputs.seed != SEED else None,
        "ranges": [f"{name}={low:g}:{high:g}" for name, (low, high) in inputs.ranges.items()],
        "signature": inputs.signature,
        "model": request.source.model,
        "like": request.source.like,
        "rules": list(request.source.rules),
        "rename": [f"{old}={new}" for old, new in request.renames.items()],
        "imports": list(request.imports),
        "tolerance": tolerance.tolerance if tolerance.tolerance != AUTO else None,
        "rtol": tolerance.rtol,
        "atol": tolerance.atol,
        "layers": [point] if point is not None else [],
    }
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in keywords.items()
        if value is not None and value != []
    }
