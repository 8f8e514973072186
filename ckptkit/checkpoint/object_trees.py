"""Names of the tensors of an object graph that is a plain tree: the fast road of `object_names`.

Large graphs are mostly that: each object has one parent, variables are its leaves, and there is
neither an optimizer nor a metric in it, nor a loose variable to be judged.  Then a walk from the
root tells each variable's one path, and all but counters are weights under their full names.
Whatever asks for more than that is left to `object_names`, which gives such a tree the same names
in three times the time.  What both roads ask is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_paths import MAX_DEPTH, max_characters
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.stores.base import Node, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts
from ckptkit.stores.tensor_bundle.object_graph import PackedNodes
from ckptkit.text import lazy_pattern

VALUE = "VARIABLE_VALUE"
OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SUFFIX_LENGTH = len(KEY_SUFFIX)
_LIST_SLASHES = 1 + KEY_SUFFIX.count("/")
COUNTERS = frozenset(
    (
        *("save_counter", "step", "global_step", "epoch", "counter", "num_updates"),
        *("iter", "iteration", "iterations", "_iteration", "_iterations", "step_counter"),
    )
)
SEED = "seed_generator_state"  # how the names of Keras's random seeds end
_NAMELESS = lazy_pattern(r"(.*/)?Variable(_\d+)?")


def is_nameless(full_name: str) -> bool:
    """Whether a full name is that of a variable to which none was given."""
    return "Variable" in full_name and _NAMELESS.fullmatch(full_name) is not None


def readable_path(path: str, full_name: str) -> str:
    """Return a path as it reads best: Keras's private `dense/_kernel` as `dense/kernel`."""
    if "_" not in path:
        return path
    above, slash, edge = path.rpartition("/")
    is_private = edge.startswith("_") and full_name.rpartition("/")[2] == edge[1:]
    return f"{above}{slash}{edge[1:]}" if is_private else path


def item_of_list(key: str) -> tuple[str, str] | None:
    """Return the list and the index where a key is that of an item in a list of the root."""
    if key.count("/") > _LIST_SLASHES:
        return None
    container, slash, index = key.removesuffix(KEY_SUFFIX).rpartition("/")
    is_item = slash and "/" not in container and index.isdecimal()
    return (container, index) if is_item else None


class _NoPlainTree(Exception):
    """The graph asks for more than this road knows."""


_Called = tuple[str, str, str]
"""Key, full name and path of a variable."""


def _kept_names(
    specs: Mapping[str, TensorSpec], weights: Iterator[_Called], counters: Sequence[_Called]
) -> Mapping[str, Naming]:
    """Return the namings of a tree, in the order of the file.

    counters: those found on the way, when all weights are through.
    Raises _NoPlainTree for two of a key or of a name, and where keys are in no node.
    """
    found: dict[str, Naming] = {}
    count = 0
    for key, full_name, path in weights:
        count += 1
        # all of the fields, in order: half the time of naming the last
        found[key] = Naming(
            full_name, "weight", full_name, (path,), None, None, None, False, None, False
        )
    taken = {naming.name for naming in found.values()}
    if not len(taken) == len(found) == count:
        raise _NoPlainTree
    for key, full_name, path in counters:
        if key in found:
            raise _NoPlainTree
        found[key] = _counter_of(key, full_name, path, taken)
    if OBJECT_GRAPH_KEY in specs and OBJECT_GRAPH_KEY not in found:
        found[OBJECT_GRAPH_KEY] = _graph_of(taken)
    if len(found) != len(specs):
        raise _NoPlainTree
    return {key: found[key] for key in specs}


def _packed_names(
    specs: PackedSpecs, weights: Iterator[_Called], counters: Sequence[_Called]
) -> PackedNames:
    """Return the same of packed specs, in little memory.

    Nearly all come to a full name, and to a key that tells the path.
    """
    names: list[str | None] = [None] * len(specs)  # of those that are not kept whole
    whole: dict[int, Naming] = {}

    def free_row(key: str) -> int:
        row = specs.row(key)
        if row is None or names[row] is not None or row in whole:
            raise _NoPlainTree
        return row

    for key, full_name, path in weights:
        row = free_row(key)
        if key[:-_SUFFIX_LENGTH] == path:
            names[row] = full_name
        else:
            whole[row] = Naming(full_name, "weight", full_name, (path,))
    others = (naming.name for naming in whole.values())
    called = PackedTexts(chain((name for name in names if name is not None), others))
    if next(called.repeated(), None) is not None:
        raise _NoPlainTree
    taken = _Taken(called)
    for key, full_name, path in counters:
        whole[free_row(key)] = _counter_of(key, full_name, path, taken)
    row_of_graph = specs.row(OBJECT_GRAPH_KEY)
    if row_of_graph is not None and row_of_graph not in whole:
        whole[row_of_graph] = _graph_of(taken)
    if len(names) - names.count(None) + len(whole) != len(specs):
        raise _NoPlainTree
    return PackedNames(
        specs,
        (
            whole[row] if name is None else Naming(name, "weight", name, (key[:-_SUFFIX_LENGTH],))
            for row, (key, name) in enumerate(zip(specs, names, strict=True))
        ),
    )


