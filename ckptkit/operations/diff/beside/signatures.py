"""What two SavedModels take and give: tags, signatures, names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ckptkit.operations.configuration.node import ConfigNode
from ckptkit.stores.base import Signature
from ckptkit.stores.keras.config import LEGACY_CLASSES
from ckptkit.stores.keras.layer_variables import snake_case
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.text import lazy_pattern, natural
from ckptkit.wording import operand

_OF_THE_LOADER = "__saved_model"  # what initialises and trains, which TensorFlow alone calls
# What Keras calls inputs and outputs by itself: after a layer, its input, or nothing at all.
_COUNTED = lazy_pattern(r"(.+?)(?:_\d+)?(_input)?")
_COUNTED_NAMES = {"input", "input_layer", "keras_tensor", *map(snake_case, LEGACY_CLASSES)}
_Shape = tuple[int | None, ...] | None
_Type = tuple[str, _Shape]
_Tensor = tuple[str, str, _Shape]


BREAKING, COMPATIBLE = "breaking", "compatible"


class SignatureChange(NamedTuple):
    """One thing that the signatures of two models differ by.

    where: the signature, input or output.  text: a sentence.  effect: "breaking" where a caller of
    OLD may fail with NEW, or be given what it did not expect; else "compatible".
    is_counted: whether only a name that Keras counts differs, which tells nothing of the model.
    """

    where: str
    text: str
    effect: str
    is_counted: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.effect})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"where": self.where, "text": self.text, "effect": self.effect}


def signature_changes(old: SavedModel, new: SavedModel) -> list[SignatureChange]:
    """Return a row per tag set, signature, input and output that differs."""
    sides = old.signatures_by_tags, new.signatures_by_tags
    if len(sides[0]) == len(sides[1]) == 1:
        (tags,), (new_tags,) = sides
        found = []
        if tags != new_tags:
            effect = COMPATIBLE if tags <= new_tags else BREAKING
            found = [SignatureChange("", f"tags {_tags(tags)} → {_tags(new_tags)}", effect)]
        return [*found, *_of_graph(sides[0][tags], sides[1][new_tags], "")]
    found = []
    for tags in dict.fromkeys((*sides[0], *sides[1])):
        if tags not in sides[1] or tags not in sides[0]:
            text = f"the graph with tags {_tags(tags)} is only in {_side(tags in sides[0])}"
            effect = BREAKING if tags in sides[0] else COMPATIBLE
            found.append(SignatureChange("", text, effect))
        else:
            found += _of_graph(sides[0][tags], sides[1][tags], f"{_tags(tags)} ")
    return found


def input_changes(
    old: SavedModel | ConfigNode, new: SavedModel | ConfigNode
) -> list[SignatureChange] | None:
    """Compare what a SavedModel takes with what a Keras model says that it takes.

    Args:
        old: the one, a SavedModel or the configuration of a Keras model.
        new: the other.

    Returns:
        A row per input whose dtype or shape differs; None where that cannot be told: there are
        several signatures with other inputs, or inputs that the two do not call alike.
    """
    inputs = _inputs(old), _inputs(new)
    if inputs[0] is None or inputs[1] is None or len(inputs[0]) != len(inputs[1]):
        return None
    left, right = ({name: (dtype, shape) for name, dtype, shape in side} for side in inputs if side)
    if len(left) == len(right) == 1:
        names = dict(zip(left, right, strict=True))
    else:
        names = {name: name for name in left if name in right}
    if len(names) != len(left):
        return None
    return [
        SignatureChange(
            f"input {name}",
            f"input {name} {_text(left[name])} → {_text(right[other])}",
            _effect("input", left[name], right[other]),
        )
        for name, other in names.items()
        if left[name] != right[other]
    ]


def _inputs(side: SavedModel | ConfigNode) -> tuple[_Tensor, ...] | None:
    if isinstance(side, SavedModel):
        graphs = list(side.signatures_by_tags.values())
        found = {
            signature.inputs
            for graph in graphs
            for key, signature in graph.items()
            if not key.startswith(_OF_THE_LOADER)
        }
        return found.pop() if len(found) == 1 else None
    if side.kind == "sequential":
        shape = side.settings.get("input.shape")
        dtype = side.settings.get("input.dtype", "float32")
        return (("keras_tensor", dtype, tuple(shape)),) if isinstance(shape, list) else None
    layers = {layer.name: layer for layer in side.layers if layer.is_input}
    tensors = []
    for end in side.inputs:
        layer = layers.get(end.layer)
        shape = layer.settings.get("shape") if layer is not None else None
        if layer is None or not isinstance(shape, list):
            return None
        tensors.append((layer.name, layer.settings.get("dtype", "float32"), tuple(shape)))
    return tuple(tensors) or None


def _tags(tags: frozenset[str]) -> str:
    return ",".join(sorted(tags)) or "(none)"


def _side(is_old: bool) -> str:
    return operand("OLD" if is_old else "NEW")


def _of_graph(
    old: Mapping[str, Signature], new: Mapping[str, Signature], prefix: str
) -> Iterator[SignatureChange]:
    for key in sorted({*old, *new}):
        if key.startswith(_OF_THE_LOADER):
            continue
        where = f"{prefix}{key}"
        if key not in new or key not in old:
            effect = BREAKING if key in old else COMPATIBLE
            yield SignatureChange(where, f"{where} is only in {_side(key in old)}", effect)
            continue
        for what, left, right in (
            ("input", old[key].inputs, new[key].inputs),
            ("output", old[key].outputs, new[key].outputs),
        ):
            yield from _of_tensors(where, what, left, right)
        yield from _of_defaults(where, old[key], new[key])


def _of_tensors(
    where: str, what: str, old: tuple[_Tensor, ...], new: tuple[_Tensor, ...]
) -> Iterator[SignatureChange]:
    prefix = f"{where} {what}"
    left, right = ({name: (dtype, shape) for name, dtype, shape in side} for side in (old, new))
    names = _paired(list(left), list(right))
    for name, other in names.items():
        if left[name] != right[other]:
            text = f"{prefix} {name} {_text(left[name])} → {_text(right[other])}"
            yield SignatureChange(f"{prefix} {name}", text, _effect(what, left[name], right[other]))
        if name != other:
            yield SignatureChange(
                f"{prefix} {name}", f"{prefix} {name} → {other}", BREAKING, is_counted=True
            )
    taken = set(names.values())
    alone = [n for n in left if n not in names], [n for n in right if n not in taken]
    if len(alone[0]) == len(alone[1]) == 1:
        text = f"{prefix} {alone[0][0]} → {alone[1][0]}"
        yield SignatureChange(f"{prefix} {alone[0][0]}", text, BREAKING)
        return
    for side, is_old in zip(alone, (True, False), strict=True):
        for name in side:
            # a caller gives all inputs and takes the outputs that it knows
            effect = BREAKING if is_old or what == "input" else COMPATIBLE
            text = f"{prefix} {name} is only in {_side(is_old)}"
            yield SignatureChange(f"{prefix} {name}", text, effect)


def _of_defaults(where: str, old: Signature, new: Signature) -> Iterator[SignatureChange]:
    """Yield how the values of inputs differ that a caller leaves out."""
    names = _paired([name for name, *_ in old.inputs], [name for name, *_ in new.inputs])
    left, right = dict(old.defaults), dict(new.defaults)
    for name, other in names.items():
        before, after = left.get(name), right.get(other)
        if before == after:
            continue
        place = f"{where} input {name}"
        if before is None:
            yield SignatureChange(place, f"{place} has a default now, {after}", COMPATIBLE)
        elif after is None:
            yield SignatureChange(place, f"{place} has no default any more", BREAKING)
        else:
            yield SignatureChange(place, f"{place} default {before} → {after}", BREAKING)


def _effect(what: str, old: _Type, new: _Type) -> str:
    """Return what another dtype or shape means to a caller: inputs may widen, outputs narrow."""
    wide, narrow = (new, old) if what == "input" else (old, new)
    return COMPATIBLE if old[0] == new[0] and _holds(wide[1], narrow[1]) else BREAKING


def _holds(wide: _Shape, narrow: _Shape) -> bool:
    """Whether each shape that the second one stands for is one of the first."""
    if wide is None or narrow is None:
        return wide is None
    if len(wide) != len(narrow):
        return False
    return all(axis is None or axis == other for axis, other in zip(wide, narrow, strict=True))


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


def _text(tensor: _Type) -> str:
    dtype, shape = tensor
    if shape is None:
        return f"{dtype}[unknown]"
    return f"{dtype}[{','.join('?' if axis is None else str(axis) for axis in shape)}]"
