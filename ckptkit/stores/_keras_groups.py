"""From the groups of a Keras 3 weights file to real names: which layer, which variable.

Keras walks a model's attributes and writes one group per object that holds variables:
`layers/<class in snake case>_<n>` for the layers of Functional and Sequential models (Keras 2.12:
`_layer_checkpoint_dependencies`), the attribute's name otherwise, one more level for lists and
dicts.  Values are in `vars/<n>` below; since Keras 3.5 the `vars` group has the object's real name
as its attribute `name`.  With the model's config the class, settings and name of most objects are
known too.

Names are made as Keras makes `variable.path`, so that they equal those of a TensorFlow checkpoint
or legacy file of the same model: outermost name scope first, where a Functional model opens no
scope, and a Sequential model opens one in Keras 3 only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.keras_optimizers import optimizer_class
from ckptkit.keras_variables import CHILDREN, class_of_group, snake_case, variable_names
from ckptkit.stores._keras_config import LayerConfig, as_layer, group_names, layers_of
from ckptkit.stores.base import KerasVariable
from ckptkit.stores.hdf5 import Attribute, H5Dataset

LISTS = ("layers", "_layer_checkpoint_dependencies")
_METRIC = re.compile(r"(^|_)(metrics?|tracker)($|_)")
_RANDOM = ("seed_generator", "_random_generator")
# Keras 2 wrappers that call the inner layer's `build` without opening its name scope.
_SCOPELESS = ("TimeDistributed", "SpectralNormalization")


class Ordered(NamedTuple):
    """A variable of the model in the order of `model.weights`; trainable None: not known."""

    key: str
    shape: tuple[int, ...]
    trainable: bool | None


class OptimizerGroup(NamedTuple):
    """An optimizer's group: path, object name, keys in numeric order, its config where known."""

    path: str
    name: str
    class_name: str | None
    config: Mapping[str, Any] | None
    keys: tuple[str, ...]


@dataclass
class Found:
    """What a walk over the groups gives."""

    variables: dict[str, KerasVariable] = field(default_factory=dict)
    order: list[Ordered] = field(default_factory=list)
    certain_order: bool = True
    optimizers: list[OptimizerGroup] = field(default_factory=list)
    params: dict[tuple[str, ...], int] = field(default_factory=dict)
    unnamed: int = 0  # layers whose real name is in neither file nor config


@dataclass
class _Node:
    """A group: its subgroups, its values by name, and the lowest place of a value below it."""

    children: dict[str, _Node] = field(default_factory=dict)
    values: dict[str, tuple[str, H5Dataset]] = field(default_factory=dict)
    name: str = ""
    has_vars: bool = False
    first: float = math.inf


class _Place(NamedTuple):
    """Where in the model a group lies.

    scope: Keras's name scopes.  real: names of all layers above.  attributes: group names without
    the lists.  state: config of the object (a list or dict of configs inside a container).
    """

    scope: tuple[str, ...]
    real: tuple[str, ...]
    attributes: tuple[str, ...]
    state: object
    class_name: str | None
    trainable: bool


def group_tree(
    groups: Mapping[str, Mapping[str, Attribute]], datasets: Mapping[str, tuple[str, H5Dataset]]
) -> _Node:
    """Return the groups as a tree.  datasets: path -> (key, dataset)."""
    root = _Node()
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
            _mark_first(root, parts, dataset.offset)
    return root


def _node(root: _Node, parts: list[str]) -> _Node:
    for part in parts:
        root = root.children.setdefault(part, _Node())
    return root


def _mark_first(root: _Node, parts: list[str], offset: int) -> None:
    for part in parts:
        root.first = min(root.first, offset)
        root = root.children[part]
    root.first = min(root.first, offset)


def resolve(root: _Node, config: LayerConfig | None, *, keras2: bool) -> Found:
    """Name every variable below `root`; config: of the whole model, where the file has one."""
    return _Walk(keras2).run(root, config)


