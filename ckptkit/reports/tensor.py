"""Tensors one by one: metadata, statistics, a histogram, values."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import kind
from ckptkit.operations.show import SCHEMA, TensorSummary
from ckptkit.operations.statistics import Statistics
from ckptkit.reports.screen import folded
from ckptkit.reports.table import render
from ckptkit.reports.tensor_rows import columns, value_row
from ckptkit.reports.text import bytes_text, count_text, printable, shape_text
from ckptkit.stores.constants import Quantisation

_BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_STRING = 1000  # bytes of one string


def several(summaries: Sequence[TensorSummary], fmt: str = "table") -> Iterator[str]:
    """Yield one or more tensors.

    fmt: "table" (for people: what `lines` says of each, with an empty line between), "json" (schema
    ckptkit.show/2), "jsonl", "csv", "markdown" or "table:NAME" (a row per tensor).
    """
    if fmt == "table":
        for number, summary in enumerate(summaries):
            yield from [""] * bool(number)
            yield from lines(summary)
        return
    from ckptkit.reports.documents import in_form

    yield from in_form(
        fmt, summaries, lambda form: _table(summaries, form), lambda: (), schema=SCHEMA
    )


def _table(summaries: Sequence[TensorSummary], fmt: str) -> Iterator[str]:
    headers, align, fit = columns("values")
    found = [value_row(Tensor(each.spec, each.naming), each.statistics) for each in summaries]
    yield from render(found, headers, fmt, align, fit)


def lines(summary: TensorSummary) -> Iterator[str]:
    """Yield everything about one tensor for a terminal."""
    facts = (f"{label:<10} {printable(str(value))}" for label, value in _facts(summary))
    yield from folded(facts)
    if summary.statistics:
        yield from _statistics(summary.statistics, kind(summary.spec.dtype) == "complex")
    if summary.values is not None:
        yield ""
        yield from _values(summary)


def _facts(summary: TensorSummary) -> Iterator[tuple[str, Any]]:
    spec, naming = summary.spec, summary.naming
    yield "name", naming.name
    yield "key", spec.key
    if naming.full_name and naming.full_name != naming.name:
        yield "full name", naming.full_name
    for alias in naming.aliases:
        yield "path", alias
    role = naming.role
    if naming.slot_of:
        role += f": {naming.slot or 'slot'} of {naming.slot_of}"
        role += f", optimizer {naming.optimizer}" if naming.optimizer else ""
    yield "role", role + (" (inferred)" if naming.role_inferred else "")
    if naming.duplicate_of:
        yield "repeats", naming.duplicate_of
    for slot in summary.slots:
        yield "slot", slot
    yield "dtype", spec.dtype
    if summary.quantisation is not None:
        yield "stands for", f"{quantisation_text(summary.quantisation)}; below are these numbers"
    size = f"{count_text(spec.size, 'element')}, {bytes_text(spec.nbytes)}"
    yield "shape", f"{shape_text(spec.shape)}  ({size})"
    if spec.shard is not None and spec.offset is not None:
        shard = summary.checkpoint.store.shards[spec.shard]
        yield "stored", f"{shard.name} @ {spec.offset}"
    for part in spec.slices:
        shard = summary.checkpoint.store.shards[part.shard]
        start = ",".join(map(str, part.start))
        yield "slice", f"[{start}] + [{shape_text(part.shape)}]: {shard.name} @ {part.offset}"
    if spec.crc32c is not None:
        yield "crc32c", f"{spec.crc32c:08x}"


def quantisation_text(quantisation: Quantisation) -> str:
    """Return what integers stand for, in words."""
    scales, zeros, axis, block = quantisation
    if len(scales) == 1:
        return f"{scales[0]:.6g} * (value - {zeros[0]})"
    low, high = f"{zeros.min()}", f"{zeros.max()}"
    zero = low if low == high else f"{low} to {high}"
    of = f"blocks of {block} along axis {axis}" if block else f"axis {axis}"
    return (
        f"scale * (value - zero point): {len(scales)} scales {'for' if block else 'along'} {of}, "
        f"{scales.min():.6g} to {scales.max():.6g}, zero point {zero}"
    )


def _statistics(stats: Statistics, is_complex: bool) -> Iterator[str]:
    if stats.n == 0:
        return
    of = "  (of the moduli)" if is_complex else ""
    yield f"{'min':<10} {stats.minimum:.6g}{of}"
    yield f"{'max':<10} {stats.maximum:.6g}{of}"
    yield f"{'mean':<10} {stats.mean:.6g}{of}"
    yield f"{'std':<10} {stats.std:.6g}{of}"
    yield f"{'norm':<10} {stats.norm:.6g}"
    yield f"{'zeros':<10} {stats.n_zero:,} ({100 * stats.n_zero / stats.n:.3g}%)"
    yield f"{'nan, inf':<10} {stats.n_nan:,}, {stats.n_inf:,}"
    if stats.bins:
        top = max(stats.bins)
        # A bin that holds anything is never drawn as empty.
        bars = "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in stats.bins)
        yield f"{'histogram':<10} {stats.minimum:.3g} |{bars}| {stats.maximum:.3g}"


def _values(summary: TensorSummary) -> Iterator[str]:
    """Yield the values of the slice, all of them, and say how many others there are."""
    import numpy as np

    values = summary.values
    assert values is not None
    rest = summary.spec.size - values.size
    where = f"[{summary.slice_text}]" if summary.slice_text else ""
    tail = f"; {rest:,} more not shown, see --slice" if rest else ""
    name = printable(summary.naming.name)
    yield from folded([f"{name}{where} ({values.size:,} of {summary.spec.size:,}{tail}):"])
    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    if values.dtype == object:
        for item in values.reshape(-1):
            yield "  " + _string_text(item)
        return
    with np.printoptions(threshold=values.size + 1, linewidth=width, precision=6):
        text = str(values.astype(np.float32) if _is_exotic(values) else values)
    yield from text.splitlines()


def _string_text(value: bytes) -> str:
    shown = printable(value[:MAX_STRING].decode("utf-8", "backslashreplace"))
    rest = len(value) - MAX_STRING
    return f"{shown} … ({rest:,} more bytes; --format json prints all)" if rest > 0 else shown


def _is_exotic(values: Any) -> bool:
    """Whether numpy prints the dtype's values as objects (bfloat16, float8, int4)."""
    return bool(values.dtype.isbuiltin != 1)
