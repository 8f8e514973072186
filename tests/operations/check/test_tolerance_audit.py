"""Would the tolerance of a check see a broken layer?"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.model_io.sampling import Sample, load_values, sample, save_values
from ckptkit.operations.check.audit import (
    AuditedFault,
    SuggestedTolerance,
    ToleranceAudit,
    findings_of_audit,
)
from ckptkit.operations.tolerance_rules import read_tolerances
from ckptkit.runners.child.faults import (
    ACTIVATION,
    BIAS,
    EPSILON,
    LAYER,
    SCALE,
    TRANSPOSE,
    UNIT,
    damaged,
    faults_of_weights,
    other_activation,
    other_epsilon,
    spread,
)
from support import places
from support.command_line import ckptkit as run
from support.goldens import golden

EXPORT = golden("tf2.21.0/saved_model_export/model").path

# --- the faults -----------------------------------------------------------------------------------


def kinds(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for fault in faults_of_weights("l", shapes):
        for name in fault.variables:
            found.setdefault(name, set()).add(fault.kind)
    return found


def test_what_may_be_wrong_with_a_layer() -> None:
    assert kinds({"l/kernel": (4, 4), "l/bias": (4,)}) == {
        "l/kernel": {LAYER, UNIT, SCALE, TRANSPOSE},
        "l/bias": {LAYER, BIAS},
    }
    # a bias is told by what it is added to, whatever it is called, or by its name
    assert kinds({"l/w": (3, 5), "l/shift": (5,), "l/other": (7,)})["l/shift"] == {LAYER, BIAS}
    assert kinds({"l/w": (3, 5), "l/other": (7,)})["l/other"] == {LAYER}
    assert kinds({"l/gamma": (5,), "l/beta": (5,)})["l/beta"] == {LAYER, BIAS}
    assert kinds({"l/k": (2, 9), "l/bias": (2, 9)})["l/bias"] == {LAYER, BIAS}  # of a GRU
    # square in its window, or from as many channels to as many
    assert TRANSPOSE in kinds({"l/kernel": (3, 3, 1, 8)})["l/kernel"]
    assert TRANSPOSE in kinds({"l/kernel": (3, 1, 8, 8)})["l/kernel"]
    assert TRANSPOSE not in kinds({"l/kernel": (3, 1, 4, 8)})["l/kernel"]


def test_what_becomes_of_values() -> None:
    value = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    unit, turned = damaged(UNIT, value), damaged(TRANSPOSE, value)
    assert unit is not None and turned is not None
    assert unit[:, 2].tolist() == [0, 0, 0] and (unit[:, :2] == value[:, :2]).all()
    assert (turned == value.T).all()
    scaled = damaged(SCALE, value)
    assert scaled is not None and np.allclose(scaled, value * 1.01) and scaled.dtype == np.float32
    # what changes nothing is no fault
    assert damaged(BIAS, np.zeros(3, np.float32)) is None
    assert damaged(TRANSPOSE, np.eye(3, dtype=np.float32)) is None
    assert damaged(SCALE, np.zeros((2, 2), np.float32)) is None
    assert damaged(UNIT, np.ones((2, 2), np.int8)) is None
    assert (value == np.arange(1, 10).reshape(3, 3)).all()


def test_settings_that_are_taken_for_others() -> None:
    assert [other_epsilon(e) for e in (1e-3, 1e-5, 1e-12, 1e-4)] == [1e-5, 1e-3, 1e-3, 1e-5]
    names = ("relu", "gelu", "softmax", "tanh", "linear")
    assert [other_activation(n) for n in names] == ["gelu", "relu", "sigmoid", "relu", None]


def test_some_of_the_faults() -> None:
    faults = [
        fault
        for number in range(9)
        for fault in faults_of_weights(f"l{number}", {f"l{number}/k": (2, 3), f"l{number}/b": (3,)})
    ]
    some = spread(faults, 2)
    assert [(f.kind, f.layer) for f in some] == [
        *((UNIT, "l2"), (UNIT, "l6"), (SCALE, "l2"), (SCALE, "l6"), (BIAS, "l2"), (BIAS, "l6")),
    ]
    assert len(spread(faults, 100)) == 27


# --- the verdict ----------------------------------------------------------------------------------


def audit(*verdicts: str) -> ToleranceAudit:
    faults = [AuditedFault(UNIT, "", f"l{n}", (), v, 0.1) for n, v in enumerate(verdicts)]
    return ToleranceAudit("CPU:0", "T1", tuple(faults))


def test_a_twentieth_may_pass() -> None:
    for found, code in (
        (audit(*["seen"] * 19, "passes"), 0),
        (audit(*["seen"] * 18, "passes"), 1),
        (audit(*["seen"] * 18, "blind"), 1),
        (audit("seen", *["same"] * 9), 0),  # which are no faults
        (audit(*["same"] * 9), 2),
        (audit(), 2),
    ):
        assert found.exit_code == code and found.ok == (code == 0)
        severities: list[str] = [finding.severity for finding in findings_of_audit(found, "m")]
        expected = {0: ["note"] * bool(found.passing), 1: ["warning"], 2: []}[code]
        assert severities == expected
    assert audit(*["seen"] * 19, "passes").verdict == "1 of 20 faults would pass (5.0%)"


def test_lines_of_a_file_are_of_one_output_each(tmp_path: Path) -> None:
    names = ["logits", "a*", "b[0]", "with space", "a/b:0"]
    found = ToleranceAudit(suggested=tuple(SuggestedTolerance(n, 1e-6, 2e-6, 0.0) for n in names))
    (tmp_path / "t.txt").write_text("\n".join(found.file_lines), encoding="utf-8")
    rules = read_tolerances(tmp_path / "t.txt")
    for number, name in enumerate(names):
        assert [rule.fits([name]) for rule in rules] == [n == number for n in range(len(names))]
        assert rules[number].tolerance.rtol == 1e-6 and rules[number].tolerance.atol == 2e-6


def test_samples_go_to_the_child(tmp_path: Path) -> None:
    large = np.arange(1000, dtype=np.float32)
    values: dict[str, Any] = {"large": sample(large, 3, 10), "small": large[:3]}
    back = load_values(json.loads(json.dumps(save_values(tmp_path / "v.npz", values))))
    kept, small = back["large"], back["small"]
    assert isinstance(kept, Sample) and isinstance(values["large"], Sample)
    assert (kept.values == values["large"].values).all() and (kept.places < 1000).all()
    assert (kept.shape, kept.seed, kept.norms) == ((1000,), 3, values["large"].norms)
    assert np.asarray(small).tolist() == [0, 1, 2]


# --- models ---------------------------------------------------------------------------------------

CODE = """
import keras

