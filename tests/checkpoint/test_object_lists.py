"""Roles in object graphs by names, lists and shapes alone, each rule by itself."""

from __future__ import annotations

from typing import Any

import pytest

from ckptkit.checkpoint.object_state import ObjectRole, ObjectVariable, infer_object_roles
from ckptkit.checkpoint.object_trees import name_tree
from ckptkit.stores.base import TensorSpec
from support.object_graphs import SUFFIX, Variable, graph_of

Shape = tuple[int, ...]
# path: full name, shape, dtype
Graph = dict[str, tuple[str, Shape, str]]
NET: Graph = {
    "model/a/w": ("a/w", (2, 3), "float32"),
    "model/a/b": ("a/b", (3,), "float32"),
    "model/c/w": ("c/w", (3, 4), "float32"),
}
COUNT: Graph = {"opt/count": ("count", (), "int64")}
RATE: Graph = {"opt/rate": ("rate", (), "float32")}


def roles(*graphs: Graph) -> dict[str, ObjectRole]:
    """Return the roles that are inferred, by path, in a graph that Keras did not make."""
    together = {path: v for graph in graphs for path, v in graph.items()}
    paths = list(together)
    variables = [
        ObjectVariable(node, path, name, TensorSpec(path, dtype, shape, 4))
        for node, (path, (name, shape, dtype)) in enumerate(together.items())
    ]
    found = infer_object_roles(variables, has_keras=False)
    return {paths[node]: role for node, role in found.items()}


def slots(*graphs: Graph) -> dict[str, str | None]:
    """Return {path of a slot: path of its variable}."""
    paths = [path for graph in graphs for path in graph]
    return {
        path: None if role.of is None else paths[role.of]
        for path, role in roles(*graphs).items()
        if role.role == "slot"
    }


def copies(of: Graph, where: str, scope: str = "", name: str | None = None) -> Graph:
    """Return a list of variables like others: called by a scope and theirs, or all alike."""
    return {
        f"{where}/{at}": (scope + full_name if name is None else name, shape, dtype)
        for at, (full_name, shape, dtype) in enumerate(of.values())
    }


def tied(where: str, of: Graph = NET) -> dict[str, str]:
    return {f"{where}/{at}": path for at, path in enumerate(of)}


@pytest.mark.parametrize("scope", ["m/", "x/m/", "x/y/z/"])
def test_a_list_of_names_below_one_scope_beside_a_counter(scope: str) -> None:
    assert slots(NET, COUNT, copies(NET, "opt/things", scope)) == tied("opt/things")
    # without a counter, another such list or a word that says so it is what it seems
    assert slots(NET, RATE, copies(NET, "opt/things", scope)) == {}
    assert slots(NET, RATE, copies(NET, "opt/_momentums", scope)) == tied("opt/_momentums")
    two = copies(NET, "opt/things", scope), copies(NET, "opt/others", "n/")
    assert slots(NET, RATE, *two) == tied("opt/things") | tied("opt/others")


def test_the_kind_of_a_slot_is_its_lists_word() -> None:
    found = roles(NET, COUNT, copies(NET, "opt/_traces", "t/"))
    assert {found[f"opt/_traces/{k}"].slot for k in range(3)} == {"traces"}
    assert {found[f"opt/_traces/{k}"].optimizer for k in range(3)} == {"opt"}


def test_names_of_which_one_extends_nothing_make_no_list_of_slots() -> None:
    odd = copies(NET, "opt/things", "m/")
    odd["opt/things/3"] = ("m/elsewhere", (9, 9), "float32")
    assert slots(NET, COUNT, odd) == {}
    other_shape = copies(NET, "opt/things", "m/")
    other_shape["opt/things/0"] = ("m/a/w", (3, 2), "float32")
    assert slots(NET, COUNT, other_shape) == {}


def test_names_in_two_scopes_make_no_list_of_slots() -> None:
    mixed = copies(NET, "opt/things", "m/")
    mixed["opt/things/2"] = ("v/c/w", (3, 4), "float32")
    assert slots(NET, COUNT, mixed) == {}


def test_slots_of_variables_of_one_name_and_shape_are_slots_of_neither() -> None:
    twins: Graph = {
        "model/left/w": ("w", (2, 3), "float32"),
        "model/right/w": ("w", (2, 3), "float32"),
        "model/b": ("b", (3,), "float32"),
    }
    found = slots(twins, COUNT, copies(twins, "opt/m", "m/"))
    assert found == {"opt/m/0": None, "opt/m/1": None, "opt/m/2": "model/b"}
    # and three slots are not of two variables
    three = copies(twins, "opt/m", "m/") | {"opt/m/3": ("m/w", (2, 3), "float32")}
    assert slots(twins, COUNT, three) == {}


