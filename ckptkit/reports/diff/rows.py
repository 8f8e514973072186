"""The rows of a comparison: changes that are alike in one, and what stands in each cell."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ckptkit.compare.tensors import Delta, Worst
from ckptkit.operations.diff.result import TensorDiff, at_places
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import screen
from ckptkit.reports.tensor_rows import NamePattern, template
from ckptkit.reports.text import printable, shape_text

MARKS = {"removed": "-", "added": "+", "changed": "~", "renamed": "R", "within": "≈", "equal": "="}
HEADERS = ("", "NAME", "DTYPE", "SHAPE", "DIFFER", "MAX ABS", "MAX REL", "CHANGE", "WORST")
ALIGN = ("left", "left", "left", "left", "right", "right", "right", "right", "left")
FIT = Fit(names=("NAME",), drops=("WORST", "MAX REL", "DTYPE", "DIFFER", "SHAPE", "MAX ABS"))
WITHOUT_VALUES = 4  # columns, where no values were compared
_BAR = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 6
_BAR_DECADES = 8  # a full bar is a relative change of 1, an empty one of 1e-8 or less


class TableRow(NamedTuple):
    """The cells of a row, and the lines below it."""

    cells: tuple[str, ...]
    notes: Sequence[str]


def table_rows(changes: Sequence[TensorDiff], *, together: bool) -> tuple[int, Iterator[TableRow]]:
    """Return how many rows the table of changes has, and the rows.

    together: changes that are alike have one row, else each has its own.
    """
    if not together:
        return len(changes), (_row((change,)) for change in changes)
    groups = _grouped(changes)
    return len(groups), (_row(at_places(changes, places)) for places in groups)


def has_numbers(change: TensorDiff) -> bool:
    """Whether the row of a change tells numbers of its values."""
    return change.delta is not None and change.status != "renamed"


def _grouped(changes: Iterable[TensorDiff]) -> list[array[int]]:
    """Return the places of changes that are alike.

    Names of these differ in numbers, or they are slots of one kind.
    """
    groups: dict[tuple[object, ...], array[int]] = {}
    for place, change in enumerate(changes):
        called = template(change.name)
        its_new_name = new_name(change)
        other = called if its_new_name == change.name else template(its_new_name)
        alike = change.status, dtype_text(change), shape_of(change), change.cast, change.role
        # what is worth a sentence of its own keeps a row of its own
        alone = change.name if change.hints else ""
        if change.role == "slot" and change.same_type and change.some.naming.slot and not alone:
            called = other = f"*@{change.some.naming.slot}"  # all variables of an optimizer
            alike = change.status, dtype_text(change), "", None, change.role
        group = called, other, alone, *alike
        places = groups.get(group)
        if places is None:
            places = groups[group] = array("I")
        places.append(place)
    return list(groups.values())


def _row(group: Iterable[TensorDiff]) -> TableRow:
    """Return the row of changes that are alike, which are looked at once."""
    names, numbers, shapes, first = _RowNames(), _RowNumbers(), set[str](), None
    for change in group:
        first = change if first is None else first
        names.take(change)
        numbers.take(change)
        shapes.add(shape_of(change))
    assert first is not None
    shape = shapes.pop() if len(shapes) == 1 else "(several)"
    head = MARKS[first.status], names.text(first), dtype_text(first), shape
    tail = ("",) * 5 if first.status == "renamed" else numbers.cells(names.count)
    return TableRow((*head, *tail), (*first.hints, *numbers.notes()))


class _RowNames:
    """What a row calls its changes: `dense{1-2}/kernel ×2`, `*@momentum ×9`.

    Where the two files call a tensor differently: `old → new`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._templates: tuple[str, str] | None = None
        self._are_alike = True
        self._are_renamed = False
        self._old, self._new = NamePattern(), NamePattern()

    def take(self, change: TensorDiff) -> None:
        """Take the names of one more change."""
        self.count += 1
        name = new_name(change)
        of_old = template(change.name)
        called = of_old, of_old if name == change.name else template(name)
        self._templates = self._templates or called
        self._are_alike = self._are_alike and called == self._templates
        if not self._are_alike:
            return
        self._old.add(change.name)
        self._are_renamed = self._are_renamed or name != change.name
        self._new.add(name)

    def text(self, first: TensorDiff) -> str:
        """Return the name in the row."""
        many = f" ×{self.count}" if self.count > 1 else ""
        if not self._are_alike:
            return f"*@{first.some.naming.slot}{many}"
        name = self._old.text()
        if first.old and first.new and self._are_renamed:
            name += f" → {self._new.text()}"
        role = "" if first.role == "weight" or "@" in name else f" ({first.role})"
        return name + many + role


