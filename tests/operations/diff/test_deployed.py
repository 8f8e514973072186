"""A model against what converters and quantisers made of it: by layer, by value."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.align.transforms import Transform
from ckptkit.operations.diff.compared_sides import Numbers
from ckptkit.operations.diff.folded import with_folded
from ckptkit.operations.diff.result import DiffResult
from ckptkit.stores.base import Store
from ckptkit.stores.constants import Quantisation, quantisations_of
from ckptkit.stores.onnx.operators import OnnxOperators
from support.command_line import ckptkit as run
from support.flatbuffer_bytes import Constant, litert_model
from support.places import ROOT
from support.weights import Array

FOLDER = ROOT / "fixtures/deployed/keras3.15.1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
INT8, INT32 = 9, 2
NEAREST = "each value is the nearest that it can stand for"


def store_of(path: Path) -> Store:
    return ckptkit.open(path).store


def compared(old: Path | str, new: Path | str) -> DiffResult:
    return ckptkit.diff(FOLDER / old, FOLDER / new)


def told(result: DiffResult) -> dict[str, tuple[str, str]]:
    return {change.name: (change.status, "; ".join(change.hints)) for change in result.changes}


@pytest.mark.parametrize("name", EXPECTED)
def test_integers_stand_for_what_the_runtime_computes(name: str) -> None:
    found = quantisations_of(store_of(FOLDER / name))
    assert EXPECTED[name].keys() <= found.keys()
    for key, digest in EXPECTED[name].items():
        store = store_of(FOLDER / name)
        values = store.read(key)
        shape = store.specs[key].shape
        whole = found[key].numbers(0, values, shape)
        assert hashlib.sha256(whole.tobytes()).digest()[:16].hex() == digest, key
        parts = [
            found[key].numbers(at, values[at : at + 7], shape) for at in range(0, len(values), 7)
        ]
        assert np.array_equal(np.concatenate(parts), whole), key


def test_a_model_is_what_its_conversion_holds() -> None:
    found = told(compared("model.keras", "float.tflite"))
    for name in ("depthwise/kernel", "hidden/kernel", "hidden/bias", "scores/kernel"):
        assert found.pop(name) == ("equal", ""), name
    fold = "gamma / sqrt(variance + 0.001)"
    assert found["conv/kernel"] == ("changed", f"norm is folded into it: each channel times {fold}")
    assert found["conv/bias"] == ("changed", "norm is folded into it")
    assert found["norm/gamma"] == ("removed", "folded into conv/kernel")


def test_what_quantisation_changed_is_told_by_layer() -> None:
    found = told(compared("model.keras", "int8.tflite"))
    assert found["hidden/kernel"] == ("changed", f"int8, 40 scales: {NEAREST}")
    assert found["scores/bias"] == ("changed", f"int32, 3 scales: {NEAREST}")
    assert found["conv/kernel"][1].endswith(
        "variance + epsilon), each value rounded to the nearest step"
    )
    assert found["norm/moving_mean"][1] == "folded into conv/bias"
    assert not [name for name, (status, _) in found.items() if status == "added"]


OF_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def test_layers_whose_variables_an_export_takes_apart() -> None:
    found = told(compared("parts.keras", "parts.onnx"))
    equal = {name for name, (status, _) in found.items() if status == "equal"}
    norm = {f"batch_normalization/{part}" for part in OF_NORM}
    model = ckptkit.open(FOLDER / "parts.keras").names.values()
    assert equal == {naming.name for naming in model if naming.role == "weight"} - norm
    scope = "functional_1/batch_normalization_1/batchnorm"
    for part, constant in zip(OF_NORM, ("mul:0", "sub:0", "sub:0", "mul:0"), strict=True):
        hint = f"folded into {scope}/{constant}"
        assert found[f"batch_normalization/{part}"] == ("removed", hint)
    factor = "gamma / sqrt(variance + 0.001)"
    assert found[f"{scope}/mul:0"] == ("added", f"{factor} of batch_normalization")
    assert found[f"{scope}/sub:0"] == ("added", f"beta - mean * {factor} of batch_normalization")


@pytest.mark.slow
def test_no_change_of_a_constant_is_passed_over(tmp_path: Path) -> None:
    """One value of each, and any two of one shape exchanged, but for those of the normalisation."""
    whole = (FOLDER / "parts.onnx").read_bytes()
    opened = ckptkit.open(FOLDER / "parts.onnx")
    specs = [
        spec
        for key, spec in opened.specs.items()
        if opened.names[key].role == "weight" and spec.size > 1 and spec.offset is not None
    ]
    changed = {}
    for spec in specs:
        assert spec.offset is not None
        changed[spec.key] = bytearray(whole)
        changed[spec.key][spec.offset + 2] ^= 1
    for one, two in itertools.combinations(specs, 2):
        if one.shape == two.shape and "batchnorm" not in one.key + two.key:
            assert one.offset is not None and two.offset is not None
            data = changed[f"{one.key}, {two.key}"] = bytearray(whole)
            data[one.offset : one.offset + one.nbytes] = whole[two.offset :][: one.nbytes]
            data[two.offset : two.offset + one.nbytes] = whole[one.offset :][: one.nbytes]
    assert len(changed) >= len(specs) + 9
    proven = len(explained(compared("parts.keras", "parts.onnx")))
    for name, data in changed.items():
        path = tmp_path / "changed.onnx"
        path.write_bytes(data)
        assert len(explained(compared("parts.keras", path))) < proven, name


def explained(result: DiffResult) -> list[str]:
    """Return what is equal, and what is told of the normalisation."""
    return [
        change.name
        for change in result.changes
        if change.status == "equal" or any("batch_norm" in hint for hint in change.hints)
    ]


def test_four_bits_with_a_scale_for_each_block() -> None:
    hint = told(compared("blocks.keras", "blocks.tflite"))["sequential/only/kernel"][1]
    assert hint == f"int4, 8 scales: {NEAREST}"
    names = ckptkit.open(FOLDER / "blocks.tflite").names
    assert names["sequential_1/only_1/MatMul_scales"].role == "config"
    shown = run("show", FOLDER / "blocks.onnx", "w_quantized").out
    assert "18 scales for blocks of 4 along axis 0" in shown


@pytest.mark.parametrize("name", ["qdq.onnx", "qoperator.onnx", "dynamic.onnx"])
def test_forms_of_onnx_runtime(name: str) -> None:
    found = told(compared("model.keras", name))
    kernels = [found[f"{layer}/kernel"] for layer in ("conv", "hidden", "scores")]
    assert {status for status, _ in kernels} == {"changed"}
    assert all(hint.startswith("int8") and hint.endswith(NEAREST) for _, hint in kernels)
    if name != "dynamic.onnx":
        assert found["hidden/bias"][1].endswith(NEAREST)


def test_two_conversions_of_one_model() -> None:
    found = told(compared("float.tflite", "float.onnx"))
    equal = [name for name, (status, _) in found.items() if status == "equal"]
    assert len(equal) == 6  # the normalisation is folded in one alone
    found = told(compared("int8.tflite", "int8.tflite"))
    assert {status for status, _ in found.values()} == {"equal"}


def test_integers_are_of_another_dtype_where_no_values_are_compared() -> None:
    old, new = FOLDER / "float.tflite", FOLDER / "int8.tflite"
    result = ckptkit.diff(old, new, mode="structure")
    assert {change.status for change in result.changes} == {"changed"}


def test_a_value_that_no_rounding_explains(tmp_path: Path) -> None:
    data = bytearray((FOLDER / "int8.tflite").read_bytes())
    spec = store_of(FOLDER / "int8.tflite").specs["functional_1/hidden_1/MatMul"]
    assert spec.offset is not None
    data[spec.offset + 100] ^= 4  # four steps
    (tmp_path / "int8.tflite").write_bytes(data)
    hint = told(compared("model.keras", tmp_path / "int8.tflite"))["hidden/kernel"][1]
    assert "more than rounding explains" in hint
    steps = float(hint.split("up to ")[1].split(" ")[0])
    assert 3.5 <= steps <= 4.5
    assert told(compared("int8.tflite", tmp_path / "int8.tflite"))[
        "functional_1/hidden_1/MatMul"
    ] == ("changed", "")


def test_another_kernel_is_not_called_folded(tmp_path: Path) -> None:
    data = bytearray((FOLDER / "float.tflite").read_bytes())
    spec = store_of(FOLDER / "float.tflite").specs["functional_1/conv_1/convolution"]
    assert spec.offset is not None
    values = np.frombuffer(data, "<f4", spec.size, spec.offset).copy()
    values[7] *= 1.01
    data[spec.offset : spec.offset + values.nbytes] = values.tobytes()
    (tmp_path / "float.tflite").write_bytes(data)
    found = told(compared("model.keras", tmp_path / "float.tflite"))
    assert not any("folded" in hint for _, hint in found.values())


def written(path: Path, *constants: Constant) -> Path:
    path.write_bytes(litert_model(*constants))
    return path


def int32_model(path: Path, value: int, scale: float = 0.5) -> Path:
    data = np.array([value, 7], "<i4").tobytes()
    return written(path, Constant("w", INT32, [2], data, [scale], [0]))


def test_integers_of_one_scale_are_compared_as_integers(tmp_path: Path) -> None:
    big = 1 << 30  # whose neighbours are one number as float32
    old, new = int32_model(tmp_path / "a", big), int32_model(tmp_path / "b", big + 1)
    assert told(ckptkit.diff(old, new))["w"][0] == "changed"
    other = int32_model(tmp_path / "c", big, 0.25)
    assert told(ckptkit.diff(old, other))["w"][0] == "changed"


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "m", Constant("w", INT8, [3], bytes(3), [0.5, 0.25], [0, 0]))
    shown = run("show", path, "w")
    assert shown.code == 2
    assert "expected one scale, or 3 along axis 0, found 2 scales" in shown.err
    assert run("show", path, "w", "--stored").code == 0


def test_show_gives_numbers_and_with_stored_the_integers(tmp_path: Path) -> None:
    path, name = FOLDER / "int8.tflite", "functional_1/hidden_1/MatMul"
    shown = ckptkit.show(path, name, slice="0,0:5")
    store = store_of(path)
    quantisation = quantisations_of(store)[name]
    integers = store.read(name, 0, 5)
    assert shown.values is not None and shown.statistics is not None
    assert shown.values.tolist() == ((integers * quantisation.scales[0]).astype("float32").tolist())
    stored = ckptkit.show(path, name, stored=True).statistics
    assert stored is not None and shown.statistics.maximum < 1 < stored.maximum
    document: dict[str, Any] = json.loads(run("show", path, name, "--format", "json").out)
    assert len(document["results"][0]["quantisation"]["scales"]) == 40
    whole = tmp_path / "w.npy"
    assert run("show", path, name, "--npy", whole).code == 0
    assert np.load(whole).dtype == np.float32
    assert run("show", path, name, "--npy", whole, "--overwrite", "--stored").code == 0
    assert np.load(whole).dtype == np.int8


def test_scales_are_no_weights() -> None:
    path = FOLDER / "qdq.onnx"
    roles = {naming.name: naming.role for naming in ckptkit.open(path).names.values()}
    scales = OnnxOperators(path, store_of(path).specs).scales()
    assert scales and {roles[name] for name in scales} == {"config"}
    assert roles["functional_1/scores_1/BiasAdd/ReadVariableOp:0_quantized"] == "weight"


def test_a_bias_that_the_converter_made_is_not_that_of_the_layer() -> None:
    """Behind a dilated convolution the bias is added later; the op's own is zeros."""
    assert told(compared("other.keras", "other_float.tflite"))["dilated/bias"] == ("equal", "")
    hint = told(compared("other.keras", "other_int8.tflite"))["dilated/bias"][1]
    assert hint.endswith(NEAREST)


