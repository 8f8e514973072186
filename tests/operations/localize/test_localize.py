"""`check --localize`: the damaged layer is named first, and the switch that moves the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.operations.check.api import check, localize
from ckptkit.operations.localize import localizer
from ckptkit.operations.localize.pairs import Shaped, pair_points, scope_of
from ckptkit.operations.localize.switches import flips
from ckptkit.operations.localize.values import Localization
from ckptkit.operations.record.api import record
from ckptkit.runners.spec import RunnerSpec, parse_runner
from support.command_line import ckptkit
from support.goldens import golden
from support.layer_damage import Damage, damaged, off_by, run_here, swapped, transposed, zeroed
from support.machine import Machine

EXPORT = str(golden("tf2.21.0/saved_model_export/model").path)

# --- names ----------------------------------------------------------------------------------------


def layer(name: str, *shape: int) -> Shaped:
    return Shaped(name, shape, False)


def op(name: str, *shape: int) -> Shaped:
    return Shaped(name, shape, True)


def test_layers_pair_with_the_last_op_of_their_scope() -> None:
    layers = [layer("dense", 2, 3), layer("dense_1", 2, 3), layer("tower/up", 2, 4)]
    ops = [
        op("net_1/dense_1/MatMul", 2, 3),
        op("net_1/dense_1/BiasAdd", 2, 3),
        op("net_1/dense_1_1/MatMul", 2, 3),
        op("net_1/tower_1/up_1/Gelu/mul", 2, 4),
        op("net_1/tower_1/up_1/Sum", 2),
    ]
    expected = {
        "net_1/dense_1/BiasAdd": "dense",
        "net_1/dense_1_1/MatMul": "dense_1",
        "net_1/tower_1/up_1/Gelu/mul": "tower/up",
    }
    assert pair_points(layers, ops) == expected
    assert pair_points(ops, layers) == {value: key for key, value in expected.items()}


def test_counters_of_calls_do_not_matter_and_shapes_do() -> None:
    ops = [op("net_1/up_1/MatMul", 2, 3), op("net_1/down_1/MatMul", 2, 1)]
    others = [op("net/up/MatMul", 2, 3), op("net/down/MatMul", 2, 2)]
    assert pair_points(ops, others) == {"net/up/MatMul": "net_1/up_1/MatMul"}


def test_layers_that_keras_counted_on_are_counted_anew() -> None:
    reference = [layer("tower_1/dense_2", 2), layer("tower_1/dense_4", 2), layer("out", 2)]
    new = [layer("tower/dense", 2), layer("tower/dense_2", 2), layer("out", 2)]
    assert pair_points(reference, new) == {
        "tower/dense": "tower_1/dense_2",
        "tower/dense_2": "tower_1/dense_4",
        "out": "out",
    }


def test_another_activation_is_still_the_layers_output() -> None:
    before = [op("net/up/MatMul", 2), op("net/up/Softmax", 2), op("net/act/Relu", 2)]
    after = [op("net/up/MatMul", 2), op("net/up/BiasAdd", 2), op("net/act/LeakyRelu", 2)]
    assert pair_points(before, after) == {
        "net/up/MatMul": "net/up/MatMul",
        "net/act/LeakyRelu": "net/act/Relu",  # but what is before an activation is not its value
    }


def test_the_scope_of_an_op_is_its_layer() -> None:
    assert scope_of("net_1/up_1/Gelu/mul") == ("net", "up")
    assert scope_of("net/up/MatMul") == ("net", "up")
    assert scope_of("MatMul_1") == ()


# --- switches -------------------------------------------------------------------------------------


def test_switches_in_which_the_runners_differ_come_first() -> None:
    found = flips(RunnerSpec(), parse_runner("CPU:0,deterministic"), "keras")
    assert next(iter(found)) == "op determinism"
    assert set(found) == {"op determinism", "XLA", "threads", "eager execution"}
    assert "eager execution" not in flips(RunnerSpec(), RunnerSpec(), "saved_model")
    assert "TensorFloat-32" in flips(parse_runner("GPU:0"), RunnerSpec(), "saved_model")


def test_the_switch_that_moves_the_result_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.replacing(monkeypatch)
    machine.compute = lambda _s, spec, x: {
        "output_0": x["features"][:, :2] * (1.01 if spec.xla else 1)
    }
    report = check(EXPORT, on=["CPU:0", "xla:CPU:0,threads=1"], localize=True)
    found = report.localization
    assert found is not None and [flip.switch for flip in found.blamed] == ["XLA"]
    assert found.starts == "CPU:0" and found.passes
    assert {"threads", "one example at a time"} <= {flip.switch for flip in found.switches}
    assert report.to_json()["localization"]["switches"]


def test_batches_are_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.replacing(monkeypatch)

    def compute(_subject: Any, spec: RunnerSpec, x: Any) -> Any:
        odd = spec.xla or len(x["features"]) == 1
        return {"output_0": x["features"][:, :2] * (1.01 if odd else 1)}

    machine.compute = compute
    found = check(EXPORT, on=["CPU:0", "xla:CPU:0"], localize=True).localization
    assert found is not None
    assert [flip.switch for flip in found.blamed] == ["XLA", "one example at a time"]


def test_nothing_is_localised_where_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine.replacing(monkeypatch)
    assert check(EXPORT, on=["CPU:0", "xla:CPU:0"], localize=True).localization is None


# --- layers ---------------------------------------------------------------------------------------

MODELS = {"functional_cnn": "export", "subclassed": "saved_model", "mlp_module": "saved_model"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`NAME/model.keras` and `NAME/FORM` of three reference models with random values."""
    pytest.importorskip("tensorflow", reason="needs TensorFlow")
    root = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(1)
    for name, form in MODELS.items():
        model = import_module(f"ckptkit.fixtures.models.{name}").build()
        for variable in model.variables:
            if np.asarray(variable).dtype == np.float32:
                low = 0.5 if "variance" in variable.name else -1.0
                value = rng.uniform(low, 1.0, tuple(variable.shape))
                variable.assign(value.astype(np.float32))
        (root / name).mkdir()
        _save(model, root / name, form)
    return root


