"""What the outputs of a check are held against: another runner, another model, or a golden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit.errors import UsageError
from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.golden import Golden, read_golden
from ckptkit.operations.check.request import CheckRequest
from ckptkit.operations.execution.input_names import Pairing
from ckptkit.operations.execution.inputs import prepare, with_outputs
from ckptkit.operations.execution.mapped import MappedSubject, ReferenceOutputs
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, binding_of
from ckptkit.operations.execution.types import findings_of
from ckptkit.operations.findings import Finding
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec, runner_for
from ckptkit.stores.registry import CODE, KERAS, SAVED_MODEL, format_of_kind
from ckptkit.text import count_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


@dataclass(frozen=True)
class ComparisonPlan:
    """All that is needed to run the subject and to judge what it gives.

    outputs: of the reference, by case.  cases: its inputs, by case.  mapped: the subject, which
    takes them.  source: the model or golden behind the outputs, called by `signature` on `spec`.
    specs: where the subject is run.
    """

    outputs: ReferenceOutputs
    cases: Mapping[str, Arrays]
    mapped: MappedSubject
    source: ResolvedSubject | Golden
    signature: str
    spec: RunnerSpec
    specs: tuple[RunnerSpec, ...]


@dataclass(frozen=True)
class CheckReference:
    """What a subject is held against.

    mode: "coverage", "runners", "against" or "golden".  name: of the reference.  signature: what
    was called.  inputs: where they come from.  comparison: None where there are no outputs to
    compare.  findings: what there is to say before the subject is run.
    explains: whether these say why outputs differ, so that no other cause is looked for.
    """

    mode: str
    name: str = ""
    signature: str = ""
    inputs: str = ""
    comparison: ComparisonPlan | None = None
    findings: tuple[Finding, ...] = field(default=())
    explains: bool = False


def reference_of(request: CheckRequest, runs: Runs, subject: ResolvedSubject) -> CheckReference:
    """Return what the subject is held against; a reference that is a model is run.

    Raises UsageError where there is nothing to compare, and what reading the reference raises.
    """
    specs = tuple(runner_for(spec, subject.subject.kind) for spec in request.runners)
    if request.golden is not None:
        return _golden(request, Path(request.golden), runs, subject, specs)
    if request.against is not None:
        return _other_model(request, runs, subject, specs)
    return _first_runner(request, runs, subject, specs)


def _first_runner(
    request: CheckRequest, runs: Runs, subject: ResolvedSubject, specs: tuple[RunnerSpec, ...]
) -> CheckReference:
    """Hold every runner against the first; restore a checkpoint that has only one."""
    first, *others = dict.fromkeys(specs)
    if others or request.audit:  # an audit alone holds the model against itself
        others = others or [first]
        reference = CheckReference("runners", f"{subject.subject} on {first.text}")
        if not subject.runs:
            return reference
        return _run(request, runs, subject, subject, reference, first, tuple(others))
    if not subject.is_checkpoint:
        raise UsageError(
            "nothing to compare: one model, one runner",
            where=str(subject.subject),
            hint=say("‹on› twice, ‹against=MODEL›, or ‹golden=DIR› (`ckptkit record` makes one)"),
        )
    if subject.subject.kind == "code":
        runs.restore(subject, first)
    return CheckReference("coverage", inputs=f"restored into {subject.place}")


def _other_model(
    request: CheckRequest, runs: Runs, subject: ResolvedSubject, specs: tuple[RunnerSpec, ...]
) -> CheckReference:
    """Hold the subject, on every runner, against another one on the first runner.

    What that does not run is run by TensorFlow, or by the runtime of its kind, on the CPU.
    """
    assert request.against is not None
    place = runs.scratch / "against"
    place.mkdir()
    source = request.source.meant_for(request.against)
    other = source.resolve(request.against, place, request.limits.timeout_s)
    kind, first = other.subject.kind, specs[0]
    if kind not in RUNNERS[first.runtime].model_kinds:
        first = runner_for(RunnerSpec(), kind)
    reference = CheckReference("against", f"{other.subject} on {first.text}")
    if other.coverage is not None and not other.coverage.ok:
        return replace(reference, findings=other.coverage.findings)
    if not subject.runs:
        return reference
    return _run(request, runs, subject, other, reference, first, tuple(dict.fromkeys(specs)))


def _run(
    request: CheckRequest,
    runs: Runs,
    subject: ResolvedSubject,
    model: ResolvedSubject,
    reference: CheckReference,
    first: RunnerSpec,
    specs: tuple[RunnerSpec, ...],
) -> CheckReference:
    """Run the reference's model, which is the subject itself where runners are compared."""
    is_subject = model is subject
    # What another model's restore covers is no part of the subject's coverage.
    its_runs = runs if is_subject else replace(runs, coverage=None)
    prepared = prepare(its_runs, model, first, request.inputs)
    if not is_subject and its_runs.coverage is not None:
        uncovered = [f for f in its_runs.coverage.findings if f.severity == "error"]
        reference = replace(reference, findings=tuple(uncovered))
    if prepared is None:
        return reference
    outputs = ReferenceOutputs(
        reference.name,
        dict(zip(prepared.cases, prepared.run.outputs, strict=True)),
        prepared.run.environment,
        {},
    )
    mapped = MappedSubject(
        runs,
        subject,
        with_outputs(prepared.model_signature, prepared.run.outputs[0]),
        request.renames,
        _signature(request, subject, prepared.signature),
        same_contract=model.subject.kind == subject.subject.kind,
    )
    if is_subject:  # one model, one set of names
        mapped.pairing = Pairing({}, {})
    comparison = ComparisonPlan(
        outputs, prepared.cases, mapped, model, prepared.signature, first, specs
    )
    return replace(
        reference, signature=prepared.signature, inputs=prepared.text, comparison=comparison
    )


