"""`check --localize`: which layer, or which switch, makes two runs differ.

    localize(new, against=old)                     two models
    localize(model, on=["CPU:0", "xla:CPU:0"])     one model on two runners
    localize(model, golden="golden/")              a golden that was recorded with layers

Both sides are run with the values inside of them exposed, and those are paired by name.  Then every
layer of the subject is run alone, on what the reference gave before it: what it gives differs by
what it adds itself, so a layer that only amplifies or inherits an error is not blamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError
from ckptkit.golden.binding import bind
from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.golden import Golden
from ckptkit.operations.execution.compared import ComparedRun
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.tolerance import TolerancePolicy
from ckptkit.operations.localize.localizer import Localizer, ModelRun
from ckptkit.operations.localize.switches import attribute
from ckptkit.operations.localize.values import Localization
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.types import ModelSpec

if TYPE_CHECKING:
    pass


FAILED, ALWAYS = "failed", "always"  # when `check` localises


def find(
    runs: Runs,
    judged: Sequence[ComparedRun],
    policy: TolerancePolicy,
    globs: Sequence[str],
    when: str,
    near: Sequence[Path] = (),
) -> Localization | None:
    """Localise the first run that fails; of those that pass the first, if `when` is "always".

    near: directories in which the model of a golden without layers may still lie.
    """
    failed = [item for item in judged if item.differs]
    chosen = failed or (list(judged) if when == ALWAYS else [])
    if not chosen:
        return None
    one = chosen[0]
    bar = policy.choose(one.reference_outputs.environment, one.run.environment).tolerance
    work = Localizer(
        runs, _reference(one, near), _new(one), one.paired.pairing, bar, one.differs, globs
    )
    found = work.layers()
    if one.differs and _is_one_runtime(one) and (_switches_differ(one) or not found.suspects):
        found = _with_switches(found, runs, one, bar)
    return found


def _is_one_runtime(one: ComparedRun) -> bool:
    """Whether one runtime ran both: another computes in its own way, whatever its switches."""
    return _runner_before(one).runtime == one.spec.runtime


def _switches_differ(one: ComparedRun) -> bool:
    return _runner_before(one) != one.spec


def _runner_before(one: ComparedRun) -> RunnerSpec:
    known = one.reference
    return parse_runner(known.runner) if isinstance(known, Golden) else one.reference_spec


def _with_switches(found: Localization, runs: Runs, one: ComparedRun, bar: Any) -> Localization:
    """Flip switches: from the reference's runner where its model is the same, else from the own."""
    paired = one.paired
    same = one.reference is paired.resolved
    start, other = (one.reference_spec, one.spec) if same else (one.spec, one.reference_spec)
    outputs = one.reference_outputs.cases[one.case]
    flipped = attribute(runs, paired, start, other, one.cases[one.case], outputs, bar, same)
    return replace(found, switches=tuple(flipped), starts=start.text, passes=same)


def _reference(one: ComparedRun, near: Sequence[Path]) -> ModelRun:
    inputs, outputs = one.cases[one.case], one.reference_outputs.cases[one.case]
    signature, known = one.signature, one.reference
    if isinstance(known, Golden):
        layers = next(case.layers for case in known.cases if case.name == one.case)
        spec = _runner_before(one)
        resolved = _model_of(known, near) if not layers else None
        return ModelRun(
            resolved, spec, inputs, outputs, signature, known.kind, layers, known.binding
        )
    kind, file = known.subject.kind, _file(known)
    return ModelRun(known, one.reference_spec, inputs, outputs, signature, kind, None, file)


def _model_of(golden: Golden, near: Sequence[Path]) -> ResolvedSubject | None:
    """Return the model that a golden is of, where it still is as it was recorded."""
    if golden.kind == "code":
        return None
    for path in dict.fromkeys(directory / golden.subject for directory in near):
        try:
            changes = compare_bindings(golden.binding, bind(path, full=False))
        except (CkptkitError, OSError):  # not there, or nothing that can be read
            continue
        if all(change.severity == "note" for change in changes):
            return ResolvedSubject(ModelSpec(golden.kind, path))
    return None


def _new(one: ComparedRun) -> ModelRun:
    paired = one.paired
    outputs = one.run.outputs[list(one.cases).index(one.case)]
    inputs = paired.inputs_of(one.cases[one.case])
    kind, file = paired.resolved.subject.kind, _file(paired.resolved)
    return ModelRun(paired.resolved, one.spec, inputs, outputs, paired.signature, kind, None, file)


def _file(resolved: ResolvedSubject) -> Path | None:
    return resolved.file.path if resolved.file is not None else resolved.subject.path
