"""`diff --config`: the whole configuration, over versions of Keras and forms of files."""

from __future__ import annotations

import base64
import json
import marshal
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ckptkit
from benchmarks._config_mutants import Config, Mutant, drawn, is_named, places, read, write
from ckptkit.cli.main import cli
from ckptkit.errors import UsageError
from ckptkit.operations.configuration.lines import config_lines
from ckptkit.operations.configuration.tree import tree_of
from ckptkit.operations.configuration.values import canonical
from ckptkit.operations.diff.beside.configuration import ConfigChange, configuration_changes
from ckptkit.operations.diff.beside.signatures import SignatureChange
from support.goldens import GOLDEN
from support.keras_files import h5_bytes

NESTED = sorted(
    path for path in GOLDEN.glob("*/files_nested/model.*") if not path.name.startswith("model.w")
)
NEWEST = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
MODELS = ("files_nested", "files_words", "files_text")


def changes(old: Any, new: Any, **layers: str) -> list[str]:
    found = configuration_changes(tree_of(old), tree_of(new), layers)
    return [str(change) for change in found]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["diff", *map(str, arguments)])


@pytest.mark.parametrize("path", NESTED, ids=lambda path: f"{path.parts[-3]}-{path.suffix}")
def test_one_model_of_keras_2_and_3_has_one_configuration(path: Path) -> None:
    """Files of Keras 2.12, 2.15, 3.0, 3.6 and 3.15, both forms."""
    result = ckptkit.diff(path, NEWEST, mode="structure", config=True)
    assert "configuration" in result.compared
    said = [item for row in result.beside for item in row.items]
    # the golden of Keras 2 was trained at another rate, which is a difference
    assert [item for item in said if not item.startswith("compiled: optimizer.learning_rate")] == []


@cache
def _configs() -> dict[str, Config]:
    return {name: read(GOLDEN / "tf2.21.0" / name / "model.keras") for name in MODELS}


def _drawn() -> Iterator[Any]:
    for at, (model, kind, mutant) in enumerate(drawn(_configs(), 120, seed=23)):
        yield pytest.param(model, mutant, id=f"{at}-{model}-{kind}")


@pytest.mark.parametrize(("model", "mutant"), list(_drawn()))
def test_a_drawn_change_is_named_with_its_layer(model: str, mutant: Mutant) -> None:
    old = tree_of(_configs()[model], generation=3)
    new = tree_of(mutant.config, generation=3)
    found = configuration_changes(old, new)
    assert any(is_named(change, mutant) for change in found), (mutant[1:], found)
    assert old is not None and new is not None
    assert config_lines(old) != config_lines(new)  # what the digest is of


def test_the_command_names_what_differs_and_exits_1(tmp_path: Path) -> None:
    config = read(NEWEST)
    place = next(x for x in places(config) if "units" in x.settings and not x.prefix)
    place.settings["trainable"] = False
    place.settings["kernel_regularizer"] = {"class_name": "L2", "config": {"l2": 0.01}}
    other = tmp_path / "other.keras"
    write(NEWEST, other, config)
    name = place.where
    assert run(NEWEST, other).exit_code == 0
    text = run(NEWEST, other, "--config")
    assert text.exit_code == 1
    assert f"configuration differs: {name}: trainable true → false" in text.stdout
    assert f"configuration differs: {name}: kernel_regularizer null → L2" in text.stdout
    assert "different: configuration; same weights" in text.stdout
    data = json.loads(run(NEWEST, other, "--config", "--format", "json").stdout)
    assert data["summary"]["exit"] == 1 and data["summary"]["verdict"] == "different"
    (row,) = data["beside"]
    assert {"where": name, "option": "trainable", "old": True, "new": False}.items() <= row[
        "changes"
    ][1].items()
    assert "trainable true" in run(NEWEST, other, "--config", "--format", "html").stdout
    assert run(NEWEST, other, "--config", "--exit-zero").exit_code == 0
    assert run(NEWEST, NEWEST, "--config").exit_code == 0


def test_files_without_a_configuration_are_no_pass(tmp_path: Path) -> None:
    ckptkit.convert(NEWEST, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="no configuration to compare"):
        ckptkit.diff(NEWEST, tmp_path / "w.safetensors", config=True)


