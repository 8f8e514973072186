"""Whose slots the variables of an optimizer are, in object graphs of each generation of Keras."""

from __future__ import annotations

from typing import Any

import pytest

from support.object_graphs import Variable, listed, namings_of


def keras(variables: list[Variable], **lists: Any) -> dict[str, Any]:
    """Return an optimizer of Keras 2.11 or newer: all its variables, and what else it lists."""
    count = Variable("iteration", (), "int64")
    return {"_variables": listed(count, *variables), "_iterations": count, **lists}


def model(*names: str, shapes: tuple[tuple[int, ...], ...] = ()) -> dict[str, dict[str, Variable]]:
    """Return {layer: {attribute: variable}} of full names `layer/attribute`."""
    layers: dict[str, dict[str, Variable]] = {}
    for at, name in enumerate(names):
        layer, _, attribute = name.partition("/")
        shape = shapes[at] if shapes else (2, 3 + at)
        layers.setdefault(layer, {})[attribute] = Variable(name, shape)
    return layers


def test_slots_of_keras_3_are_tied_by_their_mangled_names() -> None:
    net = model("dense/kernel", "out_1/bias")
    kernel, bias = net["dense"]["kernel"], net["out_1"]["bias"]
    slots = [
        Variable("adam/dense_kernel_momentum", kernel.shape),
        Variable("adam/dense_kernel_velocity", kernel.shape),
        Variable("adam/out_1_bias_momentum", bias.shape),
        Variable("adam/out_1_bias_velocity_hat", bias.shape),
        Variable("adam/unknown_thing", (7,)),
    ]
    trained = listed(kernel, bias)
    found = namings_of({"model": net, "optimizer": keras(slots, _trainable_variables=trained)})
    at = "optimizer/_variables/"
    told = {key.removeprefix(at): (n.slot_of, n.slot) for key, n in found.items() if at in key}
    assert told == {
        "1": ("dense/kernel", "momentum"),
        "2": ("dense/kernel", "velocity"),
        "3": ("out_1/bias", "momentum"),
        "4": ("out_1/bias", "velocity_hat"),
        "5": (None, None),
    }
    assert found["optimizer/_variables/1"].name == "dense/kernel@momentum"
    assert found["optimizer/_variables/1"].optimizer == "optimizer"
    assert found["optimizer/_variables/5"].role == "slot"
    assert found["optimizer/_iterations"].role == "counter"


@pytest.mark.parametrize("scope", ["Adam/m/", "m/"])
def test_slots_of_keras_2_are_tied_by_full_names(scope: str) -> None:
    net = model("a/kernel", "b/kernel")
    slots = [Variable(f"{scope}{name}/kernel", net[name]["kernel"].shape) for name in "ab"]
    found = namings_of({"model": net, "optimizer": keras(slots)})
    assert [found[f"optimizer/_variables/{k}"].slot_of for k in (1, 2)] == ["a/kernel", "b/kernel"]
    assert {found[f"optimizer/_variables/{k}"].slot for k in (1, 2)} == {"m"}


@pytest.mark.parametrize("where", ["root", "model"])
def test_slots_whose_names_several_variables_have_are_tied_by_position(where: str) -> None:
    """Keras 2.11 to 2.15: `_momentums/k` is of the k-th variable of the model's own order."""
    layers: dict[str, Any] = {
        name: {"kernel": Variable("sub/kernel", shape), "bias": Variable("sub/bias", shape[1:])}
        for name, shape in (("first", (2, 3)), ("second", (3, 4)))
    }
    order = [layers[name][leaf] for name in ("first", "second") for leaf in ("kernel", "bias")]
    slots = [Variable(f"Adam/m/{v.full_name}", v.shape) for v in order]
    optimizer = keras(slots, _momentums=listed(*slots))
    root = {"optimizer": optimizer, **({"model": layers} if where == "model" else layers)}
    found = namings_of(root)
    tied = [found[f"optimizer/_variables/{k + 1}"].slot_of for k in range(4)]
    assert tied == ["first/kernel", "first/bias", "second/kernel", "second/bias"]
    # other variables of these names elsewhere are none of the model's
    if where == "model":
        root["other"] = {"kernel": Variable("sub/kernel", (9, 9))}
        found = namings_of(root)
        again = [found[f"optimizer/_variables/{k + 1}"].slot_of for k in range(4)]
        assert again == [f"model/{name}" for name in tied]
        del root["other"]
    # in another order of shapes no position is believed
    turned = [slots[2], slots[3], slots[0], slots[1]]
    root["optimizer"] = keras(turned, _momentums=listed(*turned))
    assert {found_.slot_of for found_ in namings_of(root).values()} == {None}


