"""The first NaN or infinity of a run, found by halving: it is assumed that it stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckptkit._io.progress import Progress
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.history.steps import OrderedRun, RunFile
from ckptkit.operations.history.types import HistoryFinding
from ckptkit.operations.statistics import is_numeric, statistics_of_all
from ckptkit.text import list_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

_LEFT_OUT = ("counter", "config")
_ASSUMED = "by halving: assumed that what is not finite stays"


def first_nan_finding(
    run: OrderedRun,
    roles: Sequence[str],
    names: Sequence[str],
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> tuple[HistoryFinding, ...]:
    """Return findings on the first step with NaN or infinities, one for each role.

    A checkpoint whose values are damaged is a finding, and passed over.
    """
    damaged: list[HistoryFinding] = []
    while True:
        passed = {finding.path for finding in damaged}
        files = [(n, f) for n, f in run.files if str(f.path) not in passed]
        try:
            whole = run._replace(files=tuple(files))
            return (*damaged, *_halved(whole, roles, names, executor, progress))
        except _DamagedStepError as error:
            damaged.append(error.finding)


class _DamagedStepError(Exception):
    """The values of a step cannot be read."""

    def __init__(self, finding: HistoryFinding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def _halved(
    run: OrderedRun,
    roles: Sequence[str],
    names: Sequence[str],
    executor: Executor | None,
    progress: Progress | None,
) -> tuple[HistoryFinding, ...]:
    steps = [(number, file) for number, file in run.files if file.checkpoint is not None]
    looked: dict[int, list[tuple[Naming, int, int]]] = {}

    def bad(at: int) -> list[tuple[Naming, int, int]]:
        if at not in looked:
            number, file = steps[at]
            try:
                looked[at] = _not_finite(file, roles, names, executor, progress)
            except FormatError as error:
                text = f"{file.path}: {error.message}"
                code = "checkpoint.damaged"
                raise _DamagedStepError(
                    HistoryFinding("error", code, text, number, str(file.path))
                ) from error
        return looked[at]

    if not steps:
        return ()
    low, high = 0, len(steps) - 1
    if not bad(high):
        return (
            HistoryFinding(
                "note",
                "nan.none",
                f"no NaN and no infinity at the last step, {steps[high][0]:,} ({_ASSUMED})",
                steps[high][0],
                str(steps[high][1].path),
            ),
        )
    while low < high:
        middle = (low + high) // 2
        if bad(middle):
            high = middle
        else:
            low = middle + 1
    number, file = steps[low]
    found = bad(low)
    findings = []
    for role in dict.fromkeys(naming.role for naming, _, _ in found):
        rows = [row for row in found if row[0].role == role]
        nan, infinite = sum(row[1] for row in rows), sum(row[2] for row in rows)
        tensors = tuple(naming.name for naming, _, _ in rows)
        findings.append(
            HistoryFinding(
                "error",
                f"{role}.{'nan' if nan else 'infinite'}",
                f"first {'NaN' if nan else 'infinities'} at step {number:,} in "
                f"{list_text(tensors, 4)} ({role}; {nan + infinite:,} values; "
                f"{len(looked)} of {len(steps)} checkpoints read, {_ASSUMED})",
                number,
                str(file.path),
                layers=tuple(dict.fromkeys(_layer(naming) for naming, _, _ in rows)),
                tensors=tensors,
                value=float(nan + infinite),
            )
        )
    return tuple(findings)


def _layer(naming: Naming) -> str:
    name = naming.slot_of or naming.name
    return name.rpartition("/")[0] or name


def _not_finite(
    file: RunFile,
    roles: Sequence[str],
    names: Sequence[str],
    executor: Executor | None,
    progress: Progress | None,
) -> list[tuple[Naming, int, int]]:
    """Return (naming, number of NaN, of infinities) of each tensor that has any."""
    checkpoint = file.checkpoint
    if checkpoint is None or file.values is None:
        raise CkptkitError("not open")
    chosen = [
        (spec, naming)
        for spec, naming in Selection(roles, names).of(checkpoint)
        if is_numeric(spec.dtype) and (roles or naming.role not in _LEFT_OUT)
    ]
    found = statistics_of_all(file.values, [s for s, _ in chosen], executor, progress)
    rows = [(naming, found[spec.key]) for spec, naming in chosen]
    return [(naming, s.n_nan, s.n_inf) for naming, s in rows if s.n_nan or s.n_inf]