class _Taken:
    """Names that are taken, of which very many are packed."""

    def __init__(self, packed: PackedTexts) -> None:
        self._packed = packed
        self._others: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._others or self._packed.find(name) is not None

    def add(self, name: str) -> None:
        """Note one more."""
        self._others.add(name)


def _counter_of(key: str, full_name: str, path: str, taken: set[str] | _Taken) -> Naming:
    """Return the naming of a counter, and note its name."""
    name = readable_path(path, full_name)
    name = key if name in taken else name
    taken.add(name)
    return Naming(name, "counter", full_name or None, (path,))


def _graph_of(taken: set[str] | _Taken) -> Naming:
    """Return the naming of the object graph."""
    graph = OBJECT_GRAPH_KEY
    return Naming(graph if graph not in taken else f"{graph} (key)", "config")


def name_tree(
    specs: Mapping[str, TensorSpec], nodes: Sequence[Node], strange: frozenset[str]
) -> Mapping[str, Naming] | None:
    """Return a Naming per key of `specs`; None where the graph is no plain tree.

    Args:
        specs: of the file.
        nodes: of its object graph; the first is the root.
        strange: edges that no plain tree has.
    """
    try:
        return _named(specs, nodes, strange)
    except _NoPlainTree:
        return None


def _named(
    specs: Mapping[str, TensorSpec], nodes: Sequence[Node], strange: frozenset[str]
) -> Mapping[str, Naming]:
    counters: list[_Called] = []
    weights = _weights(specs, nodes, strange, counters)
    if isinstance(specs, PackedSpecs):
        return _packed_names(specs, weights, counters)
    return _kept_names(specs, weights, counters)


def _weights(
    specs: Mapping[str, TensorSpec],
    nodes: Sequence[Node],
    strange: frozenset[str],
    counters: list[_Called],
) -> Iterator[_Called]:
    """Yield the weights, and add the counters to a list."""
    spec_of = specs.get
    for attributes, path in _leaves(nodes, strange):
        if not attributes:
            continue
        if len(attributes) > 1:
            raise _NoPlainTree
        attribute, full_name, key = attributes[0]
        spec = spec_of(key)
        if spec is None or attribute != VALUE:
            raise _NoPlainTree
        if full_name.endswith(SEED) or (spec.shape == () and path in COUNTERS):
            counters.append((key, full_name, path))
            continue
        is_loose = path[-1:].isdecimal() or "/" not in path or item_of_list(key)
        is_named = full_name and not ("Variable" in full_name and is_nameless(full_name))
        if is_loose or not is_named or spec.shape == () or spec.dtype == "string":
            raise _NoPlainTree
        yield key, full_name, path


def _leaves(
    nodes: Sequence[Node], strange: frozenset[str]
) -> Iterator[tuple[tuple[tuple[str, str, str], ...], str]]:
    """Yield (attributes, path) of each node without children.

    Raises _NoPlainTree where this is no tree, which may be seen at its end.
    """
    if not nodes:
        raise _NoPlainTree
    node_at = nodes.access() if isinstance(nodes, PackedNodes) else nodes.__getitem__
    root = node_at(0)
    if root.attributes or root.slots:
        raise _NoPlainTree
    most = max_characters(len(nodes) - 1)
    seen = bytearray(len(nodes))
    inner = [(root.children, "", 0)]
    characters = visited = 0
    if not root.children:
        yield root.attributes, ""
    while inner:
        edges, path, depth = inner.pop()
        start = f"{path}/" if path else ""
        visited += len(edges)
        if depth >= MAX_DEPTH or visited >= len(nodes) or len(dict(edges)) < len(edges):
            raise _NoPlainTree
        for edge, child in edges:
            characters += len(start) + len(edge)
            if characters > most:  # before the path is made, which may be long
                raise _NoPlainTree
            children, attributes, slots = node_at(child)
            if slots or not edge or edge in strange:
                raise _NoPlainTree
            if children:
                if attributes:
                    raise _NoPlainTree
                inner.append((children, start + edge, depth + 1))
            elif seen[child]:
                raise _NoPlainTree
            else:
                seen[child] = True
                yield attributes, start + edge
    if visited != len(nodes) - 1:
        raise _NoPlainTree
