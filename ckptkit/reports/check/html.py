"""A check as an HTML page: outputs, findings, and the error along the depth of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ckptkit.operations.localize.values import error_of
from ckptkit.reports.check import localize as localize_text
from ckptkit.reports.check.audit import sections as audit_sections
from ckptkit.reports.check.rows import allowed, environment_text, row_text, where_text
from ckptkit.reports.findings_html import findings_table
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import column, listed, plain, table
from ckptkit.reports.screen import PAPER, shown_on
from ckptkit.text import json_number

if TYPE_CHECKING:
    from ckptkit.model_io.results import OutputResult
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import Row
    from ckptkit.operations.localize.values import Layer, Localization


def lines(report: Report) -> Iterator[str]:
    """Yield the page."""
    made = page(report)
    return frame.lines(made, plain(made))


def page(report: Report) -> frame.Page:
    """Return what the page shows."""
    what = f"signature {report.signature}" if report.signature not in ("", "call") else ""
    files = [{"path": report.subject, "about": ", ".join(filter(None, (what, report.inputs)))}]
    if report.reference:
        files[0]["side"] = "subject"
        files.append({"side": "reference", "path": report.reference, "about": ""})
    sections: list[frame.Section] = []
    if report.localization is not None:
        sections += _localized(report.subject, report.localization)
    if report.rows:
        sections.append(outputs_table(report.rows, main=report.localization is None))
    if report.findings:
        found = [(report.subject, finding) for finding in report.findings]
        sections.append(findings_table(found))
    if report.audit is not None:
        sections += audit_sections(report.audit)
    sections += _runs(report)
    return frame.Page(
        "check",
        f"{report.subject} · ckptkit check",
        verdict=report.verdict,
        tone={0: "good", 1: "bad", 2: "warn"}[report.exit_code],
        files=files,
        notes=[("error", f"{row.name}: {row_text(row)}") for row in _bad(report)[:20]],
        sections=sections,
    )


def _bad(report: Report) -> tuple[Row, ...]:
    return (*report.failed, *report.meaningless)


def outputs_table(rows: Sequence[Row], *, main: bool = False) -> frame.Section:
    """Return a row per output that was compared.  main: as `sections.table` has it."""
    results = [row.result for row in rows]
    columns = [
        column("status", "status", [r.status for r in results], "status", facet="chips"),
        column("name", "output", [r.name for r in results], "name"),
        column("runner", "runner", [row.runner for row in rows], facet="select", minor=True),
        column("case", "case", [row.case for row in rows], facet="select", minor=True),
        column("max_abs", "max abs", [r.max_abs for r in results], "number", minor=True),
        column("max_rel", "max rel", [_relative(r) for r in results], "number", minor=True),
        column("needed", "needed", [r.needed for r in results], "number"),
        column("allowed", "allowed", [allowed(row) for row in rows], "mono"),
        column("bad", "beyond", [r.n_bad for r in results], "count", minor=True),
        column("n", "elements", [r.n for r in results], "count", hidden=True),
        column("ulp", "max ULP", [r.max_ulp for r in results], "count", hidden=True),
        column("cosine", "cosine", [r.cosine for r in results], "number", hidden=True),
        column("tier", "tier", [row.tier or None for row in rows], hidden=True),
        column("says", "what it says", [row_text(row) for row in rows], hidden=True),
    ]
    return table("outputs", "Outputs", columns, "output", main=main)


def _relative(result: OutputResult) -> float | None:
    return math.nan if result.defined_max_rel is None else result.max_rel


def _runs(report: Report) -> list[frame.Section]:
    told = []
    for run in report.runs:
        how = f"no outputs: {run.error}" if run.error else f"{where_text(run)}, {run.seconds:.1f} s"
        told.append(f"{run.subject} on {run.runner}: {how}; {environment_text(run.environment)}")
    return [listed("runs", "Runs", told)] if told else []


# --- where it differs -----------------------------------------------------------------------------


def _localized(subject: str, found: Localization) -> list[frame.Section]:
    with shown_on(PAPER):
        said = [line for line in localize_text.lines(subject, found) if line]
    sections: list[frame.Section] = [listed("where", "Where it differs", _told(said, found))]
    if found.layers:
        sections += [_depth(found), _layers(found)]
    return sections


def _told(said: list[str], found: Localization) -> list[str]:
    """Return the report without its table of layers, which the page has as one that sorts."""
    start = next((at for at, line in enumerate(said) if line.startswith("LAYER ")), None)
    if start is None:
        return said
    rows = min(localize_text.SHOWN, len(found.ranked))
    rest = said[start + 1 + rows :]
    return said[:start] + [line for line in rest if not line.startswith("... and ")]


def _depth(found: Localization) -> frame.Section:
    blamed = found.first if found.beyond else None
    return {
        "kind": "depth",
        "id": "depth",
        "title": "Error along the depth of the model",
        "of": "values",
        "points": [_point(layer, blamed) for layer in found.layers],
    }


def _point(layer: Layer, blamed: Layer | None) -> dict[str, Any]:
    return {
        "layer": localize_text.layers_text(layer),
        "value": localize_text.value_text(layer),
        "kind": layer.kind,
        "alone": _error(layer.isolated),
        "with": _error(layer.propagated),
        "allowed": _allowed(layer),
        "beyond": layer.is_beyond,
        "blamed": layer is blamed,
    }


def _error(result: OutputResult | None) -> Any:
    return None if result is None else json_number(error_of(result))


def _allowed(layer: Layer) -> float | None:
    result = layer.result
    return None if result is None else max(result.tolerance.rtol, result.tolerance.atol)


def _layers(found: Localization) -> frame.Section:
    layers = found.layers
    blamed = found.first if found.beyond else None

    def state(layer: Layer) -> str:
        return "look here" if layer is blamed else "beyond" if layer.is_beyond else "within"

    columns = [
        column("state", "state", [state(layer) for layer in layers], "status", facet="chips"),
        column("name", "layer", [localize_text.layers_text(x) for x in layers], "name"),
        column("value", "value", [localize_text.value_text(x) for x in layers], "mono", minor=True),
        column("kind", "kind", [x.kind for x in layers], "mono", facet="select", minor=True),
        column("alone", "alone", [_error(x.isolated) for x in layers], "number"),
        column("with", "with inputs' error", [_error(x.propagated) for x in layers], "number"),
        column("allowed", "allowed", [_allowed(x) for x in layers], "number", minor=True),
        column("policy", "policy", [x.policy or None for x in layers], hidden=True),
        column(
            *("variables", "variables", [localize_text.gaps_text(x) for x in layers]), hidden=True
        ),
        column("hints", "hints", ["\n".join(x.hints) or None for x in layers], hidden=True),
    ]
    return table("values", "Values inside of the model", columns, "value", main=True)
