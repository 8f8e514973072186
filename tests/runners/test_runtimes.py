"""What TensorFlow recorded, checked by LiteRT, ONNX Runtime, and Keras on JAX and PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.check.api import localize
from ckptkit.operations.check.report import Report
from ckptkit.operations.record.api import record
from ckptkit.runners.client import execute, probe
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.spec import parse_runner
from ckptkit.runners.types import Limits, ModelSpec
from support import runtime_models
from support.places import SUPPORT

PACKAGES = ("tensorflow", "ai_edge_litert", "onnxruntime", "onnx", "tf2onnx", "jax", "torch")
LACKING = [name for name in PACKAGES if find_spec(name) is None]

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.needs_tf,
    pytest.mark.skipif(
        bool(LACKING), reason=f"no {', '.join(LACKING)} here: `make test-runtimes` installs them"
    ),
]

MODELS = tuple(runtime_models.MODELS)
ENDINGS = {"litert": ".tflite", "onnx": ".onnx", "keras-jax": ".keras", "keras-torch": ".keras"}
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".keras": "keras"}
RUNTIMES = tuple(ENDINGS)
# Names that a converter makes up, or that a SavedModel does not keep.
RENAMES = {
    ".onnx": ("output_0=Identity:0", "output_1=Identity_1:0"),
    ".keras": ("output_0=score", "output_1=risk"),
}
LIMITS = Limits(timeout_s=600)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every model in every form."""
    directory = tmp_path_factory.mktemp("forms")
    script = SUPPORT / "runtime_models.py"
    done = subprocess.run(
        [sys.executable, str(script), str(directory)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return directory


@pytest.fixture(scope="module")
def golden(forms: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What TensorFlow computes on the CPU, by the SavedModel, recorded when asked for."""
    directory = tmp_path_factory.mktemp("goldens")

    @cache
    def recorded(name: str) -> Path:
        record(forms / name, directory / name, noise=False, layers=["*"])
        return directory / name

    return recorded


def check(path: Path, golden: Path, runtime: str, **options: Any) -> Report:
    name = path.name.partition(".")[0]
    renames = RENAMES.get(path.suffix, ()) if name == "multi" else ()
    options = {"rename": renames, **options}
    return ckptkit.check(path, golden=golden, on=[runtime], **options)


def statuses(report: Report) -> set[str]:
    return {row.result.status for row in report.rows}


# --- the same model everywhere --------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", MODELS)
def test_recorded_outputs_agree(
    forms: Path, golden: Callable[[str], Path], name: str, runtime: str
) -> None:
    report = check(forms / f"{name}{ENDINGS[runtime]}", golden(name), f"{runtime}:CPU:0")

    assert report.exit_code == 0, report.findings
    assert len(report.rows) == (2 if name == "multi" else 1)
    for row in report.rows:
        assert row.result.tolerance.reason.startswith("T4"), row
        assert row.result.max_abs < 1e-5 * row.result.rms  # as docs/runtimes.md says
        print(f"{name} {runtime}: {row.result.max_abs / row.result.rms:.1e} of the rms")
    (ran,) = report.runs
    assert ran.environment["runtime"] == runtime
    assert ran.devices["CPU:0"]["heavy"] > 0


def _patch(path: Path, out: Path, old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> None:
    """Write a file with the bytes of one array in place of another's, which it holds once."""
    data = path.read_bytes()
    assert data.count(old.tobytes()) == 1, "the weight is not in the file as it is"
    assert old.tobytes() != new.tobytes()
    out.write_bytes(data.replace(old.tobytes(), new.tobytes()))


def _weight(forms: Path, name: str, ending: str) -> np.ndarray[Any, Any]:
    found = [v for k, v in ckptkit.load(forms / f"{name}.ckpt").items() if k.endswith(ending)]
    assert len(found) == 1
    return found[0]


def _rewrite_config(path: Path, out: Path, change: Callable[[str], str]) -> None:
    """Write a `.keras` archive with another configuration."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename == "config.json":
                changed = change(data.decode())
                assert json.loads(changed) != json.loads(data)
                data = changed.encode()
            new.writestr(item, data)


def _lite_units_swapped(forms: Path, out: Path) -> str:
    kernel = np.ascontiguousarray(_weight(forms, "cnn", "classes/kernel").T)
    swapped = kernel[[1, 0, 2, 3, 4]]
    _patch(forms / "cnn.tflite", out, kernel, np.ascontiguousarray(swapped))
    return "litert"


def _onnx_gates(forms: Path) -> list[np.ndarray[Any, Any]]:
    """Return the recurrent weights of the gates i, o, f, c, as an ONNX LSTM has them."""
    kernel = _weight(forms, "lstm", "recurrent_kernel")
    i, f, c, o = (np.ascontiguousarray(block.T) for block in np.split(kernel, 4, axis=1))
    return [i, o, f, c]


def _onnx_gates_swapped(forms: Path, out: Path) -> str:
    i, o, f, c = _onnx_gates(forms)
    _patch(forms / "lstm.onnx", out, np.concatenate([i, o, f, c]), np.concatenate([i, f, o, c]))
    return "onnx"


def _onnx_transposed(forms: Path, out: Path) -> str:
    candidate = _onnx_gates(forms)[3]
    _patch(forms / "lstm.onnx", out, candidate, np.ascontiguousarray(candidate.T))
    return "onnx"


def _other_epsilon(forms: Path, out: Path) -> str:
    _rewrite_config(
        forms / "cnn.keras", out, lambda t: t.replace('"epsilon": 0.001', '"epsilon": 0.01')
    )
    return "keras-jax"


def _other_activation(forms: Path, out: Path) -> str:
    _rewrite_config(
        forms / "lstm.keras",
        out,
        lambda t: t.replace(
            '"recurrent_activation": "sigmoid"', '"recurrent_activation": "hard_sigmoid"'
        ),
    )
    return "keras-torch"


def _lite_bias_in_a_fused_op(forms: Path, out: Path) -> str:
    (details,) = [
        item for item in _lite_tensors(forms / "cnn.tflite") if _is_fused(item[0]) and item[2]
    ]
    name, bias, _ = details
    assert "norm2" in name and "conv2" in name
    _patch(forms / "cnn.tflite", out, bias, bias[::-1].copy())
    return "litert"


def _is_fused(name: str) -> bool:
    return "norm2" in name and "conv2" in name and ";" in name


def _lite_tensors(path: Path) -> list[tuple[str, np.ndarray[Any, Any], bool]]:
    """Return (name, value, whether no op computes it) of all tensors of one axis."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    made = {int(i) for op in interpreter._get_ops_details() for i in op["outputs"]}
    interpreter.allocate_tensors()
    return [
        (item["name"], interpreter.get_tensor(item["index"]), item["index"] not in made)
        for item in interpreter.get_tensor_details()
        if len(item["shape"]) == 1 and item["index"] not in made
    ]


BUGS = [  # what is done, to which file, and the layer that it is in
    (_lite_units_swapped, "cnn.tflite", "classes"),
    (_lite_bias_in_a_fused_op, "cnn.tflite", "conv2"),
    (_onnx_gates_swapped, "lstm.onnx", "lstm"),
    (_onnx_transposed, "lstm.onnx", "lstm"),
    (_other_epsilon, "cnn.keras", "norm1"),
    (_other_activation, "lstm.keras", "lstm"),
]


@pytest.mark.parametrize(("damage", "source", "layer"), BUGS)
def test_conversion_bugs_are_caught_and_their_layers_named(
    forms: Path,
    golden: Callable[[str], Path],
    tmp_path: Path,
    damage: Callable[[Path, Path], str],
    source: str,
    layer: str,
) -> None:
    runtime = damage(forms, tmp_path / source)

    name = source.partition(".")[0]
    report = check(tmp_path / source, golden(name), f"{runtime}:CPU:0", localize=True)

    assert report.exit_code == 1
    assert statuses(report) == {"differs"}
    for row in report.rows:
        assert row.result.max_abs > 10 * row.result.tolerance.atol * row.result.rms
    found = report.localization
    assert found is not None and found.mode == "isolated"
    assert found.suspects[0].rpartition("/")[2] == layer
    assert not found.switches  # another runtime computes in its own way: nothing to flip


def test_a_bug_is_localised_against_the_model_that_was_converted(
    forms: Path, tmp_path: Path
) -> None:
    _onnx_gates_swapped(forms, tmp_path / "lstm.onnx")

    report = ckptkit.check(tmp_path / "lstm.onnx", against=forms / "lstm", localize=True)

    assert [row.runner for row in report.rows] == ["onnx:CPU:0"]
    assert report.reference.endswith("on CPU:0")
    assert report.localization is not None
    assert report.localization.suspects[0].rpartition("/")[2] == "lstm"


@pytest.mark.parametrize(
    ("source", "runtime", "layers"),
    [
        ("cnn.tflite", "litert", 5),
        ("cnn.onnx", "onnx", 8),
        ("lstm.onnx", "onnx", 4),
        ("cnn.keras", "keras-jax", 8),
        ("lstm.keras", "keras-torch", 3),
    ],
)
def test_no_layer_of_a_sound_model_is_blamed(
    forms: Path, golden: Callable[[str], Path], source: str, runtime: str, layers: int
) -> None:
    name = source.partition(".")[0]
    found = localize(forms / source, golden=golden(name), on=[f"{runtime}:CPU:0"])

    assert found.mode == "isolated"
    assert not found.suspects
    assert found.compared >= layers
    for layer in found.layers:
        assert layer.added < 1e-5, layer


@pytest.mark.parametrize("source", ["cnn.tflite", "cnn.onnx"])
def test_constants_go_by_the_names_of_the_weights_that_they_are(
    forms: Path, golden: Callable[[str], Path], source: str, tmp_path: Path
) -> None:
    def variables(path: Path, layer: str) -> dict[str, bool | None]:
        found = localize(path, golden=golden("cnn"))
        [row] = [row for row in found.layers if row.path.rpartition("/")[2] == layer]
        return {gap.name.rpartition("/")[2]: gap.differs for gap in row.variables}

    assert variables(forms / source, "conv1") == {"kernel": False, "bias": False}
    bias = _weight(forms, "cnn", "conv1/bias")
    _patch(forms / source, tmp_path / source, bias, bias[::-1].copy())
    changed = variables(tmp_path / source, "conv1")
    assert changed.pop("kernel") is False and list(changed.values()) == [None]


@pytest.mark.parametrize("source", ["one.tflite", "half.tflite"])
def test_layers_of_small_models_run_alone(
    forms: Path, golden: Callable[[str], Path], source: str
) -> None:
    found = localize(forms / source, golden=golden("mlp"))

    assert found.mode == "isolated"
    assert [layer.path.rpartition("/")[2] for layer in found.layers] == ["hidden", "logits"]
    assert not found.suspects


def test_swapped_outputs_are_named(forms: Path, golden: Callable[[str], Path]) -> None:
    wrong = ("output_0=Identity_1:0", "output_1=Identity:0")

    report = check(forms / "multi.onnx", golden("multi"), "onnx:CPU:0", rename=wrong)

    assert report.exit_code == 1
    assert "equals recorded output 'output_1'" in str([row.result.hints for row in report.rows])


def test_positions_do_not_pair_outputs(forms: Path, golden: Callable[[str], Path]) -> None:
    report = check(forms / "multi.onnx", golden("multi"), "onnx:CPU:0", rename=())

    assert report.exit_code != 0
    assert not statuses(report) & {"equal", "within", "noise"}


@pytest.mark.parametrize("runtime", ["keras-jax", "keras-torch"])
def test_layers_that_are_attributes_of_layers_are_restored(forms: Path, runtime: str) -> None:
    code = f"{SUPPORT / 'runtime_models.py'}:nested"
    report = ckptkit.check(forms / "nested.ckpt", model=code, on=[f"{runtime}:CPU:0"])
    assert report.exit_code == 0, report.findings
    assert report.coverage is not None and report.coverage.counts == {"restored": 11}


# --- devices, packages, switches ------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "keras-jax", "keras-torch"])
def test_no_gpu_is_no_pass(forms: Path, golden: Callable[[str], Path], runtime: str) -> None:
    if any(row.device == "GPU:0" for row in probe() if row.runtime == runtime):
        pytest.skip("a GPU is here")
    with pytest.raises(RunnerError, match="no GPU:0 here") as caught:
        check(forms / f"mlp{ENDINGS[runtime]}", golden("mlp"), f"{runtime}:GPU:0")
    assert caught.value.kind == "missing"


@pytest.mark.parametrize(
    "spec",
    [
        "litert:CPU:0,threads=2",
        "onnx:CPU:0,threads=1,deterministic",
        "keras-jax:CPU:1,threads=1,eager",
        "keras-torch:CPU:0,threads=1,deterministic",
    ],
)
def test_switches(forms: Path, golden: Callable[[str], Path], spec: str) -> None:
    runner = parse_runner(spec)
    report = check(forms / f"cnn{ENDINGS[runner.runtime]}", golden("cnn"), spec)

    assert report.exit_code == 0, report.findings
    (ran,) = report.runs
    assert ran.environment["threads"] == runner.threads
    assert ran.environment["deterministic"] == runner.deterministic
    assert list(ran.devices) == [f"CPU:{runner.index}"]


def test_probe_finds_all() -> None:
    found = {row.runtime: row for row in probe() if row.device == "CPU:0"}
    assert set(found) == {"tensorflow", *RUNTIMES}
    assert all(row.versions for row in found.values())


# --- LiteRT ---------------------------------------------------------------------------------------


def _given(name: str, batch: int = 8) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    if name == "cnn":
        return {"image": rng.normal(size=(batch, 12, 12, 3)).astype("float32")}
    return {"x": rng.normal(size=(batch, 6)).astype("float32")}


def _outputs(path: Path, spec: str, case: dict[str, Any], **options: Any) -> Any:
    subject = ModelSpec(KINDS[path.suffix], path)
    return execute(subject, parse_runner(spec), [case], LIMITS, **options)


def test_a_model_for_one_example_runs_a_batch(forms: Path) -> None:
    case = _given("mlp")
    one = _outputs(forms / "one.tflite", "litert:CPU:0", case)
    free = _outputs(forms / "mlp.tflite", "litert:CPU:0", case)

    (name,) = one.outputs[0]
    assert one.outputs[0][name].shape == (8, 5)
    np.testing.assert_allclose(one.outputs[0][name], free.outputs[0]["output_0"], rtol=1e-5)


def test_quantised_models_stay_typed(forms: Path) -> None:
    case = {"x": np.arange(48, dtype=np.int8).reshape(8, 6)}
    run = _outputs(forms / "int8.tflite", "litert:CPU:0", case)

    assert run.outputs[0]["output_0"].dtype == np.int8
    assert run.environment["quantized"]
    with pytest.raises(RunnerError, match="int8") as caught:
        _outputs(forms / "int8.tflite", "litert:CPU:0", _given("mlp"))
    assert caught.value.kind == "signature"


def test_half_precision_weights_get_their_bounds(
    forms: Path, golden: Callable[[str], Path]
) -> None:
    report = check(forms / "half.tflite", golden("mlp"), "litert:CPU:0")

    assert report.exit_code == 0, report.findings
    assert "float16" in report.rows[0].result.tolerance.reason


# --- values inside of a model ---------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_values_inside(forms: Path, runtime: str) -> None:
    path = forms / f"cnn{ENDINGS[runtime]}"
    run = _outputs(path, f"{runtime}:CPU:0", _given("cnn"), layers=True)

    layers, (output,) = run.layers[0], run.outputs[0].values()
    assert len(layers) > 5
    last = list(layers)[-1]
    np.testing.assert_allclose(layers[last], output, rtol=1e-5)
    clipped = [value for name, value in layers.items() if "relu" in name.lower()]
    assert any(value.shape[0] == 8 and value.min() == 0 < value.max() for value in clipped)

    some = _outputs(path, f"{runtime}:CPU:0", _given("cnn"), layers=["*conv1*"])
    assert 0 < len(some.layers[0]) < len(layers)


# --- code and a checkpoint ------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["keras-jax", "keras-torch"])
@pytest.mark.parametrize("name", ["cnn", "lstm"])
def test_checkpoints_fill_models_of_other_backends(
    forms: Path, golden: Callable[[str], Path], name: str, runtime: str, tmp_path: Path
) -> None:
    guard = tmp_path / "without_tensorflow.py"
    guard.write_text(
        "import sys\n"
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
        "sys.modules['tensorflow'] = None\n"
    )
    report = check(
        forms / f"{name}.ckpt",
        golden(name),
        f"{runtime}:CPU:0",
        model=f"{SUPPORT / 'runtime_models.py'}:{name}",
        imports=[str(guard)],
    )

    assert report.exit_code == 0, report.findings
    assert report.rows
    assert report.coverage is not None
    assert {v.status for v in report.coverage.variables if v.role == "weight"} == {"restored"}
    assert report.coverage.counts["restored"] == (14 if name == "cnn" else 6)


@pytest.mark.parametrize("on", [["keras-torch:CPU:0"], ["CPU:0", "keras-torch:CPU:0"]])
@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_weights_of_any_format_fill_models_of_other_backends(
    forms: Path, golden: Callable[[str], Path], ending: str, on: list[str], tmp_path: Path
) -> None:
    weights = tmp_path / f"cnn.{ending}"
    ckptkit.convert(forms / "cnn.ckpt", weights)

    report = ckptkit.check(
        weights, golden=golden("cnn"), on=on, model=f"{SUPPORT / 'runtime_models.py'}:cnn"
    )

    assert report.exit_code == 0, report.findings
    assert [row.runner for row in report.rows] == on


def test_a_checkpoint_that_does_not_fill_the_model_is_not_run(
    forms: Path, golden: Callable[[str], Path]
) -> None:
    report = check(
        forms / "mlp.ckpt",
        golden("cnn"),
        "keras-torch:CPU:0",
        model=f"{SUPPORT / 'runtime_models.py'}:cnn",
    )

    assert report.exit_code == 1
    assert not report.rows
    assert report.coverage is not None
    assert not report.coverage.ok


def test_the_process_is_told_apart(forms: Path) -> None:
    """A runner's backend does not follow the environment of who calls it."""
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        run = _outputs(forms / "mlp.keras", "keras-torch:CPU:0", _given("mlp"))
    finally:
        os.environ.pop("KERAS_BACKEND")
        if before is not None:
            os.environ["KERAS_BACKEND"] = before
    assert "torch" in run.environment["versions"]


@pytest.mark.parametrize("source", ["mlp.tflite", "mlp.onnx"])
def test_a_tolerance_is_audited_by_faults_in_the_model_it_is_compared_with(
    forms: Path, source: str, tmp_path: Path
) -> None:
    model = forms / "mlp"
    wide: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2}
    report = ckptkit.check(forms / source, against=model, audit_tolerance=True, **wide)
    audit = report.audit
    assert audit is not None and audit.tried and audit.share > 0.05
    assert report.exit_code == 1 and statuses(report) <= {"equal", "within"}

    tolerance = tmp_path / "tolerance.txt"
    tolerance.write_text("\n".join(audit.file_lines), encoding="utf-8")
    assert ckptkit.check(forms / source, against=model, tolerance=tolerance).ok
    for layer in ("hidden", "logits"):
        (fault,) = (
            f for f in audit.faults if f.kind == "scale" and f.where.endswith(f"{layer}/kernel")
        )
        kernel = _weight(forms, "mlp", f"{layer}/kernel")
        stored = np.ascontiguousarray(kernel.T) if source.endswith(".tflite") else kernel
        damaged = tmp_path / f"{layer}-{source}"
        _patch(forms / source, damaged, stored, stored * np.float32(1.01))
        assert ckptkit.check(damaged, against=model, **wide).ok == (fault.verdict != "seen")
        assert not ckptkit.check(damaged, against=model, tolerance=tolerance).ok


@pytest.mark.parametrize("source", ["mlp.tflite", "mlp.onnx"])
def test_without_a_model_that_can_be_changed_nothing_is_audited(forms: Path, source: str) -> None:
    report = ckptkit.check(forms / source, audit_tolerance=True)
    assert report.exit_code == 2 and report.audit is not None
    assert "can be changed" in report.audit.why_not
