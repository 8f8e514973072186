"""The reference's outputs in float64, which break ties between two roundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptkit.golden.golden import Golden
from ckptkit.model_io.float64 import tie_break
from ckptkit.operations.execution.mapped import ReferenceOutputs
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.types import Row
from ckptkit.operations.findings import Finding
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.introspect import float64_outputs
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

_REBUILT = ("keras", "code")  # kinds of subjects that can be


def exact_outputs(
    runs: Runs, source: ResolvedSubject | Golden, cases: Mapping[str, Arrays]
) -> dict[str, Mapping[str, Any]]:
    """Return the reference's outputs in float64 by case; {} with a finding where there are none."""
    if isinstance(source, Golden):
        kept: dict[str, Mapping[str, Any]] = {c.name: c.float64 for c in source.cases if c.float64}
        if not kept:
            _impossible(runs, source.subject, say("the golden keeps none: ‹record.float64›"))
        return kept
    if source.subject.kind not in _REBUILT:
        why = say(
            "a SavedModel's graph has its dtypes built in; a .keras file or ‹model› can be rebuilt"
        )
        _impossible(runs, str(source.subject), why)
        return {}
    try:
        with runs.counted("float64"):
            found = float64_outputs(
                source.subject, list(cases.values()), runs.limits, options=runs.options
            )
    except RunnerError as error:
        _impossible(runs, str(source.subject), error.message)
        return {}
    return dict(zip(cases, found, strict=True))


def _impossible(runs: Runs, where: str, why: str) -> None:
    runs.findings.append(
        Finding("note", "float64.none", where, f"no outputs in float64 to break ties: {why}")
    )


def broken_ties(
    rows: Sequence[Row],
    reference_outputs: ReferenceOutputs,
    outputs: Mapping[str, Arrays],
    exact: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """Return the rows, ties broken; outputs: by case, by the names of the reference."""
    found = []
    for row in rows:
        name, true = row.result.name, exact.get(row.case, {})
        if row.result.status == "differs" and name in true and name in outputs[row.case]:
            reference, new = reference_outputs.cases[row.case][name], outputs[row.case][name]
            row = replace(row, result=tie_break(row.result, reference, new, true[name]))
        found.append(row)
    return found
