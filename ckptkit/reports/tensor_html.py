"""Tensors one by one as an HTML page: what is known, a histogram, heat maps of slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ckptkit.operations.sampled_slices import SampledSlice, sampled_slices
from ckptkit.operations.show import TensorSummary
from ckptkit.reports import tensor
from ckptkit.reports.file_head import file_of
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import facts, listed, plain
from ckptkit.reports.screen import PAPER, shown_on
from ckptkit.reports.text import count_text, printable
from ckptkit.text import json_number


def lines(summaries: Sequence[TensorSummary]) -> Iterator[str]:
    """Yield the page; some values are read again, for pictures."""
    made = page(summaries, pictures=True)
    return frame.lines(made, plain(made))


def page(summaries: Sequence[TensorSummary], *, pictures: bool = False) -> frame.Page:
    """Return what the page shows.  pictures: heat maps too, for which values are read."""
    sections: list[frame.Section] = []
    for number, summary in enumerate(summaries):
        sections += _sections(summary, f"tensor-{number}", pictures)
    first = summaries[0]
    names = [summary.naming.name for summary in summaries]
    stats = [each.statistics for each in summaries if each.statistics is not None]
    bad = sum(one.n_nan + one.n_inf for one in stats)
    title = names[0] if len(names) == 1 else count_text(len(names), "tensor")
    return frame.Page(
        "show",
        f"{title} · {first.checkpoint.path.name} · ckptkit show",
        verdict=title + (f": {count_text(bad, 'value')} NaN or infinite" if bad else ""),
        tone="bad" if bad else "note",
        files=[file_of(first.checkpoint)],
        sections=sections,
    )


def _sections(summary: TensorSummary, ident: str, pictures: bool) -> Iterator[frame.Section]:
    with shown_on(PAPER):
        told = list(tensor.lines(summary))
    gap = told.index("") if "" in told else len(told)
    pairs = [(line[:10].strip(), line[11:]) for line in told[:gap]]
    name = summary.naming.name
    yield facts(ident, name, [pair for pair in pairs if pair[0] not in {"name", "histogram"}])
    stats = summary.statistics
    if stats is not None and stats.bins and stats.minimum < stats.maximum:
        moments = f"mean {stats.mean:.6g} · std {stats.std:.6g} · norm {stats.norm:.6g}"
        yield {
            "kind": "histograms",
            "id": f"{ident}-histogram",
            "title": "How the values are distributed",
            "about": "heights are logarithmic",
            "logarithmic": True,
            "pictures": [
                {
                    "title": printable(name),
                    "counts": list(stats.bins),
                    "low": stats.minimum,
                    "high": stats.maximum,
                    "text": f"{moments} · {stats.n_zero:,} of {stats.n:,} zero",
                }
            ],
        }
    if pictures:
        yield from _heat(summary, ident)
    if told[gap + 1 :]:
        yield listed(f"{ident}-values", "Values", told[gap + 1 :])


def _heat(summary: TensorSummary, ident: str) -> Iterator[frame.Section]:
    slices = sampled_slices(summary)
    if not slices:
        return
    numbers = [value for one in slices for row in one.values for value in row]
    finite = [abs(value) for value in numbers if isinstance(value, int | float)]
    yield {
        "kind": "heat",
        "id": f"{ident}-heat",
        "title": "Values of slices",
        "about": _about(summary, slices),
        "limit": json_number(max(finite, default=0.0)),
        "bad": len(finite) < len(numbers),
        "slices": [_slice(one) for one in slices],
    }


def _slice(one: SampledSlice) -> dict[str, Any]:
    return {**one._asdict(), "step": None}


def _about(summary: TensorSummary, slices: Sequence[SampledSlice]) -> str:
    rows, columns = slices[0].step
    parts = []
    if rows > 1 and slices[0].rows is not None:
        parts.append(f"one row in {rows}")
    if columns > 1:
        parts.append(f"one column in {columns}")
    count = math.prod(summary.spec.shape[:-2])
    if count > len(slices):
        parts.append(f"{len(slices)} of {count:,} slices")
    return f"what is shown: {', '.join(parts)}" if parts else "every value is shown"
