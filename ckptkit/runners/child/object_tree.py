"""What hangs below a live object, and how its variables are called.  Child process alone.

A runtime says what an object leads to, edge by edge, as a checkpoint of it would have it; all else
follows from that.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any


def is_variable(item: Any) -> bool:
    """Whether it is a variable, of TensorFlow or of Keras: it has a value that can be replaced."""
    return callable(getattr(item, "assign", None)) and hasattr(item, "shape")


@dataclass(frozen=True)
class ObjectTree:
    """How live objects are gone through; children_of: gives {edge: child} of one."""

    children_of: Callable[[Any], Mapping[str, Any]]

    def is_optimizer(self, item: Any) -> bool:
        """Whether it is an optimizer: it applies gradients to variables that are others'."""
        applies = getattr(item, "apply_gradients", None) or getattr(item, "apply", None)
        return callable(applies) and not callable(item) and bool(self.children_of(item))

    def below(self, root: Any, *, optimizers: bool = True) -> Iterator[tuple[str, Any]]:
        """Yield (object path, object) of all that an object leads to, itself first, once each.

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
            for edge, child in self.children_of(item).items():
                if id(child) in visited or (not optimizers and self.is_optimizer(child)):
                    continue
                step = (private + edge.startswith("_"), depth + 1, next(number))
                heapq.heappush(waiting, (*step, f"{path}/{edge}" if path else edge, child))

    def variables_below(self, root: Any, *, optimizers: bool = True) -> dict[str, Any]:
        """Return {object path: variable} of all variables that an object leads to."""
        found = self.below(root, optimizers=optimizers)
        return {path: item for path, item in found if is_variable(item)}


def by_unique_names(variables: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return {name: variable}; variables: (object path, variable), "" where no path leads there.

    The name is the one that `ckptkit ls` shows of a checkpoint: the variable's own where no other
    one has it, else the object path.
    """
    named = [(own_name(variable), path, variable) for path, variable in variables]
    often = Counter(name for name, _, _ in named)
    found: dict[str, Any] = {}
    for name, path, variable in named:
        chosen, number = (name if name and often[name] == 1 else path or name), 1
        unique = chosen
        while unique in found:  # in plain lists
            number += 1
            unique = f"{chosen}#{number}"
        found[unique] = variable
    return found


def own_name(variable: Any) -> str:
    """Return what a variable calls itself: `dense/kernel`."""
    return str(getattr(variable, "path", None) or variable.name.partition(":")[0])
