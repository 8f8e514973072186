"""Pairing by the order of lists: of a model's trainable variables, of an optimizer's variables.

An optimizer in a checkpoint, an export and a legacy `.h5` file all list a model's trainable
variables in the order of `Model.trainable_variables`; `optimizer/vars/N` of a Keras file is
`optimizer/_variables/N` of a checkpoint.  Lists are joined only where every member fits in dtype,
shape and, where known, its own name, and only in one way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptkit.align.numbered_layers import NUMBERED
from ckptkit.align.objects import Objects
from ckptkit.align.slots import SLOT_NAMES
from ckptkit.align.types import TensorSet
from ckptkit.checkpoint.object_trees import VALUE
from ckptkit.checkpoint.optimizer_slots import optimizer_nodes
from ckptkit.stores.base import KerasStructure, ObjectGraph
from ckptkit.text import lazy_pattern

Pairs = list[tuple[str, str]]
MAX_STEPS = 4_000_000  # of the search for one list in another: a second
_COUNTERS = lazy_pattern(r"(_\d+)+(?=/|$)")


class _ListedVariable(NamedTuple):
    """A variable in a list; name: its own, without scopes; None where not known."""

    key: str
    type: tuple[object, ...]
    name: str | None


class ModelOrder(NamedTuple):
    """What a file tells of the order of a model's variables.

    trained, untrained: lists of the trainable variables and of the others.  mixed: lists of both
    kinds, each kind in the model's order.
    """

    trained: list[tuple[str, ...]]
    untrained: list[tuple[str, ...]]
    mixed: list[tuple[str, ...]]


def model_order(side: TensorSet) -> ModelOrder:
    """Return the lists of a model's variables that a file has, those of its weights alone."""
    structure = side.structure
    if isinstance(structure, ObjectGraph):
        objects = Objects(side, structure)
        return ModelOrder(objects.trained, objects.untrained, [])
    if not isinstance(structure, KerasStructure):
        return ModelOrder([], [], [])
    if structure.layers:
        order = [(key, kind) for key, kind in structure.order if key in side.weights]
        if any(kind is None for _key, kind in order):
            return ModelOrder([], [], [tuple(key for key, _kind in order)])
        lists = [tuple(key for key, kind in order if kind is wanted) for wanted in (True, False)]
        return ModelOrder([k for k in lists[:1] if k], [k for k in lists[1:] if k], [])
    # A legacy file lists the layers in the model's order, of each the trainable variables first.
    listed = tuple(key for key in structure.variables if key in side.weights)
    return ModelOrder([], [], [listed] if listed else [])


def join_orders(
    old: TensorSet, new: TensorSet, known: Mapping[str, str], known_back: Mapping[str, str]
) -> Pairs:
    """Return (old key, new key) that the order of a model's variables pairs.

    known, known_back: what is paired already, both ways; a list that contradicts it is not used.
    """
    pairs: dict[str, str] = {}
    orders = model_order(old), model_order(new)
    for name in ("trained", "untrained"):
        here, there = ([*getattr(order, name)] for order in orders)
        rest = (
            [
                tuple(k for k in keys if not (name == "untrained" and _is_paired(k, pairs)))
                for keys in orders[0].mixed
            ],
            [
                tuple(k for k in keys if not (name == "untrained" and _is_paired(k, pairs)))
                for keys in orders[1].mixed
            ],
        )
        found: list[dict[str, str]] = []
        for lists, others in ((here, there), (here, rest[1]), (rest[0], there)):
            for one in lists:
                for other in others:
                    joined = _join(_members(old, one), _members(new, other))
                    if joined and _agrees(joined, known, known_back):
                        found.append(joined)
        for joined in found:
            # Two models of one build have lists that fit each other: neither is taken.
            rivals = [f for f in found if f != joined and _shares(f, joined)]
            if all(_agrees(joined, f, {v: k for k, v in f.items()}) for f in rivals):
                pairs.update(joined)
    return list(pairs.items())


def join_listings(old: TensorSet, new: TensorSet) -> Pairs:
    """Return (old key, new key) of two legacy files whose names count otherwise.

    Both list the weights of a model in its order.  Where the names are the same but for automatic
    numbers, one by one, and not the same set, the numbers say nothing and the order says it all.
    """
    lists = []
    for side in (old, new):
        structure = side.structure
        if not isinstance(structure, KerasStructure) or structure.layers:
            return []
        lists.append([key for key in structure.variables if key in side.weights])
    names = [
        [_whole_name(side, key) for key in keys]
        for side, keys in zip((old, new), lists, strict=True)
    ]
    if len(names[0]) != len(names[1]) or set(names[0]) == set(names[1]):
        return []
    fits = all(
        _uncounted(a) == _uncounted(b)
        and (old.specs[k].dtype, old.specs[k].shape) == (new.specs[m].dtype, new.specs[m].shape)
        for a, b, k, m in zip(*names, *lists, strict=True)
    )
    return list(zip(*lists, strict=True)) if fits else []


def join_nameless(nameless: TensorSet, named: TensorSet) -> Pairs:
    """Return (key, key) of a file whose layers are called by their place, and one that names them.

    A group `dense_1` is the second Dense of a model's layers, whatever it is called, so that equal
    names say nothing; both files have the weights in the model's order.  They are paired where all
    of them fit, one by one.
    """
    ours, theirs = nameless.structure, named.structure
    if not isinstance(ours, KerasStructure) or not isinstance(theirs, KerasStructure):
        return []
    if not ours.is_nameless or theirs.is_nameless:
        return []
    listed = [key for key, _is_trained in theirs.order] if theirs.layers else theirs.variables
    lists = (
        [key for key, _is_trained in ours.order if key in nameless.weights],
        [key for key in listed if key in named.weights],
    )
    if not lists[0] or {*lists[0]} != nameless.weights or {*lists[1]} != named.weights:
        return []
    members = _members(nameless, lists[0]), _members(named, lists[1])
    if len(members[0]) != len(members[1]) or not all(map(_fits, *members)):
        return []
    return list(zip(*lists, strict=True))


