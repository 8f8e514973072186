"""`ckptkit history --follow`: a line for each step as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit.cli.executors import executor_of
from ckptkit.cli.options import echo_lines, flat
from ckptkit.operations.history.follow import follow
from ckptkit.reports.history import text as report
from ckptkit.reports.screen import toned

if TYPE_CHECKING:
    from ckptkit.operations.history.result import History
    from ckptkit.operations.history.types import HistoryFinding


def follow_run(runs: tuple[str, ...], options: dict[str, Any]) -> None:
    """Print a line for each new step of a directory, and each finding once, until interrupted."""
    if len(runs) != 1:
        raise click.UsageError("--follow watches one directory.")
    is_json = options["fmt"] == "jsonl"
    if not is_json:
        _flushed([report.step_line(report.STEP_HEADERS)])
    told: set[tuple[object, ...]] = set()
    with executor_of(options) as executor:
        for result, new in follow(
            runs[0],
            roles=flat(options["roles"]),
            names=options["names"],
            cache=Path(options["cache"]) if options["cache"] else None,
            thresholds=options["thresholds"],
            executor=executor,
        ):
            fresh = [f for f in result.findings if _name(f) not in told]
            told.update(map(_name, fresh))
            if is_json:
                _flushed(list(_json(result, new, fresh)))
            else:
                _flushed(list(_lines(result, new, fresh)))


def _flushed(lines: list[str]) -> None:
    echo_lines(lines)
    sys.stdout.flush()


def _name(finding: HistoryFinding) -> tuple[object, ...]:
    return finding.code, finding.step, finding.layers


def _places(result: History, new: tuple[Path, ...]) -> list[int]:
    return [at for at, step in enumerate(result.steps) if step.path in new]


def _lines(result: History, new: tuple[Path, ...], fresh: list[HistoryFinding]) -> Iterator[str]:
    for at in _places(result, new):
        yield report.step_line(report.step_cells(result, at))
    for finding in fresh:
        if finding.severity != "note":
            yield toned(report.finding_text(finding))


def _json(result: History, new: tuple[Path, ...], fresh: list[HistoryFinding]) -> Iterator[str]:
    """Yield a line of JSON for each step; findings come with the last."""
    places = _places(result, new)
    for at in places:
        cells = zip(report.STEP_HEADERS, report.step_cells(result, at), strict=True)
        row = dict(cells)
        yield json.dumps(
            {
                **result.steps[at].to_json(),
                "norm": row["NORM"] or None,
                "update": row["UPDATE"] or None,
                "ratio": row["UPDATE/NORM"] or None,
                "nan": row["NAN"],
                "findings": [f.to_json() for f in fresh] if at == places[-1] else [],
            },
            allow_nan=False,
        )
