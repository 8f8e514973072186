"""The groups of a Keras 3 weights file as alignment walks them: layers and lists of layers.

`refine/down/vars/0` is variable 0 of the object at attribute `down` of attribute `refine`.  Lists
and dicts of layers number their members by class (`blocks/dense`, `blocks/dense_1`); which
was written first tells the members' order, since Keras writes them one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ckptkit.align.own_variables import OwnVariable
from ckptkit.align.types import TensorSet
from ckptkit.stores.base import KerasStructure
from ckptkit.text import lazy_pattern

NUMBERED = lazy_pattern(r"(?:(.*)/)?vars/(\d+)")
LISTS = ("layers", "_layer_checkpoint_dependencies")
_COUNTED = lazy_pattern(r"(.*?)(?:_(\d+))?")


@dataclass
class NumberedLayer:
    """A group: an object with its variables in order, or (`is_list`) a list or dict of objects.

    first: which value of the file the first one below is.
    """

    path: str
    is_list: bool = False
    own: list[OwnVariable] = field(default_factory=list)
    children: dict[str, NumberedLayer] = field(default_factory=dict)
    first: float = math.inf

    def layers(self) -> Iterator[NumberedLayer]:
        """Yield this and all groups below."""
        yield self
        for child in self.children.values():
            yield from child.layers()

    def weights(self) -> list[OwnVariable]:
        """Return all variables at or below the group."""
        return [variable for layer in self.layers() for variable in layer.own]

    def items(self) -> list[NumberedLayer] | None:
        """Return the members of a list that hold weights, in its order; None where it is lost."""
        members = [child for child in self.children.values() if child.weights()]
        numbers = {m.path: _counted(m.path) for m in members}
        if all(m.first < math.inf for m in members):
            members.sort(key=lambda m: m.first)
        else:
            members.sort(key=lambda m: numbers[m.path])
            if len({base for base, _ in numbers.values()}) > 1:
                return None
        last: dict[str, int] = {}
        for member in members:  # a file that another program rewrote breaks the order
            base, number = numbers[member.path]
            if number < last.get(base, 0):
                return None
            last[base] = number
        return members


def _counted(path: str) -> tuple[str, int]:
    match = _COUNTED.fullmatch(path.rpartition("/")[2])
    return (match[1], int(match[2] or 0)) if match else (path, 0)


def numbered_layers(side: TensorSet) -> NumberedLayer | None:
    """Return the tree of layers of a file that numbers its variables; None for another file."""
    structure = side.structure
    if not isinstance(structure, KerasStructure) or not structure.layers:
        return None
    root = NumberedLayer("")
    places = {key: at for at, key in enumerate(structure.written)}
    for key in side.keys:
        match = NUMBERED.fullmatch(key)
        if match is None or key not in side.weights:
            continue
        spec, variable = side.specs[key], structure.variables.get(key)
        node = _descend(root, match[1] or "", structure, places.get(key, math.inf))
        name = variable.name if variable is not None else None
        node.own.append(OwnVariable(key, (spec.dtype, spec.shape), name))
    for layer in root.layers():
        layer.own.sort(key=lambda v: int(v.key.rpartition("/")[2]))
    return root


def _descend(
    root: NumberedLayer, path: str, structure: KerasStructure, place: float
) -> NumberedLayer:
    root.first = min(root.first, place)
    node, parts = root, path.split("/") if path else []
    for depth, part in enumerate(parts):
        here = "/".join(parts[: depth + 1])
        if part not in node.children:
            node.children[part] = NumberedLayer(here, here not in structure.layers)
        node = node.children[part]
        node.first = min(node.first, place)
    return node


def types_of(variables: Sequence[OwnVariable]) -> list[tuple[object, ...]]:
    """Return the dtypes and shapes of some variables, sorted."""
    return sorted((v.type for v in variables), key=repr)