def _sequential(*layers: Config) -> Config:
    return {"class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}


def _dense(name: str, units: int = 2, **settings: Any) -> Config:
    config = {"name": name, "units": units, **settings}
    return {"module": "keras.layers", "class_name": "Dense", "config": config}


def test_a_setting_that_is_left_out_has_its_default() -> None:
    plain = _sequential(_dense("a"))
    assert changes(plain, _sequential(_dense("a", use_bias=True, kernel_regularizer=None))) == []
    assert changes(plain, _sequential(_dense("a", kernel_initializer="glorot_uniform"))) == []
    assert changes(plain, _sequential(_dense("a", use_bias=False))) == ["a: use_bias true → false"]
    other = _sequential(_dense("a", kernel_initializer={"class_name": "Zeros", "config": {}}))
    assert changes(plain, other) == ["a: kernel_initializer GlorotUniform → Zeros"]


def test_what_a_form_leaves_out_of_how_a_model_was_compiled() -> None:
    """`.keras` keeps the word that a model was compiled with, `.h5` all settings of the object."""

    def model(**compiled: Any) -> Config:
        return {**_sequential(_dense("a")), "compile_config": compiled}

    settings = {"learning_rate": 0.001, "rho": 0.9, "ema_overwrite_frequency": None}
    whole = {"module": "keras.optimizers", "class_name": "RMSprop", "config": settings}
    assert changes(model(optimizer="rmsprop"), model(optimizer=whole)) == []
    function = {"class_name": "function", "config": "my_loss", "registered_name": "mine>my_loss"}
    assert changes(model(loss=function), model(loss="mine>my_loss")) == []
    assert changes(model(loss=function), model(loss="mine>other")) == [
        "compiled: loss my_loss → other"
    ]


def test_an_activation_that_is_a_layer_is_another_one() -> None:
    layer = {"module": "keras.layers", "class_name": "ReLU", "config": {"name": "r"}}
    old, new = (_sequential(_dense("a", activation=x)) for x in ("relu", layer))
    assert changes(old, new) == ['a: activation relu → ReLU(name="r")']
    assert _lines(old) != _lines(new)


def test_words_that_are_gone_are_a_difference(tmp_path: Path) -> None:
    source = GOLDEN / "tf2.21.0" / "files_words" / "model.keras"
    config = read(source)
    for place in places(config):
        if place.settings.get("vocabulary"):
            place.settings["vocabulary"] = None
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "none.keras", "w") as new:
        for item in old.infolist():
            if not item.filename.startswith("assets/"):
                data = old.read(item)
                new.writestr(item, json.dumps(config) if item.filename == "config.json" else data)
    result = ckptkit.diff(source, tmp_path / "none.keras", mode="structure", config=True)
    assert not result.same
    (row,) = result.beside
    assert row.what == "vocabularies" and row.items[0] == f"lookup is only in {source}"