@pytest.mark.parametrize("name", ["other_float.tflite", "other_int8.tflite"])
def test_a_transposed_convolution_takes_a_normalisation_along_its_own_axis(name: str) -> None:
    found = told(compared("other.keras", name))
    assert found["up/kernel"][1].startswith("up_norm is folded into it: each channel times gamma")
    assert found["up/bias"][1].startswith("up_norm is folded into it")
    assert found["up_norm/beta"] == ("removed", "folded into up/bias")


def test_a_conversion_to_float16() -> None:
    found = compared("other.keras", "other_float16.tflite")
    kernel = next(change for change in found.changes if change.name == "dilated/kernel")
    assert kernel.status == "changed" and kernel.new is not None
    with ckptkit.open(FOLDER / "other.keras") as model:
        values = np.asarray(model["dilated/kernel"])
    assert kernel.delta is not None
    gap = np.abs(values.astype("float16").astype("float32") - values).max()
    assert kernel.delta.max_abs == pytest.approx(float(gap))
    hints = told(found)
    rounded = ", each value rounded to float16"
    assert hints["up/kernel"][1].startswith("up_norm is folded into it: each channel times gamma")
    assert hints["up/kernel"][1].endswith(rounded)
    assert hints["up/bias"][1] == f"up_norm is folded into it{rounded}"