def test_two_lists_without_names_beside_a_counter_go_by_their_shapes() -> None:
    nameless = [copies(NET, f"opt/{word}", name="Variable") for word in ("m", "v")]
    assert slots(NET, COUNT, *nameless) == tied("opt/m") | tied("opt/v")
    # a scalar that is no integer counts nothing
    assert slots(NET, RATE, *nameless) == {}
    assert slots(NET, *nameless) == {}
    # one list alone, or lists that differ, are no slots
    assert slots(NET, COUNT, nameless[0]) == {}
    shorter = copies(dict(list(NET.items())[:2]), "opt/v", name="Variable")
    assert slots(NET, COUNT, nameless[0], shorter) == {}
    # more of a shape than there are variables
    more = [
        {**each, f"opt/{word}/3": ("Variable", (3,), "float32")}
        for each, word in zip(nameless, "mv", strict=True)
    ]
    assert slots(NET, COUNT, *more) == {}


def test_an_array_of_integers_counts_nothing() -> None:
    table: Graph = {"opt/table": ("table", (5,), "int64")}
    nameless = [copies(NET, f"opt/{word}", name="Variable") for word in ("m", "v")]
    assert slots(NET, table, *nameless) == {}


def test_shapes_that_several_variables_have_tie_no_slot() -> None:
    twins: Graph = {**NET, "model/d/w": ("d/w", (3, 4), "float32")}
    nameless = [copies(twins, f"opt/{word}", name="Variable") for word in ("m", "v")]
    found = slots(twins, COUNT, *nameless)
    assert found["opt/m/0"] == "model/a/w" and found["opt/v/1"] == "model/a/b"
    assert {found["opt/m/2"], found["opt/v/3"]} == {None}


def test_lists_of_words_are_tables_whatever_they_are_called() -> None:
    words = {
        path: (name, shape, "string")
        for path, (name, shape, _dtype) in copies(NET, "opt/m", "m/").items()
    }
    found = roles(NET, COUNT, words)
    assert {found[path].role for path in words} == {"table"}


def test_loose_variables_go_by_their_names() -> None:
    """Below the root or in a list, where no layer holds them."""
    loose: Graph = {
        "a": ("net/w", (2, 3), "float32"),
        "b": ("net/b", (3,), "float32"),
        "c": ("net/w/Adam", (2, 3), "float32"),
        "d": ("net/b/Adam", (3,), "float32"),
    }
    assert slots(loose) == {"c": "a", "d": "b"}
    inner = {f"layer/{path}": variable for path, variable in loose.items()}
    assert slots(inner) == {}
    in_list = {f"variables/{at}": variable for at, variable in enumerate(loose.values())}
    assert slots(in_list) == {"variables/2": "variables/0", "variables/3": "variables/1"}


def test_scalars_beside_slots_are_settings_and_those_beside_weights_are_weights() -> None:
    lists = copies(NET, "opt/m", "m/")
    found = roles(NET, COUNT, RATE, lists, {"model/scale": ("scale", (), "float32")})
    assert found["opt/rate"].role == "config" and found["opt/count"].role == "counter"
    assert "model/scale" not in found


# --- the fast road of plain trees -----------------------------------------------------------------


def fast(root: dict[str, Any]) -> dict[str, str] | None:
    """Return {key without its suffix: name} by the fast road; None where it has no answer."""
    specs, graph = graph_of(root)
    found = name_tree(specs, graph.nodes, frozenset())
    return None if found is None else {k.removesuffix(SUFFIX): n.name for k, n in found.items()}


def test_a_plain_tree_of_variables_that_have_names_takes_the_fast_road() -> None:
    layers = {"a": {"w": Variable("x/w")}, "b": {"w": Variable("y/w")}}
    assert fast({"model": layers}) == {"model/a/w": "x/w", "model/b/w": "y/w"}
    for name in ("Variable", "x/Variable_7", ""):
        assert fast({"model": {**layers, "c": {"w": Variable(name)}}}) is None
    assert fast({"model": {**layers, "c": {"w": Variable("x/w")}}}) is None  # of one name


def test_a_root_that_has_a_value_is_no_plain_tree() -> None:
    specs, graph = graph_of({"model": {"a": {"w": Variable("x/w")}}})
    root, *others = graph.nodes
    attributes = (("VARIABLE_VALUE", "root", f"root{SUFFIX}"),)
    specs[f"root{SUFFIX}"] = TensorSpec(f"root{SUFFIX}", "float32", (2,), 8)
    odd = root._replace(attributes=attributes)
    assert name_tree(specs, [odd, *others], frozenset()) is None
    slotted = root._replace(slots=((1, "m", 1),))
    assert name_tree(specs, [slotted, *others], frozenset()) is None


def test_paths_of_more_characters_than_any_model_has_are_not_made() -> None:
    tree: dict[str, Any] = {f"w{at}": Variable(f"v{at}") for at in range(300)}
    for _ in range(400):
        tree = {"e" * 210: tree}
    assert fast(tree) is None
