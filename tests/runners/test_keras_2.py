"""Models of Keras 2: what a file says of its writer, and tf_keras where that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import pytest

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.runners.child.keras_file import refuse_lambdas, written_by
from ckptkit.runners.errors import RunnerError
from support.places import ROOT

GOLDEN = ROOT / "fixtures" / "golden"
needs_tf_keras = pytest.mark.skipif(find_spec("tf_keras") is None, reason="tf_keras is not here")
OF_KERAS_2 = GOLDEN / "tf2.15.1" / "files_nested" / "model.keras"
CODE = """
import tensorflow as tf
import tf_keras

def functional():
    x = tf_keras.Input((4,), name="x")
    return tf_keras.Model(x, tf_keras.layers.Dense(2, name="d")(x))

class Net(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.d = tf_keras.layers.Dense(2)

    def call(self, x):
        return self.d(x)

def subclassed():
    net = Net()
    net(tf.zeros((1, 4)))
    return net
"""


@pytest.mark.parametrize(
    ("file", "version"),
    [
        ("tf2.15.1/files_nested/model.keras", "2.15.0"),
        ("tf2.15.1/files_nested/model.h5", "2.15.0"),
        ("tf2.12.1/files_nested/weights_only.h5", "2.12.0"),
        ("tf2.16.2/files_nested/model.h5", "3."),
        ("tf2.16.2/files_nested/model.keras", "3."),
        ("tf2.15.1/files_text/model.weights.h5", ""),
    ],
)
def test_a_file_tells_which_keras_wrote_it(file: str, version: str) -> None:
    found = written_by(str(GOLDEN / file))
    assert found.startswith(version) and bool(found) == bool(version)


def test_a_lambda_of_an_hdf5_file_is_refused(tmp_path: Path) -> None:
    inner = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Lambda"}]}}
    for name, layers in (("with.h5", [{"class_name": "Dense"}, inner]), ("without.h5", [])):
        with h5py.File(tmp_path / name, "w") as file:
            config = {"class_name": "Functional", "config": {"layers": layers}}
            file.attrs["model_config"] = json.dumps(config)
    refuse_lambdas(str(tmp_path / "without.h5"))
    with pytest.raises(RunnerError, match=r"Python code \(a Lambda\)"):
        refuse_lambdas(str(tmp_path / "with.h5"))


@pytest.mark.needs_tf
@pytest.mark.skipif(find_spec("tf_keras") is not None, reason="tf_keras is here")
def test_what_keras_3_does_not_load_is_named_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(CkptkitError) as caught:
        ckptkit.record(OF_KERAS_2, tmp_path / "golden")
    said = str(caught.value)
    assert "written by Keras 2.15.0; Keras 3." in said and "pip install tf_keras" in said
    assert len(said) < 400 and caught.value.exit_code == 2
    assert "\n" not in said


@needs_tf_keras
def test_a_file_of_keras_2_runs() -> None:
    report = ckptkit.check(OF_KERAS_2, on=["CPU:0", "tf-keras:CPU:0"])
    assert report.ok and all(row.result.status == "equal" for row in report.rows)
    assert all("tf_keras" in run.environment["versions"] for run in report.runs)


@needs_tf_keras
@pytest.mark.parametrize("name", ["functional", "subclassed"])
def test_code_of_keras_2_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    made = f"import sys; sys.path.insert(0, '.'); import net; net.{name}().save_weights('w/ckpt')"
    subprocess.run([sys.executable, "-c", made], cwd=tmp_path, check=True, capture_output=True)
    code = f"{tmp_path / 'net.py'}:{name}"
    report = ckptkit.check(tmp_path / "w" / "ckpt", model=code, on=["CPU:0", "xla:CPU:0"])
    assert report.ok, report.verdict
