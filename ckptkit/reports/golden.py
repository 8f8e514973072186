"""A golden in every form: what was run, how noisy it is, what its outputs see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import kind
from ckptkit.golden.golden import Golden
from ckptkit.model_io.sampling import Norms, Sample, norms_of
from ckptkit.reports.check.rows import environment_text, number
from ckptkit.reports.documents import in_form
from ckptkit.reports.fitting import Fit
from ckptkit.reports.page.frame import Page
from ckptkit.reports.page.sections import column, facts, reported, table
from ckptkit.reports.table import render
from ckptkit.reports.text import count_text, printable, shape_text
from ckptkit.runners.child.faults import MOST_PASSING
from ckptkit.text import list_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


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
            [golden],
            lambda form: _table(golden, form),
            lambda: remarks(golden, path),
            page=lambda: page(golden, path),
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


def page(golden: Golden, path: Path | None = None) -> Page:
    """Return what the page shows: what was recorded, how noisy it is, what its outputs see."""
    outputs = [value for case in golden.cases for value in case.outputs.values()]
    rows = list(golden.records())
    names = [row["output"] for row in rows]
    norms = [_norms(value, row["dtype"]) for value, row in zip(outputs, rows, strict=True)]
    noises = [golden.noise.get(name, {}).get("max_scaled") for name in names]

    def measured(name: str) -> list[Any]:
        return [
            None if each is None
            else math.nan if name != "nonfinite" and each.nonfinite == value.size
            else getattr(each, name)
            for each, value in zip(norms, outputs, strict=True)
        ]  # fmt: skip

    columns = [
        column("case", "case", [row["case"] for row in rows], facet="select"),
        column("name", "output", names, "name"),
        column("dtype", "dtype", [row["dtype"] for row in rows], "mono", minor=True),
        column("shape", "shape", [shape_text(tuple(row["shape"])) for row in rows], "mono"),
        column("noise", "noise / rms", noises, "number"),
        column("rms", "rms", measured("rms"), "number", minor=True),
        column("low", "min", measured("lowest"), "number", minor=True),
        column("high", "max", measured("highest"), "number", minor=True),
        column("odd", "not finite", measured("nonfinite"), "count", minor=True),
        column("kept", "kept", [_kept_text(value) for value in outputs], hidden=True),
    ]
    blind = [column("name", "variable", list(golden.blind), "name")]
    settings = [
        (name, str(value))
        for name, value in golden.options.items()
        if isinstance(value, str | int | float)
    ]
    told = [line for line in remarks(golden, path) if not line.startswith(("blind: ", "noise of "))]
    where = [] if path is None else [{"side": "golden", "path": str(path), "about": ""}]
    files = [{"side": "model", "path": golden.subject, "about": golden.kind}, *where]
    sections = [
        table("outputs", "Outputs", columns, "output", main=True),
        table("blind", "Variables that no output sees", blind, "variable", headed=True),
        facts("settings", "Settings", [("runner", golden.runner), *settings]),
    ]
    return reported("record", str(golden.subject), told, golden.exit_code, sections, files)


def _norms(value: Array | Sample, dtype: str) -> Norms | None:
    """Return the norms of an output; None of text, of nothing and of what has no order."""
    if kind(dtype) in ("string", "opaque", "complex") or not value.size:
        return None
    return value.norms if isinstance(value, Sample) else norms_of(value)


def _kept_text(value: Array | Sample) -> str:
    if isinstance(value, Sample):
        return f"{len(value.values):,} of {count_text(value.size, 'element')}, drawn by a seed"
    return "whole"


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
    yield from _not_finite(golden)
    yield from _coverage(golden)
    yield from _faults(golden)
    for source, text in dict(golden.options.get("noise_sources") or {}).items():
        if text == "does not run":
            yield f"note: it does not run with {source}"
    cases, recorded = count_text(len(golden.cases), "case"), count_text(len(outputs), "output")
    weights = count_text(len(golden.binding.variables), "variable")
    yield f"{path or golden.subject}: {cases}, {recorded}, bound to {weights}"


def _not_finite(golden: Golden) -> Iterator[str]:
    """Yield a line for each output that is not finite somewhere: warnings where it is nowhere."""
    values = [value for case in golden.cases for value in case.outputs.values()]
    for row, value in zip(golden.records(), values, strict=True):
        norms = _norms(value, row["dtype"])
        if norms is None or not norms.nonfinite:
            continue
        severity = "warning" if norms.nonfinite == value.size else "note"
        count = f"{norms.nonfinite:,} of {count_text(value.size, 'value')}"
        yield f"{severity}: {row['case']}, output {row['output']}: {count} NaN or infinite"


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