@pytest.mark.parametrize("bits", [8, 2])
def test_one_scale_for_a_kernel_tells_a_fold_though_small_channels_are_coarse(
    tmp_path: Path, bits: int
) -> None:
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(3, 3, 4, 8))
    norm: dict[str, Array] = {"gamma": np.ones(8), "beta": np.zeros(8)}
    norm |= {"moving_mean": np.zeros(8), "moving_variance": np.geomspace(0.5, 800.0, 8)}
    folded = kernel / np.sqrt(norm["moving_variance"] + 0.001)
    step = np.abs(folded).max() / (2 ** (bits - 1) - 1)
    own = {"conv/kernel": kernel, **{f"norm/{part}": norm[part] for part in norm}}
    arrays: dict[str, Any] = {name: np.float32(own[name]) for name in own}
    np.savez(tmp_path / "model.npz", **arrays)
    np.savez(tmp_path / "deployed.npz", **{"conv/kernel": np.round(folded / step) * step})
    stores = store_of(tmp_path / "model.npz"), store_of(tmp_path / "deployed.npz")
    result = ckptkit.diff(tmp_path / "model.npz", tmp_path / "deployed.npz")
    stored = Numbers(
        "int8", kernel.shape, Quantisation(np.array([step]), np.zeros(1, np.int64)), Transform()
    )
    files = stores[0], store_of(FOLDER / "other_int8.tflite")
    found = with_folded(result.changes, files, stores, ({}, {"conv/kernel": stored}))
    hints = {change.name: "; ".join(change.hints) for change in found}
    assert hints["conv/kernel"].startswith("norm is folded into it") == (bits == 8)
    assert ("folded into" in hints["norm/gamma"]) == (bits == 8)


