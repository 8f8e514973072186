"""Rules of alignment that whole files seldom show, each by itself and from both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ckptkit.align.evidence import Aligner
from ckptkit.align.layer_scopes import LayerScopes
from ckptkit.align.layer_trees import MAX_TOPS, join_trees
from ckptkit.align.matching import Alignment, Match, TensorSet, align, align_content
from ckptkit.align.name_tree import opened, tree_of, uncounted
from ckptkit.align.numbered_layers import numbered_layers
from ckptkit.align.objects import Objects
from ckptkit.align.own_variables import MAX_TRIES
from ckptkit.align.owners import rest_of_layers
from ckptkit.align.variable_lists import _join, _ListedVariable, join_orders, model_order
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.object_names import name_objects
from ckptkit.stores.base import KerasStructure, KerasVariable, ObjectGraph, TensorSpec
from support.object_graphs import SUFFIX, Variable, graph_of, listed

Shape = tuple[int, ...]


def plain(*names: str, crc: Mapping[str, int] | None = None, **naming: Any) -> TensorSet:
    """Return a file of names, contents known for those in `crc`."""
    known = crc or {}
    specs = {n: TensorSpec(n, "float32", (2, 3), 24, 0, 0, known.get(n)) for n in names}
    return TensorSet(specs, {n: Naming(n, **{"role": "weight", **naming}) for n in names})


def objects(root: Mapping[str, Any]) -> tuple[TensorSet, ObjectGraph]:
    """Return a checkpoint of nested dicts of variables."""
    specs, graph = graph_of(root)
    return TensorSet(specs, name_objects(specs, graph), structure=graph), graph


def numbered(
    rows: Mapping[str, tuple[tuple[str, ...], Shape]],
    *,
    lists: Sequence[str] = (),
    order: Sequence[tuple[str, bool | None]] = (),
) -> TensorSet:
    """Return a weights file of Keras 3: {key: (name scopes, shape)}; every other group is one."""
    specs = {key: TensorSpec(key, "float32", shape, 4) for key, (_, shape) in rows.items()}
    names = {key: Naming(key, "weight") for key in rows}
    groups = set()
    for key in rows:
        parts = key.split("/")[:-2]
        groups |= {"/".join(parts[: end + 1]) for end in range(len(parts))}
    structure = KerasStructure(
        {key: KerasVariable(scopes, None) for key, (scopes, _) in rows.items()},
        frozenset(groups - set(lists)),
        tuple(order),
        tuple(rows),
    )
    return TensorSet(specs, names, structure=structure)


def keys(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {one: other.removesuffix(SUFFIX) for one, other in pairs}


# --- contents, counters, tables -------------------------------------------------------------------


def test_content_of_a_paired_tensor_pairs_nothing_again() -> None:
    """`a` was trained on, and what `a` was is in the other file's `c`."""
    old, new = plain("a", "b", crc={"a": 5, "b": 6}), plain("a", "c", crc={"a": 7, "c": 5})
    known = Alignment((Match("a", "a", "key"),), (), ("b",), ("c",))
    assert align_content(known, old, new).renamed == ()
    turned = Alignment((Match("a", "a", "key"),), (), ("c",), ("b",))
    assert align_content(turned, new, old).renamed == ()


def test_files_are_alike_only_where_neither_has_more() -> None:
    one, more = plain("list/0/w"), plain("list/0/w", "list/1/w")
    assert Aligner(one, one)._are_alike(["list/0/w"])
    for old, new in ((one, more), (more, one)):
        assert not Aligner(old, new)._are_alike(["list/0/w"])


@pytest.mark.parametrize("at", [0, 1])
def test_a_table_by_a_number_is_the_only_one_of_its_type(at: int) -> None:
    def tables(*paths: str) -> TensorSet:
        found = {f"{p}/.ATTRIBUTES/table-keys": "string" for p in paths}
        specs = {key: TensorSpec(key, dtype, (4,), 9) for key, dtype in found.items()}
        return TensorSet(specs, {key: Naming(key, "table") for key in specs})

    numbers, names = tables("_misc_assets/0"), tables("model/lookup")
    sides = (numbers, names) if at else (names, numbers)
    assert [m.evidence for m in align(*sides).pairs] == ["structure"]
    assert align(names, tables("other/lookup")).pairs == ()
    two = tables("_misc_assets/0", "_misc_assets/1")
    assert align(*((two, names) if at else (names, two))).pairs == ()