def test_the_input_of_a_sequential_model_has_its_name() -> None:
    def model(shape: list[Any]) -> Config:
        first = {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": "pixels"}}
        return _sequential(first, _dense("a"))

    assert changes(model([None, 3]), model([None, 4])) == ["pixels: shape [null, 3] → [null, 4]"]
    assert changes(model([None, 3]), _sequential(_dense("a"))) == []


def test_tensors_tell_which_layer_was_renamed() -> None:
    old = _sequential(_dense("first"), _dense("second"))
    new = _sequential(_dense("added"), _dense("one"), _dense("two"))
    assert changes(old, new, first="one", second="two") == [
        "first is renamed: first → one",
        "second is renamed: second → two",
        "added (Dense) is only in NEW",
    ]


def test_a_layer_that_stands_in_another_model_is_moved() -> None:
    def model(inner: list[Config], outer: list[Config]) -> Config:
        nested = {"class_name": "Sequential", "config": {"name": "tower", "layers": inner}}
        return _sequential(nested, *outer)

    old = model([_dense("a"), _dense("head")], [_dense("b")])
    new = model([_dense("a")], [_dense("b"), _dense("head", 5)])
    assert changes(old, new) == [
        "tower/head is moved: tower/head → head",
        "tower/head: units 2 → 5",
    ]


def test_a_number_is_the_one_that_a_person_gave() -> None:
    assert canonical(0.0010000000474974513) == 0.001
    assert canonical(0.1) == 0.1 and canonical(3.0) == 3
    assert canonical(1e300) == 1e300 and canonical(1 / 3) == 1 / 3


def test_what_a_layer_casts_itself_is_no_layer() -> None:
    """Keras 3.5 to 3.8 write a cast before a layer of another dtype; others write none."""

    def tensor(name: str) -> Config:
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}

    def call(layer: Config, *feeds: str) -> Config:
        nodes = [{"args": [tensor(name) for name in feeds], "kwargs": {}}]
        return {**layer, "name": layer["config"].get("name", "cast"), "inbound_nodes": nodes}

    def model(*layers: Config) -> Config:
        shape = {"batch_shape": [None, 3], "name": "x"}
        start = {"class_name": "InputLayer", "config": shape, "name": "x", "inbound_nodes": []}
        ends = {"input_layers": [["x", 0, 0]], "output_layers": [["b", 0, 0]]}
        config = {"name": "m", "layers": [start, *layers], **ends}
        return {"class_name": "Functional", "config": config}

    def cast(dtype: str) -> Config:
        return {"module": "keras.src.ops.core", "class_name": "Cast", "config": {"dtype": dtype}}

    first = call(_dense("a", dtype="mixed_float16"), "x")
    plain = model(first, call(_dense("b"), "a"))
    assert changes(plain, model(first, call(cast("float32"), "a"), call(_dense("b"), "cast"))) == []
    other = model(first, call(cast("float64"), "a"), call(_dense("b"), "cast"))
    assert "cast (Cast) is only in NEW" in changes(plain, other)


def _functional(layers: list[Config], inputs: Any, outputs: Any) -> Config:
    ends = {"input_layers": inputs, "output_layers": outputs}
    return {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}


def _tensor(name: str) -> Config:
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}


def _input(name: str) -> Config:
    shape = {"batch_shape": [None, 4], "name": name}
    return {"class_name": "InputLayer", "config": shape, "name": name, "inbound_nodes": []}


def _lines(config: Config) -> list[str]:
    tree = tree_of(config, generation=3)
    assert tree is not None
    return config_lines(tree)


def test_what_is_passed_by_name_is_told_apart_by_its_name() -> None:
    def attention(*args: str, **kwargs: str) -> Config:
        named = {key: _tensor(name) for key, name in kwargs.items()}
        nodes = [{"args": [_tensor(name) for name in args], "kwargs": named}]
        layer: Config = {"module": "keras.layers", "class_name": "MultiHeadAttention", "name": "a"}
        layer |= {"config": {"name": "a", "num_heads": 2}, "inbound_nodes": nodes}
        inputs = [_input(name) for name in "xyz"]
        return _functional([*inputs, layer], [[n, 0, 0] for n in "xyz"], ["a", 0, 0])

    one = attention("x", value="y", key="z")
    same = attention("x", key="z", value="y")  # the order of keywords says nothing
    assert changes(one, same) == [] and _lines(one) == _lines(same)
    for other in (attention("x", value="z", key="y"), attention("x", key="y", value="z")):
        assert changes(one, other) == ["a is fed by x+value=y+key=z → " + _fed(other)]
        assert _lines(one) != _lines(other)


def _fed(config: Config) -> str:
    (node,) = config["config"]["layers"][-1]["inbound_nodes"]
    named = {key: value["config"]["keras_history"][0] for key, value in node["kwargs"].items()}
    return "+".join(["x", *(f"{key}={name}" for key, name in named.items())])


def test_the_keys_of_inputs_and_outputs_are_part_of_a_model() -> None:
    def model(inputs: Any, outputs: Any) -> Config:
        layers = [_input("x"), _input("y")]
        for name in "ab":
            nodes = [{"args": [_tensor("x")], "kwargs": {}}]
            layers.append({**_dense(name), "name": name, "inbound_nodes": nodes})
        return _functional(layers, inputs, outputs)

    x, y, a, b = ([name, 0, 0] for name in "xyab")
    named = model({"p": x, "q": y}, {"u": a, "v": b})
    assert changes(named, model({"q": y, "p": x}, {"v": b, "u": a})) == []
    for other, said in (
        (model({"p": x, "q": y}, {"u": b, "v": a}), "outputs u=a+v=b → u=b+v=a"),
        (model({"p": x, "q": y}, {"u": a, "w": b}), "outputs u=a+v=b → u=a+w=b"),
        (model({"p": x, "q": y}, [a, b]), "outputs u=a+v=b → a+b"),
        (model({"p": y, "q": x}, {"u": a, "v": b}), "inputs p=x+q=y → p=y+q=x"),
    ):
        assert changes(named, other) == [f"the model has the {said}"]
        assert _lines(named) != _lines(other)


