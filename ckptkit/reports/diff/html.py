"""A comparison as an HTML page: what changed most, a strip of layers, histograms, all tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.tensors import Delta
from ckptkit.operations.diff.histograms import histograms
from ckptkit.operations.diff.model_order import model_positions
from ckptkit.operations.diff.result import STATUSES, DiffResult, TensorDiff
from ckptkit.reports.diff import rows as diff_rows
from ckptkit.reports.diff import text as diff_text
from ckptkit.reports.file_head import file_of
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import cards, column, plain, table
from ckptkit.reports.text import count_text, printable
from ckptkit.text import json_number, natural

_ORDER = ("changed", "removed", "added", "renamed", "within", "equal")
_LARGEST = 4  # changes that are told in words
assert set(_ORDER) == set(STATUSES)


def lines(result: DiffResult) -> Iterator[str]:
    """Yield the page; tensors with the largest change are read once more for their histograms."""
    made = page(result, pictures=True)
    return frame.lines(made, plain(made))


def page(result: DiffResult, *, pictures: bool = False) -> frame.Page:
    """Return what the page shows.  pictures: histograms too, for which values are read."""
    sections = [_callouts(result), _strip(result), _table(result), *_beside(result)]
    if pictures:
        sections += _histograms(result)
    return frame.Page(
        "diff",
        f"{result.old.path.name} → {result.new.path.name} · ckptkit diff",
        verdict=diff_text.verdict(result),
        tone="good" if result.same else "bad",
        summary=[diff_text.totals(result)],
        notes=[
            *(("note", line) for line in _notes(result)),
            *(("warning", warning) for warning in result.warnings),
        ],
        files=[{"side": "old", **file_of(result.old)}, {"side": "new", **file_of(result.new)}],
        footer=frame.made_by(f"mode {result.mode}, options {json.dumps(dict(result.options))}"),
        sections=sections,
    )


def _notes(result: DiffResult) -> list[str]:
    """Return the lines on what differs beside the weights, where no table has them."""
    told = diff_text.beside_lines(result)
    return told[: bool(result.kind)] if result.config else told


# --- what changed most ----------------------------------------------------------------------------


def _callouts(result: DiffResult) -> frame.Section:
    """Return the largest changes in words: those first that no finite number tells.

    After those come layers that are in one file alone, which have no change to be measured; at the
    end the largest change of one value, which a norm over a large tensor hides.
    """
    ranks: list[tuple[tuple[float, ...], int]] = []
    highest, peak = -1, 0.0
    for index, change in enumerate(result.changes):
        rank = _rank(change)
        if rank is not None:
            ranks = sorted([*ranks, (rank, index)])[:_LARGEST]
        if _peak(change) > peak:
            highest, peak = index, _peak(change)
    ranked = [index for _rank_of_it, index in ranks]
    told = [_callout(result.changes[index], index) for index in ranked]
    endless = sum(card["severe"] for card in told)  # these are ranked first
    shown = [*told[:endless], *_alone(result), *told[endless:]]
    if highest not in ranked and peak >= 1:
        shown.append(_peak_card(result.changes[highest], highest, peak))
    return cards("largest", "Largest changes", "tensors", shown)


def _alone(result: DiffResult) -> Iterator[dict[str, Any]]:
    """Yield a card for the largest layer whose weights are in one file alone, of either file."""
    for status, side in (("removed", "old"), ("added", "new")):
        layers: dict[str, list[int]] = {}
        for index, change in enumerate(result.changes):
            if change.status == status and change.role == "weight":
                layers.setdefault(diff_text.layer_of(change), []).append(index)
        if not layers:
            continue

        def size(name: str, side: str = side, layers: dict[str, list[int]] = layers) -> int:
            tensors = [getattr(result.changes[index], side) for index in layers[name]]
            return sum(tensor.spec.size for tensor in tensors)

        largest = max(layers, key=size)
        weights = count_text(len(layers[largest]), "weight")
        others = len(layers) - 1
        more = f"; so are those of {count_text(others, 'other layer')}" if others else ""
        yield {
            "title": largest or "(root)",
            "value": status,
            "text": f"{weights}, in the {side} file alone{more}",
            "row": layers[largest][0],
            "severe": status == "removed",
        }


def _peak(change: TensorDiff) -> float:
    """Return the largest change of one value, over the rms of its tensor before; 0 of none."""
    delta = change.delta
    if delta is None or change.role != "weight" or not 0 < delta.rel_l2 < math.inf:
        return 0.0
    rmse = float(delta.rmse)
    return float(delta.max_abs) / rmse * delta.rel_l2 if rmse > 0 else 0.0


def _peak_card(change: TensorDiff, index: int, peak: float) -> dict[str, Any]:
    delta = change.delta
    assert delta is not None
    return {
        "title": change.name,
        "value": _text(delta.max_abs),
        "text": f"largest change of one value, {peak:.3g} times the rms of its tensor; "
        f"{delta.n_diff:,} of {delta.n:,} differ",
        "row": index,
        "severe": False,
    }


def _rank(change: TensorDiff) -> tuple[float, ...] | None:
    """Return what orders changes, the largest first; None of what did not change in values."""
    delta = change.delta
    if delta is None or not delta.n_diff or change.status == "within":
        return None
    return (not delta.nonfinite, change.role != "weight", -delta.rel_l2, -float(delta.max_abs))


def _callout(change: TensorDiff, index: int) -> dict[str, Any]:
    delta = change.delta
    assert delta is not None
    severe = bool(delta.nonfinite) or math.isinf(delta.rel_l2)
    if delta.nonfinite:
        value = "not finite"
        text = f"{count_text(delta.nonfinite, 'value')} NaN or infinite on one side alone"
    elif math.isinf(delta.rel_l2):
        value, text = "∞", f"relative change from zeros; at most {_text(delta.max_abs)} absolute"
    else:
        value = _text(delta.rel_l2)
        text = f"relative change; at most {_text(delta.max_abs)} absolute"
    differ = f"; {delta.n_diff:,} of {delta.n:,} differ"
    return {
        "title": change.name,
        "value": value,
        "text": text + differ,
        "row": index,
        "severe": severe,
    }


def _text(value: float) -> str:
    return diff_rows.number(value)


# --- layers ---------------------------------------------------------------------------------------


@dataclass
class _Changes:
    """What became of some tensors, as one: gap, old: sums of squares of the change, and before."""

    different: int = 0
    gap: float = 0.0
    old: float = 0.0
    endless: bool = False
    statuses: set[str] = field(default_factory=set)

    def add(self, change: TensorDiff) -> None:
        self.different += 1
        delta = change.delta
        if delta is None or change.status == "renamed":
            self.statuses.add(change.status)
        elif math.isinf(delta.rel_l2):
            self.endless = True
        elif delta.rel_l2 > 0:
            squared = float(delta.rmse) ** 2 * delta.n
            self.gap += squared
            self.old += squared / delta.rel_l2**2

    @property
    def change(self) -> float | None:
        """The relative change; None where nothing tells any."""
        if self.endless:
            return math.inf
        return math.sqrt(self.gap / self.old) if self.gap and self.old else None

    @property
    def special(self) -> str | None:
        """What is more than a change of numbers, or all that there is."""
        for status in ("added", "removed", "changed"):
            if status in self.statuses:
                return status
        return "renamed" if self.statuses and self.change is None else None


@dataclass
class _LayerChange:
    """What became of a layer: of its weights, and of the rest, which changes by its nature."""

    name: str
    count: int = 0
    nonfinite: int = 0
    weights: _Changes = field(default_factory=_Changes)
    rest: _Changes = field(default_factory=_Changes)
    place: float = math.inf

    def add(self, change: TensorDiff) -> None:
        self.count += 1
        if not change.is_difference:
            return
        (self.weights if change.role == "weight" else self.rest).add(change)
        if change.delta is not None:
            self.nonfinite += change.delta.nonfinite

    def to_json(self) -> dict[str, Any]:
        shown = self.weights if self.weights.different else self.rest
        change = shown.change
        return {
            "name": printable(self.name),
            "count": self.count,
            "different": self.weights.different + self.rest.different,
            "nonfinite": self.nonfinite,
            "change": None if change is None else json_number(change),
            "special": None if self.nonfinite or change == math.inf else shown.special,
            "rest": shown is self.rest and shown.different > 0,
        }


def _strip(result: DiffResult) -> frame.Section:
    layers: dict[str, _LayerChange] = {}
    sides = {"old": model_positions(result.old), "new": model_positions(result.new)}
    side = next((side for side in ("old", "new") if sides[side]), None)
    places = sides[side] if side else {}
    for change in result.changes:
        name = diff_text.layer_of(change)
        layer = layers.setdefault(name, _LayerChange(name))
        layer.add(change)
        tensor = getattr(change, side) if side else None
        if tensor is not None and tensor.spec.key in places:
            layer.place = min(layer.place, places[tensor.spec.key])
    ordered = sorted(layers.values(), key=lambda layer: (layer.place, natural(layer.name)))
    told = f"in the order of the model, as the {side} file tells it" if side else ""
    return {
        "kind": "strip",
        "id": "layers",
        "title": "Layers",
        "of": "tensors",
        "order": told or "in the order of their names; the files do not tell the model's",
        "layers": [layer.to_json() for layer in ordered],
    }


def _histograms(result: DiffResult) -> list[frame.Section]:
    found = histograms(result)
    if not found:
        return []
    pictures = []
    for one in found:
        change = result.changes[one.change]
        delta = change.delta
        assert delta is not None
        pictures.append(
            {
                "title": printable(change.name),
                "counts": list(one.counts),
                "low": -one.limit,
                "high": one.limit,
                "row": one.change,
                "text": f"relative change {_text(delta.rel_l2)} · RMSE {_text(delta.rmse)} · "
                f"{delta.n_diff:,} of {delta.n:,} differ",
            }
        )
    return [
        {
            "kind": "histograms",
            "id": "histograms",
            "title": "Distribution of changes",
            "about": "new − old, of the tensors that changed most; heights are logarithmic",
            "logarithmic": True,
            "of": "tensors",
            "pictures": pictures,
        }
    ]


# --- tensors --------------------------------------------------------------------------------------


def _table(result: DiffResult) -> frame.Section:
    made = [*_shown([] if result.same else ["equal"]), *_hidden()]
    columns: list[list[Any]] = [[] for _ in made]
    for change in result.changes:  # once, since changes of many tensors are put together for it
        for cells, one in zip(columns, made, strict=True):
            cells.append(one.cell(change))
    told = [
        column(one.key, one.title, cells, one.kind, **one.more)
        for cells, one in zip(columns, made, strict=True)
    ]
    return table("tensors", "Tensors", told, "tensor", main=True)


class _Column(NamedTuple):
    """A column, as `sections.column` has it.  cell: gives what stands in it of a change."""

    key: str
    title: str
    cell: Callable[[TensorDiff], Any]
    kind: str = "text"
    more: Mapping[str, Any] = MappingProxyType({})


def _measured(name: str) -> Callable[[TensorDiff], Any]:
    return lambda change: None if change.delta is None else getattr(change.delta, name)


def _undefined(name: str) -> Callable[[TensorDiff], Any]:
    """Return what gives NaN where the numbers were taken, and this one has no value."""

    def cell(change: TensorDiff) -> Any:
        delta = change.delta
        if delta is None:
            return None
        value = getattr(delta, name)
        return math.nan if value is None or _is_unmeasured(delta) else value

    return cell


def _is_unmeasured(delta: Delta) -> bool:
    """Whether no value is finite on both sides, so that there is no size of the change."""
    return bool(delta.nonfinite) and delta.cosine is None and not (delta.max_abs or delta.rel_l2)


def _shown(off: Sequence[str]) -> list[_Column]:
    """Return the columns of the table.  off: statuses that are not shown at first."""
    chips = {"facet": "chips", "order": list(_ORDER), "off": off}
    minor = {"minor": True}
    return [
        _Column("status", "status", lambda c: c.status, "status", chips),
        _Column("name", "name", _name, "name"),
        _Column("role", "role", lambda c: c.role, more={"facet": "select", **minor}),
        _Column("dtype", "dtype", diff_rows.dtype_text, "mono", minor),
        _Column("shape", "shape", diff_rows.shape_of, "mono", {"by": "params", **minor}),
        _Column("differ", "differ", _share, more={"by": "share", **minor}),
        _Column("max_abs", "max abs", _undefined("max_abs"), "number", minor),
        _Column("max_rel", "max rel", _undefined("defined_max_rel"), "number", minor),
        _Column("change", "relative change", _undefined("rel_l2"), "meter"),
        _Column("worst", "worst element", _worst, "mono", {**minor, "wide": 34}),
    ]


def _hidden() -> list[_Column]:
    """Return the columns that stand in the details of a row alone."""
    hidden = {"hidden": True}
    searched = {**hidden, "searched": True}
    return [
        _Column("layer", "layer", diff_text.layer_of, more={**hidden, "facet": "link"}),
        _Column("params", "elements", lambda c: c.some.spec.size, "count", hidden),
        _Column("share", "share that differs", _fraction, "number", hidden),
        _Column("hints", "note", lambda c: "; ".join(c.hints) or None, more=searched),
        _Column("old_key", "key in the old file", lambda c: _key(c.old), more=searched),
        _Column("new_key", "key in the new file", lambda c: _key(c.new), more=searched),
        _Column("evidence", "paired by", lambda c: c.evidence or None, more=hidden),
        _Column("method", "compared by", lambda c: c.method or None, more=hidden),
        _Column("cast", "cast", lambda c: c.cast, more=hidden),
        _Column("n_diff", "elements that differ", _measured("n_diff"), "count", hidden),
        _Column("n_outside", "outside the tolerance", _measured("n_outside"), "count", hidden),
        _Column("rule", "tolerance", _tolerance, more=hidden),
        _Column("mean_abs", "mean abs", _measured("mean_abs"), "number", hidden),
        _Column("rmse", "RMSE", _measured("rmse"), "number", hidden),
        _Column("max_ulp", "max ULP", _measured("max_ulp"), "count", hidden),
        _Column("nonfinite", "not finite on one side", _measured("nonfinite"), "count", hidden),
        _Column(
            *("needed_rtol", "smallest rtol that passes", _measured("needed_rtol")),
            *("number", hidden),
        ),
        _Column("cosine", "cosine", _undefined("cosine"), "number", hidden),
    ]


def _fraction(change: TensorDiff) -> float | None:
    delta = change.delta
    return delta.n_diff / delta.n if delta is not None and delta.n else None


def _name(change: TensorDiff) -> str:
    new = change.new.naming.name if change.new else ""
    return f"{change.name} → {new}" if new not in ("", change.name) else change.name


def _key(tensor: Tensor | None) -> str | None:
    return tensor.spec.key if tensor is not None else None


def _share(change: TensorDiff) -> str | None:
    delta = change.delta
    if delta is None or not delta.n:
        return None
    share = 100 * delta.n_diff / delta.n
    if share in (0, 100):
        return "0" if not share else "100%"
    return f"{delta.n_diff:,} el." if share < 0.01 else f"{share:.3g}%"


def _worst(change: TensorDiff) -> str | None:
    worst = change.delta.worst if change.delta is not None else None
    return diff_rows.worst_text(worst) if worst else None


def _tolerance(change: TensorDiff) -> str | None:
    delta = change.delta
    if delta is None:
        return None
    rule = "" if delta.rule == "default" else f", rule {delta.rule}"
    return f"rtol {delta.rtol:g}, atol {delta.atol:g}{rule}"


# --- beside the tensors ---------------------------------------------------------------------------


def _beside(result: DiffResult) -> list[frame.Section]:
    """Return a row per difference in what `config` asked for; else the notes tell of them."""
    if not result.config or not result.beside:
        return []
    rows = [(difference.what, item) for difference in result.beside for item in difference.items]
    return [
        table(
            "beside",
            "Beside the weights",
            [
                column("what", "of", [what for what, _item in rows], facet="chips"),
                column("item", "difference", [item for _what, item in rows], "name"),
            ],
            "difference",
        )
    ]
