"""Names and roles of the tensors of an object-based checkpoint, from its object graph.

A checkpoint key is only the shortest path to an object, and for the kernels of a Keras 3 model that
path often leads through the optimizer (`optimizer/_trainable_variables/0`).  So roles come from the
graph, never from key prefixes:

- an *optimizer node* has children `_variables` and `_iterations` (Keras >= 2.11 and 3), or slot
  variables, or children `iter` and `learning_rate` (legacy Keras 2);
- a *weight* is reachable from the root when optimizer nodes are taken out, or is the target of an
  optimizer's `_trainable_variables/k`;
- a *slot* is `<container>/k` of an optimizer node, tied to `_trainable_variables/k`, or a slot
  variable of the legacy kind, or tied by its full name (Keras 2.11 to 2.15).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_paths import ObjectPaths, path_cost
from ckptkit.checkpoint.object_state import ObjectRole, ObjectVariable, infer_object_roles
from ckptkit.stores.base import ObjectGraph, TensorSpec
from ckptkit.stores.tensor_bundle.attribute_keys import added_keys

VALUE = "VARIABLE_VALUE"
_KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_EMA_CONTAINER = "_model_variables_moving_average"
_COUNTERS = frozenset(
    (
        *("save_counter", "step", "global_step", "epoch", "counter", "num_updates"),
        *("iter", "iteration", "iterations", "_iteration", "_iterations", "step_counter"),
    )
)
# Keras metrics by the names of their state variables (keras/metrics); Keras 2 saves them.
_METRIC_STATE = (
    frozenset({"total", "count"}),
    frozenset({"true_positives", "false_positives"}),
    frozenset({"true_positives", "false_negatives"}),
    frozenset({"total_cm"}),
    frozenset({"accumulator"}),
)
_METRIC_NAMES = frozenset().union(*_METRIC_STATE)
_NAMELESS = re.compile(r"(.*/)?Variable(_\d+)?")
# Edges that Keras's models and layers alone have, of either generation.
_KERAS_EDGES = frozenset({"_operations", "_inbound_nodes", "keras_api", "layer-0", "_layers"})


class _Leaf(NamedTuple):
    """One saved attribute of a node: what a checkpoint key stands for."""

    node: int
    attribute: str
    full_name: str
    key: str


class _Slot(NamedTuple):
    role: str
    slot: str | None
    of: int | None  # node of the variable
    optimizer: str


def name_objects(specs: Mapping[str, TensorSpec], graph: ObjectGraph) -> dict[str, Naming]:
    """Return a Naming per key of `specs`; keys that the graph does not know get role "other"."""
    return _Namer(specs, graph).namings()


def optimizer_nodes(
    graph: ObjectGraph, children: Sequence[Mapping[str, int]] | None = None
) -> set[int]:
    """Return the nodes that are optimizers.  children: of each node by edge, where at hand."""
    edges = children if children is not None else [dict(node.children) for node in graph.nodes]
    return {
        index
        for index, node in enumerate(graph.nodes)
        if node.slots or (node.children and _has_optimizer_edges(edges[index]))
    }


def _has_optimizer_edges(names: Mapping[str, int]) -> bool:
    return ("_variables" in names and "_iterations" in names) or (
        "iter" in names and "learning_rate" in names
    )


class _Namer:
    """Walks one graph once; `namings` puts the findings together."""

    def __init__(self, specs: Mapping[str, TensorSpec], graph: ObjectGraph) -> None:
        self.specs = specs
        self.nodes = graph.nodes
        none: dict[str, int] = {}
        self.children = [dict(n.children) if n.children else none for n in graph.nodes]
        self.leaves = [
            _Leaf(index, attribute, full_name, key)
            for index, node in enumerate(graph.nodes)
            for attribute, full_name, key in node.attributes
            if key in specs
        ]
        if len(self.leaves) < len(specs):
            self.leaves += self._added_leaves()
        self.key_of = {leaf.node: leaf.key for leaf in self.leaves if leaf.attribute == VALUE}
        self.full_name_of = {leaf.node: leaf.full_name for leaf in self.leaves}
        self.optimizers = optimizer_nodes(graph, self.children)
        self.paths = ObjectPaths(graph.nodes)
        self.model_paths = (
            ObjectPaths(graph.nodes, self.optimizers) if self.optimizers else self.paths
        )
        self.slots: dict[int, _Slot] = {}
        self.inferred: dict[int, ObjectRole] = {}
        self.trained: set[int] = set()
        for node in sorted(self.optimizers):
            self._read_optimizer(node)
        self.metrics = self._metric_nodes()
        self.duplicates = self._stored_twice()
        self.inferred = self._infer()

    def namings(self) -> dict[str, Naming]:
        # One item per leaf: lists in one order are read much faster than dicts by key.
        roles = [self._role(leaf) for leaf in self.leaves]
        names = self._names(roles)
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

    def _infer(self) -> dict[int, ObjectRole]:
        """Infer the roles of what no optimizer holds and only names and shapes tell of."""
        variables = [
            ObjectVariable(leaf.node, path, leaf.full_name, self.specs[leaf.key])
            for leaf in self.leaves
            if self._role(leaf) == "weight" and leaf.node not in self.trained
            for path in (self.model_paths.best(leaf.node),)
            if path is not None and leaf.key not in self.duplicates
        ]
        has_keras = any(not _KERAS_EDGES.isdisjoint(names) for names in self.children)
        inferred = infer_object_roles(variables, has_keras=has_keras)
        for node, key in self.key_of.items():  # of an optimizer, though of no kind that is known
            known = node in self.slots or node in self.trained or node in self.metrics
            if not known and self.specs[key].shape != () and self.model_paths.best(node) is None:
                path = self.paths.best(node) or ""
                inferred[node] = ObjectRole("slot", optimizer=path.rpartition("/")[0])
        for node, (role, slot, of, optimizer) in inferred.items():
            if role in ("slot", "ema"):
                self.slots[node] = _Slot(role, slot, of, optimizer)
        return inferred

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

    def _read_optimizer(self, node: int) -> None:
        """Record the slots and the trained weights of one optimizer node."""
        path = self.paths.best(node) or ""
        for original, slot_name, slot in self.nodes[node].slots:
            self.slots.setdefault(slot, _Slot("slot", slot_name, original, path))
        children = self.children[node]
        trained = self._items(children.get("_trainable_variables"))
        self.trained.update(trained.values())
        for name, container in children.items():
            if name in ("_variables", "_trainable_variables"):
                continue
            for index, variable in self._items(container).items():
                owner = trained.get(index)
                if variable in self.key_of and variable not in self.trained:
                    self.slots.setdefault(
                        variable, self._container_slot(name, variable, owner, path)
                    )
        variables = [
            v for v in self._items(children.get("_variables")).values() if v in self.key_of
        ]
        tie = self._by_mangled_name(trained.values())
        for variable in variables:
            known = self.slots.get(variable)
            if known is None and self._is_scalar(variable):
                continue
            if known is None or known.of is None:
                self.slots[variable] = self._tied_by_name(variable, tie, path, known)
        for container in set(children.values()) - {children.get("_variables")}:
            for variable in self._items(container).values():  # what `_variables` does not list
                known = self.slots.get(variable)
                if known is not None and known.of is None and variable not in variables:
                    of = self._tied_by_name(variable, tie, path, known).of
                    self.slots[variable] = known._replace(of=of)
        self._tie_by_order([v for v in variables if v in self.slots], list(trained.values()), path)
        self._tie_factors(variables)
        if not trained:
            self._tie_by_position(node, path)

    def _tie_factors(self, variables: Sequence[int]) -> None:
        """Tie the row and column factors that Keras 3's Adafactor keeps before each velocity."""
        open_slots: list[int] = []
        for variable in variables:
            slot = self.slots.get(variable)
            if slot is None:
                continue  # a scalar, such as the placeholder of a vector's factors
            if slot.of is None:
                open_slots.append(variable)
                continue
            shape = self._shape(slot.of)
            if shape is None:
                open_slots = []
                continue
            factors = (shape[:-1], (*shape[:-2], *shape[-1:]))
            found = tuple(self._shape(v) for v in open_slots)
            if len(shape) > 1 and found == factors:
                for factor, kind in zip(open_slots, "rc", strict=True):
                    self.slots[factor] = _Slot("slot", kind, slot.of, slot.optimizer)
            open_slots = []

    def _tie_by_position(self, node: int, path: str) -> None:
        """Tie the slots of Keras 2.11 to 2.15 whose names several variables have.

        `_momentums/k` is of the k-th variable that is trained.  Which that is follows from the
        order of the model's layers, believed only where names and shapes agree all along.
        """
        containers = [
            self._items(container)
            for name, container in self.children[node].items()
            if name != "_variables"
        ]
        positions: dict[int, list[int]] = defaultdict(list)
        for container in containers:
            for k, variable in container.items():
                if variable in self.slots:
                    positions[k].append(variable)
        if all(self.slots[v].of is not None for found in positions.values() for v in found):
            return
        wanted = [
            (self._stripped(found[0]), self._shape(found[0]))
            for _k, found in sorted(positions.items())
        ]
        names = {name for name, _shape in wanted}
        owners = {
            tuple(weights)
            for start in (0, *self.children[0].values())
            for weights in ([w for w in self._in_order(start) if self.full_name_of[w] in names],)
            if [(self.full_name_of[w], self._shape(w)) for w in weights] == wanted
        }
        if len(owners) == 1:
            for (_k, found), owner in zip(sorted(positions.items()), owners.pop(), strict=True):
                for variable in found:
                    self.slots[variable] = self.slots[variable]._replace(of=owner)

    def _stripped(self, slot: int) -> str:
        """Return `a/kernel` for a slot called `Adam/m/a/kernel`, or `m/a/kernel`."""
        _, _, rest = self.full_name_of[slot].partition("/")
        name = rest.partition("/")[2]
        known = self._weight_names
        return name if name in known or rest not in known else rest

    @cached_property
    def _weight_names(self) -> set[str]:
        return {
            self.full_name_of[node]
            for node in self.key_of
            if self.model_paths.best(node) is not None
        }

    def _in_order(self, start: int) -> list[int]:
        """Return the variables below a node in Keras's order: a layer's own, then its layers'."""
        found: list[int] = []
        seen: set[int] = set()
        stack = [start]
        while stack:
            node = stack.pop()
            if node in seen or node in self.optimizers:
                continue
            seen.add(node)
            inner = []
            for child in self.children[node].values():
                if child in self.key_of and child not in seen:
                    seen.add(child)
                    found.append(child)
                elif self.children[child]:
                    inner.append(child)
            stack += reversed(inner)
        return found

    def _tie_by_order(self, slots: list[int], trained: list[int], path: str) -> None:
        """Tie the slots that names leave open: the k-th "momentum" belongs to the k-th variable.

        Keras 3 before 3.9 keeps no list per kind of slot, and full names may all be alike.
        """
        kinds: dict[str, list[int]] = defaultdict(list)
        for slot in slots:
            if self.slots[slot].of is None and self.slots[slot].role == "slot":
                kinds[self.full_name_of[slot].rpartition("_")[2]].append(slot)
        trained = [node for node in trained if node in self.key_of]
        shapes = [self._shape(node) for node in trained]
        for kind, members in kinds.items():
            if shapes and [self._shape(slot) for slot in members] == shapes:
                for slot, owner in zip(members, trained, strict=True):
                    self.slots[slot] = _Slot("slot", kind, owner, path)

    def _container_slot(self, name: str, variable: int, owner: int | None, path: str) -> _Slot:
        if name == _EMA_CONTAINER:
            return _Slot("ema", "ema", owner, path)
        slot = None
        if owner is not None:
            slot = self._suffix_after(owner, self.full_name_of[variable])
        return _Slot("slot", slot or _singular(name), owner, path)

    def _suffix_after(self, owner: int, full_name: str) -> str | None:
        """Return "momentum" for `adam/conv1_kernel_momentum` of `conv1/kernel` (Keras 3)."""
        mangled = self.full_name_of.get(owner, "").replace("/", "_") + "_"
        _, found, suffix = full_name.rpartition(mangled)
        return suffix if found and len(mangled) > 1 and suffix else None

    def _by_mangled_name(self, trained: Iterable[int]) -> dict[str, int]:
        """Return {full name, and Keras 3's mangled form of it: node}, where they are unique."""
        candidates = set(trained) or {
            node for node in self.key_of if self.model_paths.best(node) is not None
        }
        names: dict[str, list[int]] = defaultdict(list)
        for node in candidates:
            full_name = self.full_name_of.get(node, "")
            for form in {full_name, full_name.replace("/", "_")} - {""}:
                names[form].append(node)
        return {name: nodes[0] for name, nodes in names.items() if len(nodes) == 1}

    def _tied_by_name(
        self, variable: int, tie: Mapping[str, int], path: str, known: _Slot | None = None
    ) -> _Slot:
        """Tie `Adam/m/a/kernel` (Keras 2.11+) or `adam/a_kernel_v` (Keras 3) to its weight.

        Within LossScaleOptimizer, Keras 2.15 says `m/a/kernel`.
        """
        first, _, rest = self.full_name_of[variable].partition("/")
        second, _, owner = rest.partition("/")
        for slot, name in ((second, owner), (first, rest)):
            if name in tie:
                role = "ema" if slot in ("average", "ema") else "slot"
                return _Slot(role, slot, tie[name], path)
        for cut in (i for i, letter in enumerate(rest) if letter == "_"):
            if rest[:cut] in tie:
                return _Slot("slot", rest[cut + 1 :], tie[rest[:cut]], path)
        return known or _Slot("slot", None, None, path)

    def _items(self, container: int | None) -> dict[int, int]:
        """Return {k: node} of the children of a list node that are called by number."""
        if container is None:
            return {}
        return {
            int(k): node
            for k, node in self.children[container].items()
            if k.isdecimal() and len(k) < 10
        }

    def _shape(self, node: int) -> tuple[int, ...] | None:
        """Return the shape of a variable; None for an object that has lost its value."""
        key = self.key_of.get(node)
        return None if key is None else self.specs[key].shape

    def _is_scalar(self, node: int) -> bool:
        return self._shape(node) == ()

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
        if path in _COUNTERS and self.specs[leaf.key].shape == ():
            return "counter"
        # A SeedGenerator's state (seed, calls so far) is a variable, but nothing that was learned.
        return "counter" if leaf.full_name.endswith("seed_generator_state") else "weight"

    # --- what each tensor is called -----------------------------------------------------------

    def _names(self, roles: Sequence[str]) -> list[str]:
        """Return a unique readable name per leaf."""
        taken: set[str] = set()
        counts = Counter(
            leaf.full_name
            for leaf, role in zip(self.leaves, roles, strict=True)
            if role in ("weight", "metric") and leaf.key not in self.duplicates
        )
        # A full name that several variables have tells none of them apart: these have paths.
        told_apart = {
            name
            for name, count in counts.items()
            if name and count == 1 and not _NAMELESS.fullmatch(name)
        }
        names = [""] * len(roles)
        unnamed: list[int] = []
        for index, (leaf, role) in enumerate(zip(self.leaves, roles, strict=True)):
            if role in ("slot", "ema"):
                continue
            may_have_name = role in ("weight", "metric") and leaf.key not in self.duplicates
            if may_have_name and leaf.full_name in told_apart:
                names[index] = _unique(leaf.full_name, leaf.key, taken)
            else:
                unnamed.append(index)
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
        """Return the best object path; Keras's private `dense/_kernel` reads `dense/kernel`."""
        path = self.model_paths.best(leaf.node) or self.paths.best(leaf.node) or leaf.key
        if "_" not in path:
            return path
        above, slash, edge = path.rpartition("/")
        is_private = edge.startswith("_") and leaf.full_name.rpartition("/")[2] == edge[1:]
        return f"{above}{slash}{edge[1:]}" if is_private else path

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
            if counts[name] > 1 and "@" in name:
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
            container, slash, index = leaf.key.removesuffix(_KEY_SUFFIX).rpartition("/")
            if leaf.attribute == VALUE and slash and "/" not in container and index.isdecimal():
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
    role = "config" if key == "_CHECKPOINTABLE_OBJECT_GRAPH" else "other"
    return Naming(key if key not in names.values() else f"{key} (key)", role)


def _unique(name: str, key: str, taken: set[str]) -> str:
    if name in taken:
        name = key
    taken.add(name)
    return name


def _suffixed(path: str, attribute: str) -> str:
    return path if attribute == VALUE else f"{path}.{attribute}"


def _singular(container: str) -> str:
    name = container.strip("_")
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-1] if name.endswith("s") and not name.endswith("rms") else name


def _optimizer_scalar_role(path: str) -> str:
    return "counter" if path.rpartition("/")[2] in _COUNTERS else "config"