MODEL: dict[str, Array] = {
    name: np.random.default_rng(5).normal(size=shape).astype("f4")
    for name, shape in {
        "first/bias": (4,),
        "norm/gamma": (4,),
        "norm/beta": (4,),
        "norm/moving_mean": (4,),
        "dense/kernel": (4, 3),
        "dense/bias": (3,),
        "activation/alpha": (1, 1, 5),
    }.items()
}
MODEL["norm/moving_variance"] = np.array([0.5, 1, 2, 4], "f4")


def hints_of(folder: Path, model: dict[str, Array], graph: dict[str, Array]) -> dict[str, str]:
    """Return what is said of each tensor of a model beside what a converter made of it."""
    paths = folder / "model.npz", folder / "graph.npz"
    for path, arrays in zip(paths, (model, graph), strict=True):
        np.savez(path, **{name: array.astype("f4") for name, array in arrays.items()})  # type: ignore[arg-type]
    stores = store_of(paths[0]), store_of(paths[1])
    files = stores[0], store_of(FOLDER / "other_int8.tflite")
    changes = ckptkit.diff(*paths).changes
    return {c.name: "; ".join(c.hints) for c in with_folded(changes, files, stores, ({}, {}))}


def folded_ahead() -> dict[str, Array]:
    """Return the layer behind a normalisation, which takes it and the bias before it."""
    factor = MODEL["norm/gamma"] / np.sqrt(MODEL["norm/moving_variance"] + 0.001)
    shift = MODEL["norm/beta"] + (MODEL["first/bias"] - MODEL["norm/moving_mean"]) * factor
    return {
        "dense/kernel": MODEL["dense/kernel"] * factor[:, None],
        "dense/bias": MODEL["dense/bias"] + shift @ MODEL["dense/kernel"],
    }


def test_a_normalisation_in_the_layer_behind_it(tmp_path: Path) -> None:
    graph = folded_ahead() | {"other": -MODEL["activation/alpha"].reshape(1, 5, 1, 1)}
    hints = hints_of(tmp_path, MODEL, graph)
    factor = "each channel times gamma / sqrt(variance + 0.001)"
    assert hints["dense/kernel"] == f"norm is folded into it: {factor}"
    assert hints["dense/bias"] == "norm with first/bias is folded into it, times dense/kernel"
    assert hints["norm/gamma"] == hints["norm/moving_variance"] == "folded into dense/kernel"
    for name in ("first/bias", "norm/beta", "norm/moving_mean"):
        assert hints[name] == "folded into dense/bias"
    assert hints["other"] == "the negative of activation/alpha"
    assert hints["activation/alpha"] == "other, negated"


