"""What two SavedModels take and give: tags, signatures, names, dtypes and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ckptkit.stores.base import Signature
from ckptkit.stores.keras.config import LEGACY_CLASSES
from ckptkit.stores.keras.layer_variables import snake_case
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.text import natural

_OF_THE_LOADER = "__saved_model"  # what initialises and trains, which TensorFlow alone calls
# What Keras calls inputs and outputs by itself: after a layer, its input, or nothing at all.
_COUNTED = re.compile(r"(.+?)(?:_\d+)?(_input)?")
_COUNTED_NAMES = {"input", "input_layer", "keras_tensor", *map(snake_case, LEGACY_CLASSES)}
_Tensor = tuple[str, str, tuple[int | None, ...] | None]


def signature_differences(old: SavedModel, new: SavedModel) -> list[str]:
    """Return a sentence per tag set, signature, input and output that differs."""
    sides = old.signatures_by_tags, new.signatures_by_tags
    if len(sides[0]) == len(sides[1]) == 1:
        (tags,), (new_tags,) = sides
        found = [] if tags == new_tags else [f"tags {_tags(tags)} → {_tags(new_tags)}"]
        return [*found, *_of_graph(sides[0][tags], sides[1][new_tags], "")]
    found = []
    for tags in dict.fromkeys((*sides[0], *sides[1])):
        if tags not in sides[1] or tags not in sides[0]:
            where = "OLD" if tags in sides[0] else "NEW"
            found.append(f"the graph with tags {_tags(tags)} is only in {where}")
        else:
            found += _of_graph(sides[0][tags], sides[1][tags], f"{_tags(tags)} ")
    return found


def _tags(tags: frozenset[str]) -> str:
    return ",".join(sorted(tags)) or "(none)"


def _of_graph(
    old: Mapping[str, Signature], new: Mapping[str, Signature], prefix: str
) -> Iterator[str]:
    for key in sorted({*old, *new}):
        if key.startswith(_OF_THE_LOADER):
            continue
        if key not in new or key not in old:
            yield f"{prefix}{key} is only in {'OLD' if key in old else 'NEW'}"
            continue
        for what, left, right in (
            ("input", old[key].inputs, new[key].inputs),
            ("output", old[key].outputs, new[key].outputs),
        ):
            yield from _of_tensors(f"{prefix}{key} {what}", left, right)


def _of_tensors(prefix: str, old: tuple[_Tensor, ...], new: tuple[_Tensor, ...]) -> Iterator[str]:
    left, right = ({name: (dtype, shape) for name, dtype, shape in side} for side in (old, new))
    names = _paired(list(left), list(right))
    for name, other in names.items():
        if left[name] != right[other]:
            yield f"{prefix} {name} {_text(left[name])} → {_text(right[other])}"
    taken = set(names.values())
    alone = [n for n in left if n not in names], [n for n in right if n not in taken]
    if len(alone[0]) == len(alone[1]) == 1:
        yield f"{prefix} {alone[0][0]} → {alone[1][0]}"
        return
    for side, where in zip(alone, ("OLD", "NEW"), strict=True):
        for name in side:
            yield f"{prefix} {name} is only in {where}"


def _paired(old: list[str], new: list[str]) -> dict[str, str]:
    """Pair names: the same ones, and those that Keras counts, in the order of their numbers."""
    names = {name: name for name in old if name in new}
    taken = set(names)
    for base in {_base(name) for name in old} - {None}:
        left, right = (
            sorted((n for n in side if n not in taken and _base(n) == base), key=natural)
            for side in (old, new)
        )
        if len(left) == len(right):
            names.update(zip(left, right, strict=True))
    return names


def _base(name: str) -> str | None:
    """Return what Keras counts in a name (`dense` in `dense_7`), None in a name of a person's."""
    base = _COUNTED.fullmatch(name)
    return base[1] + (base[2] or "") if base and base[1] in _COUNTED_NAMES else None


def _text(tensor: tuple[str, tuple[int | None, ...] | None]) -> str:
    dtype, shape = tensor
    if shape is None:
        return f"{dtype}[unknown]"
    return f"{dtype}[{','.join('?' if axis is None else str(axis) for axis in shape)}]"
