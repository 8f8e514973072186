"""Walking the groups of a Keras 3 weights file: the name and role of every variable.

Names are made as Keras makes `variable.path`, so that they equal those of a TensorFlow checkpoint
or legacy file of the same model: outermost name scope first, where a Functional model opens no
scope, and a Sequential model opens one in Keras 3 only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.stores.base import KerasVariable
from ckptkit.stores.hdf5.types import H5Dataset
from ckptkit.stores.keras.config import LayerConfig, as_layer, group_names, layers_of
from ckptkit.stores.keras.groups import (
    LISTS,
    GroupNode,
    GroupPlace,
    built_inside,
    child_row,
    class_of,
    counts_up,
    directed,
    is_optimizer,
    is_trainable,
    kind_of,
    made_config,
    natural,
    numbered_twice,
    step_into,
)
from ckptkit.stores.keras.layer_variables import CHILDREN, class_of_group, variable_names
from ckptkit.stores.keras.optimizer_variables import optimizer_class
from ckptkit.text import lazy_pattern

_METRIC = lazy_pattern(r"(^|_)(metrics?|tracker)($|_)")
_RANDOM = ("seed_generator", "_random_generator")
# Keras 2 wrappers that call the inner layer's `build` without opening its name scope.
_SCOPELESS = ("TimeDistributed", "SpectralNormalization")


class OrderedVariable(NamedTuple):
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
class NamedModel:
    """What a walk over the groups gives."""

    variables: dict[str, KerasVariable] = field(default_factory=dict)
    order: list[OrderedVariable] = field(default_factory=list)
    certain_order: bool = True
    optimizers: list[OptimizerGroup] = field(default_factory=list)
    params: dict[tuple[str, ...], int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # real name by id of a config's node
    unnamed: int = 0  # layers whose real name is in neither file nor config


def resolve(root: GroupNode, config: LayerConfig | None, *, keras2: bool) -> NamedModel:
    """Name every variable below `root`; config: of the whole model, where the file has one."""
    return _LayerWalk(keras2).run(root, config)


class _LayerWalk:
    def __init__(self, keras2: bool) -> None:
        self.keras2 = keras2
        self.found = NamedModel()

    def run(self, root: GroupNode, config: LayerConfig | None) -> NamedModel:
        name = root.name or (config.name if config else "")
        kind = kind_of(root, config, "")
        scope: tuple[str, ...] = ()
        if name and (kind in ("layer", "model") or (kind == "sequential" and not self.keras2)):
            scope = (name,)
        trainable = config is None or config.config.get("trainable", True) is not False
        class_name = config.class_name if config and config.built_in else None
        place = GroupPlace(scope, (), (), config, class_name, trainable)
        self._own(root, place)
        self._children(root, place, config)
        return self.found

    # -- one object

    def _layer(
        self, node: GroupNode, part: str, above: GroupPlace, config: LayerConfig | None
    ) -> None:
        """Name a layer's own variables, then those of what it holds."""
        child = child_row(above, part)
        class_name = class_of(node, part, config, child)
        name = node.name or (config.name if config else "") or (child.name if child else "")
        if config is not None and not node.name:
            name = directed(part, name)
        if not name:
            self.found.unnamed += node.first < math.inf
            name = part
            above = above._replace(scope=(*above.scope, *above.counted))
        if config is not None:
            self.found.names[id(config.node)] = name
        settings: object = config
        if config is None and child is not None and isinstance(above.state, LayerConfig):
            settings = made_config(child, above.state)
        kind = kind_of(node, config, part)
        place = GroupPlace(
            self._scope(kind, name, above, config),
            (*above.real, name),
            (*above.attributes, part),
            settings,
            class_name,
            above.trainable and is_trainable(settings),
        )
        if kind == "functional":
            place = place._replace(scope=())
        self._own(node, place)
        self._children(node, place, config)

    def _scope(
        self, kind: str, name: str, above: GroupPlace, config: LayerConfig | None
    ) -> tuple[str, ...]:
        if kind == "functional":
            return ()
        if kind == "sequential":
            if self.keras2:
                return ()
            inside = above.scope if built_inside(config, above) else ()
            return (*inside, name)
        if self.keras2 and above.class_name in _SCOPELESS:
            return above.scope
        return (*above.scope, name)

    def _own(self, node: GroupNode, place: GroupPlace) -> None:
        numbered = [leaf for leaf in node.values if leaf.isdigit()]
        numbered.sort(key=int)
        shapes = [node.values[leaf][1].shape for leaf in numbered]
        settings = place.state.config if isinstance(place.state, LayerConfig) else None
        small = any(node.values[leaf][1].dtype in ("int8", "uint8") for leaf in numbered)
        rows = variable_names(
            place.class_name or "", settings, shapes, keras2=self.keras2, small_ints=small
        )
        for leaf, row in zip(numbered, rows, strict=True):
            trainable = row.trainable and place.trainable if row else None
            if not place.trainable:
                trainable = False
            self._note(node.values[leaf], place, row.name if row else "", leaf, trainable)
        if place.class_name == "SpectralNormalization" and len(numbered) == 2:
            self._repeat(node, numbered[0])
        for leaf in node.values.keys() - set(numbered):
            self._note(node.values[leaf], place, leaf, leaf, False)

    def _repeat(self, node: GroupNode, leaf: str) -> None:
        """Mark a wrapper's copy of its layer's kernel as what it is."""
        key, copy = node.values[leaf]
        inner = node.children.get("layer")
        original = inner.values.get("0") if inner else None
        if original is not None and original[1].shape == copy.shape:
            variable = self.found.variables[key]
            self.found.variables[key] = variable._replace(duplicate_of=original[0])
            self.found.order.pop(-2)

    def _note(
        self,
        value: tuple[str, H5Dataset],
        place: GroupPlace,
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
            self.found.order.append(OrderedVariable(key, dataset.shape, trainable))
            for depth in range(len(place.real) + 1):
                path = place.real[:depth]
                self.found.params[path] = self.found.params.get(path, 0) + dataset.size

    # -- what an object holds

    def _children(self, node: GroupNode, place: GroupPlace, config: LayerConfig | None) -> None:
        parts = self._in_order(node, place, config)
        layers = [part for part in parts if self._is_layer(node.children[part], part)]
        is_split = bool({*layers} - {*LISTS}) and not {*layers}.isdisjoint(LISTS)
        for part in parts:
            child = node.children[part]
            if is_optimizer(child, part):
                self._optimizer(child, part, place, config)
            elif _METRIC.search(part):
                self._metrics(child, (*place.attributes, part), part)
            elif part in _RANDOM:
                self._random(child, place, part)
            else:
                self._member(child, part, place, is_split=is_split)
        known = place.class_name in CHILDREN or place.class_name == "Bidirectional"
        # A list has the layers in the model's order, but for those that attributes lead to.
        if len({*layers} - {*LISTS}) + is_split > 1 and not known:
            self.found.certain_order = False

    @staticmethod
    def _is_layer(node: GroupNode, part: str) -> bool:
        """Whether a subgroup is of layers that have variables, or of a list of these."""
        is_other = is_optimizer(node, part) or _METRIC.search(part) or part in _RANDOM
        return node.first < math.inf and not is_other

    def _in_order(
        self, node: GroupNode, place: GroupPlace, config: LayerConfig | None
    ) -> list[str]:
        """Return the subgroups in the order in which the object made them, as far as known."""
        rows = CHILDREN.get(place.class_name or "", ())
        known = [a for row in rows for a in row.attributes] + ["forward_layer", "backward_layer"]
        rank = {part: index for index, part in enumerate(known)}
        lists = [p for p in LISTS if p in node.children]
        rest = sorted((p for p in node.children if p not in lists), key=lambda p: rank.get(p, 99))
        return [*lists, *rest]

    def _member(
        self, node: GroupNode, part: str, above: GroupPlace, *, is_split: bool = False
    ) -> None:
        """Go into an attribute of an object: a layer, or a list or dict of layers.

        is_split: whether attributes have some of the layers, and a list of all has the rest.
        """
        state = step_into(above.state, part)
        config = state if isinstance(state, LayerConfig) else None
        if config is None and part in LISTS and not node.has_vars:
            layers = layers_of(above.state) if isinstance(above.state, LayerConfig) else []
            named = group_names(layers)
            if part == LISTS[1]:
                named = numbered_twice(layers, node)
            # the names in there count the layers of each class: places in a list, no attributes
            inside = above._replace(
                attributes=(*above.attributes, LISTS[0]), counted=LISTS[:1] if is_split else ()
            )
            self._list(node, inside, named, layers_expected=True)
            return
        is_layer = config is not None or node.has_vars or child_row(above, part) is not None
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
        node: GroupNode,
        above: GroupPlace,
        named: Mapping[str, LayerConfig],
        layers_expected: bool,
    ) -> None:
        """Go through a list of layers: in the config's order, else in the order of the file."""
        order = {part: index for index, part in enumerate(named)}
        if named:
            parts = sorted(node.children, key=lambda p: order.get(p, len(order)))
        else:
            parts = sorted(node.children, key=lambda p: (node.children[p].first, natural(p)))
            self.found.certain_order &= counts_up(parts, node)
        if any(p not in order for p in parts) and named:
            self.found.certain_order = False
        for part in parts:
            child = node.children[part]
            if layers_expected or part in named or child.has_vars or class_of_group(part):
                self._layer(child, part, above, named.get(part))
            else:
                self._member(child, part, above._replace(state=None))

    # -- what is no layer

    def _optimizer(
        self, node: GroupNode, part: str, place: GroupPlace, config: LayerConfig | None
    ) -> None:
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
        keys = [node.values[leaf][0] for leaf in sorted(node.values, key=natural)]
        self.found.optimizers.append(
            OptimizerGroup(path, name or part, class_name, settings, tuple(keys))
        )
        for child_part, child in node.children.items():
            inner = place._replace(attributes=(*place.attributes, part))
            self._optimizer(child, child_part, inner, None)

    def _metrics(self, node: GroupNode, attributes: tuple[str, ...], part: str) -> None:
        """State of metrics; those that average keep `total` and `count`."""
        leaves = sorted(node.values, key=natural)
        averages = len(leaves) == 2 and all(node.values[x][1].shape == () for x in leaves)
        names = ["total", "count"] if averages else [""] * len(leaves)
        for leaf, name in zip(leaves, names, strict=True):
            place = GroupPlace(attributes, attributes, attributes, None, None, False)
            self._note(node.values[leaf], place, name, leaf, False, "metric")
        for child_part, child in node.children.items():
            self._metrics(child, (*attributes, child_part), child_part)

    def _random(self, node: GroupNode, place: GroupPlace, part: str) -> None:
        """State of a random generator: neither weight nor counter."""
        inner = place._replace(
            scope=(*place.scope, part),
            real=(*place.real, part),
            attributes=(*place.attributes, part),
        )
        for leaf in sorted(node.values, key=natural):
            name = f"{part.strip('_')}_state" if len(node.values) == 1 else ""
            self._note(node.values[leaf], inner, name, leaf, False, "other")
        for child_part, child in node.children.items():
            self._random(child, inner, child_part)