def build(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(4, activation="relu", name="hidden",
        bias_initializer="random_normal")(inputs)
    normal = keras.layers.BatchNormalization(name="normal")(hidden)
    lost = keras.layers.Dense(3, name="lost", kernel_initializer="ones")(hidden)
    lost = keras.layers.Rescaling(1e-3)(lost)
    return keras.Model(inputs, keras.layers.Concatenate(name="y")([normal, lost]))

build(1).save("model.keras")
build(2).save("other.keras")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "make_models.py").write_text(CODE, encoding="utf-8")
    command = [sys.executable, "make_models.py"]
    subprocess.run(command, cwd=folder, env={**os.environ, **places.environment()}, check=True)
    return folder / "model.keras"


@pytest.fixture(scope="module")
def wide() -> Any:
    """A tolerance of three percent, which sees no change of one."""
    return ckptkit.check(EXPORT, audit_tolerance=True, rtol=0.03, atol=0.03)


@pytest.mark.needs_tf
@pytest.mark.slow
def test_a_tolerance_that_sees_too_little(model: Path) -> None:
    """It lets pass what happens to the layer whose outputs are small."""
    report = ckptkit.check(model, audit_tolerance=True, rtol=1e-3, atol=1e-3)
    assert report.exit_code == 1 and report.rows[0].ok
    found: Any = report.audit
    by_where = {(fault.where, fault.kind): fault.verdict for fault in found.faults}
    assert by_where["hidden/kernel", TRANSPOSE] == by_where["hidden/bias", BIAS] == "seen"
    assert by_where["hidden", "activation"] == "seen"
    assert by_where["lost/kernel", SCALE] == by_where["lost", LAYER] == "passes"
    # of a variance of 1, which changes by 1e-3: so do outputs by half of that
    assert by_where["normal", "epsilon"] == "passes"
    assert ("lost/bias", BIAS) not in by_where  # zero as it is
    assert {fault.where for fault in found.passing} == {"lost", "lost/kernel", "normal"}
    [suggested] = found.suggested
    assert suggested.output == "y" and 4e-7 < suggested.rtol < 1e-4


