"""Which parameter of its layer a constant of a graph is, where its op does not tell: its values do.

A converter leaves no variable as it was: a scale gets the axes of the op that takes it, a bias axes
of one, a kernel of three axes is a matrix, and a constant that it computed is called by a number.
The path of an op that takes a constant still names a layer; which of the parameters of such a layer
it is follows from the values, where they are those of one, in the same order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ckptkit.align.matching import TensorSet
from ckptkit.align.transforms import Shape
from ckptkit.compare.spans import extend_crc
from ckptkit.dtypes import kind
from ckptkit.operations.convert.value_stores import ValueSource
from ckptkit.operations.diff.compared_sides import Numbers
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.constants import BIAS, ConstantUse
from ckptkit.text import lazy_pattern

_MAX_OUTER = 2  # scopes around the layers of a model
_ONE_NUMBER = lazy_pattern(r"_\d+$")
_NUMBER = lazy_pattern(r"(_\d+)+$")
_ADDED = (BIAS, "beta")
_Content = tuple[str, int, int]


@dataclass(frozen=True)
class DeployedSide:
    """One side, as it is compared.

    stored: the file.  specs: of all its tensors.  carried: where the values of those come from that
    are not compared as they are stored.  numbers: those of them that are quantised.
    """

    stored: Store
    named: TensorSet
    specs: dict[str, TensorSpec]
    carried: dict[str, ValueSource]
    numbers: dict[str, Numbers]

    @property
    def tensors(self) -> TensorSet:
        """The tensors, as alignment sees them."""
        return replace(self.named, specs=self.specs)

    def source(self, key: str) -> ValueSource:
        """Return where the values of a tensor come from."""
        return self.carried.get(key) or ValueSource(self.stored, key)


class Parameter(NamedTuple):
    """What a constant is.  use: None where no name tells its layer.  shape: that of the model."""

    use: ConstantUse | None
    shape: Shape


def in_names_of_layers(
    uses: Mapping[str, ConstantUse], side: TensorSet, model: TensorSet
) -> dict[str, ConstantUse]:
    """Return uses of constants by the names of layers, where a graph has others for their scopes.

    A graph puts the name of the model before those of its layers.  And Keras calls the scopes of a
    model that is called once more by those names and one more number: `conv2d_1` is the scope of
    `conv2d`, `conv2d_1_2` that of `conv2d_1`.  It is so where more parameters of the model have
    names that follow than have those of the graph.

    Args:
        uses: of the constants of a graph.
        side: the graph.
        model: the other side.
    """
    sizes = {naming.name: model.specs[key].size for key, naming in model.names.items()}
    ways = [
        {key: _with_layers(use, outer, without_number) for key, use in uses.items()}
        for without_number in (False, True)
        for outer in range(_MAX_OUTER + 1)
    ]

    def fitting(way: Mapping[str, ConstantUse]) -> int:
        told = [(key, use) for key, use in way.items() if use.parameter]
        return sum(sizes.get(name_of(use)) == side.specs[key].size for key, use in told)

    return max(ways, key=fitting)


def name_of(use: ConstantUse) -> str:
    """Return the name of the parameter."""
    return f"{use.layer}/{use.parameter}"


def _with_layers(use: ConstantUse, outer: int, without_number: bool) -> ConstantUse:
    """Return a use by layers without so many outer scopes, and without the last number of each."""

    def name(path: str) -> str:
        parts = path.split("/")[outer:]
        return "/".join(_ONE_NUMBER.sub("", p) if without_number else p for p in parts)

    recurrence = use.recurrence
    if recurrence is not None:
        recurrence = recurrence._replace(layers=tuple(map(name, recurrence.layers)))
    return use._replace(layer=name(use.layer), recurrence=recurrence)


def parameters_by_values(
    graph: DeployedSide,
    model: DeployedSide,
    left: tuple[Iterable[str], Iterable[str]],
    uses: Mapping[str, ConstantUse],
) -> dict[str, Parameter]:
    """Return what constants are that nothing else pairs, by key.

    Args:
        graph: the side of the constants.
        model: the other.
        left: keys of both that have no partner.
        uses: what the ops of the graph say of its constants.
    """
    keys = [
        [key for key in of_side if _is_of_numbers(side.specs[key])]
        for side, of_side in zip((graph, model), left, strict=True)
    ]
    types = [
        {_type(side, key) for key in of_side}
        for side, of_side in zip((graph, model), keys, strict=True)
    ]
    both = types[0] & types[1]
    contents: dict[_Content, list[str]] = {}
    for key in keys[1]:
        if _type(model, key) in both:
            contents.setdefault(_content(model, key), []).append(key)
    found = {}
    for key in keys[0]:
        if _type(graph, key) in both:
            twins = contents.get(_content(graph, key), [])
            parameter = _of_twins(graph, model, key, twins, uses.get(key))
            if parameter is None and not twins and key in uses:
                parameter = _of_size(graph, model, key, keys[1], uses[key])
            if parameter is not None:
                found[key] = parameter
    return found


def _is_of_numbers(spec: TensorSpec) -> bool:
    return kind(spec.dtype) in ("float", "int", "uint") and spec.size > 1


def _type(side: DeployedSide, key: str) -> tuple[str, int]:
    return side.specs[key].dtype, side.specs[key].size


def _content(side: DeployedSide, key: str) -> _Content:
    crc = 0
    for _, values in side.source(key).blocks():
        crc = extend_crc(crc, values)
    return (*_type(side, key), crc)


def _of_twins(
    graph: DeployedSide,
    model: DeployedSide,
    key: str,
    twins: list[str],
    use: ConstantUse | None,
) -> Parameter | None:
    """Return what a constant is that has the values of some parameters of the model."""
    own = graph.specs[key].shape
    twins = [twin for twin in twins if is_cut_alike(own, model.specs[twin].shape)]
    uses = {}
    for twin in twins:
        owner, _, parameter = model.named.names[twin].name.rpartition("/")
        layer = _layer(use.layer, owner) if use is not None else ""
        if use is not None and layer and use.is_added in (None, parameter in _ADDED):
            uses[ConstantUse(layer, parameter)] = model.specs[twin].shape
    if len(uses) == 1:
        return Parameter(*next(iter(uses.items())))
    shapes = {model.specs[twin].shape for twin in twins}
    return Parameter(None, shapes.pop()) if len(shapes) == 1 else None


def _of_size(
    graph: DeployedSide, model: DeployedSide, key: str, others: list[str], use: ConstantUse
) -> Parameter | None:
    """Return the shape of a constant that is a parameter which has one in the whole model."""
    spec = graph.specs[key]
    shapes = {
        model.specs[other].shape
        for other in others
        if model.named.names[other].name.rpartition("/")[2] == use.parameter
        and model.specs[other].size == spec.size
        and is_cut_alike(spec.shape, model.specs[other].shape)
    }
    return Parameter(use, shapes.pop()) if len(shapes) == 1 else None


def _layer(path: str, owner: str) -> str:
    """Return as much of an op's path as ends with the name of a layer, but for its number."""
    parts, name = path.split("/"), _NUMBER.sub("", owner.rpartition("/")[2])
    places = [at for at, part in enumerate(parts) if name and _NUMBER.sub("", part) == name]
    return "/".join(parts[: places[-1] + 1]) if places else ""


def is_cut_alike(one: Shape, other: Shape) -> bool:
    """Whether one shape merges neighbouring axes of the other, or has axes of one beside them."""
    ends = [set(itertools.accumulate(shape, int.__mul__)) for shape in (one, other)]
    is_one = math.prod(one) == math.prod(other)
    return is_one and (ends[0] | {1} <= ends[1] | {1} or ends[1] | {1} <= ends[0] | {1})