def _uncounted(name: str) -> str:
    """Return a name without numbers; one that is loaded again is `dense_1_1`."""
    return _COUNTERS.sub("", name)


def _whole_name(side: TensorSet, key: str) -> str:
    return side.names[key].full_name or side.names[key].name


def _is_paired(key: str, pairs: Mapping[str, str]) -> bool:
    return key in pairs or key in pairs.values()


def _shares(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return bool(one.keys() & other.keys() or set(one.values()) & set(other.values()))


def _agrees(
    joined: Mapping[str, str], known: Mapping[str, str], known_back: Mapping[str, str]
) -> bool:
    return all(
        known.get(key, other) == other and known_back.get(other, key) == key
        for key, other in joined.items()
    )


def _members(side: TensorSet, keys: Sequence[str]) -> list[_ListedVariable]:
    return [
        _ListedVariable(k, (side.specs[k].dtype, side.specs[k].shape), own_name(side, k))
        for k in keys
    ]


def own_name(side: TensorSet, key: str) -> str | None:
    """Return what a variable is called in its layer (`kernel`), None where nothing tells."""
    naming = side.names[key]
    name = naming.full_name or naming.name
    if NUMBERED.fullmatch(name):
        return None
    last = name.rpartition("/")[2].lstrip("_")
    return None if last.isdecimal() or last == "Variable" else last


def _join(one: Sequence[_ListedVariable], other: Sequence[_ListedVariable]) -> dict[str, str]:
    """Return how one list lies in the other, in order; {} where it does not, or in several ways."""
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if len(short) == len(long):
        fits = all(_fits(a, b) for a, b in zip(one, other, strict=True))
        return {a.key: b.key for a, b in zip(one, other, strict=True)} if fits else {}
    if not short or len(short) * len(long) > MAX_STEPS:
        return {}
    # ways[i]: in how many ways the first i of the short list lie in what was seen of the long one
    ways = [1] + [0] * len(short)
    for member in long:
        for at in range(len(short), 0, -1):
            if _fits(short[at - 1], member):
                ways[at] += ways[at - 1]
    if ways[-1] != 1:
        return {}
    rest = iter(long)
    places = [next(m for m in rest if _fits(member, m)) for member in short]
    if one is short:
        return {m.key: p.key for m, p in zip(short, places, strict=True)}
    return {p.key: m.key for m, p in zip(short, places, strict=True)}


def _fits(one: _ListedVariable, other: _ListedVariable) -> bool:
    names = one.name is None or other.name is None or one.name == other.name
    return one.type == other.type and names


# --- optimizers -----------------------------------------------------------------------------------


def join_optimizers(old: TensorSet, new: TensorSet) -> Pairs:
    """Return (old key, new key) of optimizers' variables that are at one place of one list."""
    lists = _optimizers(old), _optimizers(new)
    fitting = [
        (one, other) for one in lists[0] for other in lists[1] if _same_state(old, one, new, other)
    ]
    pairs: Pairs = []
    for one, other in fitting:
        rivals = [pair for pair in fitting if one in pair or other in pair]
        if len(rivals) == 1:
            pairs += zip(one, other, strict=True)
    return pairs


def _optimizers(side: TensorSet) -> list[tuple[str, ...]]:
    """Return the keys of each optimizer's variables, in its order."""
    structure = side.structure
    if isinstance(structure, ObjectGraph):
        return list(_lists_of_graph(side, structure))
    if not isinstance(structure, KerasStructure):
        return []
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for at, (key, variable) in enumerate(structure.variables.items()):
        if variable.optimizer is not None and key in side.names:
            match = NUMBERED.fullmatch(key)
            group, place = (match[1] or "", int(match[2])) if match else ("", at)
            groups[group].append((place, key))
    return [tuple(key for _place, key in sorted(keys)) for keys in groups.values()]


def _lists_of_graph(side: TensorSet, graph: ObjectGraph) -> Iterator[tuple[str, ...]]:
    for node in sorted(optimizer_nodes(graph)):
        container = dict(graph.nodes[node].children).get("_variables")
        if container is None:
            continue
        members = sorted(
            (int(edge), child)
            for edge, child in graph.nodes[container].children
            if edge.isdecimal() and len(edge) < 10
        )
        keys = tuple(
            key
            for _number, child in members
            for attribute, _name, key in graph.nodes[child].attributes
            if attribute == VALUE and key in side.names
        )
        if keys:
            yield keys


def _same_state(old: TensorSet, one: Sequence[str], new: TensorSet, other: Sequence[str]) -> bool:
    """Whether two optimizers have the same variables, one by one."""
    if len(one) != len(other):
        return False
    for left, right in zip(one, other, strict=True):
        here, there = old.specs[left], new.specs[right]
        if (here.dtype, here.shape) != (there.dtype, there.shape):
            return False
        slots = [SLOT_NAMES.get(s, s) for s in (old.names[left].slot, new.names[right].slot) if s]
        if len(slots) == 2 and slots[0] != slots[1]:
            return False
    return True
