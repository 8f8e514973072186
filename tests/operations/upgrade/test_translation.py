"""Configs of Keras 1 and 2 in the form of Keras 3; neither is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptkit.operations.upgrade.source import plain, read_old_model
from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.operations.upgrade.translation.models import translate
from support.goldens import GOLDEN

OLD_MODELS = (
    "tf2.12.1/files_nested/model.h5",
    "tf2.12.1/files_nested/model.keras",
    "tf2.12.1/saved_model_keras2/model",
    "tf2.15.1/cudnn/cudnn.h5",
    "tf2.15.1/files_nested/model.h5",
    "tf2.15.1/files_nested/model.keras",
    "tf2.15.1/numbered/sequential_model.h5",
)


@pytest.mark.parametrize("name", OLD_MODELS)
def test_every_golden_of_keras_2_has_a_counterpart(name: str) -> None:
    old = read_old_model(GOLDEN / name)
    account = Account()
    found = translate(old.config, account)
    assert account.obstacles == []
    assert old.generation == 2
    for node in nodes(found):
        if node["class_name"] != "__keras_tensor__":
            assert "module" in node, node
            assert "batch_input_shape" not in node["config"]


def nodes(value: Any) -> list[Mapping[str, Any]]:
    """Return every serialised object of a config."""
    if isinstance(value, Mapping):
        own = [value] if isinstance(value.get("class_name"), str) else []
        return own + [item for inner in value.values() for item in nodes(inner)]
    return [item for inner in value for item in nodes(inner)] if isinstance(value, list) else []


def layer(class_name: str, name: str, inbound: Any = (), **config: Any) -> dict[str, Any]:
    settings = {"name": name, "trainable": True, "dtype": "float32", **config}
    found = {"class_name": class_name, "config": settings, "name": name}
    return {**found, "inbound_nodes": list(inbound)}


def source(name: str, *shape: int | None) -> dict[str, Any]:
    return layer("InputLayer", name, batch_input_shape=[None, *shape], sparse=False, ragged=False)


def functional(layers: list[dict[str, Any]], outputs: Any, name: str = "model") -> dict[str, Any]:
    inputs = [[item["name"], 0, 0] for item in layers if item["class_name"] == "InputLayer"]
    config = {"name": name, "layers": layers, "input_layers": inputs, "output_layers": outputs}
    return {"class_name": "Functional", "config": config}


def translated(config: Any, **options: Any) -> tuple[dict[str, dict[str, Any]], Account]:
    """Return the layers of a translated model by name, and the account."""
    account = Account(**options)
    found = translate(config, account)
    listed = found["config"]["layers"]
    return {item.get("name") or item["config"]["name"]: item for item in listed}, account


def one(class_name: str, **config: Any) -> tuple[dict[str, Any], Account]:
    """Return one translated layer, and the account."""
    listed = [source("x", 4), layer(class_name, "one", **config)]
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": listed}}
    found, account = translated(model)
    return found["one"], account


def history(argument: Mapping[str, Any]) -> list[Any]:
    assert argument["class_name"] == "__keras_tensor__"
    return list(argument["config"]["keras_history"])


def test_states_of_recurrent_layers_are_given_by_name() -> None:
    inbound = [[["b", 0, 0, {}], ["encoder", 0, 1, {}], ["encoder", 0, 2, {}]]]
    found, _ = translated(
        functional(
            [
                source("a", 5, 3),
                source("b", 5, 3),
                layer("LSTM", "encoder", [[["a", 0, 0, {}]]], units=4, return_state=True),
                layer("LSTM", "decoder", inbound, units=4),
            ],
            [["decoder", 0, 0]],
        )
    )
    [call] = found["decoder"]["inbound_nodes"]
    assert [history(item) for item in call["args"]] == [["b", 0, 0]]
    states = call["kwargs"]["initial_state"]
    assert [history(item) for item in states] == [["encoder", 0, 1], ["encoder", 0, 2]]


def test_calls_of_nested_models_are_counted_anew() -> None:
    """Keras 2 counts them from 1; Keras 3 from 0 in calls, and from 1 where outputs are named."""
    inner = functional([source("i", 4), layer("Dense", "d", [[["i", 0, 0, {}]]], units=4)], [])
    inner["config"]["output_layers"] = [["d", 0, 0]]
    inner.update({"name": "inner", "inbound_nodes": [[["a", 0, 0, {}]], [["b", 0, 0, {}]]]})
    loose: dict[str, Any] = {"class_name": "Sequential", "name": "loose"}
    loose["config"] = {"name": "loose", "layers": [layer("Dense", "e", units=2)]}
    loose["inbound_nodes"] = [[["inner", 1, 0, {}]]]
    both = [[["inner", 1, 0, {}], ["inner", 2, 0, {}]]]
    found, _ = translated(
        functional(
            [source("a", 4), source("b", 4), inner, loose, layer("Add", "sum", both)],
            [["sum", 0, 0], ["inner", 2, 0], ["loose", 0, 0]],
        )
    )
    [call] = found["sum"]["inbound_nodes"]
    assert [history(item) for item in call["args"][0]] == [["inner", 0, 0], ["inner", 1, 0]]
    whole = functional([source("a", 4), source("b", 4), inner], [["inner", 2, 0]])
    assert translate(whole, Account())["config"]["output_layers"] == [["inner", 2, 0]]


def test_arguments_that_are_tensors() -> None:
    inbound = [[["q", 0, 0, {"value": ["v", 0, 0], "use_causal_mask": True}]]]
    attention = layer(
        "MultiHeadAttention", "attend", inbound, num_heads=2, key_dim=4, query_shape=[None, 5, 4]
    )
    found, account = translated(
        functional([source("q", 5, 4), source("v", 6, 4), attention], [["attend", 0, 0]])
    )
    [call] = found["attend"]["inbound_nodes"]
    assert history(call["kwargs"]["value"]) == ["v", 0, 0]
    assert call["kwargs"]["use_causal_mask"] is True
    assert "query_shape" not in found["attend"]["config"]
    assert account.obstacles == []


@pytest.mark.parametrize(
    ("function", "inbound", "operation", "settings"),
    [
        ("__operators__.add", [["_CONSTANT_VALUE", -1, 1.0, {"y": ["x", 0, 0]}]], "Add", {}),
        ("math.multiply", [["x", 0, 0, {"y": 0.5, "name": None}]], "Multiply", {}),
        ("math.reduce_mean", [["x", 0, 0, {"axis": 1}]], "Mean", {"axis": 1}),
        ("concat", [[["x", 0, 0, {"axis": 1}], ["x", 0, 0, {"axis": 1}]]], "Concatenate", None),
        (
            "linalg.matmul",
            [["x", 0, 0, {"b": ["x", 0, 0], "transpose_b": True}]],
            "Einsum",
            {"subscripts": "...ij,...kj->...ik"},
        ),
        ("compat.v1.transpose", [["x", 0, 0, {"perm": [0, 2, 1], "name": "t"}]], "Transpose", None),
        ("math.l2_normalize", [["x", 0, 0, {"axis": 1}]], "Normalize", None),
        (
            "split",
            [["x", 0, 0, {"num_or_size_splits": [1, 3], "axis": 1}]],
            "Split",
            {"indices_or_sections": [1], "axis": 1},
        ),
    ],
)
def test_functions_of_tensorflow(
    function: str, inbound: Any, operation: str, settings: dict[str, Any] | None
) -> None:
    node = layer("TFOpLambda", "op", inbound, function=function)
    found, account = translated(functional([source("x", 4, 4), node], [["op", 0, 0]]))
    assert account.obstacles == []
    assert found["op"]["class_name"] == operation
    if settings is not None:
        assert {k: v for k, v in found["op"]["config"].items() if k != "name"} == settings


def test_a_slice() -> None:
    spec = [{"start": None, "stop": None, "step": None}, {"start": 1, "stop": None, "step": 2}, 0]
    node = layer(
        "SlicingOpLambda",
        "op",
        [["x", 0, 0, {"slice_spec": spec}]],
        function="__operators__.getitem",
    )
    found, _ = translated(functional([source("x", 4, 4), node], [["op", 0, 0]]))
    [call] = found["op"]["inbound_nodes"]
    key = call["args"][1]
    assert key[1] == {"class_name": "__slice__", "config": {"start": 1, "stop": None, "step": 2}}
    assert key[2] == 0


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("TFOpLambda", {"function": "signal.stft"}),
        ("InstanceMethod", {"method_name": "get_shape"}),
        ("LocallyConnected1D", {"filters": 3}),
        ("AddLoss", {"unconditional": True}),
        ("GRU", {"units": 3, "time_major": True}),
        ("BatchNormalization", {"axis": [3], "renorm": True}),
        ("StringLookup", {"vocabulary": None}),
        ("StringLookup", {"vocabulary": "words.txt"}),
        ("Lambda", {"function": ["4wEAAAA=", None, None], "function_type": "lambda"}),
        ("SimpleRNN", {"units": 3, "activation": "hard_sigmoid"}),
    ],
)
def test_what_has_no_counterpart_is_named_with_its_layer(
    class_name: str, config: dict[str, Any]
) -> None:
    node = layer(class_name, "odd", [[["x", 0, 0, {}]]], **config)
    inner = functional([source("x", 4, 4), node], [["odd", 0, 0]], "inner")
    inner.update({"name": "inner", "inbound_nodes": [[["y", 0, 0, {}]]]})
    _, account = translated(functional([source("y", 4, 4), inner], [["inner", 1, 0]]))
    assert [item.where for item in account.obstacles] == ["inner/odd"]


def test_settings_and_classes_by_their_new_names() -> None:
    found, account = one("LeakyReLU", alpha=0.2)
    assert found["config"]["negative_slope"] == 0.2
    assert [change.where for change in account.changes if "alpha" in change.what] == ["one"]
    found, _ = one("BatchNormalization", axis=[1], fused=True, renorm=False)
    assert found["config"]["axis"] == 1
    assert "fused" not in found["config"]
    found, _ = one("CuDNNGRU", units=3)
    assert found["class_name"] == "GRU"
    assert found["config"]["reset_after"] is True
    assert found["config"]["recurrent_activation"] == "sigmoid"
    found, _ = one("GRU", units=3)
    assert found["config"]["reset_after"] is False  # files of before Keras 2.1.2 do not say
    found, _ = one("ThresholdedReLU", theta=0.5)
    assert (found["class_name"], found["config"]["threshold"]) == ("ReLU", 0.5)
    found, _ = one("Discretization", bin_boundaries=[-1.0, 1.0], dtype="int64")
    assert found["config"]["dtype"] == "float32"  # Keras 3 would make integers of its input
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    found, _ = one("Dense", units=3, dtype=policy)
    assert found["config"]["dtype"]["class_name"] == "DTypePolicy"
    initialiser = {"class_name": "GlorotUniformV2", "config": {"seed": None, "dtype": "float32"}}
    found, _ = one("Dense", units=3, kernel_initializer=initialiser)
    assert found["config"]["kernel_initializer"]["class_name"] == "GlorotUniform"
    assert found["config"]["kernel_initializer"]["config"] == {"seed": None}


def test_hard_sigmoid_is_that_of_keras_2() -> None:
    _, account = one("LSTM", units=3, recurrent_activation="hard_sigmoid")
    assert account.hard_sigmoids == ["one"]
    found, account = one("Activation", activation="hard_sigmoid")
    assert account.hard_sigmoids == []
    assert [item["class_name"] for item in found["config"]["layers"]] == ["Rescaling", "ReLU"]
    assert found["config"]["layers"][0]["config"]["scale"] == 0.2


def test_a_class_of_ones_own_keeps_its_settings() -> None:
    found, account = one("Mine", factor=3, implementation=1, batch_input_shape=[None, 4])
    assert account.obstacles == []
    assert found["module"] is None
    assert found["registered_name"] == "Mine"
    assert (found["config"]["factor"], found["config"]["implementation"]) == (3, 1)


def test_classes_of_the_first_tensorflow_2() -> None:
    found, account = one("BatchNormalizationV1", axis=[1])
    assert found["class_name"] == "BatchNormalization"
    assert account.obstacles == []


def test_settings_of_a_class_of_ones_own_are_none_of_keras_1() -> None:
    found, _ = one("Mine", p=0.5, init="mine", bias=True)
    settings = {key: found["config"][key] for key in ("p", "init", "bias")}
    assert settings == {"p": 0.5, "init": "mine", "bias": True}
    found, account = one("Embedding", input_dim=5, output_dim=3)
    assert not any("Keras 1" in change.what for change in account.changes)


def test_python_code_is_taken_over_where_it_is_trusted() -> None:
    config = {"function": ["4wEAAAA=", None, None], "function_type": "lambda", "arguments": {}}
    listed = [layer("Lambda", "code", **config)]
    model = {"class_name": "Sequential", "config": {"name": "s", "layers": listed}}
    found, account = translated(model, is_trusted=True)
    assert account.obstacles == []
    assert account.holds_code
    assert found["code"]["config"]["function"]["class_name"] == "__lambda__"
    assert "function_type" not in found["code"]["config"]


def test_a_first_layer_that_says_the_shape_gets_an_input_layer() -> None:
    dense = layer("Dense", "d", units=3, batch_input_shape=[None, 7])
    model = {"class_name": "Sequential", "config": [dense]}
    found, _ = translated(model)
    assert list(found) == ["d_input", "d"]
    assert found["d_input"]["config"]["batch_shape"] == [None, 7]


def test_settings_of_keras_1() -> None:
    model = {
        "class_name": "Sequential",
        "config": [
            layer(
                "Convolution2D",
                "c",
                nb_filter=8,
                nb_row=3,
                nb_col=5,
                border_mode="same",
                subsample=[2, 1],
                dim_ordering="tf",
                init="glorot_uniform",
                W_regularizer={"name": "WeightRegularizer", "l1": 0.0, "l2": 0.01},
                bias=True,
                batch_input_shape=[None, 8, 8, 3],
            ),
            layer("BatchNormalization", "b", mode=0, axis=-1),
            layer("Dropout", "p", p=0.25),
        ],
    }
    found, account = translated(model, is_keras1=True)
    assert account.obstacles == []
    config = found["c"]["config"]
    assert found["c"]["class_name"] == "Conv2D"
    assert config["filters"] == 8
    assert config["kernel_size"] == [3, 5]
    assert (config["padding"], config["strides"]) == ("same", [2, 1])
    assert config["data_format"] == "channels_last"
    assert config["kernel_regularizer"]["class_name"] == "L1L2"
    assert config["use_bias"] is True
    assert "mode" not in found["b"]["config"]
    assert found["p"]["config"]["rate"] == 0.25


def test_configs_of_saved_models_are_plain() -> None:
    value = {
        "a": {"class_name": "__tuple__", "items": [1, {"class_name": "TensorShape", "items": [2]}]}
    }
    assert plain(value) == {"a": [1, [2]]}


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    from ckptkit.errors import UnsupportedError, UsageError

    for name in ("tf2.12.1/files_nested/weights_only.h5", "tf2.15.1/files_text/model.weights.h5"):
        with pytest.raises(UsageError, match="holds weights and no model"):
            read_old_model(GOLDEN / name)
    with pytest.raises(UnsupportedError, match="without the config of a Keras 2 model"):
        read_old_model(GOLDEN / "tf2.21.0/saved_model_export/model")
