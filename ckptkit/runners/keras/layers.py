"""Watching the layers of a Keras model while it is called; on any backend of Keras 3.

A layer goes by the path of the calls that lead to it, `tower/project`; its second call on the same
path is `tower/project#2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class LayerCall(NamedTuple):
    """One call of a layer; arguments: the positional ones and those by name."""

    path: str
    layer: Any
    arguments: tuple[Any, Any]
    output: Any


@contextmanager
def watching(keras: Any, model: Any, after: Callable[[LayerCall], Any]) -> Iterator[None]:
    """Call `after` after each call of a layer inside of a call of `model`.

    What it returns, unless None, is what the layer gives.
    """
    base = keras.layers.Layer
    original = base.__call__
    stack: list[str] = []
    calls: Counter[str] = Counter()

    def watched(layer: Any, *args: Any, **options: Any) -> Any:
        # the model's own call starts a walk; calls of layers outside of one are none of ours
        if layer is model and not stack:
            stack.append("")
            calls.clear()
            try:
                return original(layer, *args, **options)
            finally:
                stack.pop()
        if not stack:
            return original(layer, *args, **options)
        path = f"{stack[-1]}/{layer.name}" if stack[-1] else str(layer.name)
        calls[path] += 1
        path = path if calls[path] == 1 else f"{path}#{calls[path]}"
        stack.append(path)
        try:
            output = original(layer, *args, **options)
        finally:
            stack.pop()
        instead = after(LayerCall(path, layer, (args, options), output))
        return output if instead is None else instead

    base.__call__ = watched
    try:
        yield
    finally:
        base.__call__ = original


def names_of(path: str, number: int) -> list[str]:
    """Return the names of the tensors that one call gave: `lstm`, or `lstm[0]`, `lstm[1]`."""
    return [path] if number == 1 else [f"{path}[{place}]" for place in range(number)]


@contextmanager
def arguments(keras: Any) -> Iterator[dict[int, tuple[Any, Any, Any]]]:
    """Give {id(layer): (layer, args, options)} of the last call of each layer made meanwhile."""
    base = keras.layers.Layer
    original = base.__call__
    found: dict[int, tuple[Any, Any, Any]] = {}

    def watched(layer: Any, *args: Any, **options: Any) -> Any:
        found[id(layer)] = (layer, args, options)
        return original(layer, *args, **options)

    base.__call__ = watched
    try:
        yield found
    finally:
        base.__call__ = original
