"""Names of the tensors of an object graph that is a plain tree: the fast road of `object_names`.

Large graphs are mostly that: each object has one parent, variables are its leaves, and there is
neither an optimizer nor a metric in it, nor a loose variable to be judged.  Then a walk from the
root tells each variable's one path, and all but counters are weights under their full names.
Whatever asks for more than that is left to `object_names`, which gives such a tree the same names
in three times the time.  What both roads ask is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_paths import MAX_DEPTH, max_characters
from ckptkit.stores.base import Node, TensorSpec
from ckptkit.text import lazy_pattern

VALUE = "VARIABLE_VALUE"
OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
KEY_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
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


def name_tree(
    specs: Mapping[str, TensorSpec], nodes: Sequence[Node], strange: frozenset[str]
) -> dict[str, Naming] | None:
    """Return a Naming per key of `specs`; None where the graph is no plain tree.

    Args:
        specs: of the file.
        nodes: of its object graph; the first is the root.
        strange: edges that no plain tree has.
    """
    paths = _leaf_paths(nodes, strange)
    if paths is None:
        return None
    found: dict[str, Naming] = {}
    names: set[str] = set()
    counters: list[tuple[TensorSpec, str, str]] = []
    named = 0
    for node, path in zip(nodes, paths, strict=True):
        if path is None or not node.attributes:
            continue
        if len(node.attributes) > 1:
            return None
        attribute, full_name, key = node.attributes[0]
        spec = specs.get(key)
        if spec is None or attribute != VALUE:
            return None
        if (path in COUNTERS and spec.shape == ()) or full_name.endswith(SEED):
            counters.append((spec, path, full_name))
            continue
        is_loose = path[-1:].isdecimal() or "/" not in path or item_of_list(key)
        is_named = full_name and not ("Variable" in full_name and is_nameless(full_name))
        if is_loose or not is_named or spec.shape == () or spec.dtype == "string":
            return None
        named += 1
        names.add(full_name)
        # all of the fields, in order: half the time of naming the last
        found[spec.key] = Naming(
            full_name, "weight", full_name, (path,), None, None, None, False, None, False
        )
    if len(names) < named or len(found) < named:  # of one name, or of one key
        return None
    for spec, path, full_name in counters:
        name = readable_path(path, full_name)
        name = spec.key if name in names else name
        names.add(name)
        found[spec.key] = Naming(name, "counter", full_name or None, (path,))
    return _in_order(specs, found, names)


def _in_order(
    specs: Mapping[str, TensorSpec], found: Mapping[str, Naming], names: set[str]
) -> dict[str, Naming] | None:
    """Return the namings in the order of the file; None where it holds what the graph has not."""
    graph = OBJECT_GRAPH_KEY
    if len(found) != len(specs) - (graph in specs) or graph in found:
        return None
    own = Naming(graph if graph not in names else f"{graph} (key)", "config")
    return {key: own if key == graph else found[key] for key in specs}


def _leaf_paths(nodes: Sequence[Node], strange: frozenset[str]) -> list[str | None] | None:
    """Return the path of each node without children, None of others; None if this is no tree."""
    if not nodes:
        return None
    paths: list[str | None] = [None] * len(nodes)
    most = max_characters(len(nodes) - 1)
    inner = [(0, "", 0)]
    characters = visited = 0
    for node, path, depth in inner:  # grows as it is walked
        start = f"{path}/" if path else ""
        edges = nodes[node].children
        visited += len(edges)
        if depth >= MAX_DEPTH or visited >= len(nodes) or len(dict(edges)) < len(edges):
            return None
        for edge, child in edges:
            characters += len(start) + len(edge)
            if characters > most:  # before the path is made, which may be long
                return None
            below = start + edge
            target = nodes[child]
            if target.slots or not edge or edge in strange:
                return None
            if target.children:
                if target.attributes:
                    return None
                inner.append((child, below, depth + 1))
            elif paths[child] is None:
                paths[child] = below
            else:
                return None
    is_tree = visited == len(nodes) - 1
    return paths if is_tree and not nodes[0].attributes and not nodes[0].slots else None
