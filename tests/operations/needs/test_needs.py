"""`ckptkit needs` against what Keras 3.15, tf_keras 2.21 and Keras 2.15 really did with each file.

`benchmarks/needs.py` opens such files anew, each in a process of its own; docs/needs.md has what it
found.  The verdicts here are of those runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.errors import FormatError, UnsupportedError, UsageError
from ckptkit.operations.needs.environment import environment_of, fits
from ckptkit.operations.needs.lambda_code import python_of
from ckptkit.stores.registry import FORMATS, Format
from support.goldens import GOLDEN
from support.hostile_models import model_with, write_model
from support.places import environment as child_environment

KERAS_3 = ["keras==3.15.1", "tensorflow==2.21.0", "h5py==3.14.0"]
BESIDE = [*KERAS_3, "tf_keras==2.21.0"]
KERAS_2 = ["keras==2.15.0", "h5py==3.14.0"]


def opened(path: Path | str, environment: list[str]) -> set[str]:
    """Return the calls that open a file in an environment."""
    return {call.call for call in ckptkit.needs(path, environment=environment).loaders if call.ok}


def reasons(path: Path | str, environment: list[str], call: str) -> str:
    (found,) = (c for c in ckptkit.needs(path, environment=environment).loaders if c.call == call)
    return " | ".join(f"{need.name}: {need.reason}" for need in found.missing)


LOADS_3, LOADS_TF = "keras.saving.load_model(PATH)", "tf_keras.models.load_model(PATH)"
UNCOMPILED_3 = "keras.saving.load_model(PATH, compile=False)"
LOADS_2 = "keras.models.load_model(PATH)"


@pytest.mark.parametrize(
    ("name", "by_3", "by_tf_keras", "by_2"),
    [
        ("tf2.12.1/files_nested/model.h5", False, True, True),
        ("tf2.12.1/files_nested/model.keras", False, True, True),  # HDF5 under that name
        ("tf2.15.1/files_nested/model.h5", False, True, True),
        ("tf2.15.1/files_nested/model.keras", False, True, True),
        ("tf2.15.1/cudnn/cudnn.h5", False, True, True),
        ("tf2.15.1/numbered/sequential_model.h5", True, True, True),
        ("tf2.16.2/files_nested/model.h5", True, False, False),
        ("tf2.16.2/files_nested/model.keras", True, False, False),
        ("tf2.18.1/files_nested/model.keras", True, False, False),
        ("tf2.21.0/files_nested/model.h5", True, False, False),
        ("tf2.21.0/files_nested/model.keras", True, False, False),
        ("tf2.21.0/files_text/model.keras", True, False, False),
        ("tf2.21.0/files_words/model.keras", True, False, False),
    ],
)
def test_whole_models_open_where_they_did(
    name: str, by_3: bool, by_tf_keras: bool, by_2: bool
) -> None:
    path = GOLDEN / name
    beside = opened(path, BESIDE)
    assert (LOADS_3 in beside, LOADS_TF in beside) == (by_3, by_tf_keras)
    assert (LOADS_2 in opened(path, KERAS_2)) == by_2


def test_the_reason_is_the_one_that_the_loader_gives() -> None:
    files = GOLDEN / "tf2.15.1"
    said = reasons(files / "files_nested/model.keras", KERAS_3, UNCOMPILED_3)
    assert "keras.src.engine.functional.Functional: Keras 3.15.1 has no such class" in said
    said = reasons(files / "files_nested/model.h5", KERAS_3, UNCOMPILED_3)
    assert "counts the calls of a nested model otherwise" in said
    assert "CuDNNLSTM: Keras 3.15.1 has no such class" in reasons(
        files / "cudnn/cudnn.h5", KERAS_3, LOADS_3
    )
    said = reasons(GOLDEN / "tf2.12.1/files_nested/model.keras", KERAS_3, LOADS_3)
    assert "under a name that ends in .h5 or .hdf5" in said


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("tf2.12.1/files_nested/model.h5", "Keras 2.12.0"),
        ("tf2.15.1/files_nested/model.keras", "Keras 2.15.0"),
        ("tf2.12.1/saved_model_keras2/model", "Keras 2.12.0"),
        ("tf2.12.1/text_export/model", "TensorFlow 2.12.1"),
        ("tf2.21.0/saved_model_export/model", "TensorFlow 2.21.0"),
        ("tf2.21.0/adam/ckpt", "tf.train.Checkpoint (Keras 3)"),
    ],
)
def test_the_writer_is_told(name: str, writer: str) -> None:
    assert ckptkit.needs(GOLDEN / name, environment=KERAS_3).writer == writer


@pytest.mark.parametrize(
    "name",
    [
        "tf2.12.1/graph_export/model",
        "tf2.12.1/saved_model_keras2/model",
        "tf2.12.1/text_export/model",
        "tf2.16.2/saved_model_save/model",
        "tf2.21.0/lookup/model",
        "tf2.21.0/adam/ckpt",
        "tf2.12.1/legacy_adam/ckpt",
    ],
)
def test_tensorflow_opens_what_it_wrote(name: str) -> None:
    found = ckptkit.needs(GOLDEN / name, environment=KERAS_3)
    assert found.ok
    assert found.exit_code == 0
    assert found.loaders[0].ok
    assert ckptkit.needs(GOLDEN / name, environment=["tensorflow==2.12"]).ok


def test_weights_alone_need_code() -> None:
    found = ckptkit.needs(GOLDEN / "tf2.15.1/cudnn/plain_weights.h5", environment=KERAS_3)
    assert found.ok
    assert any("built by its own code" in fact.value for fact in found.facts)
    assert LOADS_3 not in opened(found.path, KERAS_3)


@pytest.mark.parametrize(
    "row", [row for row in FORMATS.values() if row.suffixes], ids=lambda row: row.name
)
def test_what_a_format_is_in_name_alone_opens_nowhere(row: Format, tmp_path: Path) -> None:
    for suffix in row.suffixes:
        path = tmp_path / f"file{suffix}"
        path.write_bytes(b"this is no file of any format, whatever it is called")
        with pytest.raises((FormatError, UnsupportedError)):
            ckptkit.needs(path)


@pytest.mark.parametrize("part", ["model", "none"])
def test_a_part_of_a_file(part: str) -> None:
    with pytest.raises(UsageError, match="not a part of it"):
        ckptkit.needs(f"{GOLDEN}/tf2.21.0/adam/ckpt#{part}")


# --- configs --------------------------------------------------------------------------------------


def archive(path: Path, layers: list[dict[str, Any]], version: str = "3.15.1") -> Path:
    """Write a `.keras` archive of a Sequential model with these layers."""
    config = {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "sequential", "layers": layers},
        "registered_name": None,
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", b"")
    return path


def layer(name: str, module: str | None, registered: str | None, **config: Any) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered,
    }


def test_custom_code_is_named_with_its_place(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras", [layer("Scale", None, "mine>Scale", k=2.0)])
    found = ckptkit.needs(path, environment=KERAS_3)
    assert found.exit_code == 1
    (need,) = found.missing
    assert (need.kind, need.name) == ("code", "mine>Scale")
    assert need.where == "config.json.config.layers[0]"
    assert found.packages == ()


@pytest.mark.parametrize(
    ("name", "module", "registered", "package"),
    [
        ("GemmaBackbone", "keras_hub.src.models.gemma", "keras_hub>GemmaBackbone", "keras-hub"),
        ("WeightNormalization", None, "Addons>WeightNormalization", "tensorflow-addons"),
        ("KerasLayer", "tensorflow_hub.keras_layer", "KerasLayer", "tensorflow-hub"),
        ("Odd", "some_lab.layers", "some_lab>Odd", "some-lab"),
    ],
)
def test_packages_follow_from_modules_and_registered_names(
    tmp_path: Path, name: str, module: str | None, registered: str, package: str
) -> None:
    path = archive(tmp_path / "a.keras", [layer(name, module, registered)])
    found = ckptkit.needs(path, environment=KERAS_3)
    assert found.exit_code == 1
    assert package in found.packages
    there = ckptkit.needs(path, environment=[*KERAS_3, f"{package}==1.0"])
    assert there.ok


@pytest.mark.parametrize(
    ("arguments", "is_taken"),
    [({}, True), ({"activation": "relu"}, True), ({"groups": 2, "lora": 1}, False)],
)
def test_arguments_are_those_of_that_keras(
    tmp_path: Path, arguments: dict[str, Any], is_taken: bool
) -> None:
    dense = layer("Dense", "keras.layers", None, units=3, **arguments)
    path = archive(tmp_path / "a.keras", [dense])
    assert ckptkit.needs(path, environment=KERAS_3).ok == is_taken


def test_an_argument_that_a_later_keras_brought(tmp_path: Path) -> None:
    dense = layer("Dense", "keras.layers", None, units=3, quantization_config=None)
    path = archive(tmp_path / "a.keras", [dense])
    assert ckptkit.needs(path, environment=["keras==3.15", "tensorflow==2.21"]).ok
    assert ckptkit.needs(path, environment=["keras==3.8", "tensorflow==2.21"]).exit_code == 1


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [
        ("builtins", "relu", None),
        ("keras.ops", "relu6", None),
        ("builtins", "mine", ""),
        ("some_lab.functions", "mine", "some-lab"),
    ],
)
def test_functions_that_are_not_kerass(
    tmp_path: Path, module: str, name: str, package: str | None
) -> None:
    function = {"module": module, "class_name": "function", "config": name}
    dense = layer("Dense", "keras.layers", None, units=3, activation=function)
    found = ckptkit.needs(archive(tmp_path / "a.keras", [dense]), environment=KERAS_3)
    assert found.ok == (package is None)
    assert {need.name for need in found.missing} == ({name} if package is not None else set())
    assert (package in found.packages) == bool(package)


def test_a_gru_of_before_there_were_two_kinds(tmp_path: Path) -> None:
    """Both readers make the newer kind of it, whose bias the file's does not fit."""
    old = archive(tmp_path / "a.keras", [layer("GRU", "keras.layers", None, units=3)])
    assert "GRU(reset_after)" in {n.name for n in ckptkit.needs(old, environment=KERAS_3).missing}
    told = layer("GRU", "keras.layers", None, units=3, reset_after=False)
    new = archive(tmp_path / "b.keras", [told])
    assert ckptkit.needs(new, environment=KERAS_3).ok