def _save(model: Any, directory: Path, form: str) -> None:
    if form == "saved_model":
        import tensorflow as tf

        tf.saved_model.save(model, str(directory / form))
    else:
        model.export(str(directory / form), verbose=False)
    if hasattr(model, "save"):
        model.save(directory / "model.keras")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def first(found: Localization) -> str:
    assert found.first is not None and found.first.is_beyond, found.notes
    return found.first.path


QUICK: list[tuple[str, str, Damage]] = [
    ("functional_cnn", "model.keras", zeroed("bn1/moving_mean")),
    ("functional_cnn", "export", off_by("digit/kernel")),
    ("subclassed", "model.keras", off_by("refine/up/kernel")),
    ("subclassed", "saved_model", off_by("project/kernel")),
    ("mlp_module", "saved_model", transposed("layers/1/w")),
    ("mlp_module", "saved_model", swapped("layers/0/b", "layers/1/b")),
]
SLOW: list[tuple[str, str, Damage]] = [
    ("functional_cnn", "model.keras", off_by("conv2/kernel")),
    ("functional_cnn", "export", transposed("conv2/kernel")),
    ("functional_cnn", "export", zeroed("bn2/moving_mean")),
    ("subclassed", "model.keras", swapped("project/bias", "refine/down/bias")),
    ("subclassed", "model.keras", transposed("refine/down/kernel")),
    ("mlp_module", "saved_model", off_by("layers/1/w")),
]
DAMAGE = [*QUICK, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW)]


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "form", "damage"), DAMAGE)
def test_the_damaged_layer_is_named_first(
    models: Path, tmp_path: Path, name: str, form: str, damage: Damage
) -> None:
    bad = tmp_path / ("bad.keras" if form == "model.keras" else "bad")
    layers = damaged(models / name / form, bad, damage)
    found = localize(bad, against=models / name / form, trust=True)  # classes of its own
    assert found.mode == "isolated"
    assert first(found) in layers
    assert {row.path for row in found.beyond} <= set(layers), "a layer that only inherits is blamed"
    assert found.first is not None and found.first.changed
    assert all(found.blames(gap.name) for gap in found.first.changed)


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_an_export_against_the_keras_file_that_it_came_from(models: Path, tmp_path: Path) -> None:
    name = "functional_cnn"
    damaged(models / name / "export", tmp_path / "bad", off_by("bn2/gamma", 0.1))
    donor = models / name / "model.keras"
    found = localize(tmp_path / "bad", against=donor, rename=["digit=output_0"])
    assert first(found) == "bn2" and len(found.layers) > 5


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_a_model_against_itself_has_no_such_layer(models: Path) -> None:
    keras = models / "functional_cnn" / "model.keras"
    found = localize(keras, against=keras)
    assert not found.differs and found.first is None and not found.suspects
    assert found.layers


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_code_is_looked_into_with_the_values_of_its_checkpoint(
    models: Path, tmp_path: Path
) -> None:
    import keras
    import tensorflow as tf

    file = models / "functional_cnn" / "model.keras"
    model = keras.models.load_model(file, compile=False)
    code = "ckptkit.fixtures.models.functional_cnn:build"
    tf.train.Checkpoint(model=model).write(str(tmp_path / "sound"))
    found = localize(tmp_path / "sound", against=file, model=code)
    assert found.layers and not found.differs and not found.suspects
    assert not any(gap.differs for row in found.layers for gap in row.variables)
    gamma = model.get_layer("bn2").gamma
    gamma.assign(gamma + 0.1)
    tf.train.Checkpoint(model=model).write(str(tmp_path / "bad"))
    assert first(localize(tmp_path / "bad", against=file, model=code)) == "bn2"


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_a_golden_with_layers_tells_them_too(models: Path, tmp_path: Path) -> None:
    export = models / "functional_cnn" / "export"
    quick: dict[str, Any] = {"noise": False, "blind": False, "batch": 2}
    record(export, tmp_path / "golden", layers=["*"], **quick)
    record(export, tmp_path / "plain", **quick)
    damaged(export, tmp_path / "bad", zeroed("bn1/moving_mean"))
    found = localize(tmp_path / "bad", golden=tmp_path / "golden")
    assert first(found) == "bn1"
    assert found.first is not None and "zero" in found.first.changed[0].text
    without = localize(tmp_path / "bad", golden=tmp_path / "plain")
    assert without.mode == "weights"
    assert without.suspects == ("bn1",) and "record(layers=" in without.notes[0]
    (tmp_path / "export").symlink_to(export)  # the model that was recorded, beside the golden
    beside = localize(tmp_path / "bad", golden=tmp_path / "plain")
    assert beside.mode == "isolated" and first(beside) == "bn1"
    (tmp_path / "export").unlink()
    (tmp_path / "bad").rename(tmp_path / "export")  # another of that name does not count
    assert localize(tmp_path / "export", golden=tmp_path / "plain").mode == "weights"


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_the_command_that_is_printed_finds_it_again(models: Path, tmp_path: Path) -> None:
    saved = models / "mlp_module" / "saved_model"
    damaged(saved, tmp_path / "bad", off_by("layers/1/w"))
    one = ckptkit("check", tmp_path / "bad", "--against", saved, "--seed", 3, "--localize")
    assert one.code == 1 and "look at: layers/1, matmul_1 (MatMul)" in one.out
    assert "variable layers/1/w: " in one.out
    [again] = [line for line in one.out.splitlines() if line.startswith("again: ")]
    words = shlex.split(again.removeprefix("again: "))
    assert words[0] == "ckptkit" and words[-2:] == ["--layer", "matmul_1"]
    two = ckptkit(*words[1:])
    assert two.code == 1 and "look at: layers/1, matmul_1 (MatMul)" in two.out
    none = ckptkit(*words[1:-1], "nothing*")
    assert none.code == 2 and "no value inside of the subject is called nothing*" in none.err
    alone = ckptkit(*[word for word in words[1:] if word != "--localize"])
    assert alone.code == 2 and "--layer is for --localize" in alone.err
    assert "\n1 of 8 values inside were compared" in two.out


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_weights_that_no_input_reaches_are_told(models: Path, tmp_path: Path) -> None:
    def damage(values: dict[str, Any]) -> list[str]:
        values["layers/0/w"][3] += 1
        return ["layers/0"]

    saved = models / "mlp_module" / "saved_model"
    damaged(saved, tmp_path / "bad", damage)
    x = np.array([[1, 2, 3, 0], [3, 2, 1, 0]], np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    found = localize(tmp_path / "bad", against=saved, inputs=tmp_path / "x.npz")
    assert not found.differs and not found.beyond
    assert found.suspects == ("layers/0",) and found.blames("layers/0/w")


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_a_difference_that_looking_hides_is_judged_layer_by_layer(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    original: Callable[..., Any] = localizer.Localizer._exposed

    def hiding(self: Any, side: Any) -> Any:
        return replace(original(self, side), intermediates_gap=(1.0,))

    monkeypatch.setattr(localizer.Localizer, "_exposed", hiding)
    saved = models / "mlp_module" / "saved_model"
    damaged(saved, tmp_path / "bad", off_by("layers/1/w"))
    found = localize(tmp_path / "bad", against=saved)
    assert first(found) == "layers/1" and found.diverges is None
    assert any("each layer is judged alone" in note for note in found.notes)


COUNTING = """
import tensorflow as tf

class Counting(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable([[1.0, -2.0], [0.5, 0.0]], name="w")
        self.calls = tf.Variable(0.0, name="calls")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x):
        y = x @ self.w
        with tf.control_dependencies([self.calls.assign_add(tf.reduce_max(y) * 0 + 1)]):
            count = self.calls * 2.0
        return {"y": tf.nn.relu(y) * 3.0, "count": count - count}
"""


@pytest.mark.needs_tf
@pytest.mark.usefixtures("here")
def test_values_that_each_call_changes_are_not_blamed(tmp_path: Path) -> None:
    import tensorflow as tf

    space: dict[str, Any] = {}
    (tmp_path / "counting.py").write_text(COUNTING)
    exec(compile(COUNTING, str(tmp_path / "counting.py"), "exec"), space)
    module = space["Counting"]()
    tf.saved_model.save(module, str(tmp_path / "good"), signatures=module.__call__)
    damaged(tmp_path / "good", tmp_path / "bad", off_by("w", 0.1))
    found = localize(tmp_path / "bad", against=tmp_path / "good")
    assert found.first is not None and [gap.name for gap in found.first.changed] == ["w"]
    assert any("each call changes" in note for note in found.notes)
