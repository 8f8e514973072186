"""The layers of a file as a map sees them: tensors that belong together, and what each is for.

What a tensor is for, and how its axes lie, is a convention of the library that made it, and its
name says which (sources: keras.layers, torch.nn, flax.linen, tf.contrib.slim):

    kernel                         the input before the output:  [*window, in, out]
    weight, of two axes or more    the output first:  [out, in, *window]
    gamma, scale, weight of one    a norm's scale;  beta, offset, bias  its shift or a layer's bias

Names that no library prescribes tell nothing; there shapes do.  Two things are taken apart, so that
layer stands against layer: `nn.LSTM` keeps all of its levels and directions in one module, and
`nn.MultiheadAttention` three projections in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from ckptkit.align.name_tree import is_dotted, slashed, uncounted
from ckptkit.align.transforms import Shape
from ckptkit.align.types import TensorSet
from ckptkit.text import lazy_pattern

IN_FIRST, OUT_FIRST = "in first", "out first"  # the order of a kernel's last or first two axes
KERNEL, RECURRENT, EMBEDDING, BIAS, SCALE, MEAN, VARIANCE, VALUE = (
    *("kernel", "recurrent kernel", "embedding", "bias"),
    *("scale", "mean", "variance", "value"),
)
BIAS_OF_INPUT, BIAS_OF_STATE = "bias of the input", "bias of the state"
_ROLES = {
    **dict.fromkeys(("bias", "biases", "beta", "offset"), BIAS),
    **dict.fromkeys(("gamma", "scale"), SCALE),
    **dict.fromkeys(("moving_mean", "running_mean", "mean"), MEAN),
    **dict.fromkeys(("moving_variance", "running_var", "variance", "var"), VARIANCE),
    **dict.fromkeys(("embeddings", "embedding"), EMBEDDING),
}
_RECURRENT = lazy_pattern(r"(weight|bias)_(ih|hh)(?:_l(\d+)(_reverse)?)?")  # a cell has no level
_RECURRENT_ROLES = {
    ("weight", "ih"): KERNEL,
    ("weight", "hh"): RECURRENT,
    ("bias", "ih"): BIAS_OF_INPUT,
    ("bias", "hh"): BIAS_OF_STATE,
}
_FORWARD = lazy_pattern(r"(.*/|)forward/(l_\d+)")
_PACKED = lazy_pattern(r"in_proj_(weight|bias)")
_SEPARATE = lazy_pattern(r"([qkv])_proj_weight")
_PROJECTIONS = ("query", "key", "value")  # in the order in which they are packed


class LayerTensor(NamedTuple):
    """One tensor of a layer.

    role: one of the above.  order: IN_FIRST or OUT_FIRST of a kernel whose name tells it, else "".
    shape: of the part.  part: (number from 1, of how many) where it is a part of the tensor `key`.
    """

    key: str
    name: str
    role: str
    order: str
    shape: Shape
    part: tuple[int, int] | None = None


class LayerWeights:
    """Tensors of one scope.  path: with slashes.  place: in the order of the file's layers."""

    def __init__(self, path: str, members: tuple[LayerTensor, ...], place: int | None) -> None:
        self.path = path
        self.members = members
        self.place = place

    @cached_property
    def by_role(self) -> Mapping[str, LayerTensor]:
        return {member.role: member for member in self.members}

    @cached_property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    def singles(self) -> Iterator[LayerWeights]:
        """Yield each tensor as a layer of its own; gates and parts mean nothing alone."""
        for member in self.members:
            if member.part is not None or RECURRENT in self.by_role:
                yield self
                return
        for member in self.members:
            has_slash = "/" in member.name
            path = member.name if has_slash else slashed(member.name)
            yield LayerWeights(path, (member,), self.place)

    @property
    def scope(self) -> str:
        return self.path.rpartition("/")[0]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The letters of the path, without numbers and what separates them."""
        return tuple(word.lower() for word in re.findall(r"[^\W\d_]+", self.path))

    @cached_property
    def numbering(self) -> tuple[str, tuple[int, ...]]:
        """The path without its numbers, and these; a name without a counter counts from 0."""
        skeleton: list[str] = []
        numbers: list[int] = []
        for part in self.parts:
            base, counter = uncounted(part)
            numbers += [int(digits) for digits in re.findall(r"\d{1,18}", base)]
            numbers.append(counter)
            skeleton.append(re.sub(r"\d+", "#", base))
        return "/".join(skeleton), tuple(numbers)


def layers_of(side: TensorSet, has_order: bool, *, taken_apart: bool) -> list[LayerWeights]:
    """Return the layers of a file's weights.

    Args:
        side: the file.
        has_order: whether the order of its tensors is that of the model, where its structure does
            not say more.
        taken_apart: whether packed projections of attention become layers of their own.
    """
    keys = [key for key in side.keys if key in side.weights]
    has_dots = is_dotted(side.names[key].name for key in keys)
    scopes: dict[str, list[LayerTensor]] = {}
    for key in keys:
        name = side.names[key].name
        scope, _, leaf = (slashed(name) if has_dots else name).rpartition("/")
        for inner, member in _members(key, name, leaf, side.specs[key].shape, taken_apart):
            scopes.setdefault("/".join(filter(None, (scope, inner))), []).append(member)
    places = _places(side, keys, has_order)
    layers = []
    for path, members in scopes.items():
        for inner, together in _split(members):
            place = min((places[m.key] for m in together if m.key in places), default=None)
            whole = "/".join(filter(None, (path, inner)))
            layers.append(LayerWeights(whole, tuple(together), place))
    return _in_directions(layers)


def has_packed_attention(side: TensorSet) -> bool:
    """Whether a file packs the projections of attention into one tensor."""
    leaves = (re.split(r"[./]", side.names[key].name)[-1] for key in side.weights)
    return any(_PACKED.fullmatch(leaf) for leaf in leaves)


def _members(
    key: str, name: str, leaf: str, shape: Shape, taken_apart: bool
) -> Iterable[tuple[str, LayerTensor]]:
    """Yield (scope within the scope, member) of what a tensor holds."""
    recurrent = _RECURRENT.fullmatch(leaf)
    packed = _PACKED.fullmatch(leaf) if taken_apart else None
    separate = _SEPARATE.fullmatch(leaf) if taken_apart else None
    if recurrent is not None:
        kind, of, level, is_reversed = recurrent.groups()
        role = _RECURRENT_ROLES[kind, of]
        order = OUT_FIRST if kind == "weight" else ""
        direction = "backward" if is_reversed else "forward"
        inner = f"{direction}/l_{level}" if level else ""
        yield inner, LayerTensor(key, name, role, order, shape)
    elif packed is not None and shape and shape[0] % 3 == 0:
        role, order = (KERNEL, OUT_FIRST) if packed[1] == "weight" else (BIAS, "")
        for number, projection in enumerate(_PROJECTIONS, 1):
            part = shape[0] // 3, *shape[1:]
            yield projection, LayerTensor(key, name, role, order, part, (number, 3))
    elif separate is not None:
        projection = _PROJECTIONS["qkv".index(separate[1])]
        yield projection, LayerTensor(key, name, KERNEL, OUT_FIRST, shape)
    else:
        role, order = _role(leaf, shape)
        yield "", LayerTensor(key, name, role, order, shape)


def _role(leaf: str, shape: Shape) -> tuple[str, str]:
    if leaf == "weight":
        return (KERNEL, OUT_FIRST) if len(shape) > 1 else (SCALE, "")
    if leaf == "weights" or leaf.endswith("kernel"):
        return (RECURRENT if leaf == "recurrent_kernel" else KERNEL), IN_FIRST
    return _ROLES.get(leaf, f"{VALUE} {leaf}"), ""


def _split(members: list[LayerTensor]) -> Iterable[tuple[str, list[LayerTensor]]]:
    """Yield (scope within the scope, members) of the layers that the members of a scope are."""
    kernels = [member for member in members if member.role == KERNEL]
    if len(kernels) == 2:  # a separable convolution is two, and the bias is that of the second
        first, second = kernels
        depthwise = first if re.search("depthwise", first.name) else second
        others = [member for member in members if member is not depthwise]
        yield "depthwise", [depthwise]
        yield "pointwise", others
        return
    known = [member for member in members if not member.role.startswith(VALUE)]
    unknown = [member for member in members if member.role.startswith(VALUE)]
    if not known and len(unknown) == 2:
        # A tensor with axes and one that fits its last: what a dense layer or convolution has.
        vector, matrix = sorted(unknown, key=lambda member: len(member.shape))
        if len(vector.shape) == 1 < len(matrix.shape) and vector.shape[0] in matrix.shape:
            yield "", [matrix._replace(role=KERNEL), vector._replace(role=BIAS)]
            return
    if known:
        yield "", known
    for member in unknown:
        yield member.role.removeprefix(f"{VALUE} "), [member._replace(role=VALUE)]


def _in_directions(layers: list[LayerWeights]) -> list[LayerWeights]:
    """Take the direction out of the paths of recurrent modules that have one alone."""
    paths = {layer.path for layer in layers}
    for layer in layers:
        found = _FORWARD.fullmatch(layer.path)
        if found is not None and f"{found[1]}backward/{found[2]}" not in paths:
            layer.path = f"{found[1]}{found[2]}"
    return layers


def _places(side: TensorSet, keys: list[str], has_order: bool) -> Mapping[str, int]:
    """Return where each tensor stands in the order of the model's layers, where that is known."""
    places = {key: side.places(key).get("(layers)") for key in keys}
    known = {key: place for key, place in places.items() if place is not None}
    if len(known) == len(keys):
        return known
    return {key: place for place, key in enumerate(keys)} if has_order else {}