def test_slots_without_telling_names_are_tied_by_their_order() -> None:
    """Keras 3 before 3.9: no list for each kind, and all kernels have one name."""
    weights = [Variable("sub/kernel", (2, 3)), Variable("sub/kernel", (3, 4))]
    slots = [
        Variable(f"adam/sub_kernel_{kind}", w.shape)
        for w in weights
        for kind in ("momentum", "velocity")
    ]
    net = {"a": {"kernel": weights[0]}, "b": {"kernel": weights[1]}}
    optimizer = keras(slots, _trainable_variables=listed(*weights))
    found = namings_of({"model": net, "optimizer": optimizer})
    told = [found[f"optimizer/_variables/{k + 1}"].name for k in range(4)]
    assert told == [
        "a/kernel@momentum", "a/kernel@velocity", "b/kernel@momentum", "b/kernel@velocity"
    ]  # fmt: skip


def test_rows_and_columns_of_adafactor_are_tied_to_the_velocity_after_them() -> None:
    net = model("a/kernel", shapes=((4, 6),))
    kernel = net["a"]["kernel"]
    slots = [
        Variable("adafactor/v", (4,)),
        Variable("adafactor/v_1", (6,)),
        Variable("adafactor/a_kernel_velocity", (4, 6)),
    ]
    optimizer = keras(slots, _trainable_variables=listed(kernel))
    found = namings_of({"model": net, "optimizer": optimizer})
    told = [found[f"optimizer/_variables/{k + 1}"] for k in range(3)]
    assert [(n.slot_of, n.slot) for n in told] == [
        ("a/kernel", "r"), ("a/kernel", "c"), ("a/kernel", "velocity")
    ]  # fmt: skip


def test_two_optimizers_of_one_variable_are_told_apart_in_the_names() -> None:
    net = model("a/kernel")
    kernel = net["a"]["kernel"]
    first, second = (
        keras(
            [Variable("adam/a_kernel_momentum", kernel.shape)],
            _trainable_variables=listed(kernel),
        )
        for _ in range(2)
    )
    found = namings_of({"model": net, "one": first, "two": second})
    names = {n.name for n in found.values() if n.slot == "momentum"}
    assert names == {"a/kernel@one/momentum", "a/kernel@two/momentum"}


def test_what_an_optimizer_holds_in_ways_unknown_is_its_slot() -> None:
    """An array that hangs nowhere but below an optimizer, though in none of its lists."""
    net = model("a/kernel")
    optimizer = keras([], inner={"deep": {"state": Variable("state", (5, 5))}})
    found = namings_of({"model": net, "optimizer": optimizer})
    state = found["optimizer/inner/deep/state"]
    assert (state.role, state.optimizer) == ("slot", "optimizer/inner/deep")
    assert state.role_inferred


def test_averages_of_an_optimizer_are_no_slots() -> None:
    net = model("a/kernel", "b/kernel")
    weights = [net[name]["kernel"] for name in "ab"]
    averages = [
        Variable(f"adam/{name}_kernel_average", w.shape)
        for name, w in zip("ab", weights, strict=True)
    ]
    optimizer = keras(
        averages,
        _trainable_variables=listed(*weights),
        _model_variables_moving_average=listed(*averages),
    )
    found = namings_of({"model": net, "optimizer": optimizer})
    kinds = {(n.role, n.slot, n.slot_of) for key, n in found.items() if n.role == "ema"}
    assert kinds == {("ema", "ema", "a/kernel"), ("ema", "ema", "b/kernel")}
