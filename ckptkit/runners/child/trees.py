"""Names of whatever a model gave: a tensor, a list, a dict, or these in each other.

Outputs are named by their keys where they are a dict, by the model's own output names where it has
them, else output_0, output_1, ...  What is nested is joined by "/".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Parts = Callable[[Any], Iterator[tuple[str, Any]]]
"""Gives (name of a part, tensor) of a value that is several tensors; ("", value) of others."""


def named(
    value: Any, names: Sequence[str] | None = None, parts: Parts | None = None
) -> dict[str, Any]:
    """Return {name: tensor}; names: of the model, for outputs in a list.

    Tuples with fields are named by these.
    """
    if isinstance(value, (list, tuple)) and len(value) == 1 and not hasattr(value, "_fields"):
        value = value[0]
    found: dict[str, Any] = {}
    if not _is_tree(value):
        _flatten(names[0] if names and len(names) == 1 else "output_0", value, parts, found)
        return found
    items = list(_items(value))
    keyed = isinstance(value, Mapping)
    own = names is not None and not keyed and len(names) == len(items)
    for number, (key, item) in enumerate(items):
        key = key if keyed or hasattr(value, "_fields") else f"output_{key}"
        _flatten(names[number] if own and names else key, item, parts, found)
    return found


def _is_tree(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), value[key]) for key in sorted(value, key=str))
    elif hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    else:
        yield from ((str(number), item) for number, item in enumerate(value))


def _flatten(name: str, value: Any, parts: Parts | None, found: dict[str, Any]) -> None:
    if value is None:
        return
    if _is_tree(value):
        for key, item in _items(value):
            _flatten(f"{name}/{key}", item, parts, found)
        return
    for part, tensor in parts(value) if parts is not None else (("", value),):
        key = f"{name}/{part}" if part else name
        number = 1
        while key in found:  # two outputs of one name
            number += 1
            key = f"{name}#{number}"
        found[key] = tensor
