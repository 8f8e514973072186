"""What `diff` says of two models beside their weights, and what is no difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.operations.configuration.values import class_of
from ckptkit.operations.diff.beside.configuration import configuration_differences
from support.places import SUPPORT
from support.scripts import run_script


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in pairs, saved by TensorFlow and Keras."""
    out = tmp_path_factory.mktemp("models")
    run_script(SUPPORT / "make_model_pairs.py", out)
    return out


def beside(old: Path, new: Path) -> list[str]:
    """Return what differs beside the weights, in the library's words."""
    result = ckptkit.diff(old, new)
    assert result.exit_code == 0 if result.same else 1
    return [str(difference) for difference in result.beside]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["diff", *map(str, arguments)])


@pytest.mark.needs_tf
@pytest.mark.parametrize("form", ["keras", "h5"])
@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("relu", "tanh", "configuration differs: dense: activation relu → tanh"),
        ("plain", "rate", "configuration differs: rest: rate 0.3 → 0.5"),
        ("abc", "axc", "vocabularies differ: string_lookup (3 entries): entry 2 is 'b' → 'x'"),
        (
            "two_abc",
            "two_abx",
            "vocabularies differ: string_lookup_5 (3 entries): entry 3 is 'c' → 'x'",
        ),
    ],
)
def test_a_setting_that_differs_is_named_in_one_line(
    models: Path, form: str, old: str, new: str, says: str
) -> None:
    assert beside(models / f"{old}.{form}", models / f"{new}.{form}") == [says]


@pytest.mark.needs_tf
def test_what_feeds_a_layer_and_constants_between_layers_count(models: Path) -> None:
    (line,) = beside(models / "plain.keras", models / "factor.keras")
    assert line == "configuration differs: multiply: argument args[1] 2 → 3"
    (line,) = beside(models / "plain.keras", models / "crossed.keras")
    assert line == "configuration differs: concatenate is fed by mean+most → most+mean"


@pytest.mark.needs_tf
def test_words_that_a_layer_has_learnt_are_compared(models: Path) -> None:
    (line,) = beside(models / "learnt_abc.keras", models / "learnt_axc.keras")
    assert line == (
        "vocabularies differ: assets/layers/string_lookup/vocabulary.txt (4 entries): "
        "entry 2 is 'c' → 'x'"
    )
    # one form keeps the words in a file, with a token before them, the other in its graph
    assert beside(models / "learnt_abc.keras", models / "learnt_abc") == []
    (line,) = beside(models / "learnt_abc.keras", models / "learnt_axc")
    assert line.endswith("(3 entries): entry 1 is 'c' → 'x'")
    assert beside(models / "abc.keras", models / "abc") == []
    assert beside(models / "abc.h5", models / "axc") != []


@pytest.mark.needs_tf
def test_words_have_one_digest_in_every_form(models: Path) -> None:
    def digest(name: str) -> str:
        return ckptkit.open(models / name).digest("vocabulary")

    assert digest("learnt_abc.keras") == digest("learnt_abc") != digest("learnt_axc.keras")
    assert digest("abc.keras") == digest("abc.h5") == digest("abc") != digest("axc")
    assert digest("table_abc") == digest("table_abc_export") != digest("table_axc")


@pytest.mark.needs_tf
def test_signatures_and_what_they_mean_to_a_caller(models: Path) -> None:
    def said(old: str, new: str) -> list[str]:
        rows = ckptkit.diff(models / old, models / new, config=True).beside
        return [item for row in rows if row.what == "signatures" for item in row.items]

    assert said("one", "one") == []
    assert said("one", "float64")[0] == (
        "serving_default input x float32[?,2] → float64[?,2] (breaking)"
    )
    narrower = "serving_default input x float32[?,2] → float32[4,2] (breaking)"
    assert narrower in said("one", "fixed")
    assert "serving_default input x float32[4,2] → float32[?,2] (compatible)" in said(
        "fixed", "one"
    )
    assert "serving_default output scores → logits (breaking)" in said("one", "renamed")
    digests = [ckptkit.open(models / x).digest("signature") for x in ("one", "fixed", "renamed")]
    assert len(set(digests)) == 3