class _Walk:
    def __init__(self, keras2: bool) -> None:
        self.keras2 = keras2
        self.found = Found()

    def run(self, root: _Node, config: LayerConfig | None) -> Found:
        name = root.name or (config.name if config else "")
        kind = _kind(root, config, "")
        scope: tuple[str, ...] = ()
        if name and (kind in ("layer", "model") or (kind == "sequential" and not self.keras2)):
            scope = (name,)
        trainable = config is None or config.config.get("trainable", True) is not False
        class_name = config.class_name if config and config.built_in else None
        place = _Place(scope, (), (), config, class_name, trainable)
        self._own(root, place)
        self._children(root, place, config)
        return self.found

    # -- one object

    def _layer(self, node: _Node, part: str, above: _Place, config: LayerConfig | None) -> None:
        """Name a layer's own variables, then those of what it holds."""
        child = _child_row(above, part)
        class_name = _class_name(node, part, config, child)
        name = node.name or (config.name if config else "") or (child.name if child else "")
        if config is not None and not node.name:
            name = _directed(part, name)
        if not name:
            self.found.unnamed += node.first < math.inf
            name = part
        settings: object = config
        if config is None and child is not None and isinstance(above.state, LayerConfig):
            settings = _made_config(child, above.state)
        kind = _kind(node, config, part)
        place = _Place(
            self._scope(kind, name, above, config),
            (*above.real, name),
            above.attributes if part in LISTS else (*above.attributes, part),
            settings,
            class_name,
            above.trainable and _trainable(settings),
        )
        if kind == "functional":
            place = place._replace(scope=())
        self._own(node, place)
        self._children(node, place, config)

    def _scope(
        self, kind: str, name: str, above: _Place, config: LayerConfig | None
    ) -> tuple[str, ...]:
        if kind == "functional":
            return ()
        if kind == "sequential":
            if self.keras2:
                return ()
            inside = above.scope if _built_inside(config, above) else ()
            return (*inside, name)
        if self.keras2 and above.class_name in _SCOPELESS:
            return above.scope
        return (*above.scope, name)

    def _own(self, node: _Node, place: _Place) -> None:
        numbered = [leaf for leaf in node.values if leaf.isdigit()]
        numbered.sort(key=int)
        shapes = [node.values[leaf][1].shape for leaf in numbered]
        settings = place.state.config if isinstance(place.state, LayerConfig) else None
        rows = variable_names(place.class_name or "", settings, shapes, keras2=self.keras2)
        for leaf, row in zip(numbered, rows, strict=True):
            trainable = row.trainable and place.trainable if row else None
            if not place.trainable:
                trainable = False
            self._note(node.values[leaf], place, row.name if row else "", leaf, trainable)
        for leaf in node.values.keys() - set(numbered):
            self._note(node.values[leaf], place, leaf, leaf, False)

    def _note(
        self,
        value: tuple[str, H5Dataset],
        place: _Place,
        name: str,
        leaf: str,
        trainable: bool | None,
        role: str = "weight",
    ) -> None:
        key, dataset = value
        tail = name or f"vars/{leaf}"
        aliases = ["/".join((*place.real, tail)), "/".join((*place.attributes, tail))]
        wanted = "/".join((*place.scope, tail))
        aliases = [a for a in dict.fromkeys(aliases) if a != wanted]
        self.found.variables[key] = KerasVariable(place.scope, name or None, tuple(aliases), role)
        if role == "weight":
            self.found.order.append(Ordered(key, dataset.shape, trainable))
            for depth in range(len(place.real) + 1):
                path = place.real[:depth]
                self.found.params[path] = self.found.params.get(path, 0) + dataset.size

    # -- what an object holds

    def _children(self, node: _Node, place: _Place, config: LayerConfig | None) -> None:
        parts = self._in_order(node, place, config)
        layers = 0
        for part in parts:
            child = node.children[part]
            if _is_optimizer(child, part):
                self._optimizer(child, part, place, config)
            elif _METRIC.search(part):
                self._metrics(child, (*place.attributes, part), part)
            elif part in _RANDOM:
                self._random(child, place, part)
            else:
                layers += child.first < math.inf and part not in LISTS
                self._member(child, part, place)
        known = place.class_name in CHILDREN or place.class_name == "Bidirectional"
        if layers > 1 and not known:
            self.found.certain_order = False

    def _in_order(self, node: _Node, place: _Place, config: LayerConfig | None) -> list[str]:
        """Return the subgroups in the order in which the object made them, as far as known."""
        rows = CHILDREN.get(place.class_name or "", ())
        known = [a for row in rows for a in row.attributes] + ["forward_layer", "backward_layer"]
        rank = {part: index for index, part in enumerate(known)}
        lists = [p for p in LISTS if p in node.children]
        rest = sorted((p for p in node.children if p not in lists), key=lambda p: rank.get(p, 99))
        return [*lists, *rest]

    def _member(self, node: _Node, part: str, above: _Place) -> None:
        """Go into an attribute of an object: a layer, or a list or dict of layers."""
        state = _step(above.state, part)
        config = state if isinstance(state, LayerConfig) else None
        if config is None and part in LISTS and not node.has_vars:
            layers = layers_of(above.state) if isinstance(above.state, LayerConfig) else []
            named = group_names(layers)
            if part == LISTS[1]:
                named = _numbered_twice(layers, node)
            self._list(node, above, named, layers_expected=True)
            return
        is_layer = config is not None or node.has_vars or _child_row(above, part) is not None
        if is_layer or class_of_group(part) is not None or not node.children:
            self._layer(node, part, above, config)
            return
        listed = state if isinstance(state, list | Mapping) else []
        items = listed.values() if isinstance(listed, Mapping) else listed
        layers = [c for c in map(as_layer, items) if c is not None]
        inner = above._replace(attributes=(*above.attributes, part))
        self._list(node, inner, group_names(layers), layers_expected=False)

    def _list(
        self,
        node: _Node,
        above: _Place,
        named: Mapping[str, LayerConfig],
        layers_expected: bool,
    ) -> None:
        """Go through a list of layers: in the config's order, else in the order of the file."""
        order = {part: index for index, part in enumerate(named)}
        if named:
            parts = sorted(node.children, key=lambda p: order.get(p, len(order)))
        else:
            parts = sorted(node.children, key=lambda p: (node.children[p].first, _natural(p)))
            self.found.certain_order &= _counts_up(parts, node)
        if any(p not in order for p in parts) and named:
            self.found.certain_order = False
        for part in parts:
            child = node.children[part]
            if layers_expected or part in named or child.has_vars or class_of_group(part):
                self._layer(child, part, above, named.get(part))
            else:
                self._member(child, part, above._replace(state=None))

    # -- what is no layer

    def _optimizer(self, node: _Node, part: str, place: _Place, config: LayerConfig | None) -> None:
        found: object = None
        if isinstance(config, LayerConfig):
            compiled = config.node.get("compile_config")
            if part == "optimizer" and isinstance(compiled, Mapping):
                found = compiled.get("optimizer")
        serialized = as_layer(found)
        if serialized is not None:
            class_name: str | None = serialized.class_name
            settings: Mapping[str, Any] | None = serialized.config
            name = node.name or serialized.name
        else:
            text = found if isinstance(found, str) else node.name
            class_name, settings = optimizer_class(text) if text else None, None
            name = node.name or text
        path = "/".join((*place.attributes, part))
        keys = [node.values[leaf][0] for leaf in sorted(node.values, key=_natural)]
        self.found.optimizers.append(
            OptimizerGroup(path, name or part, class_name, settings, tuple(keys))
        )
        for child_part, child in node.children.items():
            inner = place._replace(attributes=(*place.attributes, part))
            self._optimizer(child, child_part, inner, None)

    def _metrics(self, node: _Node, attributes: tuple[str, ...], part: str) -> None:
        """State of metrics; those that average keep `total` and `count`."""
        leaves = sorted(node.values, key=_natural)
        averages = len(leaves) == 2 and all(node.values[x][1].shape == () for x in leaves)
        names = ["total", "count"] if averages else [""] * len(leaves)
        for leaf, name in zip(leaves, names, strict=True):
            place = _Place(attributes, attributes, attributes, None, None, False)
            self._note(node.values[leaf], place, name, leaf, False, "metric")
        for child_part, child in node.children.items():
            self._metrics(child, (*attributes, child_part), child_part)

    def _random(self, node: _Node, place: _Place, part: str) -> None:
        """State of a random generator: neither weight nor counter."""
        inner = place._replace(
            scope=(*place.scope, part),
            real=(*place.real, part),
            attributes=(*place.attributes, part),
        )
        for leaf in sorted(node.values, key=_natural):
            name = f"{part.strip('_')}_state" if len(node.values) == 1 else ""
            self._note(node.values[leaf], inner, name, leaf, False, "other")
        for child_part, child in node.children.items():
            self._random(child, inner, child_part)