@pytest.mark.needs_tf
def test_what_is_said_of_it(wide: Any) -> None:
    report, found = wide, wide.audit
    assert report.exit_code == 1 and report.rows[0].ok
    verdicts = {fault.kind: fault.verdict for fault in found.faults}
    assert verdicts == {LAYER: "passes", SCALE: "passes", UNIT: "seen", BIAS: "seen"}
    [finding] = report.findings
    assert (finding.severity, finding.code) == ("warning", "audit.tolerance")
    assert "rtol 0.03 atol 0.03" in finding.message and "of the lines suggested" in finding.hint
    assert "audit: 2 of 4 faults would pass (50.0%)" in report.verdict
    assert set(found.noise) == {"CPU:0", "the same again", "threads=1", "threads=2", "XLA"}
    text = str(report)
    assert re.search(r"kernel scaled by 1\.01 +1 +1 +0", text)
    assert f"  {found.file_lines[-1]}" in text and "suggested, for a file that" in text
    document = report.to_json()["audit"]
    assert document["passing"] == len(report.audit.passing) and document["exit_code"] == 1
    assert len(report.audit.records()) == len(report.audit.faults) == len(document["faults"])
    assert "one unit is zero" in str(report.audit) and "<table" in report.audit._repr_html_()
    junit = "\n".join(
        __import__("ckptkit.reports.check.lines", fromlist=["x"]).lines(report, "junit")
    )
    assert 'type="audit.tolerance"' in junit