def _signature(request: CheckRequest, subject: ResolvedSubject, called: str) -> str | None:
    """Return the signature to call: that of the reference, if both are of one kind."""
    if request.inputs.signature is not None:
        return request.inputs.signature
    return called if called != "call" and _has_signatures(subject.subject.kind) else None


def _golden(
    request: CheckRequest,
    directory: Path,
    runs: Runs,
    subject: ResolvedSubject,
    specs: tuple[RunnerSpec, ...],
) -> CheckReference:
    """Hold the subject against what was recorded: its weights and files first, unless only outputs
    count.  Raises FormatError and PathNotFoundError of a golden that cannot be read.
    """
    golden = read_golden(directory)
    cases = {case.name: case.inputs for case in golden.cases}
    outputs = ReferenceOutputs(
        str(directory),
        {case.name: case.outputs for case in golden.cases},
        golden.environment,
        golden.noise,
    )
    changes: list[Finding] = []
    if subject.runs and not request.outputs_only:
        changes = findings_of(compare_bindings(golden.binding, binding_of(subject, full=False)))
    kind = subject.subject.kind
    same = golden.kind == kind or (_is_called(golden.kind) and _is_called(kind))
    recorded = golden.signature if same and _has_signatures(kind) else None
    call = request.inputs.signature or recorded
    mapped = MappedSubject(runs, subject, golden.model_signature, request.renames, call, same)
    runners = tuple(dict.fromkeys(specs)) if subject.runs else ()
    return CheckReference(
        "golden",
        str(directory),
        golden.signature,
        f"{count_text(len(cases), 'case')} of the golden",
        ComparisonPlan(outputs, cases, mapped, golden, golden.signature, specs[0], runners),
        tuple(changes),
        explains=any(finding.severity == "error" for finding in changes),
    )


def _has_signatures(kind: str) -> bool:
    """Whether a model of this kind has signatures, of which one is called by its name."""
    row = format_of_kind(kind)
    return row is not None and row.structure == SAVED_MODEL


def _is_called(kind: str) -> bool:
    """Whether a model of this kind is an object of Keras or of code, which is called."""
    row = format_of_kind(kind)
    return kind == CODE or (row is not None and row.structure == KERAS)
