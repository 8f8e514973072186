"""Layers of plain `tf.Module`s, whose ops tell nothing: `check` calls them by attribute path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.operations.check.api import localize
from ckptkit.operations.localize.neighbours import with_neighbours, with_variables_around
from ckptkit.operations.localize.owned_pairs import is_owned, pair_by_owners, pair_unscoped
from ckptkit.operations.localize.pairs import Shaped
from ckptkit.operations.localize.values import Layer, Localization, VariableGap
from ckptkit.operations.record.api import record
from support.command_line import ckptkit
from support.layer_damage import run_here
from support.places import SUPPORT

CODE = f"{SUPPORT / 'plain_modules.py'}:net"
LAYERS = (
    *("table", "blocks/0/up", "blocks/0/down", "blocks/1/up", "blocks/1/down"),
    *("heads/one", "heads/two", "tower/last", "output"),
)
METHODS = (*(layer for layer in LAYERS if layer not in ("table", "tower/last")), "blocks/1")


def value(owner: str, op: str, *shape: int) -> Shaped:
    return Shaped(f"{owner} {op}".strip(), shape or (2, 3), True, op=op, owner=owner)


# --- which value is which -------------------------------------------------------------------------


def test_ops_are_counted_within_their_object() -> None:
    """One op more in the first layer moves the counters of all that follow."""
    reference = [
        value("a", "matmul"),
        value("a", "add"),
        value("b", "matmul_1"),
        value("b", "add_1"),
    ]
    new = [
        *(value("a", "matmul"), value("a", "mul"), value("a", "add"), value("a", "add_1")),
        *(value("b", "matmul_1"), value("b", "add_2")),
    ]
    pairs = pair_by_owners(reference, new)
    assert pairs["b matmul_1"] == "b matmul_1" and pairs["b add_2"] == "b add_1"
    assert pairs["a matmul"] == "a matmul" and "a mul" not in pairs
    assert pairs["a add_1"] == "a add"  # what is read behind it


def test_the_last_values_of_an_object_pair_whatever_computes_them() -> None:
    reference = [value("a", "matmul"), value("a", "Relu"), value("", "Softmax")]
    new = [value("a", "matmul"), value("a", "Gelu/mul_1"), value("", "Tanh")]
    assert pair_by_owners(reference, new) == {
        "a matmul": "a matmul",
        "a Gelu/mul_1": "a Relu",
        "Tanh": "Softmax",
    }
    other = [value("a", "matmul"), value("a", "Sum", 2), value("", "Softmax")]
    assert "a Sum" not in pair_by_owners(reference, other)  # nothing of another shape
    assert is_owned(reference) and not is_owned([value("", "matmul")])


def test_ops_outside_of_all_scopes_are_laid_side_by_side_where_their_names_moved() -> None:
    names = ("matmul", "add", "matmul_1", "add_1", "net/dense/MatMul")
    more = ("matmul", "add", "mul", "add_1", "matmul_1", "add_2", "net/dense/MatMul")
    reference, new = ([value("", name) for name in side] for side in (names, more))
    assert pair_unscoped(reference, new) == {
        "matmul": "matmul",
        "add_1": "add",
        "matmul_1": "matmul_1",
        "add_2": "add_1",
    }
    assert pair_unscoped(reference, reference) == {}


def test_an_op_that_is_nobodys_goes_by_the_layers_around_it() -> None:
    def row(name: str, path: str, *inputs: str) -> Layer:
        order = dict.fromkeys(inputs)
        return Layer(name, name, path, "", "", 0, None, None, inputs=order)

    rows = with_neighbours(
        [
            row("matmul", "one", "x"),
            row("Relu", "Relu", "matmul"),
            row("add", "add", "Relu", "matmul"),
            row("matmul_1", "two", "add"),
            row("alone", "alone", "x"),
        ]
    )
    assert [(item.path, *item.fused) for item in rows] == [
        ("one",),
        ("one", "two"),
        ("one", "two"),
        ("two",),
        ("(model)",),
    ]


def test_an_op_of_a_module_without_layers_goes_by_the_variables_around_it() -> None:
    def row(at: int, name: str, path: str, *inputs: str, variables: str = "") -> Layer:
        gaps = tuple(VariableGap(each, False) for each in variables.split())
        order = dict.fromkeys(inputs)
        return Layer(name, name, path, "", "", at, None, None, gaps, inputs=order)

    flat = [
        row(0, "add", "b1", "x", variables="b1 w1"),
        row(1, "Relu", "(model)", "add"),
        row(2, "add_1", "b2", "Relu", variables="b2 w2"),
        row(3, "Tanh", "(model)", "add_1"),
        row(4, "add_2", "(model)", "Relu", "Tanh"),
        row(5, "matmul", "w3", "add_2", variables="w3"),
        row(6, "output:y", "(model)", "matmul"),
    ]
    found = {item.name: (item.path, *item.fused) for item in with_variables_around(flat)}
    assert found["Relu"] == ("b1", "b2", "w3")
    assert found["Tanh"] == ("b2", "w3")
    assert found["add_2"] == ("b2", "b1", "w3")  # the last before it first
    assert found["output:y"] == ("(model)",)
    # what brings layers together is the code of the model
    layers = [row(0, "one", "blocks/0", "x", variables="blocks/0/w"),
              row(1, "two", "blocks/1", "x", variables="blocks/1/w"),
              row(2, "sum", "(model)", "one", "two")]  # fmt: skip
    assert [item.path for item in with_variables_around(layers)][2] == "(model)"


def test_what_an_object_does_at_once_is_done_before_it_gives_its_value() -> None:
    """A factor behind an activation, and a bias that was left out."""
    sound = [value("a", "matmul"), value("a", "Tanh"), value("b", "matmul_1"), value("b", "add")]
    scaled = [value("a", "matmul"), value("a", "Tanh"), value("a", "mul"), *sound[2:]]
    assert pair_by_owners(sound, scaled)["a mul"] == "a Tanh"
    assert pair_by_owners(scaled, sound)["a Tanh"] == "a mul"
    assert "a Tanh" not in pair_by_owners(sound, scaled)
    bare = sound[:3]
    assert pair_by_owners(sound, bare)["b matmul_1"] == "b add"
    # behind another object's value, it may be something else that was done
    around = [value("a", "mul"), value("b", "matmul"), value("a", "add")]
    assert pair_by_owners(around[:2], around) == {"a mul": "a mul", "b matmul": "b matmul"}


# --- which layer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sound`, a checkpoint of each layer with other weights, and a golden with layers."""
    tf: Any = pytest.importorskip("tensorflow", reason="needs TensorFlow")
    from ckptkit.runners.tensorflow.trackables import variables_below
    from support import plain_modules

    root = tmp_path_factory.mktemp("plain")
    module = plain_modules.net()
    tf.train.Checkpoint(module).write(str(root / "sound"))
    rng = np.random.default_rng(2)
    for layer in LAYERS:
        end = layer.rpartition("/")[2]
        inside = [
            variable
            for path, variable in variables_below(module).items()
            if path.startswith(layer) or (end == "last" and path.endswith("_kernel"))
        ]
        variable = inside[0]
        sound = np.array(variable)
        variable.assign(sound + rng.normal(size=sound.shape).astype("f4") * 0.3)
        tf.train.Checkpoint(module).write(str(root / layer.replace("/", ".")))
        variable.assign(sound)
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch)
        quick: dict[str, Any] = {"noise": False, "blind": False}
        record(root / "sound", root / "golden", model=CODE, layers=["*"], **quick)
    return root


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def suspect(found: Localization) -> str:
    assert found.beyond, found.notes
    return found.suspects[0]


