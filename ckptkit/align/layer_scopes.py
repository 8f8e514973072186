"""Pairing the variables of a layer that one side numbers and the other calls by the layer's name.

A Keras 3 weights file has the layer's name and numbers its variables; the other side tells the
layer of each variable by
- its name: `gated_1/kernel`;
- the name of its optimizer slot, which Keras makes of the variable's whole path
  (`adam/stack_block_0_kernel_momentum`), where the checkpoint calls the variable `stack/kernel`;
- the ops that read it, in a SavedModel (`stack_1/block_0_1/Cast/ReadVariableOp`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ckptkit.align.numbered_layers import NUMBERED, NumberedLayer
from ckptkit.align.objects import Objects
from ckptkit.align.own_variables import OwnVariable, pair_own
from ckptkit.align.types import TensorSet
from ckptkit.align.variable_lists import MAX_STEPS, own_name
from ckptkit.checkpoint.object_trees import VALUE
from ckptkit.checkpoint.optimizer_slots import optimizer_nodes
from ckptkit.stores.base import KerasStructure, ObjectGraph
from ckptkit.text import lazy_pattern

Pairs = list[tuple[str, str]]
Scope = tuple[str, ...]
T = TypeVar("T")
_COUNTER = lazy_pattern(r"_(\d+)(?=_|/|$)")  # of an automatic name, also within a flat path
_UNIQUE = lazy_pattern(r"(.+)_\d+")  # how a graph tells two scopes of one name apart


class LayerScopes:
    """The layers of a file that numbers its variables, by their name scopes."""

    def __init__(self, side: TensorSet, root: NumberedLayer) -> None:
        assert isinstance(side.structure, KerasStructure)
        variables = side.structure.variables
        scopes: dict[Scope, list[NumberedLayer]] = defaultdict(list)
        for layer in root.layers():
            if layer.own:
                scopes[variables[layer.own[0].key].layers].append(layer)
        self.side = side
        # layers that go by one name cannot be told apart by it
        self.layers = {scope: same[0] for scope, same in scopes.items() if len(same) == 1}

    # -- by names ----------------------------------------------------------------------------------

    def by_names(self, other: TensorSet) -> Pairs:
        """Pair with the variables whose names have the scope of a layer."""
        groups: dict[Scope, list[str]] = defaultdict(list)
        for key in other.keys:
            if key in other.weights:
                naming = other.names[key]
                groups[tuple((naming.full_name or naming.name).split("/")[:-1])].append(key)
        order, is_ordered = _order(other)
        found: Pairs = []
        layers, scopes = _without_head(self.layers), _without_head(groups)
        by_text = {"/".join(scope): keys for scope, keys in scopes.items()}
        partner = renumbered(["/".join(scope) for scope in layers], by_text)
        for scope, layer in layers.items():
            keys = by_text.get(partner.get("/".join(scope), ""), [])
            if len(keys) == len(layer.own):
                keys = sorted(keys, key=lambda k: order.get(k, 0))
                made = [_own(other, key, True) for key in keys]
                found += pair_own(
                    layer.own, made, ordered=is_ordered and all(k in order for k in keys)
                )
        return found

    # -- by slots ----------------------------------------------------------------------------------

    def by_slots(self, other: TensorSet, graph: ObjectGraph) -> Pairs:
        """Pair with the trained variables whose optimizer slots tell their path."""
        paths = paths_of_slots(other)
        groups: dict[str, dict[str, OwnVariable]] = defaultdict(dict)
        for keys in Objects(other, graph).trained:
            for key in keys:
                own = _own(other, key, True)
                head, found_name, rest = paths.get(key, "").rpartition(f"_{own.name}")
                if found_name and not rest:
                    groups[head].setdefault(key, own)
        found: Pairs = []
        flat = {"_".join(scope): layer for scope, layer in self.layers.items()}
        for name, head in renumbered(flat, groups).items():
            made = list(groups[head].values())
            # the trainable variables come first
            found += pair_own(flat[name].own[: len(made)], made)
        return found

    # -- by the ops that read them -----------------------------------------------------------------

    def by_ops(self, other: TensorSet, graph: ObjectGraph) -> Pairs:
        """Pair with the variables of a SavedModel, by the scopes of the ops that read them."""
        objects = Objects(other, graph)
        if len(self.layers) * len(objects.key_of) > MAX_STEPS:
            return []
        ops = {
            key: [tuple(op.split("/")) for op in objects.uses[node].ops]
            for node, key in objects.key_of.items()
            if node in objects.uses
        }
        order, _is_ordered = _order(other)
        for read in (_stripped, _as_is):
            scopes = {
                key: [[read(part) for part in name[:-1]] for name in names]
                for key, names in ops.items()
            }
            groups = self._owners(scopes)
            if groups is None:
                continue
            found: Pairs = []
            for scope, keys in groups.items():
                layer = self.layers[scope]
                keys.sort(key=lambda key: order.get(key, 0))
                made = [_own(other, key, True) for key in keys]
                if all(key in order for key in keys) and len(made) == len(layer.own):
                    found += pair_own(layer.own, made)
            return found
        return []

    def _owners(
        self, scopes: Mapping[str, Sequence[Sequence[str]]]
    ) -> dict[Scope, list[str]] | None:
        """Return the variables of each layer; None where these scopes of ops do not fit all."""
        steps = dict.fromkeys(step for scope in self.layers for step in scope)
        families = {_COUNTER.sub("", step) for step in steps}
        parts = {part for names in scopes.values() for name in names for part in name}
        there = renumbered(steps, [p for p in parts if _COUNTER.sub("", p) in families])
        called = {
            tuple(there[step] for step in scope): scope
            for scope in self.layers
            if all(step in there for step in scope)
        }
        groups: dict[Scope, list[str]] = defaultdict(list)
        for key, names in scopes.items():
            deepest = [_deepest(called, name) for name in names]
            owners = {called[scope] for scope in deepest if scope is not None}
            if len(owners) == 1:
                groups[owners.pop()].append(key)
        whole = {s: keys for s, keys in groups.items() if len(keys) == len(self.layers[s].own)}
        return groups if len(whole) == len(groups) == len(self.layers) else None


def _deepest(scopes: Iterable[Scope], parts: Sequence[str]) -> Scope | None:
    """Return the scope of a layer that ends furthest inside the scopes of an op, and is longest."""
    depths = {scope: (_end(scope, parts), len(scope)) for scope in scopes if scope}
    deepest = max(depths.values(), default=(0, 0))
    fitting = [scope for scope, depth in depths.items() if depth == deepest and depth[0]]
    return fitting[0] if len(fitting) == 1 else None


def _stripped(part: str) -> str:
    match = _UNIQUE.fullmatch(part)
    return match[1] if match else part


def _as_is(part: str) -> str:
    return part


def _end(scope: Scope, parts: Sequence[str]) -> int:
    """Return where a scope ends at the latest that lies in others with gaps; 0 for nowhere."""
    for end in range(len(parts), 0, -1):
        rest = iter(parts[:end])
        if parts[end - 1] == scope[-1] and all(step in rest for step in scope):
            return end
    return 0


def _own(side: TensorSet, key: str, trainable: bool | None) -> OwnVariable:
    spec = side.specs[key]
    return OwnVariable(key, (spec.dtype, spec.shape), own_name(side, key), trainable)


def _order(side: TensorSet) -> tuple[dict[str, int], bool]:
    """Return places of variables, of each layer the trainable first, and whether any are known."""
    structure = side.structure
    if isinstance(structure, KerasStructure):
        return {key: at for at, key in enumerate(structure.variables)}, not structure.layers
    if isinstance(structure, ObjectGraph):
        objects = Objects(side, structure)
        roots = dict(structure.nodes[0].children)
        if "trainable_variables" in roots and "non_trainable_variables" in roots:
            keys = [k for lists in (objects.trained, objects.untrained) for ks in lists for k in ks]
            return {key: at for at, key in enumerate(dict.fromkeys(keys))}, True
        return {}, False
    numbers = {key: NUMBERED.fullmatch(side.names[key].name) for key in side.keys}
    order = {key: int(match[2]) for key, match in numbers.items() if match is not None}
    return order, bool(order)


def _without_head(scopes: Mapping[Scope, T]) -> dict[Scope, T]:
    """Take off the scope that all have in common (that of a model)."""
    heads = Counter(scope[:1] for scope in scopes)
    if len(heads) == 1 and all(len(scope) > 1 for scope in scopes):
        return {scope[1:]: value for scope, value in scopes.items()}
    return dict(scopes)


def paths_of_slots(side: TensorSet) -> dict[str, str]:
    """Return the paths of variables as Keras 3 puts them into the names of their slots, flat.

    `stack_block_0_kernel` of `adam/stack_block_0_kernel_momentum`; where slots of one variable do
    not agree, nothing.
    """
    graph = side.structure
    if not isinstance(graph, ObjectGraph):
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for node in optimizer_nodes(graph):
        containers = dict(graph.nodes[node].children)
        trained = _listed(graph, containers.get("_trainable_variables"))
        for edge, container in containers.items():
            if edge not in ("_variables", "_trainable_variables"):
                for key, path in _flat_paths(side, trained, _listed(graph, container)).items():
                    found[key].add(path)
    paths = {key: flats.pop() for key, flats in found.items() if len(flats) == 1}
    times = Counter(paths.values())
    return {key: path for key, path in paths.items() if times[path] == 1}


def _listed(graph: ObjectGraph, container: int | None) -> dict[int, tuple[str, str]]:
    """Return {place: (full name, key)} of a list of variables."""
    found: dict[int, tuple[str, str]] = {}
    if container is not None:
        for edge, child in graph.nodes[container].children:
            if edge.isdecimal() and len(edge) < 10:
                for attribute, full_name, key in graph.nodes[child].attributes:
                    if attribute == VALUE:
                        found[int(edge)] = full_name, key
    return found


def _flat_paths(
    side: TensorSet,
    trained: Mapping[int, tuple[str, str]],
    slots: Mapping[int, tuple[str, str]],
) -> dict[str, str]:
    """Return {key of a variable: its flat path} of one kind of slot; all must end alike."""
    paths: dict[str, str] = {}
    endings: set[str] = set()
    for place, (slot_name, _key) in slots.items():
        full_name, key = trained.get(place, ("", ""))
        own = full_name.rpartition("/")[2]
        _optimizer, slash, flat = slot_name.partition("/")
        head, cut, ending = flat.rpartition(f"_{own}_")
        if own and slash and cut and key in side.weights:
            paths[key] = f"{head}_{own}"
            endings.add(ending)
    return paths if len(endings) == 1 else {}


def join_flat_paths(old: TensorSet, new: TensorSet) -> Pairs:
    """Return (old key, new key) where slots of one side tell the path that the other has."""
    flats = [_flat_names(side) for side in (old, new)]
    pairs = [(flats[0][a], flats[1][b]) for a, b in renumbered(flats[0], flats[1]).items()]
    return [(a, b) for a, b in pairs if _type(old, a) == _type(new, b)]


def _type(side: TensorSet, key: str) -> tuple[object, ...]:
    return side.specs[key].dtype, side.specs[key].shape


def renumbered(ones: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return {name: name of the other side} of names that may count automatically.

    Names that differ in nothing but numbers are a family.  A family that is the same on both sides
    is taken as it is; one that is as large, by the order of its numbers; no other.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for at, names in enumerate((ones, others)):
        for name in names:
            families.setdefault(_COUNTER.sub("", name), ([], []))[at].append(name)
    found: dict[str, str] = {}
    for left, right in families.values():
        if set(left) == set(right):
            found.update(zip(left, left, strict=True))
        elif len(left) == len(right):
            numbers = [[_numbers(name) for name in names] for names in (left, right)]
            if all(len(set(side)) == len(side) for side in numbers):
                in_order = (sorted(names, key=_numbers) for names in (left, right))
                found.update(zip(*in_order, strict=True))
    return found


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _COUNTER.findall(name))


def _flat_names(side: TensorSet) -> dict[str, str]:
    """Return {flat path: key} of the weights, from slots or from whole names; each only once."""
    paths = paths_of_slots(side)
    names: dict[str, list[str]] = defaultdict(list)
    for key in side.keys:
        if key in side.weights:
            naming = side.names[key]
            name = paths.get(key) or (naming.full_name or naming.name).replace("/", "_")
            names[name].append(key)
    return {name: keys[0] for name, keys in names.items() if len(keys) == 1}