def test_slots_of_one_kind_are_not_told_by_which_came_last() -> None:
    def two(one: str, other: str) -> TensorSet:
        slots = {f"o{at}": Naming(f"w@{kind}{at}", "slot", None, (), "w", kind)
                 for at, kind in enumerate((one, other))}  # fmt: skip
        namings = {"w": Naming("w", "weight"), **slots}
        return TensorSet({key: TensorSpec(key, "float32", (2,), 8) for key in namings}, namings)

    for old, new in (
        (two("m", "m"), two("m", "momentum")),
        (two("m", "momentum"), two("m", "m")),
    ):
        assert [m.old for m in align(old, new).pairs if m.evidence == "variable"] == []


# --- scopes ---------------------------------------------------------------------------------------


def below(*names: str) -> dict[str, Any]:
    return tree_of({name: name for name in names}).below


@pytest.mark.parametrize("turned", [False, True])
def test_a_scope_that_one_side_has_alone_is_looked_through(turned: bool) -> None:
    def found(one: dict[str, Any], other: dict[str, Any]) -> list[set[str]] | None:
        sides = opened(*((other, one) if turned else (one, other)))
        return None if sides is None else [set(side) for side in sides][:: -1 if turned else 1]

    layers = below("dense/kernel", "out/kernel")
    assert found(below("net/dense/kernel", "net/out/kernel"), layers) == [
        {"dense", "out"}, {"dense", "out"}
    ]  # fmt: skip
    # scopes that both sides have stay as they are, whether they hold scopes or not
    assert found(below("dense/a/kernel"), below("dense/kernel")) is None
    assert found(below("other/kernel"), layers) is None
    # beside others, and not where a name would be there twice
    assert found(below("net/dense/kernel", "out/kernel"), layers) == [
        {"dense", "out"}, {"dense", "out"}
    ]  # fmt: skip
    assert found(below("net/out/kernel", "out/kernel"), layers) is None


# --- objects --------------------------------------------------------------------------------------


def test_members_are_the_objects_below_with_those_of_lists_in_their_place() -> None:
    first, second, third = ({"kernel": Variable(n, (2, 3))} for n in "abc")
    side, graph = objects({"net": {"stem": first, "blocks": listed(second, third)}})
    found = Objects(side, graph)
    [net] = [child for _edge, child in graph.nodes[0].children]
    named = dict(graph.nodes[net].children)
    blocks = [child for _edge, child in graph.nodes[named["blocks"]].children]
    assert found.members(net) == [named["stem"], *blocks]
    assert found.members(0) == [net]
    assert found.items(named["blocks"]) == blocks


def dense(scope: str, shape: Shape = (2, 3)) -> dict[str, Variable]:
    return {"kernel": Variable(f"{scope}/kernel", shape), "bias": Variable(f"{scope}/b", shape[1:])}


def test_trees_are_joined_by_attributes_whatever_the_names() -> None:
    file = numbered(
        {
            "stem/vars/0": (("x",), (2, 3)), "stem/vars/1": (("x",), (3,)),
            "head/vars/0": (("y",), (2, 3)), "head/vars/1": (("y",), (3,)),
        }
    )  # fmt: skip
    side, graph = objects({"net": {"head": dense("p"), "stem": dense("q")}})
    root = numbered_layers(file)
    assert root is not None
    assert keys(join_trees(root, Objects(side, graph))) == {
        "stem/vars/0": "net/stem/kernel", "stem/vars/1": "net/stem/bias",
        "head/vars/0": "net/head/kernel", "head/vars/1": "net/head/bias",
    }  # fmt: skip


def test_a_layer_that_is_called_as_a_list_of_layers_is_a_layer() -> None:
    """Attribute `layers` of a model that a person wrote may be one layer."""
    file = numbered({"layers/vars/0": (("x",), (2, 3)), "layers/vars/1": (("x",), (3,))})
    side, graph = objects({"net": {"layers": dense("p")}})
    root = numbered_layers(file)
    assert root is not None
    assert keys(join_trees(root, Objects(side, graph))) == {
        "layers/vars/0": "net/layers/kernel", "layers/vars/1": "net/layers/bias"
    }  # fmt: skip