# --- small questions ------------------------------------------------------------------------------


def _natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    return tuple(
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"(\d+)", text)
    )


def _kind(node: _Node, config: LayerConfig | None, part: str) -> str:
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


def _is_optimizer(node: _Node, part: str) -> bool:
    if part == "optimizer" or part.endswith("_optimizer"):
        return True
    return bool(
        node.name and optimizer_class(node.name) and "0" in node.values and not node.children
    )


def _child_row(above: _Place, part: str) -> Any:
    rows = CHILDREN.get(above.class_name or "", ())
    return next((row for row in rows if part in row.attributes), None)


def _class_name(node: _Node, part: str, config: LayerConfig | None, child: Any) -> str | None:
    if config is not None:
        return config.class_name if config.built_in else None
    if child is not None:
        return str(child.class_name)
    name = re.sub(r"^(forward|backward)_", "", node.name)
    guess = class_of_group(part) or class_of_group(name)
    if guess is None and part == "cell":
        return "GRUCell"  # all cells of Keras keep kernel, recurrent_kernel, bias
    return guess


def _directed(part: str, name: str) -> str:
    """Return the name that Bidirectional gives its copies (their config may hold the original)."""
    prefix = {"forward_layer": "forward_", "backward_layer": "backward_"}.get(part, "")
    if not prefix or name.startswith(prefix):
        return name
    return prefix + re.sub(r"^forward_", "", name)


