"""Models run in a child process: what they take, what they give, where, and what is inside."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptkit
from ckptkit.model_io.array_files import save_arrays
from ckptkit.model_io.signature import TensorInfo
from ckptkit.runners import chunks, client, registry
from ckptkit.runners.client import execute, probe
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.marks import is_marked
from ckptkit.runners.spec import parse_runner
from ckptkit.runners.types import ExecutionResult, Limits, ModelSpec
from support.goldens import golden

pytestmark = pytest.mark.needs_tf

LIMITS = Limits(600)
EXPORT = golden("tf2.21.0/saved_model_export/model").path
KERAS2 = golden("tf2.12.1/saved_model_keras2/model").path

CODE = """
import keras
import tensorflow as tf

class Choose(keras.layers.Layer):
    def call(self, x, flag, more=None):
        y = keras.ops.where(flag, keras.ops.cast(x, "float32"), 0.0)
        return y if more is None else y + more

    def compute_output_shape(self, shape, *others):
        return shape

def wide():
    x = keras.Input((3,), dtype="bfloat16", name="x")
    flag = keras.Input((3,), dtype="bool", name="flag")
    more = keras.Input((3,), name="more", optional=True)
    ids = keras.Input((None,), dtype="int32", name="ids")
    tower = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="inner")], name="tower")
    chosen = Choose(name="choose")(x, flag, more)
    rows = keras.layers.Embedding(7, 3, name="rows")(ids)
    outputs = {"b": [tower(chosen), tower(chosen * 2)], "a": rows}
    return keras.Model({"pair": [x, flag], "ids": ids, "more": more}, outputs)