class _RowNumbers:
    """What a row says of the values of its changes."""

    def __init__(self) -> None:
        self._first: Delta | None = None
        self._n = self._n_diff = self._nonfinite = 0
        self._max_abs = self._rel_l2 = self._needed = 0.0
        self._max_rel: float | None = None
        self._worst: TensorDiff | None = None
        self._rules: set[str] = set()

    def take(self, change: TensorDiff) -> None:
        """Take the numbers of one more change."""
        delta = change.delta
        if delta is None:
            return
        if self._first is None:
            self._first, self._max_abs, self._rel_l2 = delta, delta.max_abs, delta.rel_l2
        self._n += delta.n
        self._n_diff += delta.n_diff
        self._nonfinite += delta.nonfinite
        self._max_abs = max(self._max_abs, delta.max_abs)
        self._rel_l2 = max(self._rel_l2, delta.rel_l2)
        max_rel = delta.defined_max_rel
        if max_rel is not None:
            self._max_rel = max_rel if self._max_rel is None else max(self._max_rel, max_rel)
        if delta.worst and (self._worst is None or delta.rel_l2 > _excess(self._worst)):
            self._worst = change
        if not delta.ok:
            self._needed = max(self._needed, delta.needed_rtol or 0)
        if delta.rule != "default":
            self._rules.add(delta.rule)

    def cells(self, count: int) -> tuple[str, ...]:
        """Return the cells behind the shape.  count: how many changes there are."""
        first = self._first
        if first is None:
            return ("",) * 5
        differ = f"{self._n_diff:,}/{self._n:,}"
        worst = "" if self._worst is None else _worst_of(self._worst, count)
        if first.cosine is None and not first.max_abs and not first.rel_l2:  # none is a number
            return differ, "", "", "", worst
        size = number(self._rel_l2) + (f" {bar(self._rel_l2)}" if screen().color else "")
        return differ, number(self._max_abs), self._max_rel_text(), size, worst

    def _max_rel_text(self) -> str:
        """Return the largest relative change; "-" where nothing that differs has one."""
        largest = self._max_rel or 0.0
        return "-" if not largest and self._n_diff else number(largest)

    def notes(self) -> Iterator[str]:
        """Yield what stands below the row."""
        if self._nonfinite:
            yield f"{self._nonfinite:,} NaN or infinite on one side only"
        first = self._first
        if first is None:
            return
        if self._rules:
            used = f"rtol {first.rtol:g}, atol {first.atol:g}"
            yield f"tolerance of {', '.join(sorted(self._rules))}: {used}"
        if (first.rtol or first.atol) and self._needed:
            text = f"would pass with --rtol {_up(self._needed)}"
            yield text if self._needed < math.inf else "no rtol would pass"


def _up(rtol: float) -> str:
    """Return an rtol in few digits, rounded up."""
    text = f"{rtol:.3g}"
    return text if float(text) >= rtol else f"{rtol * 1.01:.3g}"


def _excess(change: TensorDiff) -> float:
    return change.delta.rel_l2 if change.delta is not None else 0.0


def _worst_of(change: TensorDiff, many: int) -> str:
    assert change.delta is not None and change.delta.worst is not None
    return (change.name if many > 1 else "") + worst_text(change.delta.worst)


def new_name(change: TensorDiff) -> str:
    """Return the readable name in NEW; "" where NEW has no such tensor."""
    return change.new.naming.name if change.new else ""


def dtype_text(change: TensorDiff) -> str:
    """Return "float32", or "float32→bfloat16 (lossy)"."""
    if change.old is None or change.new is None:
        return change.some.spec.dtype
    old, new = change.old.spec.dtype, change.new.spec.dtype
    return old if old == new else f"{old}→{new}" + (f" ({change.cast})" if change.cast else "")


def shape_of(change: TensorDiff) -> str:
    """Return the shape, with changed axes marked."""
    if change.old is None or change.new is None:
        return shape_text(change.some.spec.shape)
    return shape_change(change.old.spec.shape, change.new.spec.shape)


def shape_change(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    """Return a shape, or two with the axes marked that changed: `3,3,[64→128],64`."""
    if old == new:
        return shape_text(old)
    if len(old) != len(new):
        return f"[{shape_text(old)} → {shape_text(new)}]"
    return ",".join(str(a) if a == b else f"[{a}→{b}]" for a, b in zip(old, new, strict=True))


def number(value: float) -> str:
    """Return a number in three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def worst_text(worst: Worst) -> str:
    """Return `[3,1] 0.1 → 0.1003`, with as many digits as it takes to tell the two apart."""
    index = ",".join(map(str, worst.index))
    old, new = _distinct_texts(worst.old, worst.new)
    return printable(f"[{index}] {old} → {new}")


def _distinct_texts(old: Any, new: Any) -> tuple[str, str]:
    if isinstance(old, float) and isinstance(new, float):
        for digits in range(4, 18):
            left, right = f"{old:.{digits}g}", f"{new:.{digits}g}"
            if left != right:
                return left, right
    if isinstance(old, bytes) and isinstance(new, bytes):
        return _short(old), _short(new)
    return str(old), str(new)


def _short(value: bytes) -> str:
    text = repr(value[:24])[1:]
    return text + (f"… ({len(value)} bytes)" if len(value) > 24 else "")


def bar(change: float) -> str:
    """Return a bar of the relative change on a logarithmic scale."""
    if not change > 0:
        return " " * _BAR_WIDTH
    share = min(1.0, max(0.0, 1 + math.log10(min(change, 1.0)) / _BAR_DECADES))
    eighths = max(1, round(share * _BAR_WIDTH * 8))
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_BAR[part] if part else "")).ljust(_BAR_WIDTH)