def test_lists_that_are_attributes_are_joined_by_their_order() -> None:
    rows = {
        f"blocks/{name}/vars/{at}": (("x",), shape)
        for name in ("dense", "dense_1")
        for at, shape in enumerate(((2, 2), (2,)))
    }
    file = numbered(rows, lists=["blocks"])
    side, graph = objects({"net": {"blocks": listed(dense("p", (2, 2)), dense("q", (2, 2)))}})
    root = numbered_layers(file)
    assert root is not None
    assert keys(join_trees(root, Objects(side, graph))) == {
        "blocks/dense/vars/0": "net/blocks/0/kernel", "blocks/dense/vars/1": "net/blocks/0/bias",
        "blocks/dense_1/vars/0": "net/blocks/1/kernel",
        "blocks/dense_1/vars/1": "net/blocks/1/bias",
    }  # fmt: skip


def listed_model(*, in_optimizer: bool) -> tuple[TensorSet, ObjectGraph]:
    """Return a model of two attributes of one type; an optimizer tells the order of its layers."""
    first, second = dense("p", (2, 2)), dense("q", (2, 2))
    trained = listed(second["kernel"], second["bias"], first["kernel"], first["bias"])
    root: dict[str, Any] = {"net": {"a": first, "b": second}}
    if in_optimizer:
        count = Variable("iteration", (), "int64")
        root["optimizer"] = {
            "_variables": listed(count), "_iterations": count, "_trainable_variables": trained
        }  # fmt: skip
    return objects(root)


@pytest.mark.parametrize("in_optimizer", [True, False])
def test_listed_layers_go_by_the_order_in_which_they_are_trained(in_optimizer: bool) -> None:
    rows = {
        f"layers/{name}/vars/{at}": (("x",), shape)
        for name in ("dense", "dense_1")
        for at, shape in enumerate(((2, 2), (2,)))
    }
    side, graph = listed_model(in_optimizer=in_optimizer)
    root = numbered_layers(numbered(rows, lists=["layers"]))
    assert root is not None
    found = keys(join_trees(root, Objects(side, graph)))
    if in_optimizer:  # its list holds the variables: their keys are there
        assert found == {
            "layers/dense/vars/0": "net/b/kernel", "layers/dense/vars/1": "net/b/bias",
            "layers/dense_1/vars/0": "net/a/kernel", "layers/dense_1/vars/1": "net/a/bias",
        }  # fmt: skip
    else:
        assert found == {}


def test_slots_tell_the_layers_of_variables_whose_names_do_not() -> None:
    """Keras 3 says `adam/stack_inner_kernel_momentum` of what the graph calls `inner/kernel`."""
    kernels = {name: Variable("dense/kernel", (2, 2)) for name in ("one", "two")}
    slots = [Variable(f"adam/stack_{name}_kernel_momentum", (2, 2)) for name in ("two", "one")]
    count = Variable("iteration", (), "int64")
    side, graph = objects(
        {
            "net": {name: {"kernel": kernel} for name, kernel in kernels.items()},
            "optimizer": {
                "_iterations": count,
                "_variables": listed(count, *slots),
                "_trainable_variables": listed(kernels["two"], kernels["one"]),
                "_momentums": listed(*slots),
            },
        }
    )
    file = numbered(
        {
            "one/vars/0": (("stack", "one"), (2, 2)),
            "two/vars/0": (("stack", "two"), (2, 2)),
        }
    )
    root = numbered_layers(file)
    assert root is not None
    found = keys(LayerScopes(file, root).by_slots(side, graph))
    assert found == {"one/vars/0": "net/one/kernel", "two/vars/0": "net/two/kernel"}
    # a model that was built second counts on
    again = numbered(
        {
            "one/vars/0": (("stack_1", "one"), (2, 2)),
            "two/vars/0": (("stack_1", "two"), (2, 2)),
        }
    )
    root = numbered_layers(again)
    assert root is not None
    assert keys(LayerScopes(again, root).by_slots(side, graph)) == found