# --- code of a Lambda -----------------------------------------------------------------------------

# lambda x: x * 2 + 1, marshalled by each Python, in base64
MARSHALLED = {
    (2, 7): (
        "YwEAAAABAAAAAgAAAEMAAABzDAAAAHwAAGQBABRkAgAXUygDAAAATmkCAAAAaQEAAAAoAAAAACgBAAAA"
        "dAEAAAB4KAAAAAAoAAAAAHMIAAAAbW9kZWwucHl0CAAAADxsYW1iZGE+AQAAAHQAAAAA"
    ),
    (3, 7): (
        "4wEAAAAAAAAAAQAAAAIAAABDAAAAcwwAAAB8AGQBFABkAhcAUwApA07pAgAAAOkBAAAAqQApAdoBeHID"
        "AAAAcgMAAAD6CG1vZGVsLnB52gg8bGFtYmRhPgEAAADzAAAAAA=="
    ),
    (3, 8): (
        "4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMMAAAAfABkARQAZAIXAFMAKQNO6QIAAADpAQAAAKkAKQHa"
        "AXhyAwAAAHIDAAAA+ghtb2RlbC5wedoIPGxhbWJkYT4BAAAA8wAAAAA="
    ),
    (3, 12): (
        "4wEAAAAAAAAAAAAAAAIAAAADAAAA8xIAAACXAHwAZAF6BQAAZAJ6AAAAUwApA07pAgAAAOkBAAAAqQAp"
        "AdoBeHMBAAAAIPoIbW9kZWwucHn6CDxsYW1iZGE+cgcAAAABAAAAcw4AAACAAIghiGGJJZAhiSmAAPMA"
        "AAAA"
    ),
    (3, 13): (
        "4wEAAAAAAAAAAAAAAAIAAAADAAAA8xIAAACVAFUAUwEtBQAAUwItAAAAJAApA07pAgAAAOkBAAAAqQAp"
        "AdoBeHMBAAAAINoIbW9kZWwucHnaCDxsYW1iZGE+cgcAAAABAAAAcwwAAACAAIghiGGJJZAhiinzAAAA"
        "AA=="
    ),
}


