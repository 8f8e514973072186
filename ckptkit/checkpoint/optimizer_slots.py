"""Which variables of an object graph are slots of optimizers, and whose.

- an *optimizer node* has children `_variables` and `_iterations` (Keras >= 2.11 and 3), or slot
  variables, or children `iter` and `learning_rate` (legacy Keras 2);
- a *slot* is `<container>/k` of an optimizer node, tied to `_trainable_variables/k`, or a slot
  variable of the legacy kind, or tied by its full name (Keras 2.11 to 2.15), or by its position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ckptkit.checkpoint.object_paths import ObjectPaths
from ckptkit.stores.base import ObjectGraph

_EMA_CONTAINER = "_model_variables_moving_average"


class Slot(NamedTuple):
    """What an optimizer keeps of a variable: "slot" or "ema"; of: the variable's node, if told."""

    role: str
    slot: str | None
    of: int | None
    optimizer: str


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


class OptimizerSlots:
    """Reads the optimizer nodes of one graph.

    slots: by node.  trained: nodes of the variables that optimizers list as what they train.
    """

    def __init__(
        self,
        graph: ObjectGraph,
        children: Sequence[Mapping[str, int]],
        shapes: Mapping[int, tuple[int, ...]],
        full_names: Mapping[int, str],
        paths: tuple[ObjectPaths, ObjectPaths],
    ) -> None:
        """children: by edge, of each node.  shapes, full_names: of the nodes that are variables.

        paths: of all nodes, and of those that are reached without optimizers.
        """
        self.nodes, self.children = graph.nodes, children
        self.shapes, self.full_name_of = shapes, full_names
        self.paths, self.model_paths = paths
        self.optimizers = optimizer_nodes(graph, children)
        self.slots: dict[int, Slot] = {}
        self.trained: set[int] = set()
        for node in sorted(self.optimizers):
            self._read_optimizer(node)

    def _read_optimizer(self, node: int) -> None:
        """Record the slots and the trained weights of one optimizer node."""
        path = self.paths.best(node) or ""
        for original, slot_name, slot in self.nodes[node].slots:
            self.slots.setdefault(slot, Slot("slot", slot_name, original, path))
        children = self.children[node]
        trained = self._items(children.get("_trainable_variables"))
        self.trained.update(trained.values())
        for name, container in children.items():
            if name in ("_variables", "_trainable_variables"):
                continue
            for index, variable in self._items(container).items():
                owner = trained.get(index)
                if variable in self.shapes and variable not in self.trained:
                    self.slots.setdefault(
                        variable, self._container_slot(name, variable, owner, path)
                    )
        variables = [
            v for v in self._items(children.get("_variables")).values() if v in self.shapes
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
                    self.slots[factor] = Slot("slot", kind, slot.of, slot.optimizer)
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
            for node in self.shapes
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
                if child in self.shapes and child not in seen:
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
        trained = [node for node in trained if node in self.shapes]
        shapes = [self._shape(node) for node in trained]
        for kind, members in kinds.items():
            if shapes and [self._shape(slot) for slot in members] == shapes:
                for slot, owner in zip(members, trained, strict=True):
                    self.slots[slot] = Slot("slot", kind, owner, path)

    def _container_slot(self, name: str, variable: int, owner: int | None, path: str) -> Slot:
        if name == _EMA_CONTAINER:
            return Slot("ema", "ema", owner, path)
        slot = None
        if owner is not None:
            slot = self._suffix_after(owner, self.full_name_of[variable])
        return Slot("slot", slot or _singular(name), owner, path)

    def _suffix_after(self, owner: int, full_name: str) -> str | None:
        """Return "momentum" for `adam/conv1_kernel_momentum` of `conv1/kernel` (Keras 3)."""
        mangled = self.full_name_of.get(owner, "").replace("/", "_") + "_"
        _, found, suffix = full_name.rpartition(mangled)
        return suffix if found and len(mangled) > 1 and suffix else None

    def _by_mangled_name(self, trained: Iterable[int]) -> dict[str, int]:
        """Return {full name, and Keras 3's mangled form of it: node}, where they are unique."""
        candidates = set(trained) or {
            node for node in self.shapes if self.model_paths.best(node) is not None
        }
        names: dict[str, list[int]] = defaultdict(list)
        for node in candidates:
            full_name = self.full_name_of.get(node, "")
            for form in {full_name, full_name.replace("/", "_")} - {""}:
                names[form].append(node)
        return {name: nodes[0] for name, nodes in names.items() if len(nodes) == 1}

    def _tied_by_name(
        self, variable: int, tie: Mapping[str, int], path: str, known: Slot | None = None
    ) -> Slot:
        """Tie `Adam/m/a/kernel` (Keras 2.11+) or `adam/a_kernel_v` (Keras 3) to its weight.

        Within LossScaleOptimizer, Keras 2.15 says `m/a/kernel`.
        """
        first, _, rest = self.full_name_of[variable].partition("/")
        second, _, owner = rest.partition("/")
        for slot, name in ((second, owner), (first, rest)):
            if name in tie:
                role = "ema" if slot in ("average", "ema") else "slot"
                return Slot(role, slot, tie[name], path)
        for cut in (i for i, letter in enumerate(rest) if letter == "_"):
            if rest[:cut] in tie:
                return Slot("slot", rest[cut + 1 :], tie[rest[:cut]], path)
        return known or Slot("slot", None, None, path)

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
        return self.shapes.get(node)

    def _is_scalar(self, node: int) -> bool:
        return self._shape(node) == ()


def _singular(container: str) -> str:
    name = container.strip("_")
    if name.endswith("ies"):
        return name[:-3] + "y"
    return name[:-1] if name.endswith("s") and not name.endswith("rms") else name
