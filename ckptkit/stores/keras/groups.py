"""From the groups of a Keras 3 weights file to real names: which layer, which variable.

Keras walks a model's attributes and writes one group per object that holds variables:
`layers/<class in snake case>_<n>` for the layers of Functional and Sequential models (Keras 2.12:
`_layer_checkpoint_dependencies`), the attribute's name otherwise, one more level for lists and
dicts.  Values are in `vars/<n>` below; since Keras 3.5 the `vars` group has the object's real name
as its attribute `name`.  With the model's config the class, settings and name of most objects are
known too.

"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.stores.hdf5.types import Attribute, H5Dataset
from ckptkit.stores.keras.config import LayerConfig, as_layer, layers_of
from ckptkit.stores.keras.layer_variables import CHILDREN, class_of_group, snake_case
from ckptkit.stores.keras.optimizer_variables import optimizer_class

LISTS = ("layers", "_layer_checkpoint_dependencies")


@dataclass
class GroupNode:
    """A group: its subgroups, its values by name, and which value below it was made first."""

    children: dict[str, GroupNode] = field(default_factory=dict)
    values: dict[str, tuple[str, H5Dataset]] = field(default_factory=dict)
    name: str = ""
    has_vars: bool = False
    first: float = math.inf


class GroupPlace(NamedTuple):
    """Where in the model a group lies.

    scope: Keras's name scopes.  real: names of all layers above.  attributes: group names without
    the lists.  state: config of the object (a list or dict of configs inside a container).
    counted: what is before a layer's name where that is one of a count (`dense_1`) that leaves
    some layers out, so that the real name is another.
    """

    scope: tuple[str, ...]
    real: tuple[str, ...]
    attributes: tuple[str, ...]
    state: object
    class_name: str | None
    trainable: bool
    counted: tuple[str, ...] = ()


def group_tree(
    groups: Mapping[str, Mapping[str, Attribute]], datasets: Mapping[str, tuple[str, H5Dataset]]
) -> GroupNode:
    """Return the groups as a tree.  datasets: path -> (key, dataset)."""
    root = GroupNode()
    for path, attributes in groups.items():
        parts = path.split("/") if path else []
        is_vars = bool(parts) and parts[-1] == "vars"
        node = _node(root, parts[:-1] if is_vars else parts)
        if is_vars:
            node.has_vars = True
            name = attributes.get("name")
            node.name = name if isinstance(name, str) else node.name
    for path, (key, dataset) in datasets.items():
        *parts, leaf = path.split("/")
        if parts and parts[-1] == "vars":
            parts.pop()
        node = _node(root, parts)
        node.values[leaf] = (key, dataset)
        if dataset.offset is not None:
            _mark_first(root, parts, dataset.header)
    return root


def _node(root: GroupNode, parts: list[str]) -> GroupNode:
    for part in parts:
        root = root.children.setdefault(part, GroupNode())
    return root


def _mark_first(root: GroupNode, parts: list[str], place: int) -> None:
    for part in parts:
        root.first = min(root.first, place)
        root = root.children[part]
    root.first = min(root.first, place)


# --- small questions ------------------------------------------------------------------------------


def natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"(\d+)", text)
    )


def kind_of(node: GroupNode, config: LayerConfig | None, part: str) -> str:
    """Return functional, sequential, model or layer, from the config or the look of the group."""
    if config is not None and config.kind != "layer":
        return config.kind
    members = [m for name in LISTS if name in node.children for m in node.children[name].children]
    if not members:
        return "layer"
    base = re.sub(r"_\d+$", "", part)
    if base in ("functional", "sequential"):
        return base
    if any(re.fullmatch(r"input_layer(_\d+)?", member) for member in members):
        return "functional"
    return "sequential" if not part and config is None else "layer"


def is_optimizer(node: GroupNode, part: str) -> bool:
    if part == "optimizer" or part.endswith("_optimizer"):
        return True
    return bool(
        node.name and optimizer_class(node.name) and "0" in node.values and not node.children
    )


def child_row(above: GroupPlace, part: str) -> Any:
    rows = CHILDREN.get(above.class_name or "", ())
    return next((row for row in rows if part in row.attributes), None)


def class_of(node: GroupNode, part: str, config: LayerConfig | None, child: Any) -> str | None:
    if config is not None:
        return config.class_name if config.built_in else None
    if child is not None:
        return str(child.class_name)
    name = re.sub(r"^(forward|backward)_", "", node.name)
    guess = class_of_group(part) or class_of_group(name)
    if guess is None and part == "cell" and not node.name and _looks_like_cell(node):
        return "GRUCell"  # all cells of Keras keep kernel, recurrent_kernel, bias
    return guess


def _looks_like_cell(node: GroupNode) -> bool:
    """Whether the values have the shapes that all recurrent cells of Keras share."""
    shapes = [node.values[leaf][1].shape for leaf in sorted(node.values, key=natural)]
    if len(shapes) not in (2, 3) or len(shapes[0]) != 2 or len(shapes[1]) != 2:
        return False
    units, width = shapes[1]
    gates = width // units if units and width % units == 0 else 0
    biases = [(width,), (2, width)] if gates == 3 else [(width,)]
    return shapes[0][1] == width and gates in (1, 3, 4) and all(s in biases for s in shapes[2:])


def directed(part: str, name: str) -> str:
    """Return the name that Bidirectional gives its copies (their config may hold the original)."""
    prefix = {"forward_layer": "forward_", "backward_layer": "backward_"}.get(part, "")
    if not prefix or name.startswith(prefix):
        return name
    return prefix + re.sub(r"^forward_", "", name)


def made_config(child: Any, owner: LayerConfig) -> LayerConfig:
    """Return the config of a layer that its owner made, from the owner's settings."""
    config = {"name": child.name, **child.config(owner.config)}
    return LayerConfig(child.name, child.class_name, "keras.layers", "", config, {}, {})


