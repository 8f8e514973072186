"""Tables that fit a screen: columns that tell least go first, names are shortened in the middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ckptkit.reports.text import display_width

GAP = 2  # columns between two of a table
_ELLIPSIS = "…"
_NAME_SHARE = 0.45  # of the width, that columns of names may keep before others go
_NARROWEST = 8  # columns, of one that is shortened
# How much of a shortened name is its end: the first that tells the names of a table apart.
_TAIL_SHARES = (0.6, 0.8, 0.4, 0.95, 0.15)
_NEAR = 6  # letters, within which a cut moves to the next "/"


class Fit(NamedTuple):
    """What may be done to a table's columns, by header.

    names: are shortened in the middle, and lose what all have at their beginning.
    drops: may be left out, in this order.
    """

    names: Sequence[str] = ()
    drops: Sequence[str] = ()


@dataclass
class Table:
    """Cells to be printed, and the lines above and below them."""

    headers: list[str]
    cells: list[list[str]]
    align: list[str]
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    def widths(self) -> list[int]:
        """Return the columns of a terminal that each column takes."""
        sizes = [[display_width(h) for h in self.headers]]
        sizes += [[display_width(cell) for cell in row] for row in self.cells]
        return [max(column) for column in zip(*sizes, strict=True)]

    def drop(self, index: int) -> None:
        """Leave a column out."""
        for row in (self.headers, self.align, *self.cells):
            del row[index]


def fitted(table: Table, width: int, fit: Fit) -> Table:
    """Return the table, changed so that no line is wider than `width`; say what was left out."""
    if _total(table.widths()) <= width:
        return table
    for name in fit.names:
        _lift_prefix(table, name)
    _drop_columns(table, width, fit)
    names = [table.headers.index(name) for name in fit.names if name in table.headers]
    cut = _shorten(table, width, names)
    others = [i for i in range(len(table.headers)) if i not in names]
    _shorten_headers(table, width, others)  # a header cut short is better than half a number
    cut |= _shorten(table, width, others or names, least=1)
    said = [*table.below, *(["names shortened"] if cut else [])]
    table.below = ["; ".join([*said, "--wide shows all"])] if said else []
    return table


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _lift_prefix(table: Table, name: str) -> None:
    """Take the scopes that all names of a column begin with into a line above the table."""
    if name not in table.headers or len(table.cells) < 2:
        return
    column = table.headers.index(name)
    names = [row[column] for row in table.cells]
    first, last = min(names), max(names)
    shared = 0
    while shared < len(first) and first[shared] == last[shared]:
        shared += 1
    prefix = first[: first.rfind("/", 0, shared) + 1]
    if len(prefix) < len(_ELLIPSIS) + 1:
        return
    table.above.append(f"{name} in {prefix}")
    for row in table.cells:
        row[column] = row[column][len(prefix) :]


def _drop_columns(table: Table, width: int, fit: Fit) -> None:
    """Leave columns out until names have room: first those that say the same in every row."""
    dropped, constant = [], []
    for name in (*_constant(table, fit.drops), *fit.drops):
        widths = table.widths()
        room = [
            min(size, max(_NARROWEST, int(width * _NAME_SHARE / max(1, len(fit.names)))))
            if header in fit.names
            else size
            for header, size in zip(table.headers, widths, strict=True)
        ]
        if _total(room) <= width:
            break
        if name not in table.headers:
            continue
        index = table.headers.index(name)
        values = {row[index] for row in table.cells}
        if len(values) == 1 and "" not in values:
            constant.append(f"{name} {values.pop()}")
        elif values != {""}:
            dropped.append(name)
        table.drop(index)
    if constant:
        table.below.append(f"in all rows: {', '.join(constant)}")
    if dropped:
        table.below.append(f"not shown: {', '.join(dropped)}")


def _constant(table: Table, names: Sequence[str]) -> list[str]:
    """Return the columns among `names` that tell no row from another, those of many rows."""
    if len(table.cells) < 2:
        return []
    columns = {name: table.headers.index(name) for name in names if name in table.headers}
    return [name for name, i in columns.items() if len({row[i] for row in table.cells}) == 1]


def _shorten_headers(table: Table, width: int, columns: Sequence[int]) -> None:
    """Shorten headers that are wider than what stands below them, the widest most, to that."""
    allowed = {i: display_width(table.headers[i]) for i in columns}
    least = {i: max([1, *(display_width(row[i]) for row in table.cells)]) for i in columns}
    for _ in range(_total(table.widths()) - width):
        wider = [i for i in columns if allowed[i] > least[i]]
        if not wider:
            break
        allowed[max(wider, key=allowed.__getitem__)] -= 1
    for index, size in allowed.items():
        table.headers[index] = abbreviated(table.headers[index], size)


def _shorten(table: Table, width: int, columns: Sequence[int], least: int = _NARROWEST) -> bool:
    """Shorten the cells of some columns, the widest most, until the table fits; say whether any."""
    widths = table.widths()
    excess = _total(widths) - width
    if excess <= 0 or not columns:
        return False
    allowed = {i: widths[i] for i in columns}
    while excess > 0:
        widest = max(allowed, key=lambda i: allowed[i])
        if allowed[widest] <= least:
            break
        runner_up = max((size for i, size in allowed.items() if i != widest), default=least)
        step = min(excess, max(1, allowed[widest] - max(runner_up, least)))
        allowed[widest] -= step
        excess -= step
    for index, size in allowed.items():
        if size < widths[index]:
            table.headers[index] = abbreviated(table.headers[index], size)
            texts = _abbreviated_apart([row[index] for row in table.cells], size)
            for row, text in zip(table.cells, texts, strict=True):
                row[index] = text
    return any(size < widths[index] for index, size in allowed.items())


def _abbreviated_apart(names: Sequence[str], width: int) -> list[str]:
    """Return the names shortened so that different names stay different, where that can be."""
    result = {name: abbreviated(name, width) for name in dict.fromkeys(names)}
    for share in _TAIL_SHARES[1:]:
        counts = Counter(result.values())
        alike = [name for name, text in result.items() if counts[text] > 1]
        if not alike:
            break
        others = {text for text in result.values() if counts[text] == 1}
        attempt = {name: abbreviated(name, width, share) for name in alike}
        if len(others.union(attempt.values())) > len(set(result.values())):
            result.update(attempt)
    return [result[name] for name in names]


def abbreviated(text: str, width: int, tail_share: float = _TAIL_SHARES[0]) -> str:
    """Return text of at most `width` columns: its beginning, "…", its end, cut at a "/" if near."""
    if display_width(text) <= width:
        return text
    if width <= 2 * len(_ELLIPSIS):
        return _ELLIPSIS[:width]
    room = width - len(_ELLIPSIS)
    tail = _last(text, round(room * tail_share))
    head = _first(text, room - display_width(tail))
    slash = tail.find("/", 0, _NEAR)
    if 0 < slash < len(tail) - 1:
        tail = tail[slash:]
    slash = head.rfind("/", max(1, len(head) - _NEAR))
    if slash > 0:
        head = head[: slash + 1]
    return f"{head}{_ELLIPSIS}{tail}"


def _first(text: str, width: int) -> str:
    """Return as much of the beginning as takes `width` columns."""
    if text.isascii():
        return text[:width]
    end = taken = 0
    while end < len(text) and (taken := taken + display_width(text[end])) <= width:
        end += 1
    return text[:end]


def _last(text: str, width: int) -> str:
    if text.isascii():
        return text[len(text) - width :]
    start, taken = len(text), 0
    while start > 0 and (taken := taken + display_width(text[start - 1])) <= width:
        start -= 1
    return text[start:]
