"""Names and roles of the tensors of an object-based checkpoint, from its object graph.

A checkpoint key is only the shortest path to an object, and for the kernels of a Keras 3 model that
path often leads through the optimizer (`optimizer/_trainable_variables/0`).  So roles come from the
graph, never from key prefixes:

- a *weight* is reachable from the root when optimizer nodes are taken out, or is the target of an
  optimizer's `_trainable_variables/k`;
- *slots* are what optimizer nodes hold (`optimizer_slots`), and what lists, names and shapes tell
  of variables that no known optimizer and no layer holds (`object_state`);
- a *table* is stored under more than the key of its attribute (`attribute_keys`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_paths import ObjectPaths, path_cost
from ckptkit.checkpoint.object_state import ObjectRole, ObjectVariable, infer_object_roles
from ckptkit.checkpoint.object_trees import (
    COUNTERS,
    OBJECT_GRAPH_KEY,
    SEED,
    VALUE,
    is_nameless,
    item_of_list,
    name_tree,
    readable_path,
)
from ckptkit.checkpoint.optimizer_slots import OptimizerSlots, Slot, optimizer_nodes
from ckptkit.stores.base import ObjectGraph, TensorSpec
from ckptkit.stores.tensor_bundle.attribute_keys import added_keys

# Keras metrics by the names of their state variables (keras/metrics); Keras 2 saves them.
_METRIC_STATE = (
    frozenset({"total", "count"}),
    frozenset({"true_positives", "false_positives"}),
    frozenset({"true_positives", "false_negatives"}),
    frozenset({"total_cm"}),
    frozenset({"accumulator"}),
)
_METRIC_NAMES = frozenset().union(*_METRIC_STATE)
# Edges that Keras's models and layers alone have, of either generation.
_KERAS_EDGES = frozenset(
    (
        *("_operations", "_inbound_nodes", "_losses_override", "call_signature_parameters"),
        *("keras_api", "layer-0", "layer_with_weights-0"),
    )
)

# Edges of optimizers and metrics, and those that may be: a graph without them has neither.
_STRANGE = _METRIC_NAMES | {"keras_api", "_iterations", "iter"}


class _Leaf(NamedTuple):
    """One saved attribute of a node: what a checkpoint key stands for."""

    node: int
    attribute: str
    full_name: str
    key: str


def name_objects(specs: Mapping[str, TensorSpec], graph: ObjectGraph) -> Mapping[str, Naming]:
    """Return a Naming per key of `specs`; keys that the graph does not know get role "other"."""
    found = name_tree(specs, graph.nodes, _STRANGE)
    return _Namer(specs, graph).namings() if found is None else found


class _Namer:
    """Walks one graph once; `namings` puts the findings together."""

    def __init__(self, specs: Mapping[str, TensorSpec], graph: ObjectGraph) -> None:
        self.specs = dict(specs)  # asked for again and again, as the nodes are
        graph = replace(graph, nodes=tuple(graph.nodes))
        self.nodes = graph.nodes
        none: dict[str, int] = {}
        self.children = [dict(n.children) if n.children else none for n in graph.nodes]
        self.leaves = [
            _Leaf(index, attribute, full_name, key)
            for index, node in enumerate(graph.nodes)
            for attribute, full_name, key in node.attributes
            if key in specs
        ]
        if len(self.leaves) < len(specs) - (OBJECT_GRAPH_KEY in specs):
            self.leaves += self._added_leaves()
        self.optimizers = optimizer_nodes(graph, self.children)
        self.paths = ObjectPaths(graph.nodes)
        self.model_paths = (
            ObjectPaths(graph.nodes, self.optimizers) if self.optimizers else self.paths
        )
        self.inferred: dict[int, ObjectRole] = {}
        self.slots: dict[int, Slot] = {}
        self.trained: set[int] = set()
        if self.optimizers:
            shapes = {node: specs[key].shape for node, key in self.key_of.items()}
            found = OptimizerSlots(
                graph, self.children, shapes, self.full_name_of, (self.paths, self.model_paths)
            )
            self.slots, self.trained = found.slots, found.trained
        self.metrics = self._metric_nodes()
        self.duplicates = self._stored_twice()
        self.inferred = self._infer()

    @cached_property
    def key_of(self) -> dict[int, str]:
        """The checkpoint key of each variable, by its node."""
        return {leaf.node: leaf.key for leaf in self.leaves if leaf.attribute == VALUE}

    @cached_property
    def full_name_of(self) -> dict[int, str]:
        """The full name of each variable, by its node."""
        return {leaf.node: leaf.full_name for leaf in self.leaves}

    def namings(self) -> dict[str, Naming]:
        # One item per leaf: lists in one order are read much faster than dicts by key.
        roles = self._roles()
        names = self._names(roles)
        if not (self.slots or self.trained or self.duplicates):
            return self._plain_namings(roles, names)
        by_key = {leaf.key: name for leaf, name in zip(self.leaves, names, strict=True)}
        found: dict[str, Naming] = {}
        for (node, attribute, full_name, key), role, name in zip(
            self.leaves, roles, names, strict=True
        ):
            aliases = self.paths.all(node)
            if attribute != VALUE:
                aliases = tuple(_suffixed(path, attribute) for path in aliases)
            slot, repeats = self.slots.get(node), self.duplicates.get(key)
            if slot is None and repeats is None and node not in self.trained:  # nearly all
                found[key] = Naming(
                    name, role, full_name or None, aliases, role_inferred=node in self.inferred
                )
                continue
            owner = self.key_of.get(slot.of) if slot and slot.of is not None else None
            found[key] = Naming(
                name,
                role,
                full_name or None,
                aliases,
                by_key[owner] if owner else None,
                slot.slot if slot else None,
                slot.optimizer if slot else None,
                role == "weight" and node in self.trained and self.model_paths.best(node) is None,
                by_key[repeats] if repeats else None,
                node in self.inferred,
            )
        return {key: found.get(key) or _unknown(key, by_key) for key in self.specs}

    def _plain_namings(self, roles: Sequence[str], names: Sequence[str]) -> dict[str, Naming]:
        """Return the namings of a graph without optimizers, where nothing is of something else."""
        every, inferred = self.paths.all, self.inferred
        found: dict[str, Naming] = {}
        for (node, attribute, full_name, key), role, name in zip(
            self.leaves, roles, names, strict=True
        ):
            aliases = every(node)
            if attribute != VALUE:
                aliases = tuple(_suffixed(path, attribute) for path in aliases)
            # all of the fields, in order: half the time of naming the last
            found[key] = Naming(
                name, role, full_name or None, aliases, None, None, None, False, None,
                node in inferred,
            )  # fmt: skip
        if len(found) == len(self.specs):
            return {key: found[key] for key in self.specs}
        by_key = {key: naming.name for key, naming in found.items()}
        return {key: found.get(key) or _unknown(key, by_key) for key in self.specs}

    def _infer(self) -> dict[int, ObjectRole]:
        """Infer the roles of what no optimizer holds and only names and shapes tell of."""
        variables = self._judged_variables()
        inferred = infer_object_roles(variables, has_keras=self._is_of_keras()) if variables else {}
        for node, key in self.key_of.items():  # of an optimizer, though of no kind that is known
            known = node in self.slots or node in self.trained or node in self.metrics
            if not known and self.specs[key].shape != () and self.model_paths.best(node) is None:
                path = self.paths.best(node) or ""
                inferred[node] = ObjectRole("slot", optimizer=path.rpartition("/")[0])
        for node, (role, slot, of, optimizer) in inferred.items():
            if role in ("slot", "ema"):
                self.slots[node] = Slot(role, slot, of, optimizer)
        return inferred

    def _is_of_keras(self) -> bool:
        """Whether edges are Keras's: its own, or `_kernel` to a variable called `kernel`."""
        names = self.full_name_of
        return any(
            not _KERAS_EDGES.isdisjoint(edges)
            or any(
                edge[:1] == "_" and names.get(child, "").rpartition("/")[2] == edge[1:]
                for edge, child in edges.items()
            )
            for edges in self.children
            if edges
        )

    def _judged_variables(self) -> list[ObjectVariable]:
        """Return the variables that `infer_object_roles` may look at: most files have few.

        Where none lies in a list or below the root, all else are weights by their place alone.
        """
        best, specs = self.model_paths.best, self.specs
        found: list[tuple[_Leaf, str]] = []
        has_loose = False
        for leaf in self.leaves:
            path = best(leaf.node)
            if path is None:
                continue
            spec = specs[leaf.key]
            is_array = spec.shape != () and spec.dtype != "string"
            is_loose = is_array and (path[-1:].isdecimal() or "/" not in path)
            has_loose = has_loose or (is_loose and self._role(leaf) == "weight")
            if has_loose or not is_array:
                found.append((leaf, path))
        if has_loose:
            found = [(leaf, path) for leaf in self.leaves if (path := best(leaf.node)) is not None]
        return [
            ObjectVariable(leaf.node, path, leaf.full_name, specs[leaf.key])
            for leaf, path in found
            if leaf.node not in self.trained
            and leaf.key not in self.duplicates
            and self._role(leaf) == "weight"
        ]

    def _added_leaves(self) -> list[_Leaf]:
        """Return what is stored under more than its attribute's key: keys and values of tables."""
        owners = {
            key: (index, attribute, full_name)
            for index, node in enumerate(self.nodes)
            for attribute, full_name, key in node.attributes
        }
        return [
            _Leaf(index, f"{attribute}{key.removeprefix(stem)}", full_name, key)
            for stem, keys in added_keys(self.specs, owners).items()
            for index, attribute, full_name in (owners[stem],)
            for key in keys
        ]

    # --- what each node is ------------------------------------------------------------------

    def _metric_nodes(self) -> set[int]:
        """Return the nodes of metric state: below `keras_api/metrics`, or shaped like a metric."""
        starts = [
            self.children[api]["metrics"]
            for names in self.children
            if "keras_api" in names
            for api in (names["keras_api"],)
            if "metrics" in self.children[api]
        ]
        starts += [
            node
            for node, names in enumerate(self.children)
            if not _METRIC_NAMES.isdisjoint(names)
            and any(state <= names.keys() for state in _METRIC_STATE)
            and all(names[n] in self.key_of for n in names.keys() & {"total", "count"})
            and node not in self.optimizers
        ]
        seen: set[int] = set()
        while starts:
            node = starts.pop()
            if node not in seen:
                seen.add(node)
                starts += self.children[node].values()
        return seen

    def _roles(self) -> list[str]:
        """Return the role of each leaf."""
        if self.slots or self.trained or self.metrics or self.inferred:
            return [self._role(leaf) for leaf in self.leaves]
        best = self.model_paths.best
        return [
            "weight"
            if attribute == VALUE
            and (path := best(node)) is not None
            and path not in COUNTERS
            and not full_name.endswith(SEED)
            else self._role(_Leaf(node, attribute, full_name, key))
            for node, attribute, full_name, key in self.leaves
        ]

    def _role(self, leaf: _Leaf) -> str:
        if leaf.attribute != VALUE:
            return "table" if leaf.attribute.endswith(("-keys", "-values")) else "config"
        slot = self.slots.get(leaf.node)
        if slot and leaf.node not in self.trained:
            return slot.role
        if leaf.node in self.metrics:
            return "metric"
        if leaf.node in self.trained:
            return "weight"
        path = self.model_paths.best(leaf.node)
        if path is None:
            return _optimizer_scalar_role(self.paths.best(leaf.node) or leaf.key)
        inferred = self.inferred.get(leaf.node)
        if inferred is not None:
            return inferred.role
        if path in COUNTERS and self.specs[leaf.key].shape == ():
            return "counter"
        # A SeedGenerator's state (seed, calls so far) is a variable, but nothing that was learned.
        return "counter" if leaf.full_name.endswith(SEED) else "weight"

    # --- what each tensor is called -----------------------------------------------------------

    def _names(self, roles: Sequence[str]) -> list[str]:
        """Return a unique readable name per leaf."""
        duplicates = self.duplicates
        counts = Counter(
            [
                leaf.full_name
                for leaf, role in zip(self.leaves, roles, strict=True)
                if role in ("weight", "metric") and leaf.key not in duplicates
            ]
        )
        # A full name that several variables have tells none of them apart: these have paths.
        told_apart = {
            name for name, count in counts.items() if name and count == 1 and not is_nameless(name)
        }
        names = [""] * len(roles)
        unnamed: list[int] = []
        for index, (leaf, role) in enumerate(zip(self.leaves, roles, strict=True)):
            if role in ("slot", "ema"):
                continue
            full_name = leaf.full_name
            may_have_name = role in ("weight", "metric") and full_name in told_apart
            if may_have_name and leaf.key not in duplicates:
                names[index] = full_name
            else:
                unnamed.append(index)
        taken = {name for name in names if name}
        strip = self._common_root(roles)
        siblings = self._names_like_siblings([self.leaves[i] for i in unnamed], told_apart)
        for index in unnamed:
            leaf, path = self.leaves[index], self._path(self.leaves[index])
            if roles[index] == "weight":
                path = siblings.get(leaf.node, path.removeprefix(strip))
            elif roles[index] == "table":
                path = path.removeprefix(strip)
            names[index] = _unique(_suffixed(path, leaf.attribute), leaf.key, taken)
        if self.slots:
            self._name_slots(names, taken, roles)
        return names

    def _names_like_siblings(
        self, leaves: Iterable[_Leaf], told_apart: Collection[str]
    ) -> dict[int, str]:
        """Return {node: name} of variables without a name of their own, in the manner of the layer.

        A sharded variable's full name is that of its class, whatever the layer is called: the
        kernel beside `dense/bias` is `dense/kernel`.
        """
        wanted = {leaf.node for leaf in leaves if "/" not in leaf.full_name}
        if not wanted:
            return {}
        names: dict[int, set[str]] = defaultdict(set)
        for children in self.children:
            mine = [edge for edge, node in children.items() if node in wanted]
            if not mine:
                continue
            full_names = {
                edge: self.full_name_of[node]
                for edge, node in children.items()
                if self.full_name_of.get(node) in told_apart
            }
            scopes = {
                name.removesuffix(f"/{edge.lstrip('_')}")
                for edge, name in full_names.items()
                if name.endswith(f"/{edge.lstrip('_')}")
            }
            for edge in mine if len(scopes) == 1 else ():
                names[children[edge]].add(f"{min(scopes)}/{edge.lstrip('_')}")
        found = {node: min(options) for node, options in names.items() if len(options) == 1}
        repeated = Counter(found.values())
        return {
            node: name
            for node, name in found.items()
            if repeated[name] == 1 and name not in told_apart
        }

    def _path(self, leaf: _Leaf) -> str:
        """Return the best object path, as it reads best."""
        path = self.model_paths.best(leaf.node) or self.paths.best(leaf.node) or leaf.key
        return readable_path(path, leaf.full_name)

    def _name_slots(self, names: list[str], taken: set[str], roles: Sequence[str]) -> None:
        """Fill in the names of slots and averages, which those of their variables begin."""
        by_node = {
            leaf.node: name
            for leaf, name in zip(self.leaves, names, strict=True)
            if leaf.attribute == VALUE
        }
        wanted: dict[int, str] = {}
        for index, leaf in enumerate(self.leaves):
            slot = self.slots.get(leaf.node)
            if slot is not None and roles[index] in ("slot", "ema"):
                owner = by_node.get(slot.of) if slot.of is not None else None
                wanted[index] = f"{owner}@{slot.slot}" if owner else self._path(leaf)
        counts = Counter(wanted.values())
        for index, name in wanted.items():
            leaf = self.leaves[index]
            if counts[name] > 1:  # those of one variable; a path is of one object
                name = name.replace("@", f"@{self.slots[leaf.node].optimizer}/")
            names[index] = _unique(name, leaf.key, taken)

    def _stored_twice(self) -> dict[str, str]:
        """Return {key: the key that it repeats}.

        Keras 3's export() keeps every weight in two lists of the root, as different objects:
        `variables/N` and `_all_variables/N`.  Equal full name, dtype, shape and crc32c in the index
        show it without reading data; where several weights agree in all of those, order decides.
        """
        groups: dict[tuple[object, ...], dict[str, list[str]]] = {}
        for leaf in self.leaves:
            item = item_of_list(leaf.key) if leaf.attribute == VALUE else None
            if item is not None:
                container = item[0]
                group = leaf.full_name, *content(self.specs[leaf.key])
                groups.setdefault(group, {}).setdefault(container, []).append(leaf.key)
        repeats: dict[str, str] = {}
        for lists in groups.values():
            first, *others = (lists[name] for name in sorted(lists, key=path_cost))
            for other in others:
                if len(other) == len(first):
                    repeats.update(zip(other, first, strict=True))
        return repeats

    def _common_root(self, roles: Sequence[str]) -> str:
        """Return "model/" where all weights and tables lie below that one child of the root."""
        heads = {
            path.partition("/")[0]
            for leaf, role in zip(self.leaves, roles, strict=True)
            if role in ("weight", "table")
            for path in (self.model_paths.best(leaf.node),)
            if path
        }
        if len(heads) != 1:
            return ""
        [head] = heads
        target = self.children[0].get(head)
        is_variable = target is None or target in self.key_of
        is_checkpoint = head == "model" or "save_counter" in self.children[0]
        return f"{head}/" if is_checkpoint and not is_variable else ""


def content(spec: TensorSpec) -> tuple[object, ...]:
    """Return what equal tensors share in the index; partitioned ones are never taken for equal."""
    crc = spec.crc32c if spec.crc32c is not None else spec.key
    return spec.dtype, spec.shape, crc


def _unknown(key: str, names: Mapping[str, str]) -> Naming:
    role = "config" if key == OBJECT_GRAPH_KEY else "other"
    return Naming(key if key not in names.values() else f"{key} (key)", role)


def _unique(name: str, key: str, taken: set[str]) -> str:
    if name in taken:
        name = key
    taken.add(name)
    return name


def _suffixed(path: str, attribute: str) -> str:
    return path if attribute == VALUE else f"{path}.{attribute}"


def _optimizer_scalar_role(path: str) -> str:
    return "counter" if path.rpartition("/")[2] in COUNTERS else "config"