def is_trainable(settings: object) -> bool:
    return (
        not isinstance(settings, LayerConfig) or settings.config.get("trainable", True) is not False
    )


def step_into(state: object, part: str) -> object:
    """Return what a config says of an attribute: a layer, a list or dict, or None."""
    if isinstance(state, LayerConfig):
        for key in dict.fromkeys((part, part.lstrip("_"))):
            value = state.config.get(key)
            layer = as_layer(value)
            if layer is not None or (part not in LISTS and isinstance(value, list | Mapping)):
                return layer if layer is not None else value
        if part in ("forward_layer", "backward_layer"):
            return as_layer(state.config.get("layer"))
    return None


def built_inside(config: LayerConfig | None, above: GroupPlace) -> bool:
    """Whether a nested Sequential model was built by its owner's call, hence in its name scope.

    A Sequential given an input shape builds itself at once.  The file does not say so, but the
    counters in the automatic names of the input layers tell which was made first: those made by the
    owner's call come after the owner's own, and after all that were made before it.
    """
    if not above.scope:
        return False
    owner = above.state if isinstance(above.state, LayerConfig) else None
    if owner is None or owner.kind != "sequential" or config is None:
        return True
    own, outer = _input_counter(config), _input_counter(owner)
    if own is None or outer is None or own < outer:
        return False
    # A sibling further on with a lower number was made before this one: it was made at once, this
    # one by the call.  A sibling before with a higher number: the other way round.
    counters = [(layer, _input_counter(layer)) for layer in layers_of(owner)]
    place = next((i for i, (layer, _) in enumerate(counters) if layer.name == config.name), 0)
    return not any(number is not None and number > own for _, number in counters[:place])


def _input_counter(config: LayerConfig) -> int | None:
    layers = layers_of(config)
    if not layers or layers[0].class_name != "InputLayer":
        return None
    match = re.fullmatch(r"input_layer(?:_(\d+))?", layers[0].name)
    return int(match[1] or 0) if match else None


def numbered_twice(layers: list[LayerConfig], node: GroupNode) -> dict[str, LayerConfig]:
    """Return group name -> layer as Keras 2.12 and 2.13 number them.

    Their list of dependencies names every layer, and before it again those that have weights, so
    such a layer uses up two numbers of its class.
    """
    used: dict[str, int] = {}
    named: dict[str, LayerConfig] = {}
    for layer in layers:
        base = snake_case(layer.class_name.rpartition(">")[2])
        number = used.get(base, 0)
        group = f"{base}_{number}" if number else base
        named[group] = layer
        used[base] = number + (2 if group in node.children else 1)
    return named


def counts_up(parts: list[str], node: GroupNode) -> bool:
    """Whether groups of one class stand in the file in the order of their numbers.

    Keras writes the layers of a list in its order and numbers each class; a file that another
    program rewrote usually breaks that.
    """
    last: dict[str, int] = {}
    for part in parts:
        if node.children[part].first == math.inf:
            continue
        match = re.fullmatch(r"(.*?)(?:_(\d+))?", part)
        assert match is not None
        base, number = match[1], int(match[2] or 0)
        if number < last.get(base, 0):
            return False
        last[base] = number
    return True