@pytest.mark.parametrize("version", MARSHALLED)
def test_the_python_that_wrote_code_is_told_from_its_layout(version: tuple[int, int]) -> None:
    span = python_of(MARSHALLED[version])
    assert span is not None
    first, last = span
    assert first <= version <= last
    assert not first <= (3, 10) <= last or version == (3, 8)


def test_what_is_no_code_tells_nothing() -> None:
    assert python_of("") is None
    assert python_of("!!") is None
    assert python_of("4wEAAAA=") is None


def test_a_lambda_needs_trust(tmp_path: Path) -> None:
    code = {"class_name": "__lambda__", "config": {"code": MARSHALLED[3, 8]}}
    function = layer("Lambda", "keras.layers", None, function=code, arguments={})
    found = ckptkit.needs(archive(tmp_path / "a.keras", [function]), environment=KERAS_3)
    assert found.exit_code == 1
    (need,) = found.missing
    assert need.kind == "trust"
    assert "Python 3.8 to 3.10" in need.reason


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "package"),
    [
        ("SentencepieceOp", "tensorflow-text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow-decision-forests"),
        ("Addons>GelActivation", "tensorflow-addons"),
        ("MyCompanyOp", ""),
    ],
)
def test_ops_of_other_packages(tmp_path: Path, op: str, package: str) -> None:
    write_model(tmp_path / "model", model_with(op, "function"), "pb")
    found = ckptkit.needs(tmp_path / "model", environment=KERAS_3)
    assert found.exit_code == 1
    assert op in {need.name for need in found.missing}
    assert (package in found.packages) == bool(package)


