"""Ops of a graph that no scope and no variable tells a layer of: they lie between two layers.

An activation, or the sum of a branch, of a plain module in a SavedModel: the file does not say
whose it is.  The layers that give what it reads, and those that read it, are named instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ckptkit.operations.localize.values import Layer
from ckptkit.runners.types import MODEL, OUTPUT


def with_neighbours(rows: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the values with the layers around those that have none of their own."""
    by_name = {row.name: row for row in rows}
    readers: dict[str, list[str]] = {}
    for row in rows:
        for name in row.inputs:
            readers.setdefault(name, []).append(row.name)
    inputs = {row.name: list(row.inputs) for row in rows}
    return tuple(_named(row, by_name, inputs, readers) if _is_nobodys(row) else row for row in rows)


def _is_nobodys(row: Layer) -> bool:
    """Whether nothing tells its layer: it goes by the name of its op, outside of all scopes."""
    return row.path == row.name and "/" not in row.name and not row.name.startswith(OUTPUT)


def _named(
    row: Layer,
    by_name: Mapping[str, Layer],
    inputs: Mapping[str, Sequence[str]],
    readers: Mapping[str, Sequence[str]],
) -> Layer:
    before = _nearest(row.name, by_name, inputs)
    after = _nearest(row.name, by_name, readers)
    path, *others = dict.fromkeys([*before, *after]) or [MODEL]
    return replace(row, path=path, fused=tuple(others))


def _nearest(
    name: str, by_name: Mapping[str, Layer], edges: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the layers that are reached first, along edges, through what is nobody's."""
    found: dict[str, None] = {}
    seen, waiting = {name}, list(edges.get(name, ()))
    while waiting:
        row = by_name.get(waiting.pop(0))
        if row is None or row.name in seen:
            continue
        seen.add(row.name)
        if _is_nobodys(row):
            waiting += edges.get(row.name, ())
        elif row.path != MODEL and not row.name.startswith(OUTPUT):
            found[row.path] = None
    return list(found)
