"""A golden in every form: what was run, how noisy it is, what its outputs see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptkit.golden.golden import Golden
from ckptkit.reports.check.rows import environment_text, number
from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.table import render
from ckptkit.reports.text import count_text, printable, shape_text
from ckptkit.runners.child.faults import MOST_PASSING
from ckptkit.text import list_text
from ckptkit.wording import say


def lines(
    golden: Golden, path: Path | None = None, fmt: str = "table", *, verbose: bool = False
) -> Iterator[str]:
    """Yield the report.

    path: where it lies.  fmt: "table" (for people), "json" (schema ckptkit.golden/1), "jsonl",
    "csv", "markdown", "html" or "table:NAME" (a row per case and output).
    verbose: also the settings and what the outputs are.
    """
    if fmt != "table":
        yield from in_form(
            fmt,
            f"ckptkit record {golden.subject}",
            [golden],
            lambda form: _table(golden, form),
            lambda: remarks(golden, path),
        )
        return
    *said, last = map(printable, _lines(golden, path))
    yield from said
    if verbose:
        for name, value in golden.options.items():
            yield printable(f"{name}: {value}")
        yield from _table(golden, "table")
    yield last


def remarks(golden: Golden, path: Path | None = None) -> Iterator[str]:
    """Yield what the report says beside a table of the outputs."""
    return map(printable, _lines(golden, path))


def _table(golden: Golden, fmt: str) -> Iterator[str]:
    rows = [
        (row["case"], row["output"], row["dtype"], shape_text(tuple(row["shape"])))
        for row in golden.records()
    ]
    yield from render(rows, ("CASE", "OUTPUT", "DTYPE", "SHAPE"), fmt, fit=_FIT)


_FIT = Fit(names=("OUTPUT",))


def _lines(golden: Golden, path: Path | None) -> Iterator[str]:
    outputs = {name for case in golden.cases for name in case.outputs}
    yield f"signature {golden.signature}: {golden.options.get('inputs', '')}"
    yield f"on {golden.runner}: {environment_text(golden.environment)}"
    for name, noise in golden.noise.items():
        yield f"noise of {name}: {number(noise['max_scaled'])} of its rms"
    yield from _coverage(golden)
    yield from _faults(golden)
    for source, text in dict(golden.options.get("noise_sources") or {}).items():
        if text == "does not run":
            yield f"note: it does not run with {source}"
    cases, recorded = count_text(len(golden.cases), "case"), count_text(len(outputs), "output")
    weights = count_text(len(golden.binding.variables), "variable")
    yield f"{path or golden.subject}: {cases}, {recorded}, bound to {weights}"


def _coverage(golden: Golden) -> Iterator[str]:
    """Yield what the outputs see of the variables."""
    coverage = golden.options.get("coverage")
    if not coverage:
        return
    if coverage.get("why_not"):
        yield f"note: which variables the outputs see is not known: {coverage['why_not']}"
        return
    count = coverage["seen"] + coverage["blind"]
    bound = len(golden.binding.variables)
    more = f" (of {bound:,} that are bound: others are not read, or not changed)"
    seen = f"the outputs see {coverage['seen']:,} of {count:,} variables, by {coverage['by']}"
    yield seen + (more if count < bound else "")
    for name in golden.blind:
        yield f"blind: no output sees {name}"


def _faults(golden: Golden) -> Iterator[str]:
    """Yield a warning where too many faults of the model would pass."""
    faults = golden.options.get("faults")
    if not faults or len(faults["passing"]) <= MOST_PASSING * faults["tried"]:
        return
    count, tried = len(faults["passing"]), count_text(faults["tried"], "fault")
    yield say(
        f"warning: {count} of {tried} in the model would pass this golden: "
        f"{list_text(faults['passing'], 3)}; other ‹inputs›, or a tolerance of its own: "
        "‹check.audit_tolerance› suggests one"
    )
