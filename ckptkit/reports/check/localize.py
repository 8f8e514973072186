"""Where two runs part, as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptkit.reports.check.commands import localize_again
from ckptkit.reports.fitting import Fit
from ckptkit.reports.table import render
from ckptkit.reports.text import printable
from ckptkit.runners.types import MODEL, owner_and_op
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.model_io.results import OutputResult
    from ckptkit.operations.localize.values import Flip, Layer, Localization, Stats, VariableGap

SHOWN = 5  # layers of the ranking that are printed; JSON has all
_HEADERS = ("LAYER", "VALUE", "KIND", "ALONE", "WITH INPUTS' ERROR", "ALLOWED")
_ALIGN = ("left",) * 3 + ("right",) * 3
_FIT = Fit(names=("LAYER", "VALUE"), drops=("KIND", "ALLOWED"))


def lines(subject: str, localization: Localization) -> Iterator[str]:
    """Yield the report."""
    yield from map(printable, verdict(localization))
    ranked = localization.ranked[:SHOWN]
    if ranked:
        yield ""
        yield from render([_cells(layer) for layer in ranked], _HEADERS, "table", _ALIGN, _FIT)
        more = len(localization.ranked) - len(ranked)
        if more:
            yield f"... and {more} more that add less (--format json has all)"
        yield ""
        yield from map(printable, _about(ranked[0]))
    yield from map(printable, _switches(localization))
    for gap in localization.unseen[:SHOWN]:
        yield printable(f"differs, but no layer shows it on these inputs: {_gap(gap)}")
    for note in localization.notes:
        yield printable(f"note: {note}")
    if localization.again:
        yield printable(f"again: {localize_again(subject, localization.again)}")
    yield ""


def verdict(localization: Localization) -> Iterator[str]:
    """Yield what to look at, and what that rests on."""
    first, diverges = localization.first, localization.diverges
    if not localization.differs:
        yield "the outputs agree"
    if localization.beyond and first is not None:
        how = (
            "on the reference's inputs it gives something else"
            if first.isolated is not None
            else "its inputs agree better than its output"
        )
        where = _between(localization, first) if first.path == MODEL else ""
        yield f"look at: {_named(first)}{where}: {how}"
    elif localization.suspects:
        yield f"look at: {localization.suspects[0]}: its variables differ"
    elif first is not None:
        yield (
            f"no layer alone adds more than the tolerance: small differences add up; "
            f"{_named(first)} adds most"
        )
    elif localization.layers:
        yield "no layer alone gives anything else"
    if diverges is not None and diverges is not first:
        yield f"the first value that is beyond the tolerance: {_named(diverges)}"
    if localization.layers:
        compared = f"{localization.compared} of {localization.known} values inside were compared"
        yield f"{compared} ({localization.mode})"


def _named(layer: Layer) -> str:
    kind = f" ({layer.kind})" if layer.kind else ""
    value = f", {value_text(layer)}" if value_text(layer) else ""
    return f"{layers_text(layer)}{value}{kind}"


def layers_text(layer: Layer) -> str:
    """Return the layer that a value belongs to, or those of which it is one."""
    return f"one of {', '.join((layer.path, *layer.fused))}" if layer.fused else layer.path


def value_text(layer: Layer) -> str:
    """Return the value's name, "" where it is the layer's; of ops that became one, the first."""
    owner, op = owner_and_op(layer.name)
    if owner and owner == layer.path:
        return op
    return "" if layer.name == layer.path else _first(layer.name)


def _between(localization: Localization, layer: Layer) -> str:
    """Say which layers a value lies between that is computed outside of all."""
    before, after = localization.neighbours(layer)
    parts = [f"after {list_text(before)}"] * bool(before)
    parts += [f"before {list_text(after)}"] * bool(after)
    return f" {' and '.join(parts)}" if parts else ""


def _first(name: str) -> str:
    """Return the first of the names that a converter gave a value, where it is several ops'."""
    first, _, others = name.partition(";")
    return f"{first};..." if others else first


def _cells(layer: Layer) -> tuple[str, ...]:
    result = layer.result
    allowed = max(result.tolerance.rtol, result.tolerance.atol) if result is not None else 0.0
    others = f" +{len(layer.fused)}" if layer.fused else ""
    return (
        f"{layer.path}{others}",
        value_text(layer),
        layer.kind,
        _error(layer.isolated),
        _error(layer.propagated),
        f"{allowed:.3g}",
    )


def _error(result: OutputResult | None) -> str:
    if result is None:
        return ""
    if result.status == "equal":
        return "0"
    return result.status if result.needed is None else f"{result.needed:.3g}"


def _about(layer: Layer) -> Iterator[str]:
    yield f"{_named(layer)}, {layer.policy}:" if layer.policy else f"{_named(layer)}:"
    for gap in layer.variables:
        yield f"  variable {_gap(gap)}"
    if layer.variables and not layer.changed and all(g.differs is False for g in layer.variables):
        yield "  its variables are the same: look at its configuration, its code or the runtime"
    for name, stats in layer.inputs.items():
        yield f"  input {_first(name)}{f': {_stats(stats)}' if stats is not None else ''}"
    if layer.output is not None:
        yield f"  output of the reference: {_stats(layer.output[0])}"
        yield f"  output here: {_stats(layer.output[1])}"
    result = layer.result
    if result is not None and result.worst is not None:
        worst = result.worst
        yield (
            f"  alone, {result.n_bad:,} of {result.n:,} elements are beyond the tolerance; "
            f"worst at {list(worst.index)}: {_number(worst.new)} instead of {_number(worst.old)}"
        )
    for hint in layer.hints:
        yield f"  {hint}"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def gaps_text(layer: Layer) -> str | None:
    """Return a line for each variable that a layer reads; None where it reads none."""
    return "\n".join(map(_gap, layer.variables)) or None


def _gap(gap: VariableGap) -> str:
    known = {True: "differs", False: "the same", None: "not compared"}[gap.differs]
    return f"{_first(gap.name)}: {gap.text or known}"


def _stats(stats: Stats) -> str:
    shape = ", ".join(map(str, stats.shape))
    text = (
        f"{stats.dtype} [{shape}], {stats.lowest:.4g} to {stats.highest:.4g}, rms {stats.rms:.4g}"
    )
    return f"{text}, {stats.nonfinite:,} not finite" if stats.nonfinite else text


def _switches(localization: Localization) -> Iterator[str]:
    if not localization.switches:
        return
    where = "passes" if localization.passes else "fails"
    yield f"switches, flipped alone from {localization.starts}, which {where}:"
    for flip in localization.switches:
        yield f"  {_flip(flip, localization.passes)}"
    if localization.blamed:
        names = ", ".join(flip.switch for flip in localization.blamed)
        yield f"the switch that moves the result: {names}"
    else:
        yield "no switch alone moves the result across the tolerance"


def _flip(flip: Flip, passes: bool) -> str:
    if flip.error:
        return f"{flip.switch} ({flip.runner}): {flip.error}"
    now = "fails" if flip.moves is passes else "passes"
    return f"{flip.switch} ({flip.runner}): {now}, needs {flip.needed:.3g}"