def test_ops_of_a_newer_tensorflow(tmp_path: Path) -> None:
    write_model(tmp_path / "model", model_with("DecodeWebP", "function"), "pb")
    missing = {n.name for n in ckptkit.needs(tmp_path / "model", environment=KERAS_3).missing}
    assert "DecodeWebP" not in missing
    old = ckptkit.needs(tmp_path / "model", environment=["tensorflow==2.12"])
    assert "DecodeWebP" in {need.name for need in old.missing}


def test_a_pointer_of_git_lfs_is_not_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    oid = "0" * 64
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 9000\n")
    found = ckptkit.needs(path)
    assert found.exit_code == 1
    assert found.missing[0].hint == "git lfs pull"


def test_litert_with_ops_of_tensorflow() -> None:
    path = Path(__file__).parents[1] / "scan" / "string_lower.tflite"
    assert ckptkit.needs(path, environment=["tensorflow==2.21"]).ok
    assert ckptkit.needs(path, environment=["tensorflow==2.21"]).facts[-1].value.startswith("Flex")


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_a_model_in_name_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content, said in (
        (b"", "an empty file"),
        (b"long enough, and no model", "its name says"),
    ):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=said) as caught:
            ckptkit.needs(path)
        with pytest.raises(FormatError) as of_ls:
            ckptkit.ls(path)
        assert str(caught.value) == str(of_ls.value)


