"""Is a training run that goes on from a checkpoint the run that never stopped?

    restore    a child restores the checkpoint into what the run's own code builds, and saves that
    train on   it takes the steps, and saves where the run that never stopped did
    compare    `diff` of every save with its counterpart, bit for bit or within a tolerance

What the first save lacks of the checkpoint was not restored; the first of the others that differs
tells the step.  Checkpoints in between are known by their numbers, and only where these count
steps: where that of the last is that of the first and the steps.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ckptkit.checkpoint.naming import ROLES
from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.operations.check.report import Report, ResumedRun
from ckptkit.operations.diff.api import diff
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.tolerance import AUTO, STRICT, TolerancePolicy
from ckptkit.operations.execution.types import Path_
from ckptkit.operations.findings import Finding
from ckptkit.operations.input_files import unchanged_inputs
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits, ModelSpec, ResumeResult
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import OBJECT_GRAPH, format_of
from ckptkit.stores.tensor_bundle.state_file import prefixes
from ckptkit.text import count_text, lazy_pattern, list_text
from ckptkit.wording import say

_NUMBERED = lazy_pattern(r"(.*?)(\d+)", re.DOTALL)
_SHOWN = 5  # names in a message; JSON has all


@dataclass(frozen=True)
class ResumeRequest:
    """One run to go on with.

    subject: the checkpoint to go on from; against: the one to arrive at.  code: what builds the
    run.  steps: how many lie between the two.
    Raises UsageError where the parts contradict each other.
    """

    subject: Path_
    against: Path_
    code: str
    steps: int
    runner: RunnerSpec
    tolerance: TolerancePolicy
    limits: Limits
    imports: tuple[str, ...] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(say("‹steps› is at least 1"), where=str(self.steps))
        spec = self.runner
        if spec.runtime != "tensorflow" or spec.xla or spec.replicas > 1:
            raise UsageError(
                f"a run goes on by its own code, not on {spec.text}",
                hint=say("‹on=CPU:0› or ‹on=GPU:0›; the code chooses XLA and replicas"),
            )
        _ = self.tolerance.rules  # a file that cannot be read is said before anything runs


def resume_request(
    subject: Path_,
    against: Path_ | None,
    code: str | None,
    steps: int | None,
    *,
    runners: Sequence[RunnerSpec],
    tolerance: TolerancePolicy,
    limits: Limits,
    imports: tuple[str, ...],
    strict: bool,
    idle: Sequence[str],
) -> ResumeRequest:
    """Return the request; idle: keywords that were given and would do nothing.

    Raises UsageError where something is lacking, or would do nothing.
    """
    if code is None:
        raise UsageError(say("‹steps› is for ‹resume›"), hint="add it")
    if steps is None or against is None:
        raise UsageError(
            say("‹resume› wants ‹steps› and ‹against›"),
            hint="how many steps to take, and the checkpoint that the run had then",
        )
    if idle:
        marked = ", ".join(f"‹{name}›" for name in idle)
        raise UsageError(say(f"{marked} would do nothing with ‹resume›"), hint="leave it out")
    if len(runners) != 1:
        raise UsageError(say("‹resume› runs once: one ‹on›"))
    return ResumeRequest(
        subject, against, code, steps, runners[0], tolerance, limits, imports, strict
    )


class _SaveToCompare(NamedTuple):
    """A save to compare: after which step, and the checkpoint of the run that never stopped."""

    step: int
    reference: Path


def run_resume(request: ResumeRequest) -> Report:
    """Carry out the request; raises what `ckptkit.check` raises."""
    start, end = _prefix(request.subject), _prefix(request.against)
    places, others = _places(start, end, request.steps)
    with (
        tempfile.TemporaryDirectory(prefix="ckptkit-resume-") as directory,
        unchanged_inputs(start, end),
    ):
        runs = Runs(request.limits, Path(directory), {"imports": list(request.imports)})
        runs.count.expected = 1
        model = ModelSpec("code", start, request.code, os.fspath(request.subject))
        done = runs.resume(
            model, request.runner, request.steps, tuple(place.step for place in places)
        )
        resumed, findings = None, list(runs.findings)
        if done is not None and done.error:
            text = f"{request.runner.text}: {done.error}"
            findings.append(Finding("error", "restore.raised", str(request.subject), text))
        elif done is not None:
            resumed, found = _compared(request, start, done, places)
            findings += found
    if others:
        text = f"{list_text(others, _SHOWN)}: their numbers do not count steps; not compared"
        findings.append(Finding("note", "resume.between", str(request.against), text))
    return Report(
        subject=os.fspath(request.subject),
        mode="resume",
        reference=os.fspath(request.against),
        inputs=f"{count_text(request.steps, 'step')} of {request.code}",
        runs=tuple(runs.ran),
        run_findings=tuple(findings),
        strict=request.strict,
        resumed=resumed,
    )


def _prefix(operand: Path_) -> Path:
    """Return the prefix of a TensorFlow checkpoint; raises UnsupportedError for anything else."""
    located = locate(operand)
    row = format_of(located.format)
    if row.structure != OBJECT_GRAPH or located.subtree:
        raise UnsupportedError(
            "training goes on from a whole TensorFlow checkpoint, and arrives at one",
            where=os.fspath(operand),
        )
    return located.path


def _places(start: Path, end: Path, steps: int) -> tuple[list[_SaveToCompare], list[str]]:
    """Return the saves to compare, the last one last, and the names of those that cannot be."""
    last = _SaveToCompare(steps, end)
    first_name, last_name = (_NUMBERED.fullmatch(path.name) for path in (start, end))
    beside = start.parent.resolve() == end.parent.resolve()
    if first_name is None or last_name is None or first_name[1] != last_name[1] or not beside:
        return [last], []
    low, high = int(first_name[2]), int(last_name[2])
    between = []
    for path in prefixes(end.parent):
        found = _NUMBERED.fullmatch(path.name)
        if found is not None and found[1] == last_name[1] and low < int(found[2]) < high:
            between.append(_SaveToCompare(int(found[2]) - low, path))
    if high - low != steps:
        return [last], [place.reference.name for place in between]
    return [*sorted(between), last], []


def _compared(
    request: ResumeRequest, start: Path, done: ResumeResult, places: Sequence[_SaveToCompare]
) -> tuple[ResumedRun, list[Finding]]:
    """Compare what was saved with what should be there."""
    restored = _differences(start, done.path / "0")
    first: _SaveToCompare | None = None
    changes: list[TensorDiff] = []
    at_first: list[TensorDiff] = []
    for place in places:
        changes = _differences(
            place.reference, done.path / str(place.step), request.tolerance, exact=False
        )
        if changes and first is None:
            first, at_first = place, changes
    # a variable that the first step made was restored then, if it is there at the end
    gone = {change.some.spec.key for change in changes if change.status == "removed"}
    restored = [c for c in restored if c.status != "removed" or c.some.spec.key in gone]
    findings = [*_not_restored(start, restored)]
    if first is not None:
        findings += _first_step(places, first, at_first, request.steps)
        findings += _by_role(request.against, changes)
    findings += _unsaved(request.code, done, differs=first is not None)
    resumed = ResumedRun(
        steps=request.steps,
        compared=tuple((place.step, str(place.reference)) for place in places),
        first_difference=None if first is None else first.step,
        not_restored=tuple(change.name for change in restored),
        different=tuple((change.name, change.role, change.status) for change in changes),
        unsaved=done.unsaved,
    )
    return resumed, findings


def _differences(
    old: Path, new: Path, tolerance: TolerancePolicy | None = None, *, exact: bool = True
) -> list[TensorDiff]:
    """Return what differs of all that is kept, TensorFlow's own count of saves left aside."""
    if exact or tolerance is None or tolerance.tolerance == STRICT:
        found = diff(old, new, roles=["all"], bitwise=True)
    else:
        loose = tolerance.has_explicit_bounds or tolerance.tolerance != AUTO
        found = diff(
            old,
            new,
            roles=["all"],
            rtol=tolerance.rtol or 0.0,
            atol=tolerance.atol or 0.0,
            tolerances=tolerance.rules,
            bitwise=not loose,
        )
    return [change for change in found.differences if not change.some.is_housekeeping]


