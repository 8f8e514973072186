"""What the outputs of a golden do not see, and ties that float64 breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.dtypes import Array
from ckptkit.golden.golden import read_golden
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.float64 import tie_break
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.tiers import tier_named
from ckptkit.operations.check.api import check
from ckptkit.operations.record.api import record
from ckptkit.operations.record.pipeline import RecordError
from ckptkit.runners import introspect
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.types import Limits, ModelSpec
from support.command_line import ckptkit
from support.goldens import golden
from support.layer_damage import run_here
from support.machine import Machine

EXPORT = str(golden("tf2.21.0/saved_model_export/model").path)
MODULE = str(golden("tf2.21.0/module_saved_model/model").path)
KERAS = str(golden("tf2.21.0/files_nested/model.keras").path)
QUICK: dict[str, Any] = {"noise": False, "batch": 4}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


# --- blind variables ------------------------------------------------------------------------------

MODEL = """
import tensorflow as tf

class Two(tf.Module):
    def __init__(self):
        super().__init__()
        self.used = tf.Variable([[1.0, -2.0], [0.5, 0.0]], name="used")
        self.dead = tf.Variable([[3.0, 4.0], [1.0, 1.0]], name="dead")
        self.shift = tf.Variable([-100.0, -100.0], name="shift")
        self.steps = tf.Variable(3, name="steps")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x @ self.used + tf.nn.relu(x @ self.dead + self.shift)}

def build():
    return Two()
"""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model one of whose branches no usual input wakes."""
    (tmp_path / "two.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return "two.py:build"


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_variables_that_no_output_sees(two: str, tmp_path: Path) -> None:
    made = record(two, tmp_path / "g", thorough=True, **QUICK)
    assert set(made.blind) == {"dead", "shift"}
    assert made.options["coverage"] == {"by": "variable", "seen": 1, "blind": 2}
    assert read_golden(tmp_path / "g").blind == made.blind
    with pytest.raises(
        RecordError, match=r"see 33\.3% of the variables, not 95\.0%; blind to dead"
    ):
        record(two, tmp_path / "less", thorough=True, min_coverage=0.95, **QUICK)
    assert not (tmp_path / "less").exists()
    np.savez(tmp_path / "awake.npz", x=np.array([[90, 90], [1, 1]], np.float32))
    awake = tmp_path / "awake.npz"
    full = record(two, tmp_path / "all", inputs=awake, thorough=True, min_coverage=1.0, noise=False)
    assert full.blind == ()


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_the_command_says_it_and_exits_with_1(two: str, tmp_path: Path) -> None:
    common = ("record", two, "--no-noise", "--thorough", "-o", tmp_path / "g")
    short = ckptkit(*common, "--min-coverage", "0.95")
    assert short.code == 1 and "blind to dead, shift" in short.err
    done = ckptkit(*common)
    assert done.code == 0 and "the outputs see 1 of 3 variables, by variable" in done.out
    assert "blind: no output sees dead" in done.out


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("subject", "count"), [(EXPORT, 2), (MODULE, 2)])
def test_saved_models_are_seen_and_left_as_they_were(
    subject: str, count: int, tmp_path: Path
) -> None:
    one = record(subject, tmp_path / "one", **QUICK)
    two = record(subject, tmp_path / "two", blind=False, **QUICK)
    assert one.blind == () and one.options["coverage"]["seen"] >= count
    for old, new in zip(one.cases, two.cases, strict=True):
        for name, array in old.outputs.items():
            np.testing.assert_array_equal(array, new.outputs[name])


# --- float64 --------------------------------------------------------------------------------------

rng = np.random.default_rng(3)
TRUE = rng.normal(size=2000)
REF = TRUE.astype(np.float32)
T1 = tier_named("T1", "")


def broken(new: Array, ref: Array = REF, exact: Array = TRUE) -> Any:
    [found] = compare_outputs({"y": ref}, {"y": new}, T1.tolerance)
    assert found.status == "differs"
    return tie_break(found, ref, new, exact)


def test_the_rule_of_the_tie_break() -> None:
    error = rng.normal(size=2000) * 1e-3
    ref = (TRUE + error).astype(np.float32)  # a reference that is off by 1e-3
    as_good = broken((TRUE - error).astype(np.float32), ref)
    assert as_good.ok and as_good.status == "float64" and "no worse" in as_good.message
    assert broken((TRUE - 1.9 * error).astype(np.float32), ref).ok  # k = 2 of 1000 and more
    worse = broken((TRUE - 2.1 * error).astype(np.float32), ref)
    assert worse.status == "differs" and "against float64" in worse.message
    few = slice(0, 999)
    assert broken((TRUE - 2.1 * error).astype(np.float32)[few], ref[few], TRUE[few]).ok  # k = 3


def test_no_rounding_explains_a_difference_above_t3() -> None:
    ref = (TRUE + 0.1).astype(np.float32)
    assert broken((TRUE - 0.1).astype(np.float32), ref).status == "differs"


def test_a_reference_that_is_right_lets_nothing_else_pass() -> None:
    assert broken(REF * np.float32(1.001)).status == "differs"


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_a_keras_model_in_float64(tmp_path: Path) -> None:
    made = record(KERAS, tmp_path / "g", float64=True, blind=False, **QUICK)
    [case] = read_golden(tmp_path / "g").cases
    assert case.float64.keys() == case.outputs.keys() and made.cases[0].float64
    for name, exact in case.float64.items():
        assert not isinstance(exact, Sample)
        assert exact.dtype == np.float64
        np.testing.assert_allclose(exact, np.asarray(case.outputs[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_what_cannot_be_rebuilt_is_said(two: str) -> None:
    for subject, why in (
        (ModelSpec("saved_model", Path(EXPORT)), "a SavedModel's graph has its dtypes built in"),
        (ModelSpec("code", None, two, two), "no Keras model"),
    ):
        with pytest.raises((RunnerError, Exception), match=why):
            introspect.float64_outputs(subject, [{"x": np.ones((1, 2), np.float32)}], Limits())


def test_check_says_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.replacing(monkeypatch)
    machine.compute = lambda _s, spec, x: {
        "output_0": x["features"][:, :2] * (1.001 if spec.xla else 1)
    }
    report = check(EXPORT, on=["CPU:0", "xla:CPU:0"], float64=True)
    [note] = [finding for finding in report.findings if finding.code == "float64.none"]
    assert "its dtypes built in" in note.message and report.exit_code == 1