@pytest.mark.needs_tf
def test_an_export_and_its_keras_file_are_one_model(models: Path) -> None:
    result = ckptkit.diff(models / "relu.keras", models / "relu", config=True)
    assert result.same and "signatures" in result.compared
    assert f"configuration not compared: {models / 'relu'} holds none" in result.warnings


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((f"{name}.keras", f"{name}.h5") for name in ("relu", "tanh", "plain", "abc", "two_abc")),
        *((f"{name}.keras", f"{name}_saved_again.keras") for name in ("relu", "plain", "abc")),
        *((f"{name}.h5", f"{name}_saved_again.h5") for name in ("relu", "plain", "abc")),
        ("learnt_abc.keras", "learnt_abc_saved_again.keras"),
        ("relu.keras", "relu_again.keras"),
        ("relu.h5", "relu_again.keras"),
        ("relu", "relu_again"),
        ("relu.keras", "relu"),
        ("one", "one"),
        ("tf1_abc", "tf1_abc"),
    ],
)
@pytest.mark.needs_tf
def test_what_keras_makes_up_is_no_difference(models: Path, old: str, new: str) -> None:
    assert beside(models / old, models / new) == []


@pytest.mark.needs_tf
@pytest.mark.parametrize("old", ["table_abc", "table_abc_export"])
@pytest.mark.parametrize("new", ["table_axc", "table_axc_export"])
def test_tables_are_compared_word_by_word_in_every_form(models: Path, old: str, new: str) -> None:
    """A table's tensors have their entries in the order of its buckets."""
    where = "table" if old == "table_abc" else "constant Const"
    says = f"vocabularies differ: {where} (3 entries): entry 2 is 'b' → 'x'"
    assert says in beside(models / old, models / new)
    assert not beside(models / old, models / new.replace("axc", "abc"))


@pytest.mark.needs_tf
def test_signatures_name_what_differs(models: Path) -> None:
    for other, says in (
        ("float64", "serving_default input x float32[?,2] → float64[?,2]"),
        ("fixed", "serving_default input x float32[?,2] → float32[4,2]"),
        ("renamed", "serving_default output scores → logits"),
    ):
        line = beside(models / "one", models / other)[0]
        assert line.startswith(f"signatures differ: {says}")
    assert beside(models / "tf1_abc", models / "tf1_gpu") == [
        "signatures differ: tags serve → gpu,serve"
    ]


@pytest.mark.needs_tf
def test_graphs_that_compute_with_other_ops(models: Path) -> None:
    (line,) = beside(models / "relu", models / "tanh")
    assert line.startswith("graphs differ: serve computes with Relu → Tanh")


@pytest.mark.needs_tf
def test_assets_of_tensorflow1_are_listed_compared_and_not_left_behind(
    models: Path, tmp_path: Path
) -> None:
    assert beside(models / "tf1_abc", models / "tf1_axc") == [
        "vocabularies differ: assets/vocab.txt (3 entries): entry 2 is 'b' → 'x'"
    ]
    store = ckptkit.open(models / "tf1_abc").store
    assert store.model is not None and store.model.assets == ("vocab.txt",)
    refused = CliRunner().invoke(
        cli, ["convert", str(models / "tf1_abc"), str(tmp_path / "w"), "--to", "checkpoint"]
    )
    assert refused.exit_code == 1
    assert f"assets/vocab.txt of {models / 'tf1_abc'} would not be carried" in refused.stderr
    arguments = ["--to", "saved_model", "--like", str(models / "tf1_axc")]
    refused = CliRunner().invoke(
        cli, ["convert", str(models / "tf1_abc"), str(tmp_path / "s"), *arguments]
    )
    assert refused.exit_code == 1
    assert "its words would mean other rows" in refused.stderr


@pytest.mark.needs_tf
def test_every_report_says_it_and_the_exit_code_is_that_of_the_weights(models: Path) -> None:
    files = models / "relu.keras", models / "tanh.keras"
    says = "configuration differs: dense: activation relu → tanh"
    text = run(*files)
    assert text.exit_code == 0
    verdict, line = text.stdout.splitlines()[-2:]
    assert verdict == "same weights: 4 equal by value"
    assert line == says
    assert run(*files, "--format", "markdown").stdout.splitlines()[-1] == f"- {says}"
    data = json.loads(run(*files, "--format", "json").stdout)
    assert data["summary"]["verdict"] == "same" and data["summary"]["exit"] == 0
    assert data["beside"] == [
        {"what": "configuration", "differences": ["dense: activation relu → tanh"]}
    ]
    suite = ElementTree.fromstring(run(*files, "--format", "junit").stdout)
    assert suite.get("failures") == "0"
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["beside the weights: configuration"] == "dense: activation relu → tanh"
    page = run(*files, "--format", "html")
    assert page.exit_code == 0 and "activation relu" in page.stdout
    assert says in page.stderr
    assert says in run(*files, "--format", "csv").stderr