def _not_restored(start: Path, changes: Sequence[TensorDiff]) -> Iterator[Finding]:
    for role, rows in _roles(change for change in changes if change.status != "added"):
        text = f"not restored: {_named(role, rows)}"
        yield Finding("error", "resume.not_restored", str(start), text)
    for role, rows in _roles(change for change in changes if change.status == "added"):
        text = f"the code has what the checkpoint lacks, and it starts afresh: {_named(role, rows)}"
        yield Finding("error", "resume.no_value", str(start), text)


def _first_step(
    places: Sequence[_SaveToCompare],
    first: _SaveToCompare,
    changes: Sequence[TensorDiff],
    steps: int,
) -> Iterator[Finding]:
    """Say after which step the two part, as far as the checkpoints of the run tell."""
    before = max((place.step for place in places if place.step < first.step), default=0)
    where = str(first.reference)
    if first.step - before == 1:
        text = f"the two part in step {first.step} of {steps}"
    else:
        text = f"the two part in one of the steps {before + 1} to {first.step} of {steps}"
    roles = [_counted(role, len(rows)) for role, rows in _roles(changes)]
    yield Finding(
        "error", "resume.first_step", where, f"{text}: {list_text(roles, len(ROLES))} differ"
    )


def _by_role(against: Path_, changes: Sequence[TensorDiff]) -> Iterator[Finding]:
    """Name what differs at the end, a finding for each role and kind."""
    kinds = {"removed": "not saved by the code", "added": "saved by the code alone"}
    for kind in dict.fromkeys(kinds.get(change.status, "differ") for change in changes):
        rows = (change for change in changes if kinds.get(change.status, "differ") == kind)
        for role, group in _roles(rows):
            text = f"at the end {kind}: {_named(role, group)}"
            yield Finding("error", "resume.differs", os.fspath(against), text)