def test_names_tell_the_layers_of_variables_and_types_which_is_which() -> None:
    file = numbered({"one/vars/0": (("net", "one"), (2, 3)), "two/vars/0": (("net", "two"), (2, 3)),
                     "two/vars/1": (("net", "two"), (3,))})  # fmt: skip
    root = numbered_layers(file)
    assert root is not None
    shapes = {"net/one/kernel": (2, 3), "net/two/bias": (3,), "net/two/kernel": (2, 3)}
    specs = {name: TensorSpec(name, "float32", shape, 4) for name, shape in shapes.items()}
    other = TensorSet(specs, {name: Naming(name, "weight") for name in specs})
    assert keys(LayerScopes(file, root).by_names(other)) == {
        "one/vars/0": "net/one/kernel", "two/vars/0": "net/two/kernel", "two/vars/1": "net/two/bias"
    }  # fmt: skip


# --- lists of variables ---------------------------------------------------------------------------


def members(*types: str | tuple[str, str]) -> list[_ListedVariable]:
    rows = [(each, None) if isinstance(each, str) else each for each in types]
    return [_ListedVariable(f"k{at}", (kind,), name) for at, (kind, name) in enumerate(rows)]


@pytest.mark.parametrize(
    ("short", "long", "places"),
    [
        ("ab", "ab", [0, 1]),
        ("ab", "acb", [0, 2]),
        ("ab", "aab", None),
        ("ab", "abb", None),
        ("aba", "abca", [0, 1, 3]),
        ("ab", "ba", None),
        ("abc", "axbxc", [0, 2, 4]),
        ("", "a", []),
        ("", "", []),
    ],
)
def test_a_list_lies_in_another_in_one_way_alone(
    short: str, long: str, places: list[int] | None
) -> None:
    few, many = members(*short), members(*long)
    want = {f"k{at}": f"k{place}" for at, place in enumerate(places or ())}
    assert _join(few, many) == want
    assert _join(many, few) == {there: here for here, there in want.items()}


def test_names_keep_members_of_lists_apart() -> None:
    few, many = members(("a", "w")), members(("a", "v"), ("a", "w"))
    assert _join(few, many) == {"k0": "k1"}


def test_the_order_of_a_weights_file_is_of_its_weights_alone() -> None:
    rows = {f"{name}/vars/0": ((name,), (2, 3)) for name in ("a", "b", "c")}
    order = [("b/vars/0", True), ("gone/vars/0", True), ("a/vars/0", True), ("c/vars/0", False)]
    found = model_order(numbered(rows, order=order))
    assert found.trained == [("b/vars/0", "a/vars/0")] and found.untrained == [("c/vars/0",)]
    mixed = model_order(numbered(rows, order=[(key, None) for key, _ in order]))
    assert mixed.mixed == [("b/vars/0", "a/vars/0", "c/vars/0")]
    assert mixed.trained == mixed.untrained == []
    assert model_order(plain("a")) == model_order(TensorSet({}, {}))
    # a legacy file lists its layers in order, other things too
    legacy = numbered(rows)
    known = {key: KerasVariable((key,), None) for key in (*reversed(rows), "step")}
    names = {**legacy.names, "step": Naming("step", "counter")}
    specs = {**legacy.specs, "step": TensorSpec("step", "int64", (), 8)}
    found = model_order(TensorSet(specs, names, structure=KerasStructure(known)))
    assert found.mixed == [("c/vars/0", "b/vars/0", "a/vars/0")]


def test_orders_of_two_weights_files_pair_their_variables() -> None:
    here = numbered(
        {f"{name}/vars/0": ((name,), (2, 3)) for name in ("a", "b")},
        order=[("b/vars/0", True), ("a/vars/0", True)],
    )
    there = numbered(
        {f"{name}/vars/0": ((name,), (2, 3)) for name in ("x", "y")},
        order=[("x/vars/0", True), ("y/vars/0", True)],
    )
    assert dict(join_orders(here, there, {}, {})) == {
        "b/vars/0": "x/vars/0",
        "a/vars/0": "y/vars/0",
    }
    known = {"b/vars/0": "y/vars/0"}
    assert dict(join_orders(here, there, known, {"y/vars/0": "b/vars/0"})) == {}