@pytest.mark.needs_tf
def test_weights_that_differ_stay_different_whatever_else_does(models: Path) -> None:
    result = run(models / "relu.keras", models / "plain.keras")
    assert result.exit_code == 1
    assert "different: " in result.stdout and "same weights" not in result.stdout


@pytest.mark.needs_tf
def test_a_file_that_holds_weights_alone_says_nothing(models: Path, tmp_path: Path) -> None:
    ckptkit.convert(models / "tanh.keras", tmp_path / "tanh.weights.h5")
    assert beside(models / "relu.keras", tmp_path / "tanh.weights.h5") == []


@pytest.mark.needs_tf
def test_a_graph_that_cannot_be_read_is_a_warning(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "one", broken)
    (broken / "saved_model.pb").write_bytes(b"\xff" * 40)
    result = ckptkit.diff(models / "one", broken)
    assert result.same and not result.beside
    assert any("compared by weights alone" in warning for warning in result.warnings)


def _model(*layers: dict[str, object]) -> dict[str, object]:
    return {"class_name": "Sequential", "config": {"name": "m", "layers": list(layers)}}


def _dense(name: str, **settings: object) -> dict[str, object]:
    return {"class_name": "Dense", "config": {"name": name, "trainable": True, **settings}}


def test_layers_are_paired_without_guessing() -> None:
    old = _model(_dense("dense", units=3), _dense("out", units=2))
    # a name that a person gave holds wherever it stands; the counter of another means nothing
    new = _model(_dense("dense_4", units=5), _dense("dense_5", units=3), _dense("out", units=2))
    assert configuration_differences(old, new) == [
        "dense_4 (Dense) is only in NEW",
    ]
    swapped = _model(_dense("out", units=2), _dense("dense", units=3))
    assert configuration_differences(old, swapped) == ["out is moved: place 2 → place 1"]


def test_versions_write_one_setting_in_many_ways() -> None:
    old = _model(_dense("a", activation="my_relu", dtype="float32", kernel_size=3, axis=[3]))
    new = _model(
        _dense(
            "a",
            activation={"class_name": "function", "config": "my_relu", "module": "builtins"},
            dtype={"class_name": "DTypePolicy", "config": {"name": "float32"}},
            kernel_size={"class_name": "__tuple__", "items": [3, 3]},
            axis=-1,
            kernel_initializer={"class_name": "Zeros", "config": {}},
        )
    )
    assert configuration_differences(old, new) == []


def test_code_of_functions_without_a_name_is_not_compared() -> None:
    code = "4wEAAAAAAAAAAAAAAAEAAAATAAAB8wYAAACXAHwAUwCpAU6pACkB"
    forms = (
        "<lambda>",
        {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}},
        {"value": [code, None, None]},
    )
    for one in forms:
        for other in forms:
            models = (_model(_dense("a", activation=form)) for form in (one, other))
            assert configuration_differences(*models) == []
    named = _model(_dense("a", activation="relu"))
    assert configuration_differences(_model(_dense("a", activation=forms[1])), named) == [
        "a: activation <lambda> → relu"
    ]


@pytest.mark.needs_tf
def test_a_model_with_wrapped_layers_is_whole_and_its_learnt_tables_pair(models: Path) -> None:
    for form in ("keras", "h5"):
        assert ckptkit.verify(models / f"plain.{form}").ok
    # a layer's table of counts is an attribute in a checkpoint, and a number in an export
    result = ckptkit.diff(models / "learnt_abc_checkpoint", models / "learnt_abc")
    assert result.same and {change.role for change in result.changes} == {"weight", "table"}


def test_one_class_by_two_names_is_one_class() -> None:
    # Keras 3 writes the exported name to `.keras`, the name in Python to `.h5`.
    assert class_of("GroupQueryAttention") == class_of("Custom>GroupedQueryAttention")
    assert class_of("MaxPooling2D") != class_of("AveragePooling2D")