def _unsaved(code: str, done: ResumeResult, *, differs: bool) -> Iterator[Finding]:
    """Name what training changes and no checkpoint keeps."""
    if done.unsaved:
        text = f"training changes what no checkpoint keeps: {_listed(done.unsaved)}"
        hint = "hand it to the tf.train.Checkpoint that the run saves"
        yield Finding("warning", "resume.unsaved", code, text, hint)
    if done.unsaved_metrics:
        text = f"no checkpoint keeps these metrics and counters: {_listed(done.unsaved_metrics)}"
        yield Finding("note", "resume.unsaved_metrics", code, text)
    if done.generators:
        text = f"training draws from what no checkpoint keeps: {list_text(done.generators)}"
        hint = "a generator with a seed of its own, in the tf.train.Checkpoint, goes on as it was"
        # what was drawn need not matter: what was computed tells
        yield Finding("warning" if differs else "note", "resume.generator", code, text, hint)


def _roles(
    changes: Iterator[TensorDiff] | Sequence[TensorDiff],
) -> list[tuple[str, list[TensorDiff]]]:
    """Return (role, changes of it), in the usual order of roles."""
    groups: dict[str, list[TensorDiff]] = {}
    for change in changes:
        groups.setdefault(change.role, []).append(change)
    return sorted(groups.items(), key=lambda group: ROLES.index(group[0]))


def _listed(names: Sequence[str]) -> str:
    """Return names, each once; variables may share one."""
    counts = Counter(names)
    return list_text([f"{n} ({k} so called)" if k > 1 else n for n, k in counts.items()], _SHOWN)


def _counted(role: str, count: int) -> str:
    return count_text(count, f"{role} tensor")


def _named(role: str, changes: Sequence[TensorDiff]) -> str:
    """Return `2 slot tensors: dense/kernel@m (by up to 0.5), dense/bias@m`."""
    names = []
    for change in changes:
        apart = change.delta.max_abs if change.delta is not None else None
        names.append(f"{change.name} (by up to {apart:.3g})" if apart else change.name)
    return f"{_counted(role, len(names))}: {list_text(names, _SHOWN)}"
