"""A conversion in every form: the plan of a dry run, and what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.documents import in_form, json_lines
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, painted, toned
from ckptkit.reports.table import render
from ckptkit.reports.text import bytes_text, count_text, printable, shape_text

if TYPE_CHECKING:
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
            f"ckptkit convert --dry-run: {plan.target.path}",
            [plan],
            lambda form: pair_lines(plan, form),
            lambda: plan_remarks(plan),
        )
        return
    if plan.tensors:
        yield from pair_lines(plan)
        yield ""
    yield from folded(plan_remarks(plan))


def pair_lines(plan: Plan, fmt: str = "table") -> Iterator[str]:
    """Yield a row for each tensor of the output: where its values come from, and why."""
    # What stands in place of a name of SRC where the values are not from there.
    no_source = {"template": f"(value of {plan.template_name})", "generated": "(new)"}
    rows = [
        (
            tensor.name,
            _source_names(tensor) if tensor.source else no_source[tensor.evidence],
            tensor.cast.replace("=", "→") or tensor.output.dtype,
            shape_text(tensor.output.shape),
            f"{tensor.nbytes:,}",
            tensor.output.role,
            _evidence(tensor)
            + (f", mean of {tensor.source_count}" if tensor.source_count > 1 else ""),
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


def _evidence(tensor: PlannedTensor) -> str:
    if not tensor.parts or tensor.evidence.startswith("rule"):
        return tensor.evidence  # the rule says what is done to the values
    return f"{tensor.evidence}, {tensor.parts[0].transform}"


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
            f"ckptkit convert: {receipt.path}",
            [receipt],
            lambda form: pair_lines(receipt.plan, form),
            lambda: receipt_remarks(receipt),
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