class Stack(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [keras.layers.Dense(4, name="block_0"), keras.layers.Dense(4, name="block_1")]
        self.head = keras.layers.Dense(2, name="head")
        self.drop = keras.layers.Dropout(0.9)

    def call(self, x, training=None):
        for block in self.blocks:
            x = self.drop(block(x), training=training)
        return self.head(x), tf.ragged.stack([x[0, :1], x[1, :3]])

def stack():
    model = Stack()
    model.compile("adam", "mse")
    model(tf.ones((2, 3)))
    return model
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "models_for_test.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def features() -> Mapping[str, Any]:
    return {"features": np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def plain(features: Mapping[str, Any]) -> ExecutionResult:
    """Run a SavedModel on two cases, and look inside."""
    cases = [features, {"": features["features"][:1]}]
    subject = ModelSpec("saved_model", EXPORT)
    return execute(subject, parse_runner("CPU:0"), cases, LIMITS, layers=True)


def expected(features: Any) -> Any:
    """Compute the golden's dense layer with numpy, from the values that our own reader finds."""
    weights = {values.shape: values for values in ckptkit.open(EXPORT).values()}
    return features @ weights[3, 2] + weights[2,]


# -- SavedModels -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("cold_children")
def test_a_process_of_its_own_gives_what_a_fork_gives(
    plain: ExecutionResult, features: Mapping[str, Any]
) -> None:
    cases = [features, {"": features["features"][:1]}]
    own = execute(
        ModelSpec("saved_model", EXPORT), parse_runner("CPU:0"), cases, LIMITS, layers=True
    )
    assert (own.devices, own.description) == (plain.devices, plain.description)
    for mine, forked in zip(own.outputs + own.layers, plain.outputs + plain.layers, strict=True):
        assert list(mine) == list(forked)
        assert all(mine[name].tobytes() == forked[name].tobytes() for name in mine)


def test_a_saved_model_gives_its_outputs(
    plain: ExecutionResult, features: Mapping[str, Any]
) -> None:
    first, second = (outputs["output_0"] for outputs in plain.outputs)
    assert first.dtype == np.float32 and first.shape == (5, 2) and second.shape == (1, 2)
    np.testing.assert_allclose(first, expected(features["features"]), rtol=1e-6)
    np.testing.assert_allclose(second, first[:1], rtol=1e-6)
    assert plain.signature == "serving_default" == plain.description.default
    model_signature = plain.description.signatures["serving_default"]
    assert model_signature.inputs == (TensorInfo("features", "float32", (None, 3)),)
    assert model_signature.outputs == (TensorInfo("output_0", "float32", (None, 2)),)


def test_it_says_where_it_ran(plain: ExecutionResult) -> None:
    assert plain.devices == {"CPU:0": {"ops": 1, "heavy": 1}}
    environment = plain.environment
    assert environment["device"] == "CPU" and environment["policy"] == "float32"
    assert not environment["xla"] and environment["versions"]["tensorflow"].startswith("2.")
    assert environment["cpu"] and environment["python"] and environment["threads"] is None


def test_the_inside_of_a_saved_model_is_its_graph(plain: ExecutionResult) -> None:
    names = list(plain.layers[0])
    assert [name.rpartition("/")[2] for name in names] == ["MatMul", "BiasAdd"]
    assert not any("PartitionedCall" in name for name in names)
    assert plain.layers[0][names[-1]].tobytes() == plain.outputs[0]["output_0"].tobytes()
    assert plain.intermediates_gap == (0.0, 0.0)


def test_layers_lie_on_disk_as_long_as_someone_holds_them(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    values = {"b": np.ones(2), "a": np.zeros(3)}
    described = save_arrays(scratch / "c.npz", values)
    chunk = {"file": str(scratch / "c.npz"), "described": described, "names": ["b", "a"]}
    layers = chunks.chunked_layers(scratch, [[chunk]])
    assert list(layers[0]) == ["b", "a"] and layers[0]["a"].tolist() == [0, 0, 0]
    assert scratch.exists()
    del layers
    gc.collect()
    assert not scratch.exists()


def test_a_second_cpu_under_xla_computes_the_same(
    plain: ExecutionResult, features: Mapping[str, Any]
) -> None:
    subject = ModelSpec("saved_model", EXPORT)
    run = execute(
        subject, parse_runner("xla:CPU:1,threads=1"), [features], LIMITS, layers=["*MatMul"]
    )
    np.testing.assert_allclose(run.outputs[0]["output_0"], plain.outputs[0]["output_0"], rtol=1e-5)
    assert set(run.devices) == {"CPU:1"} and run.devices["CPU:1"]["heavy"] == 1
    assert len(run.layers[0]) == 1
    assert run.environment["xla"] and run.environment["threads"] == 1


def test_replicas_share_the_batch(plain: ExecutionResult, features: Mapping[str, Any]) -> None:
    subject = ModelSpec("saved_model", EXPORT)
    run = execute(subject, parse_runner("mirrored:CPUx2,deterministic"), [features], LIMITS)
    np.testing.assert_allclose(run.outputs[0]["output_0"], plain.outputs[0]["output_0"], rtol=1e-5)
    assert {device: row["heavy"] for device, row in run.devices.items()} == {"CPU:0": 1, "CPU:1": 1}
    assert run.environment["replicas"] == 2 and run.environment["deterministic"]


def test_a_keras_2_model_with_slots_loads(tmp_path: Path, features: Mapping[str, Any]) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    path = tmp_path / "model"
    shutil.copytree(KERAS2, path)
    message = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    nodes = message.meta_graphs[0].object_graph_def.nodes
    variables = [number for number, node in enumerate(nodes) if node.HasField("variable")]
    nodes.add().user_object.identifier = "optimizer"
    slot = nodes[-1].slot_variables.add(slot_name="m")
    slot.original_variable_node_id, slot.slot_variable_node_id = variables[:2]
    nodes[0].children.add(local_name="optimizer", node_id=len(nodes) - 1)
    (path / "saved_model.pb").write_bytes(message.SerializeToString())
    (path / "fingerprint.pb").unlink()
    with pytest.raises(AttributeError, match="add_slot"):
        tf.saved_model.load(str(path))
    run = execute(ModelSpec("saved_model", path), parse_runner("CPU:0"), [features], LIMITS)
    assert run.environment["loaded"] == "without its slots"
    wanted = tf.saved_model.load(str(KERAS2)).signatures["serving_default"]
    scores = wanted(features=tf.constant(features["features"]))["scores"].numpy()
    assert run.outputs[0]["scores"].tobytes() == scores.tobytes()


# -- live models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_case() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    return {
        "flag": rng.integers(0, 2, (2, 3)).astype(bool),
        "ids": rng.integers(0, 7, (2, 4)),  # int64 that fits int32
        "x": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
    }


def test_inputs_and_outputs_of_every_kind(code: Path, wide_case: Mapping[str, Any]) -> None:
    subject = ModelSpec("code", None, f"{code}:wide")
    run = execute(subject, parse_runner("CPU:0"), [wide_case], LIMITS, layers=True)
    outputs = run.outputs[0]
    assert list(outputs) == ["a", "b/0", "b/1"] and outputs["a"].shape == (2, 4, 3)
    np.testing.assert_allclose(outputs["b/1"], 2 * outputs["b/0"], rtol=1e-5)
    layers = run.layers[0]
    chosen = np.where(wide_case["flag"], wide_case["x"].astype(np.float32), 0)
    assert (layers["choose"] == chosen).all()
    towers = {layers[name].tobytes() for name in ("tower/inner", "tower#2/inner")}
    assert towers == {outputs["b/0"].tobytes(), outputs["b/1"].tobytes()}
    assert run.intermediates_gap == (0.0,)
    description = run.description
    assert description.int_high == 7 and description.optional == {"call": ("more",)}
    dtypes = {info.name: info.dtype for info in description.signatures["call"].inputs}
    assert dtypes == {"x": "bfloat16", "flag": "bool", "more": "float32", "ids": "int32"}


@pytest.fixture(scope="module")
def stacked(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Write checkpoints of a model with layers in a list, and what it computes."""
    import tensorflow as tf

    from ckptkit.runners.child.user_code import import_code

    directory = tmp_path_factory.mktemp("stack")
    model = import_code(str(code)).stack()
    model.optimizer.build(model.trainable_variables)
    both = tf.train.Checkpoint(net=model, opt=model.optimizer)
    both.save_counter.assign_add(1)
    both.write(str(directory / "both"))
    bare = import_code(str(code)).Stack()  # an optimizer would lead to the layers in the list
    bare(tf.ones((2, 3)))
    tf.train.Checkpoint(bare).write(str(directory / "bare"))
    x = np.random.default_rng(5).normal(size=(2, 3)).astype(np.float32)
    return {"directory": directory, "x": x, "y": model(x, training=False)[0].numpy()}


def test_a_restored_model_runs_for_inference(
    code: Path, stacked: Mapping[str, Any], tmp_path: Path
) -> None:
    subject = ModelSpec("code", stacked["directory"] / "both", f"{code}:stack")
    cases, out = [{"x": stacked["x"]}], tmp_path / "restored"
    spec = parse_runner("CPU:0,eager")
    run = execute(subject, spec, cases, LIMITS, layers=["block_*"], out=out)
    assert run.skipped == "" and run.restored is not None
    assert run.restored.root_children == ("net", "opt") and run.restored.optimizer
    assert run.restored.unrestored == () and set(run.restored.verdicts.values()) == {""}
    outputs = run.outputs[0]
    assert list(outputs) == ["output_0", "output_1/values", "output_1/row_splits"]
    assert outputs["output_0"].tobytes() == stacked["y"].tobytes()
    assert outputs["output_1/row_splits"].tolist() == [0, 1, 4]
    assert list(run.layers[0]) == ["block_0", "block_1"] and run.intermediates_gap == (0.0,)
    assert run.devices["CPU:0"]["heavy"] == 3
    written = ckptkit.open(out)
    held = {name for naming in written.names.values() for name in (naming.name, *naming.aliases)}
    assert "weights/stack/block_0/kernel" in held and "net/head/bias" in held
    assert not any(is_marked(np.asarray(v)) for v in written.values() if v.dtype.kind == "f")


def test_what_is_not_restored_is_named_and_not_run(
    code: Path, stacked: Mapping[str, Any], tmp_path: Path
) -> None:
    subject = ModelSpec("code", stacked["directory"] / "bare", f"{code}:stack")
    cases, out = [{"x": stacked["x"]}], tmp_path / "restored"
    run = execute(subject, parse_runner("CPU:0"), cases, LIMITS, out=out)
    assert run.outputs == () and run.skipped.startswith("4 variables got no value: ")
    assert run.restored is not None and run.restored.root_children == ("",)
    lost = {path for path in run.restored.unrestored if not path.startswith("adam/")}
    layers = [f"stack/block_{number}/{name}" for number in (0, 1) for name in ("kernel", "bias")]
    assert lost == set(layers)
    assert run.restored.verdicts["assert_nontrivial_match"] == ""  # TensorFlow sees no fault
    assert run.restored.error == "" and is_marked(np.asarray(ckptkit.open(out)["block_0/kernel"]))


# -- refusals --------------------------------------------------------------------------------------


def test_a_missing_gpu_is_missing(features: Mapping[str, Any]) -> None:
    import tensorflow as tf

    number = len(tf.config.list_physical_devices("GPU"))
    with pytest.raises(RunnerError, match=f"no GPU:{number} here") as caught:
        subject = ModelSpec("saved_model", EXPORT)
        execute(subject, parse_runner(f"GPU:{number}"), [features], LIMITS)
    assert caught.value.kind == "missing" and caught.value.exit_code == 2


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RUNNERS", {"tensorflow": registry.RUNNERS["tensorflow"]})
    rows = [row for row in probe() if row.device == "CPU:0"]
    assert rows and rows[0].versions["tensorflow"] and not rows[0].why_not
