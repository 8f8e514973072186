"""A conversion in every form: the plan of a dry run, and what was done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form, json_lines
from ckptkit.reports.file_head import file_of
from ckptkit.reports.fitting import Fit
from ckptkit.reports.page.frame import Page, Section
from ckptkit.reports.page.sections import cards, column, facts, listed, reported, table
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import bytes_text, count_text, printable, shape_text

if TYPE_CHECKING:
    from ckptkit.compare.tensors import Delta
    from ckptkit.operations.convert.api import MismatchError, Plan, Receipt
    from ckptkit.operations.convert.plan import PlannedTensor

SCHEMA = "ckptkit.convert/1"

_HEADERS = ("TO", "FROM", "DTYPE", "SHAPE", "BYTES", "ROLE", "BY")
_FIT = Fit(names=("TO", "FROM"), drops=("ROLE", "BYTES", "DTYPE", "BY", "SHAPE"))
_LEFTOVERS_FIT = Fit(names=("LEFT BEHIND", "WHY"), drops=("ROLE",))
_THINGS = {"ema": "average", "config": "setting", "other": "other tensor"}
_ALIGN = ("left", "left", "left", "left", "right", "left", "left")


def plan_lines(plan: Plan, fmt: str = "table") -> Iterator[str]:
    """Yield every pair, what is left over, problems, notes, and the bytes to be written.

    fmt: "table" (for people), "json" (schema ckptkit.plan/1), "jsonl", "csv", "markdown", "html"
    or "table:NAME" (the pairs alone, see `plan_remarks`).
    """
    if fmt != "table":
        yield from in_form(
            fmt,
            [plan],
            lambda form: pair_lines(plan, form),
            lambda: plan_remarks(plan),
            page=lambda: plan_page(plan),
        )
        return
    if plan.tensors:
        yield from pair_lines(plan)
        yield ""
    yield from folded(plan_remarks(plan))


def pair_lines(plan: Plan, fmt: str = "table") -> Iterator[str]:
    """Yield a row for each tensor of the output: where its values come from, and why."""
    rows = [
        (
            tensor.name,
            _source_text(plan, tensor),
            tensor.cast.replace("=", "→") or tensor.output.dtype,
            shape_text(tensor.output.shape),
            f"{tensor.nbytes:,}",
            tensor.output.role,
            _evidence(tensor),
        )
        for tensor in plan.tensors
    ]
    return render(rows, _HEADERS, fmt, _ALIGN, _FIT)


def plan_remarks(plan: Plan) -> Iterator[str]:
    """Yield what is left over, problems, notes, and the bytes to be written."""
    if plan.leftovers:
        leftovers = [(item.name, item.role, item.why) for item in plan.leftovers]
        yield from render(leftovers, ("LEFT BEHIND", "ROLE", "WHY"), fit=_LEFTOVERS_FIT)
        yield ""
    yield from _plan_lines(plan)


def _plan_lines(plan: Plan) -> Iterator[str]:
    for note in plan.notes:
        yield toned(f"note: {printable(note)}")
    for problem in plan.problems:
        yield painted(f"problem: {problem.kind}: {printable(problem.message)}", "error")
    yield from _paired_by(plan)
    what = f"{count_text(len(plan.tensors), 'tensor')}, {bytes_text(plan.nbytes)}"
    verdict = f"would write {what} as {plan.target.format.name} to {plan.target.path}"
    if plan.problems:
        verdict = f"would refuse: {count_text(len(plan.problems), 'problem')}"
    yield painted(printable(verdict), "bad verdict" if plan.problems else "verdict")


def _paired_by(plan: Plan) -> Iterator[str]:
    """Yield what the pairings rest on, where anything had to be paired."""
    counts = {name: n for name, n in plan.bases.items() if name != "source"}
    if counts:
        yield "paired by " + ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _source_names(tensor: PlannedTensor) -> str:
    """Return the name of the tensor of SRC, or of all of them that become one."""
    sources = [part.source for part in tensor.parts] if tensor.parts else [tensor.source]
    return " + ".join(source.naming.name for source in sources if source is not None)


def _source_text(plan: Plan, tensor: PlannedTensor) -> str:
    """Return where values come from: names of SRC, or what stands in place of one."""
    if tensor.source:
        return _source_names(tensor)
    return {"template": f"(value of {plan.template_name})", "generated": "(new)"}[tensor.evidence]


def _evidence(tensor: PlannedTensor) -> str:
    text = tensor.evidence
    if tensor.parts and not text.startswith("rule"):  # a rule says what is done to the values
        text += f", {tensor.parts[0].transform}"
    return text + (f", mean of {tensor.source_count}" if tensor.source_count > 1 else "")


def refusal_lines(error: MismatchError) -> Iterator[str]:
    """Yield the JSON document of a conversion that was refused before anything was written."""
    problems = [problem._asdict() for problem in error.problems]
    yield from json_lines({"schema": SCHEMA, "ok": False, "problems": problems}, "problems")


def receipt_lines(receipt: Receipt, fmt: str = "table", *, verbose: bool = False) -> Iterator[str]:
    """Yield what was written, what was proven, and what a person should know.

    fmt: "table" (for people), "json" (the receipt, schema ckptkit.convert/1), "jsonl", "csv",
    "markdown", "html" or "table:NAME" (the pairs alone, see `receipt_remarks`).
    verbose: every pair too.
    """
    if fmt != "table":
        yield from in_form(
            fmt,
            [receipt],
            lambda form: pair_lines(receipt.plan, form),
            lambda: receipt_remarks(receipt),
            page=lambda: receipt_page(receipt),
        )
        return
    if verbose:
        yield from pair_lines(receipt.plan)
        yield ""
    yield from folded(receipt_remarks(receipt))


def receipt_remarks(receipt: Receipt) -> Iterator[str]:
    """Yield what was left behind, what was proven, and the size of it all."""
    plan, proof = receipt.plan, receipt.proof
    for note in (*plan.notes, *receipt.notes, *receipt.signatures):
        yield toned(f"note: {printable(note)}")
    leftovers = Counter(item.why for item in plan.leftovers)
    for why, count in leftovers.items():
        yield f"left behind: {count_text(count, 'tensor')} ({printable(why)})"
    if receipt.kept:
        kept_counts = ", ".join(count_text(n, _THINGS.get(r, r)) for r, n in receipt.kept.items())
        yield printable(f"kept from {plan.template_name}: {kept_counts}")
    yield from _paired_by(plan)
    if proof is None:
        yield printable(f"{receipt.path}: {_size(receipt)} written, not proven (--no-check)")
        return
    if not proof.ok:
        for failure in proof.failures:
            yield painted(f"failed: {printable(failure)}", "error")
        text = f"{receipt.path}: the proof failed; {plan.target.path} was not written"
        yield painted(printable(text), "bad verdict")
        return
    changed = [delta for delta in proof.losses.values() if not delta.equal]
    if proof.losses:
        known = [delta.max_rel for delta in changed if delta.defined_max_rel is not None]
        worst = "-" if changed and not known else f"{max(known, default=0.0):.3g}"
        yield (
            f"cast: {len(changed)} of {count_text(len(proof.losses), 'tensor')} changed, "
            f"largest relative change {worst}"
        )
    if proof.outputs is not None:
        yield printable(f"outputs: {proof.outputs}")
    loaded = receipt.loaded
    said = "every bit as it should be"
    if loaded is not None:
        yield printable(f"loaded: {loaded}" if loaded.ok else str(loaded))
        if loaded.written_by:
            yield printable(
                f"note: {receipt.path} has the structure of {loaded.written_by}, as its "
                "source has; `ckptkit upgrade` makes one of Keras 3 of it"
            )
        said = said if loaded.ok else "bit for bit, but not loaded"
    yield printable(f"{receipt.path}: {_size(receipt)} written and read again, {said}")


def _size(receipt: Receipt) -> str:
    plan = receipt.plan
    return f"{count_text(len(plan.tensors), 'tensor')}, {bytes_text(plan.nbytes)}"


# --- a page ---------------------------------------------------------------------------------------


def plan_page(plan: Plan) -> Page:
    """Return what the page of a dry run shows: problems first, then where everything comes from."""
    columns = [
        column("kind", "problem", [item.kind for item in plan.problems], facet="chips"),
        column("name", "what is wrong", [item.message for item in plan.problems], "name"),
        column("tensor", "name", [item.name for item in plan.problems], "mono", hidden=True),
    ]
    problems = table("problems", "Problems", columns, "problem", headed=True)
    told = [line for line in _plan_lines(plan) if not line.startswith("problem: ")]
    about = f"convert --dry-run {plan.target.path}"
    sections = [problems, *pair_sections(plan)]
    return reported("convert", about, told, 1 if plan.problems else 0, sections, _files(plan))


def receipt_page(receipt: Receipt) -> Page:
    """Return what the page shows: what casts changed most, the proof, where everything is from."""
    plan, proof = receipt.plan, receipt.proof
    losses = proof.losses if proof is not None else {}
    told = list(receipt_remarks(receipt))
    sections: list[Section] = [_largest(plan, losses)]
    if proof is not None:
        sections.append(listed("failures", "What the proof found", proof.failures))
        told = [line for line in told if not line.startswith("failed: ")]
        sections.append(facts("proof", "Proof", list(_proven(receipt))))
    sections += pair_sections(plan, losses)
    return reported(
        "convert", str(receipt.path), told, receipt.exit_code, sections, _files(plan, receipt.path)
    )


def _files(plan: Plan, path: Path | None = None) -> list[dict[str, str]]:
    """Return the heads of what goes in and what comes out."""
    sources = [{"side": "from", **file_of(source)} for source in plan.sources[:4]]
    target = plan.target
    size = f"{count_text(len(plan.tensors), 'tensor')}, {bytes_text(plan.nbytes)}"
    about = f"{target.format.name}, {size}"
    return [*sources, {"side": "to", "path": str(path or target.path), "about": about}]


def _proven(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """Yield what was proven, name and value."""
    proof, loaded = receipt.proof, receipt.loaded
    if proof is None:
        return
    if proof.tensors:
        compared = f"{count_text(proof.tensors, 'tensor')}, {bytes_text(proof.nbytes)}"
        yield "read again and compared bit for bit", compared
    if proof.losses:
        changed = sum(not delta.equal for delta in proof.losses.values())
        yield "changed by a cast", f"{changed} of {count_text(len(proof.losses), 'tensor')}"
    if proof.outputs is not None:
        yield "outputs", str(proof.outputs)
    if loaded is not None:
        yield "loaded", str(loaded)


def _largest(plan: Plan, losses: Mapping[str, Delta]) -> Section:
    """Return the tensors that a cast changed most, those first that no finite number tells."""
    found = [(row, losses[t.key]) for row, t in enumerate(plan.tensors) if t.key in losses]
    found = [(row, delta) for row, delta in found if not delta.equal]
    found.sort(key=lambda pair: (not pair[1].nonfinite, -pair[1].rel_l2))
    shown = [
        {
            "title": plan.tensors[row].name,
            "value": "not finite" if delta.nonfinite else f"{delta.rel_l2:.3g}",
            "text": f"relative change by {plan.tensors[row].cast.replace('=', ' → ')}; "
            f"{delta.n_diff:,} of {delta.n:,} differ"
            + (f", {delta.nonfinite:,} not finite on one side" if delta.nonfinite else ""),
            "row": row,
            "severe": bool(delta.nonfinite) or math.isinf(delta.rel_l2),
        }
        for row, delta in found[:4]
    ]
    return cards("largest", "Largest changes by a cast", "pairs", shown)


def pair_sections(plan: Plan, losses: Mapping[str, Delta] = {}) -> list[Section]:
    """Return tables of where each tensor comes from, and of what is left behind.

    losses: what casts did to tensors, by key.
    """
    tensors = plan.tensors
    outputs = [tensor.output for tensor in tensors]
    steps = ["; ".join(str(part.transform) for part in t.parts) or None for t in tensors]
    changes = [losses.get(tensor.key) for tensor in tensors]
    columns = [
        column("name", "to", [tensor.name for tensor in tensors], "name"),
        column("from", "from", [_source_text(plan, t) for t in tensors], "mono", wide=36),
        column(
            *("dtype", "dtype", [t.cast.replace("=", "→") or t.output.dtype for t in tensors]),
            kind="mono",
            facet="select",
            minor=True,
        ),
        column("shape", "shape", [shape_text(x.shape) for x in outputs], "mono", minor=True),
        column("bytes", "bytes", [tensor.nbytes for tensor in tensors], "bytes", minor=True),
        column("role", "role", [x.role for x in outputs], facet="select", minor=True),
        column("by", "by", [_evidence(t) for t in tensors], minor=True),
        column(
            *("basis", "paired by", [t.basis or t.evidence for t in tensors]),
            facet="select",
            hidden=True,
        ),
        column("steps", "steps", steps, "mono", hidden=True, searched=True),
        column("key", "key", [tensor.key for tensor in tensors], "mono", hidden=True),
    ]
    if losses:
        told = [None if delta is None else delta.rel_l2 for delta in changes]
        columns.insert(3, column("change", "relative change", told, "number"))
    left = plan.leftovers
    behind = [
        column("name", "tensor", [item.name for item in left], "name"),
        column("role", "role", [item.role for item in left], facet="select", minor=True),
        column("bytes", "bytes", [item.nbytes for item in left], "bytes", minor=True),
        column("why", "why", [item.why for item in left], facet="select", wide=60),
    ]
    return [
        table("pairs", "What came from where", columns, "tensor", main=True),
        table("left", "Left behind", behind, "tensor", headed=True),
    ]
