"""A conversion as text: the plan of a dry run, and what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.table import json_lines, render
from ckptkit.reports.text import bytes_text, count_text, printable, shape_text

if TYPE_CHECKING:
    from ckptkit.operations.convert.api import MismatchError, Plan, Receipt
    from ckptkit.operations.convert.plan import Fill

SCHEMA = "ckptkit.convert/1"

_HEADERS = ("TO", "FROM", "DTYPE", "SHAPE", "BYTES", "ROLE", "BY")
_THINGS = {"ema": "average", "config": "setting", "other": "other tensor"}
_ALIGN = ("left", "left", "left", "left", "right", "left", "left")


def plan_lines(plan: Plan, fmt: str = "table") -> Iterator[str]:
    """Yield every pair, what is left over, problems, notes, and the bytes to be written.

    fmt: "table" (for people) or "json" (schema ckptkit.plan/1).
    """
    if fmt == "json":
        yield from json_lines(plan.to_json(), "pairs")
        return
    from ckptkit.dtypes import itemsize

    given = {"kept": f"(value of {plan.structure})", "made": "(new)"}
    rows = [
        (
            fill.key if fill.tensor.name in ("", fill.key) else fill.tensor.name,
            _origin(fill) if fill.source else given[fill.evidence],
            fill.cast.replace("=", "→") or fill.tensor.dtype,
            shape_text(fill.tensor.shape),
            f"{fill.tensor.size * itemsize(fill.tensor.dtype) or fill.origin.spec.nbytes:,}",
            fill.tensor.role,
            _evidence(fill) + (f", mean of {fill.average}" if fill.average > 1 else ""),
        )
        for fill in plan.fills
    ]
    if rows:
        yield from render(rows, _HEADERS, "table", _ALIGN)
        yield ""
    if plan.skipped:
        left = [(item.name, item.role, item.why) for item in plan.skipped]
        yield from render(left, ("LEFT BEHIND", "ROLE", "WHY"))
        yield ""
    for note in plan.notes:
        yield f"note: {printable(note)}"
    for problem in plan.problems:
        yield f"problem: {problem.kind}: {printable(problem.message)}"
    what = f"{count_text(len(plan.fills), 'tensor')}, {bytes_text(plan.nbytes)}"
    verdict = f"would write {what} as {plan.target.form} to {plan.target.path}"
    if plan.problems:
        verdict = f"would refuse: {count_text(len(plan.problems), 'problem')}"
    yield printable(verdict)


def _origin(fill: Fill) -> str:
    """Return the name of the tensor of SRC, or of all of them that become one."""
    sources = [piece.source for piece in fill.pieces] if fill.pieces else [fill.source]
    return " + ".join(source.naming.name for source in sources if source is not None)


def _evidence(fill: Fill) -> str:
    if not fill.pieces or fill.evidence.startswith("rule"):
        return fill.evidence  # the rule says how values are moved
    return f"{fill.evidence}, {fill.pieces[0].transform}"


def refusal_lines(error: MismatchError) -> Iterator[str]:
    """Yield the JSON document of a conversion that was refused before anything was written."""
    problems = [problem._asdict() for problem in error.problems]
    yield from json_lines({"schema": SCHEMA, "ok": False, "problems": problems}, "problems")


def receipt_lines(receipt: Receipt, fmt: str = "table") -> Iterator[str]:
    """Yield what was written, what was proven, and what a person should know.

    fmt: "table" (for people) or "json" (the receipt, schema ckptkit.convert/1).
    """
    if fmt == "json":
        yield from json_lines(receipt.to_json(), "tensors")
        return
    plan, proof = receipt.plan, receipt.proof
    for note in (*plan.notes, *receipt.notes, *receipt.signatures):
        yield f"note: {printable(note)}"
    left = Counter(item.why for item in plan.skipped)
    for why, count in left.items():
        yield f"left behind: {count_text(count, 'tensor')} ({printable(why)})"
    if receipt.kept:
        kept = ", ".join(count_text(n, _THINGS.get(r, r)) for r, n in receipt.kept.items())
        yield printable(f"kept from {plan.structure}: {kept}")
    if proof is None:
        yield printable(f"{receipt.path}: {_size(receipt)} written, not proven (--no-check)")
        return
    if not proof.ok:
        for failure in proof.failures:
            yield f"failed: {printable(failure)}"
        yield printable(f"{receipt.path}: the proof failed; {plan.target.path} was not written")
        return
    changed = [delta for delta in proof.losses.values() if not delta.equal]
    if proof.losses:
        worst = max((delta.max_rel for delta in changed), default=0.0)
        yield (
            f"cast: {len(changed)} of {count_text(len(proof.losses), 'tensor')} changed, "
            f"largest relative change {worst:.3g}"
        )
    if proof.outputs is not None:
        yield printable(f"outputs: {proof.outputs}")
    yield printable(
        f"{receipt.path}: {_size(receipt)} written and read again, every bit as it should be"
    )


def _size(receipt: Receipt) -> str:
    plan = receipt.plan
    return f"{count_text(len(plan.fills), 'tensor')}, {bytes_text(plan.nbytes)}"
