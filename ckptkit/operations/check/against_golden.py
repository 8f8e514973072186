"""Holding a model against what was recorded of one: its weights and contract, then its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.golden import Golden, read_golden
from ckptkit.operations.execution.mapped import MappedSubject, ReferenceOutputs
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, binding_of
from ckptkit.operations.execution.types import counted, findings_of
from ckptkit.operations.findings import Finding

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


class GoldenReference(NamedTuple):
    """A golden beside the subject of a check.

    cases: the recorded inputs by case.  paired: the subject, to be run on them.
    changed: whether weights or files differ from those recorded, which explains other outputs.
    """

    reference: ReferenceOutputs
    cases: Mapping[str, Arrays]
    paired: MappedSubject
    signature: str
    text: str
    changed: bool
    golden: Golden


def against_golden(
    runs: Runs,
    resolved: ResolvedSubject,
    directory: Path,
    signature: str | None,
    renames: Mapping[str, str],
    bound: bool,
) -> GoldenReference:
    """Compare the subject's weights and files with the golden's, if `bound`; nothing is run.

    Raises FormatError and PathNotFoundError of a golden that cannot be read.
    """
    golden = read_golden(directory)
    cases = {case.name: case.inputs for case in golden.cases}
    reference = ReferenceOutputs(
        str(directory),
        {case.name: case.outputs for case in golden.cases},
        golden.environment,
        golden.noise,
    )
    changes: list[Finding] = []
    if resolved.runs and bound:
        changes = findings_of(compare_bindings(golden.binding, binding_of(resolved, full=False)))
    runs.findings += changes
    same = _same_kind(golden, resolved)
    call = signature or (
        golden.signature if same and resolved.subject.kind == "saved_model" else None
    )
    return GoldenReference(
        reference,
        cases,
        MappedSubject(runs, resolved, golden.model_signature, renames, call, same),
        golden.signature,
        f"{counted(len(cases), 'case')} of the golden",
        any(finding.severity == "error" for finding in changes),
        golden,
    )


def _same_kind(golden: Golden, resolved: ResolvedSubject) -> bool:
    calls = ("keras", "code")
    return golden.kind == resolved.subject.kind or (
        golden.kind in calls and resolved.subject.kind in calls
    )