def test_the_second_layer_of_bidirectional_is_named_where_it_differs() -> None:
    def model(**layers: Config) -> Config:
        config = {"name": "b", "merge_mode": "concat", **layers}
        layer = {"module": "keras.layers", "class_name": "Bidirectional", "config": config}
        return _sequential(layer)

    def gru(name: str, **settings: Any) -> Config:
        config = {"name": name, "units": 2, **settings}
        return {"module": "keras.layers", "class_name": "GRU", "config": config}

    both = model(layer=gru("g"), backward_layer=gru("backward_g", go_backwards=True))
    assert changes(model(layer=gru("g")), both) == []
    other = model(layer=gru("g", dropout=0.5), backward_layer=gru("k", go_backwards=True))
    assert changes(both, other) == [
        "b: backward_layer.name backward_g → k",
        "b: layer.dropout 0 → 0.5",
    ]
    # what Bidirectional sets by itself, unless that is null
    for value, said in ((True, []), (None, ["b: layer.zero_output_for_mask false → null"])):
        one, two = model(layer=gru("g")), model(layer=gru("g", zero_output_for_mask=value))
        assert changes(one, two) == said
        assert (_lines(one) == _lines(two)) == (not said)


def _without_weights(path: Path, limit: float | None) -> Path:
    layer: Config = {"module": "keras.layers", "class_name": "ReLU", "name": "a"}
    layer |= {"config": {"name": "a", "max_value": limit}}
    layer |= {"inbound_nodes": [{"args": [_tensor("x")], "kwargs": {}}]}
    config = _functional([_input("x"), layer], ["x", 0, 0], ["a", 0, 0])
    with zipfile.ZipFile(NEWEST) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("metadata.json", old.read("metadata.json"))
        new.writestr("config.json", json.dumps({"module": "keras", **config}))
        new.writestr("model.weights.h5", h5_bytes(values={}, names={"layers/re_lu": "a"}))
    return path


def test_models_without_weights_are_compared(tmp_path: Path) -> None:
    old, new = (_without_weights(tmp_path / f"{at}.keras", at) for at in (None, 6.0))
    found = run(old, new, "--config")
    assert found.exit_code == 1
    assert "different: configuration; no weights\n" in found.stdout
    assert "configuration differs: a: max_value null → 6" in found.stdout
    same = run(old, old, "--config")
    assert same.exit_code == 0 and "same configuration; no weights\n" in same.stdout
    none: dict[str, Any] = {}
    for filters in (
        none,
        {"config": True, "roles": ["weight"]},
    ):  # which leaves nothing, as it says
        with pytest.raises(UsageError, match="nothing to compare"):
            ckptkit.diff(old, new, **filters)


def test_a_case_of_junit_fails_for_what_differs_beside_the_weights(tmp_path: Path) -> None:
    config = read(NEWEST)
    place = next(x for x in places(config) if "units" in x.settings and not x.prefix)
    place.settings["trainable"] = False
    write(NEWEST, tmp_path / "other.keras", config)
    text = run(NEWEST, tmp_path / "other.keras", "--config", "--format", "junit").stdout
    assert 'failures="1"' in text and '<testcase classname="model" name="configuration">' in text
    assert f'<failure type="different" message="{place.where}: trainable true' in text
    assert 'failures="0"' in run(NEWEST, NEWEST, "--config", "--format", "junit").stdout


def _lambda(code: str, **values: Any) -> Config:
    given: Config = {"code": code, "defaults": None, "closure": None, **values}
    function = {"class_name": "__lambda__", "config": given}
    return _sequential({"class_name": "Lambda", "config": {"name": "l", "function": function}})


def _code(source: str, place: str = "train.py", version: int = 4) -> str:
    found = eval(compile(source, place, "eval"))
    return base64.b64encode(marshal.dumps(found.__code__, version)).decode()