def test_the_rest_of_a_layer_follows_one_variable_that_is_known() -> None:
    """`w` and `v` are of one type; the file numbers the trainable one first."""
    file = numbered({"cell/vars/0": (("cell",), (2, 2)), "cell/vars/1": (("cell",), (2,)),
                     "cell/vars/2": (("cell",), (3,))})  # fmt: skip
    again = numbered({"unit/vars/0": (("unit",), (2, 2)), "unit/vars/1": (("unit",), (2,)),
                      "unit/vars/2": (("unit",), (3,))})  # fmt: skip
    known = {"cell/vars/0": "unit/vars/0"}
    want = {"cell/vars/1": "unit/vars/1", "cell/vars/2": "unit/vars/2"}
    assert dict(rest_of_layers(file, again, known)) == want
    side, _graph = objects(
        {
            "net": {
                "a": Variable("n/a", (2, 2)),
                "b": Variable("n/b", (2,)),
                "c": Variable("n/c", (3,)),
            }
        }
    )
    first = {"cell/vars/0": f"net/a{SUFFIX}"}
    assert keys(list(rest_of_layers(file, side, first))) == {
        "cell/vars/1": "net/b", "cell/vars/2": "net/c"
    }  # fmt: skip
    back = {f"net/a{SUFFIX}": "cell/vars/0"}
    assert dict(rest_of_layers(side, file, back)) == {
        f"net/b{SUFFIX}": "cell/vars/1", f"net/c{SUFFIX}": "cell/vars/2"
    }  # fmt: skip


def test_two_numbered_layers_keep_their_numbers() -> None:
    """Of one type, so that only the order tells them apart."""
    one, other = (
        numbered({f"{name}/vars/{at}": ((name,), (2, 2)) for at in range(3)}) for name in "ab"
    )
    found = dict(rest_of_layers(one, other, {"a/vars/1": "b/vars/1"}))
    assert found == {"a/vars/0": "b/vars/0", "a/vars/2": "b/vars/2"}
    assert dict(rest_of_layers(one, other, {"a/vars/0": "b/vars/1"})) == {}


def test_what_joining_may_cost_is_changed_on_purpose_alone() -> None:
    """A graph with more objects near its root, or a layer with more readings, stays unjoined."""
    assert (MAX_TOPS, MAX_TRIES) == (60, 65_536)
    assert uncounted.cache_parameters()["maxsize"] == 65_536


# --- metrics --------------------------------------------------------------------------------------


def metrics_of_keras(*rows: tuple[str, str]) -> TensorSet:
    """Return the metrics of a Keras file: (group, name), in the order in which they lie in it."""
    written = [f"metrics/{group}/vars/{name}" for group, name in rows]
    specs = {key: TensorSpec(key, "float32", (), 4) for key in sorted(written)}
    names = {
        key: Naming(f"metrics/{group}/{name}", "metric")
        for key, (group, name) in zip(written, rows, strict=True)
    }
    structure = KerasStructure({}, written=tuple(written))
    return TensorSet(specs, {key: names[key] for key in specs}, structure=structure)


def numbered_metrics(count: int) -> TensorSet:
    names = "count", "total"
    tree = {str(at): {name: Variable(shape=()) for name in names} for at in range(count)}
    return objects({"keras_api": {"metrics": tree}})[0]


@pytest.mark.parametrize("count", [2, 3])
def test_metrics_pair_in_the_order_of_the_model(count: int) -> None:
    """A file of Keras names their classes, a SavedModel their numbers."""
    here = metrics_of_keras(*((g, n) for g in ("mse", "mean") for n in ("total", "count")))
    there = numbered_metrics(count)
    expected = {
        f"metrics/{group}/vars/{name}": f"keras_api/metrics/{at}/{name}"
        for at, group in enumerate(("mse", "mean"))
        for name in ("total", "count")
    }
    found = [(m.old, m.new) for m in align(here, there).pairs]
    assert keys(found) == (expected if count == 2 else {})
    turned = [(m.new, m.old) for m in align(there, here).pairs]
    assert keys(turned) == (expected if count == 2 else {})