@pytest.mark.parametrize("name", ["first/bias", "norm/beta", "dense/bias", "activation/alpha"])
def test_a_weight_that_a_converter_had_not_is_not_explained(tmp_path: Path, name: str) -> None:
    graph = folded_ahead() | {"other": -MODEL["activation/alpha"]}
    values = MODEL[name].copy()
    values.flat[1] *= 1.001
    hints = hints_of(tmp_path, MODEL | {name: values}, graph)
    assert hints[name] == ""


def test_a_bias_in_the_layer_behind_it(tmp_path: Path) -> None:
    model = {name: MODEL[name] for name in ("first/bias", "dense/kernel", "dense/bias")}
    graph = {name: model[name] for name in ("dense/kernel", "dense/bias")}
    graph["dense/bias"] = graph["dense/bias"] + model["first/bias"] @ model["dense/kernel"]
    hints = hints_of(tmp_path, model, graph)
    assert hints["dense/bias"] == "first/bias is folded into it, times dense/kernel"
    assert hints["first/bias"] == "folded into dense/bias"


def test_a_bias_in_two_layers_behind_it(tmp_path: Path) -> None:
    other = np.random.default_rng(7).normal(size=(4, 2))
    model = {name: MODEL[name] for name in ("first/bias", "dense/kernel", "dense/bias")}
    model |= {"other/kernel": other, "other/bias": np.ones(2)}
    graph = {name: model[name] for name in model if name != "first/bias"}
    for layer in ("dense", "other"):
        added = model["first/bias"] @ model[f"{layer}/kernel"]
        graph[f"{layer}/bias"] = model[f"{layer}/bias"] + added
    hints = hints_of(tmp_path, model, graph)
    assert hints["other/bias"] == "first/bias is folded into it, times other/kernel"
    assert hints["first/bias"] == "folded into dense/bias, other/bias"


def test_large_slopes_are_looked_at_to_the_end(tmp_path: Path) -> None:
    slopes = np.random.default_rng(8).normal(size=(70_000,))
    hints = hints_of(tmp_path, {"alpha": slopes}, {"other": -slopes})
    assert hints == {"alpha": "other, negated", "other": "the negative of alpha"}
    changed = slopes.copy()
    changed[-1] *= 2
    assert not any(hints_of(tmp_path, {"alpha": slopes}, {"other": -changed}).values())


def test_what_proves_nothing_is_not_told(tmp_path: Path) -> None:
    """Constants of one number, products that are all 0, and two that may be meant."""
    slopes, bias = MODEL["activation/alpha"], MODEL["first/bias"]
    model = {"ones": np.ones(4), "alpha": slopes, "twin": MODEL["dense/bias"]}
    graph = {"less": -np.ones(4), "one": -slopes, "other": -slopes, "more": -MODEL["dense/bias"]}
    told = {"twin": "more, negated", "more": "the negative of twin"}
    assert {k: hint for k, hint in hints_of(tmp_path, model, graph).items() if hint} == told

    zeros = {"first/bias": bias, "dense/kernel": np.zeros((4, 3)), "dense/bias": np.ones(3)}
    graph = {"dense/kernel": zeros["dense/kernel"], "dense/bias": np.ones(3) + 1e-6}
    graph["added"] = np.zeros(3)
    assert not any(hints_of(tmp_path, zeros, graph).values())

    kernel = MODEL["dense/kernel"]
    model = {"one/bias": bias, "two/bias": bias, "dense/kernel": kernel, "dense/bias": np.ones(3)}
    graph = {"dense/kernel": kernel, "dense/bias": np.ones(3) + bias @ kernel}
    assert not any(hints_of(tmp_path, model, graph).values())
    del model["two/bias"]
    assert hints_of(tmp_path, model, graph)["one/bias"] == "folded into dense/bias"
    graph["added"] = bias @ kernel
    assert not any(hints_of(tmp_path, model, graph).values())


def test_of_many_vectors_none_is_tried(tmp_path: Path) -> None:
    """Chance would find one, and the time would grow with the square of how many there are."""
    model = {name: MODEL[name] for name in ("first/bias", "dense/kernel", "dense/bias")}
    bias = model["dense/bias"] + model["first/bias"] @ model["dense/kernel"]
    graph = {"dense/kernel": model["dense/kernel"], "dense/bias": bias}
    numbers = np.random.default_rng(6)
    many = model | {f"vector{at}": numbers.normal(size=4) for at in range(256)}
    assert hints_of(tmp_path, model, graph)["first/bias"]
    assert not any(hints_of(tmp_path, many, graph).values())
