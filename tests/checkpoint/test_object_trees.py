"""Names by the fast road of plain trees: those that the general road gives, or none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.checkpoint.object_names import _STRANGE, _Namer
from ckptkit.checkpoint.object_paths import ObjectPaths, max_characters
from ckptkit.checkpoint.object_trees import _leaves, _NoPlainTree, name_tree
from ckptkit.stores.base import Node, ObjectGraph, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"
EDGES = ["w", "b", "layers", "0", "1", "_kernel"]
ODD_EDGES = [*EDGES, "save_counter", "total", "iter", "x/y", "keras_api"]
NAMES = ["w", "a/w", "b/w", "Variable", "Variable_1", "", "d/seed_generator_state", "kernel", GRAPH]
SHAPES = [*[(2, 3), (4,)] * 8, (), (2, 0)]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, TensorSpec], ObjectGraph]:
    """Mostly trees, of edges and names such as real ones have; now and then an edge too many."""
    count = draw(st.integers(2, 12))
    children: list[list[tuple[str, int]]] = [[] for _ in range(count)]
    path = [""] * count
    for node in range(1, count):
        lowest = 0 if node == 1 or not draw(st.integers(0, 15)) else 1
        parent = draw(st.integers(lowest, max(lowest, min(node - 1, 4))))
        edge = draw(st.sampled_from(EDGES if draw(st.integers(0, 15)) else ODD_EDGES))
        if edge in dict(children[parent]) and draw(st.integers(0, 20)):
            edge = f"{edge}{node}x"
        children[parent].append((edge, node))
        path[node] = f"{path[parent]}/{edge}".lstrip("/")
    if not draw(st.integers(0, 7)):
        ends = draw(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)))
        children[ends[0]].append(("again", ends[1]))
    specs: dict[str, TensorSpec] = {GRAPH: TensorSpec(GRAPH, "string", (), 9)}
    nodes = []
    for node in range(count):
        attributes: list[tuple[str, str, str]] = []
        if not children[node] or not draw(st.integers(0, 15)):
            key = f"{path[node] if draw(st.integers(0, 5)) else node}/.ATTRIBUTES/{VALUE}"
            name = path[node] if draw(st.integers(0, 7)) else draw(st.sampled_from(NAMES))
            attributes.append((VALUE if draw(st.integers(0, 20)) else "table-keys", name, key))
            dtype = (
                "float32" if draw(st.integers(0, 5)) else draw(st.sampled_from(["int64", "string"]))
            )
            if draw(st.integers(0, 20)):
                specs[key] = TensorSpec(
                    key, dtype, draw(st.sampled_from(SHAPES)), 8, 0, 0, node % 3
                )
        nodes.append(Node(tuple(children[node]), tuple(attributes), ()))
    return specs, ObjectGraph(tuple(nodes))


def agrees(specs: dict[str, TensorSpec], graph: ObjectGraph) -> bool:
    """Whether the fast road had an answer; it must be the general one's, in the same order."""
    fast = name_tree(specs, graph.nodes, _STRANGE)
    if fast is None:
        return False
    slow = list(_Namer(specs, graph).namings().items())
    assert list(fast.items()) == slow
    packed = PackedSpecs()
    for spec in specs.values():
        packed.add(spec)
    lazily = name_tree(packed, graph.nodes, _STRANGE)
    assert lazily is not None and list(lazily.items()) == slow
    return True


@settings(max_examples=300)
@given(graphs())
def test_generated_graphs(found: tuple[dict[str, TensorSpec], ObjectGraph]) -> None:
    agrees(*found)


def test_a_tree_takes_the_fast_road() -> None:
    keys = [f"model/layers/{n}/{name}" for n in range(3) for name in ("kernel", "bias")]
    nodes = [Node((("model", 1), ("save_counter", 12)), (), ()), Node((("layers", 2),), (), ())]
    nodes.append(Node((("0", 3), ("1", 4), ("2", 5)), (), ()))
    nodes += [Node((("kernel", 6 + 2 * n), ("bias", 7 + 2 * n)), (), ()) for n in range(3)]
    nodes += [Node((), ((VALUE, key.replace("/", "_") + "/w", f"{key}/k"),), ()) for key in keys]
    nodes.append(Node((), ((VALUE, "save_counter", "save_counter/k"),), ()))
    specs = {f"{key}/k": TensorSpec(f"{key}/k", "float32", (2,), 8) for key in keys}
    specs["save_counter/k"] = TensorSpec("save_counter/k", "int64", (), 8)
    specs[GRAPH] = TensorSpec(GRAPH, "string", (), 9)
    assert agrees(specs, ObjectGraph(tuple(nodes)))


def chain(edge: str, count: int = 1) -> list[Node]:
    """Return a tree of one path of so many edges; only the last node holds something."""
    nodes = [Node(((edge, at + 1),), (), ()) for at in range(count)]
    return [*nodes, Node((), ((VALUE, "w", "k"),), ())]


def leaf_paths(nodes: list[Node]) -> list[str] | None:
    """Return the paths of the nodes that are leaves; None if this is no tree."""
    try:
        return [path for _attributes, path in _leaves(nodes, frozenset())]
    except _NoPlainTree:
        return None


def test_longer_paths_than_the_general_road_takes_are_left_to_it() -> None:
    most = max_characters(1)
    assert leaf_paths(chain("x" * most)) == ["x" * most]
    assert leaf_paths(chain("x" * (most + 1))) is None


def test_a_root_that_holds_something_is_left_to_the_general_road() -> None:
    [root, leaf] = chain("w")
    assert leaf_paths([root, leaf]) == ["w"]
    assert leaf_paths([root._replace(attributes=leaf.attributes), leaf]) is None
    assert leaf_paths([root._replace(slots=((1, "m", 1),)), leaf]) is None


def test_an_object_that_500_edges_lead_to_has_a_path() -> None:
    """A leaf may lie one edge further; what is deeper is reached by its key alone."""
    assert leaf_paths(chain("x", 500)) is not None
    assert leaf_paths(chain("x", 501)) is None  # the general road knows
    assert ObjectPaths(chain("x", 501)).best(501) is not None
    assert ObjectPaths(chain("x", 502)).best(502) is None
