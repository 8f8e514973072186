"""What hangs below a live object, as tf.train.Checkpoint sees it.  Child process alone.

A trackable tells its children by name (`_trackable_children`), which is what a checkpoint is
written from; `variables` of a tf.Module knows less: a layer of Keras 3 is no tf.Module any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any


def children_of(item: Any) -> Mapping[str, Any]:
    """Return {edge: child} of a trackable; {} of anything else."""
    children = getattr(item, "_trackable_children", None)
    return dict(children()) if callable(children) else {}


def is_variable(item: Any) -> bool:
    """Whether it is a variable, of TensorFlow or of Keras: it has a value that can be replaced."""
    return callable(getattr(item, "assign", None)) and hasattr(item, "shape")


def is_optimizer(item: Any) -> bool:
    """Whether it is an optimizer: it applies gradients to variables that are others'."""
    applies = getattr(item, "apply_gradients", None) or getattr(item, "apply", None)
    return callable(applies) and not callable(item) and bool(children_of(item))


def below(root: Any, *, optimizers: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield (object path, trackable) of all that a trackable leads to, itself first, once each.

    The path is the one with the fewest private edges (`_operations`), then the shortest.
    optimizers: whether what only an optimizer leads to is told too.
    """
    number = count()
    waiting: list[tuple[int, int, int, str, Any]] = [(0, 0, next(number), "", root)]
    visited: set[int] = set()
    while waiting:
        private, depth, _, path, item = heapq.heappop(waiting)
        if id(item) in visited:
            continue
        visited.add(id(item))
        yield path, item
        for edge, child in children_of(item).items():
            if id(child) in visited or (not optimizers and is_optimizer(child)):
                continue
            step = (private + edge.startswith("_"), depth + 1, next(number))
            heapq.heappush(waiting, (*step, f"{path}/{edge}" if path else edge, child))


def variables_below(root: Any, *, optimizers: bool = True) -> dict[str, Any]:
    """Return {object path: variable} of all variables that a trackable leads to."""
    return {path: item for path, item in below(root, optimizers=optimizers) if is_variable(item)}