def _made_config(child: Any, owner: LayerConfig) -> LayerConfig:
    """Return the config of a layer that its owner made, from the owner's settings."""
    config = {"name": child.name, **child.config(owner.config)}
    return LayerConfig(child.name, child.class_name, "keras.layers", "", config, {}, {})


def _trainable(settings: object) -> bool:
    return (
        not isinstance(settings, LayerConfig) or settings.config.get("trainable", True) is not False
    )


def _step(state: object, part: str) -> object:
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


def _built_inside(config: LayerConfig | None, above: _Place) -> bool:
    """Whether a nested Sequential model was built by its owner's call, hence in its name scope.

    A Sequential given an input shape builds itself at once.  The file does not say so, but the
    counters in the automatic names of the input layers tell which was made first.
    """
    if not above.scope:
        return False
    owner = above.state if isinstance(above.state, LayerConfig) else None
    if owner is None or owner.kind != "sequential" or config is None:
        return owner is None or owner.kind != "sequential"
    own, outer = _input_counter(config), _input_counter(owner)
    return own is not None and outer is not None and own > outer


def _input_counter(config: LayerConfig) -> int | None:
    layers = layers_of(config)
    if not layers or layers[0].class_name != "InputLayer":
        return None
    match = re.fullmatch(r"input_layer(?:_(\d+))?", layers[0].name)
    return int(match[1] or 0) if match else None


def _numbered_twice(layers: list[LayerConfig], node: _Node) -> dict[str, LayerConfig]:
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


def _counts_up(parts: list[str], node: _Node) -> bool:
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
