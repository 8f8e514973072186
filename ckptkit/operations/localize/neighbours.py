"""Ops of a graph that no scope and no variable tells a layer of: they lie between two layers.

An activation, or the sum of a branch, of a plain module in a SavedModel: the file does not say
whose it is.  Or a module keeps its variables itself, without layers: its ops are its own, and only
those that read a variable can be told by that.  The layers, or variables, of what gives that which
it reads, and of what reads it, are named instead, the last before it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ckptkit.operations.localize.values import Layer
from ckptkit.runners.types import MODEL, OUTPUT


def with_neighbours(rows: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the values with the layers around those that have none of their own."""
    around = _Around(rows, _is_nobodys)
    return tuple(around.named(row, MODEL) if _is_nobodys(row) else row for row in rows)


def with_variables_around(rows: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the values with the variables around those that are the model's own, as its are too.

    Where layers are around a value, it is the model's: what brings them together is its code.
    """
    around = _Around(rows, _is_models)
    own = {row.path for row in rows if row.path in {gap.name for gap in row.variables}}

    def named(row: Layer) -> Layer:
        found = around.named(row, MODEL)
        return found if own.issuperset((found.path, *found.fused)) else row

    return tuple(named(row) if _is_models(row) else row for row in rows)


def _is_nobodys(row: Layer) -> bool:
    """Whether nothing tells its layer: it goes by the name of its op, outside of all scopes."""
    return row.path == row.name and "/" not in row.name and not row.name.startswith(OUTPUT)


def _is_models(row: Layer) -> bool:
    return row.path == MODEL and not row.name.startswith(OUTPUT)


class _Around:
    """Finds the layers around values; is_open: of a value that has none."""

    def __init__(self, rows: Sequence[Layer], is_open: Callable[[Layer], bool]) -> None:
        self._is_open = is_open
        self._rows = {row.name: row for row in rows}
        self._inputs = {row.name: list(row.inputs) for row in rows}
        self._readers: dict[str, list[str]] = {}
        for row in rows:
            for name in row.inputs:
                self._readers.setdefault(name, []).append(row.name)

    def named(self, row: Layer, other: str) -> Layer:
        """Return the value as the nearest layers': of what it reads, the last one first."""
        before = self._nearest(row.name, self._inputs)
        before.sort(key=lambda found: -found.order)
        found = [*before, *self._nearest(row.name, self._readers)]
        path, *others = dict.fromkeys(item.path for item in found) or [other]
        return replace(row, path=path, fused=tuple(others))

    def _nearest(self, name: str, edges: Mapping[str, Sequence[str]]) -> list[Layer]:
        """Return the values of layers that are reached first, through what is nobody's."""
        found: list[Layer] = []
        seen, waiting = {name}, list(edges.get(name, ()))
        while waiting:
            row = self._rows.get(waiting.pop(0))
            if row is None or row.name in seen:
                continue
            seen.add(row.name)
            if self._is_open(row):
                waiting += edges.get(row.name, ())
            elif row.path != MODEL and not row.name.startswith(OUTPUT):
                found.append(row)
        return found