# --- messages of other commands -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("tf2.15.1/files_nested/model.h5", "Keras 2.15.0"),
        ("tf2.12.1/saved_model_keras2/model", "Keras 2.12.0"),
    ],
)
def test_convert_says_what_an_old_model_holds(name: str, writer: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        ckptkit.convert(GOLDEN / name, tmp_path / "new.keras")
    assert f"written by {writer}, holds a model in the form of" in str(caught.value)
    assert "`ckptkit upgrade " in str(caught.value)


def test_convert_says_that_weights_alone_hold_no_structure(tmp_path: Path) -> None:
    weights = GOLDEN / "tf2.15.1/cudnn/plain_weights.h5"
    with pytest.raises(UsageError, match="h5 holds no structure for keras"):
        ckptkit.convert(weights, tmp_path / "new.keras")


@pytest.mark.needs_tf
def test_convert_says_that_a_copy_of_an_old_archive_is_one(tmp_path: Path) -> None:
    old = str(GOLDEN / "tf2.15.1/files_nested/model.keras")
    done = CliRunner().invoke(cli, ["convert", old, str(tmp_path / "new.keras")])
    assert done.exit_code == 0, done.output
    assert (
        "has the structure of Keras 2.15.0, as its source has; `ckptkit upgrade` makes"
        in done.output
    )
    loads = ckptkit.needs(old).ok  # tf_keras may be here
    assert ("every bit as it should be" in done.output) == loads
    assert ("bit for bit, but not loaded" in done.output) == (not loads)


def test_a_brief_names_the_writer_and_both_ways() -> None:
    path = GOLDEN / "tf2.15.1/files_nested/model.keras"
    brief = ckptkit.needs(path, environment=["keras==3.15.1", "tensorflow==2.21.0"]).in_brief
    if brief:  # tf_keras may be here
        assert brief == "written by Keras 2.15.0; needs tf_keras, or `ckptkit upgrade`"
    assert ckptkit.needs(path, environment=BESIDE).in_brief == ""


# --- environments and the command -----------------------------------------------------------------


def test_versions_bring_what_they_require() -> None:
    old = environment_of(["tensorflow==2.13.1"])
    assert (old.version("keras"), old.version("tf_keras")) == ("2.13", "")
    assert environment_of(["keras==2.15.0"]).version("tensorflow") == "2.15"
    assert environment_of(["tensorflow==2.21.0"]).version("keras").startswith("3")
    assert environment_of(["keras==3.3"]).version("keras") == "3.3"
    with pytest.raises(UsageError, match=r"'keras>3' is not NAME==VERSION"):
        environment_of(["keras>3"])
    with pytest.raises(UsageError, match=r"tf-keras cannot be 2.15 and 2.16 at once"):
        environment_of(["tf_keras==2.15", "tf-keras==2.16"])


@pytest.mark.parametrize(
    ("version", "wanted", "does"),
    [("2.15.1", "<2.16", True), ("2.16", "<2.16", False), ("3.0", ">=3,<3.2", True)],
)
def test_versions_compare_by_their_numbers(version: str, wanted: str, does: bool) -> None:
    assert fits(version, wanted) == does


def test_the_command_prints_and_exits_as_documented(tmp_path: Path) -> None:
    runner = CliRunner()
    path = str(GOLDEN / "tf2.15.1/files_nested/model.keras")
    asked = [part for version in BESIDE for part in ("--with", version)]
    found = runner.invoke(cli, ["needs", path, *asked])
    assert found.exit_code == 0, found.output
    assert "written by Keras 2.15.0: opens here" in found.output
    only_3 = [part for version in KERAS_3 for part in ("--with", version)]
    new = str(archive(tmp_path / "new.keras", [layer("Odd", None, "mine>Odd")]))
    assert runner.invoke(cli, ["needs", new, *only_3]).exit_code == 1
    assert runner.invoke(cli, ["needs", str(tmp_path / "none.h5")]).exit_code == 2
    lines = runner.invoke(cli, ["needs", path, *asked, "--format", "requirements"]).output
    assert lines.splitlines() == ["tf_keras", "tensorflow"]


def test_documented_fields_are_those_printed() -> None:
    import re

    text = (GOLDEN.parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition("## `ckptkit.needs/2`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    found = ckptkit.needs(GOLDEN / "tf2.15.1/cudnn/cudnn.h5", environment=KERAS_3).to_json()
    assert documented == {*found, *found["missing"][0]}


def test_nothing_is_imported() -> None:
    path = GOLDEN / "tf2.12.1/saved_model_keras2/model"
    script = (
        f"import ckptkit, sys; ckptkit.needs({str(path)!r});"
        "print([m for m in ('tensorflow', 'keras', 'tf_keras', 'h5py') if m in sys.modules])"
    )
    run = [sys.executable, "-c", script]
    told = subprocess.run(run, capture_output=True, text=True, check=True, env=child_environment())
    assert told.stdout.strip() == "[]"


def test_bfloat16_in_hdf5_is_read_by_no_keras(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "m.h5"
    path.write_bytes((GOLDEN / "tf2.21.0/files_nested/model.h5").read_bytes())
    assert LOADS_3 in opened(path, KERAS_3)
    with h5py.File(path, "r+") as file:
        keys: list[str] = []
        file["model_weights"].visit(keys.append)
        kernel = next(key for key in keys if key.endswith("kernel"))
        shape = file["model_weights"][kernel].shape
        del file["model_weights"][kernel]
        file["model_weights"].create_dataset(kernel, shape, "V2")
    assert LOADS_3 not in opened(path, KERAS_3)
    assert "void16: no Keras makes numbers of it" in reasons(path, KERAS_3, LOADS_3)
    half = next(s for s in ckptkit.open(path).specs.values() if s.key.endswith(kernel))
    assert half.dtype == "bfloat16"  # of two bytes, Keras has no other that HDF5 lacks


@pytest.mark.parametrize("is_operation", [True, False])
def test_a_sum_of_two_tensors_is_taken_for_a_layer_in_hdf5(
    tmp_path: Path, is_operation: bool
) -> None:
    """`x + y` has the class name of the layer `Add`, which takes a list of tensors."""
    import h5py

    path = tmp_path / "m.h5"
    path.write_bytes((GOLDEN / "tf2.21.0/files_nested/model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        (tensor,) = (a for a in layers[-1]["inbound_nodes"][0]["args"] if isinstance(a, dict))
        settings = {"name": "add"} if is_operation else {"name": "add", "trainable": True}
        given = [tensor, tensor] if is_operation else [[tensor, tensor]]
        nodes: list[Any] = [{"args": given, "kwargs": {}}]
        layer = {"class_name": "Add", "name": "add", "config": settings, "inbound_nodes": nodes}
        layers.append(layer)
        file.attrs["model_config"] = json.dumps(config)
    assert (LOADS_3 in opened(path, KERAS_3)) == (not is_operation)


@pytest.mark.parametrize("is_built_so", [True, False])
def test_weights_of_a_layer_that_became_float8_are_in_another_order(
    tmp_path: Path, is_built_so: bool
) -> None:
    """As files of `quantize("float8")`, and of a model that has this dtype from the beginning."""
    import h5py

    path = tmp_path / "m.h5"
    path.write_bytes((GOLDEN / "tf2.21.0/files_nested/model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        group = next(g for g in file["model_weights"].values() if len(g.attrs["weight_names"]))
        plain = list(group.attrs["weight_names"])
        layer = plain[0].rpartition("/")[0]
        scales = [f"{layer}/inputs_scale", f"{layer}/kernel_amax_history"]
        for name in scales:
            group.create_dataset(name, (), "f4")
        group.attrs["weight_names"] = scales + plain if is_built_so else plain + scales
    assert (LOADS_3 in opened(path, KERAS_3)) == is_built_so