def some(layers: tuple[str, ...], fast: tuple[str, ...]) -> list[Any]:
    """Return the layers as parameters; all but a few take their time."""
    return [
        pytest.param(layer, marks=() if layer in fast else (pytest.mark.slow,)) for layer in layers
    ]


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("layer", some(LAYERS, ("table", "tower/last")))
def test_the_damaged_layer_is_named_first(layer: str, files: Path) -> None:
    damaged = files / layer.replace("/", ".")
    assert suspect(localize(damaged, model=CODE, golden=files / "golden")) == layer


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("layer", some(METHODS, ("heads/two", "blocks/1")))
def test_the_method_that_computes_something_else_is_named_first(layer: str) -> None:
    assert suspect(localize(f'{CODE}?{{"bad": "{layer}"}}', against=CODE)) == layer


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_the_report_does_not_contradict_itself(files: Path) -> None:
    damaged = ("check", files / "blocks.1.up", "--model", CODE, "--golden", files / "golden")
    done = ckptkit(*damaged, "--localize")
    assert done.code == 1
    [look] = [line for line in done.out.splitlines() if line.startswith("look at: ")]
    assert look.startswith("look at: blocks/1/up, ")
    assert "no layer shows it" not in done.out
    [again] = [line for line in done.out.splitlines() if line.startswith("again: ")]
    assert "--layer 'blocks/1/up " in again