@pytest.mark.needs_tf
@pytest.mark.slow
def test_the_suggested_file_passes_the_model_and_no_fault(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ("check", model, "--audit-tolerance", "--format", "json")
    first = run(*common, "--suggest", "t.txt", "--atol", "1e-3")
    assert first.code == 1
    again = run(*common, "--tolerance", "t.txt", "--on", "xla:CPU:0")
    assert again.code == 0, again.err
    assert json.loads(again.out)["audit"]["passing"] == 0


def test_what_does_not_go_together(tmp_path: Path) -> None:
    done = run("check", EXPORT, "--suggest", tmp_path / "t.txt", "--golden", ".")
    assert done.code == 2 and "--suggest is for --audit-tolerance" in done.err


@pytest.mark.needs_tf
@pytest.mark.slow
def test_inputs_that_show_nothing(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "zeros.npz", x=np.zeros((2, 4), np.float32))
    found = ckptkit.check(model, audit_tolerance=True, inputs=tmp_path / "zeros.npz").audit
    assert found is not None and found.exit_code == 1
    # of a bias the outputs tell, of a kernel nothing
    verdicts = {(fault.where, fault.kind): fault.verdict for fault in found.faults}
    assert verdicts["hidden/kernel", UNIT] == verdicts["hidden/kernel", TRANSPOSE] == "blind"
    assert verdicts["hidden/bias", BIAS] == "seen"


@pytest.mark.needs_tf
@pytest.mark.slow
def test_a_model_that_differs_is_not_audited(model: Path) -> None:
    report = ckptkit.check(model, against=model.parent / "other.keras", audit_tolerance=True)
    assert report.exit_code == 1 and report.audit is not None
    assert not report.audit.faults and "without any fault" in report.audit.why_not


# --- settings of graphs ---------------------------------------------------------------------------

GRAPH_CODE = """
import json, sys
import keras
import tensorflow as tf
from ckptkit.runners.tensorflow.graph_settings import settings_in

sys.stdout.reconfigure(encoding="utf-8")
layers = keras.layers

@tf.function
def named(x):
    scale = tf.ones([3])
    y = tf.compat.v1.nn.fused_batch_norm(x, scale, scale, scale, scale, 2e-3, is_training=False)[0]
    y = tf.nn.relu(y) / tf.sqrt(tf.reduce_mean(y, 0) + 1e-6)
    y = y * tf.math.rsqrt(tf.cast(0.001 + tf.abs(y), tf.float32))
    y = y + 0.25 - tf.sqrt(y + 1.0)  # neither is an epsilon
    return tf.nn.softmax(tf.sigmoid(y) + y * tf.sigmoid(y))

graph = named.get_concrete_function(tf.TensorSpec([2, 4, 4, 3])).graph.as_graph_def()
print(json.dumps([[s.kind, s.old, s.new] for s in settings_in(graph)]))

def build(**changed):
    keras.utils.set_random_seed(1)
    keras.backend.clear_session()
    settings = {"act": "relu", "bn": 1e-3, "ln": 1e-3, "last": "softmax"} | changed
    x = keras.Input((6,), name="x")
    y = layers.Dense(8, activation=settings["act"], name="hidden")(x)
    y = layers.BatchNormalization(epsilon=settings["bn"], name="normal")(y)
    y = layers.Dense(5, activation="silu", name="gate")(y)
    y = layers.LayerNormalization(epsilon=settings["ln"], name="scaled")(y)
    y = layers.Dense(3, activation=settings["last"], name="last")(y)
    return keras.Model(x, y)

build().export("sound", verbose=False)
build(act="gelu").export("hidden-activation", verbose=False)
build(bn=1e-5).export("normal-epsilon", verbose=False)
build(ln=1e-5).export("scaled-epsilon", verbose=False)
build(last="sigmoid").export("last-activation", verbose=False)
"""


@pytest.mark.needs_tf
@pytest.mark.slow
def test_settings_of_a_saved_model(tmp_path: Path) -> None:
    """Found in the graph, and what the audit says of each is what happens to a model with it."""
    (tmp_path / "make.py").write_text(GRAPH_CODE, encoding="utf-8")
    command = [sys.executable, "make.py"]
    env = {**os.environ, **places.environment()}
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    found = json.loads(done.stdout.decode().splitlines()[0])
    assert sorted(found, key=str) == [
        *([ACTIVATION, "relu", "gelu"], [ACTIVATION, "sigmoid", "relu"]),
        *([ACTIVATION, "silu", "relu"], [ACTIVATION, "softmax", "sigmoid"]),
        *([EPSILON, 0.001, 1e-5], [EPSILON, 0.002, 1e-5], [EPSILON, 1e-6, 1e-3]),
    ]
    wide: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2}
    report = ckptkit.check(tmp_path / "sound", audit_tolerance=True, **wide)
    assert report.audit is not None
    faults = {(f.layer, f.kind): f for f in report.audit.faults if not f.variables}
    assert {layer for layer, _ in faults} == {"hidden", "normal", "gate", "scaled", "last"}
    (tmp_path / "t.txt").write_text("\n".join(report.audit.file_lines), encoding="utf-8")
    for layer, kind in faults:
        damaged_model = tmp_path / f"{layer}-{kind}"
        if not damaged_model.exists():  # of the gate, which the list of models leaves out
            continue
        fault = faults[layer, kind]
        passes = ckptkit.check(damaged_model, against=tmp_path / "sound", **wide)
        assert passes.ok == (fault.verdict != "seen"), fault
        assert math.isclose(passes.rows[0].result.needed or 0, fault.needed, rel_tol=1e-3)
        seen = ckptkit.check(
            damaged_model, against=tmp_path / "sound", tolerance=tmp_path / "t.txt"
        )
        assert not seen.ok, fault


PAGE = places.ROOT / "docs" / "audit.md"
_SESSION = re.compile(r"(?ms)^```console\n(.*?)^```$")
# noise and what follows from it, which another machine has others of
_NUMBERS = re.compile(r"(?m)\d(?:\.\d+)?e-\d+|(?<= )0(?=,|$)|(?<= )0\.\d+$")


@pytest.mark.needs_tf
@pytest.mark.slow
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    shutil.copy(golden("tf2.21.0/files_nested/model.keras").path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    text = PAGE.read_text(encoding="utf-8")
    expected = _SESSION.sub(lambda m: f"```console\n{_session(m[1])}```", text)
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
        text = expected
    assert _NUMBERS.sub("N", text) == _NUMBERS.sub("N", expected), "run: make docs"


def _session(text: str) -> str:
    """Return commands with what each prints, and its exit code."""
    told = []
    for line in re.findall(r"(?m)^\$ (.*)$", text):
        done = run(*shlex.split(line)[1:])
        told += [f"$ {line}", *(each.rstrip() for each in done.out.splitlines())]
        told.append(f"[exit code {done.code}]")
    return "\n".join(told) + "\n"