def test_other_python_code_is_said() -> None:
    assert changes(_lambda("4wAA"), _lambda("4wAA\n")) == []
    said = ["l: the Python code of function has other bytes"]
    assert changes(_lambda("4wAA"), _lambda("4wAB")) == said
    doubled = _lambda(_code("lambda x: x * 2"))
    for other in ("lambda x: x * 3", "lambda x: x + 2", "lambda x: x * 2.0", "lambda x, y: x * 2"):
        assert changes(doubled, _lambda(_code(other))) == said


def test_one_function_is_one_however_it_was_written() -> None:
    # what is written once and referred to depends on the version of marshal as on the process
    source = "lambda x: [x * 2, (lambda y: y in {'a', 'b', 'relu'})(x), -1j, 1 << 70, None, b'a']"
    one = _lambda(_code(source))
    for other in (_code(source, version=2), _code("\n\n" + source, "elsewhere/other.py")):
        assert other != _code(source)
        assert changes(one, _lambda(other)) == []
        assert _lines(one) == _lines(_lambda(other))


def test_the_values_that_a_function_uses_are_compared() -> None:
    code = _code("lambda x, k=2: x * k")
    one, other = (_lambda(code, defaults=[value]) for value in (2, 3))
    assert changes(one, other) == ["l: function.defaults [2] → [3]"]
    assert _lines(one) != _lines(other)
    assert changes(_lambda(code), _lambda(code, closure=[1.5])) == [
        "l: function.closure (not set) → [1.5]"
    ]
    long = "4w" + "A" * 60
    in_h5 = {"class_name": "Lambda", "config": {"name": "l", "function": [long, [2], None]}}
    assert changes(_lambda(long, defaults=[2]), _sequential(in_h5)) == []


def test_settings_of_a_dtype_policy_are_compared() -> None:
    def model(**settings: Any) -> Config:
        policy = {
            "module": "keras.dtype_policies",
            "class_name": "QuantizedFloat8DTypePolicy",
            "config": {"mode": "float8", "source_name": "float32", **settings},
        }
        return _sequential(_dense("d", dtype=policy))

    assert changes(model(amax_history_length=1024), model()) == []
    assert changes(model(), model(amax_history_length=512)) == [
        "d: dtype.amax_history_length (not set) → 512"
    ]


def test_a_quantized_layer_says_what_older_versions_do_without_saying() -> None:
    def quantized(name: str, **settings: Any) -> Config:
        value = {"module": "keras.quantizers", "class_name": name, "config": settings}
        return _sequential(_dense("d", quantization_config=value))

    def of_quantizer(epsilon: float) -> Config:
        settings = {"value_range": [-127, 127], "epsilon": epsilon, "output_dtype": "int8"}
        return {"module": "keras.quantizers", "class_name": "AbsMaxQuantizer", "config": settings}

    int8 = quantized("Int8QuantizationConfig", activation_quantizer=of_quantizer(1e-7))
    other = quantized("Int8QuantizationConfig", activation_quantizer=of_quantizer(1e-3))
    older = _sequential(_dense("d", quantization_config=None))
    assert changes(older, int8) == changes(older, quantized("Float8QuantizationConfig")) == []
    assert changes(int8, other) and changes(older, quantized("Int4QuantizationConfig"))


def test_the_scale_of_low_rank_updates_is_their_rank_unless_it_is_given() -> None:
    def model(**settings: Any) -> Config:
        return _sequential(_dense("d", **settings))

    older, newer = model(lora_rank=2), model(lora_rank=2, lora_alpha=2)
    assert changes(older, newer) == [] and _lines(older) == _lines(newer)
    assert changes(older, model(lora_rank=2, lora_alpha=8.0)) == ["d: lora_alpha 2 → 8"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (ConfigChange("a", "added", "", None, "Dense", True), "a (Dense) is only in NEW"),
        (ConfigChange("", "class", "", "A", "B", True), "the model is of class A → B"),
        (
            ConfigChange("", "compiled", "optimizer.learning_rate", 0.1, 0.2, False),
            "compiled: optimizer.learning_rate 0.1 → 0.2",
        ),
        (SignatureChange("s", "s input x → y", "breaking"), "s input x → y (breaking)"),
    ],
)
def test_changes_are_sentences(change: Any, says: str) -> None:
    assert str(change) == says
