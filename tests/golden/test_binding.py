"""What a golden is bound to, and how a change of the model is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import CkptkitError, FormatError
from ckptkit.golden import sketch as _sketch
from ckptkit.golden.binding import Binding, bind
from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.line_sketch import LineSketch, explain_lines, sketch_lines
from ckptkit.golden.sketch_types import Sketch
from ckptkit.model_io.signature import Discrepancy
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.writing import Blocks, TensorToWrite
from support.goldens import GOLDEN
from support.values import FIXED_DTYPES, values_of

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def normal(*shape: int) -> Array:
    """Return values that no initialiser leaves."""
    return RNG.normal(size=shape).astype(np.float32)


def glorot(*shape: int) -> Array:
    """Return a kernel as Keras first makes it."""
    receptive = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
    return RNG.uniform(-limit, limit, shape).astype(np.float32)


WEIGHTS: dict[str, Array] = {
    "a/kernel": normal(32, 32),
    "a/bias": normal(32),
    "b/kernel": normal(32, 32),
    "b/bias": normal(32),
    "bn/beta": normal(16),
    "bn/gamma": normal(16),
    "bn/moving_mean": normal(16),
    "bn/moving_variance": normal(16) ** 2,
    "lstm/bias": normal(64),
    "lstm/kernel": normal(8, 64),
    "lstm/recurrent_kernel": normal(16, 64),
    "emb/embeddings": normal(1000, 16),
    "conv/kernel": normal(3, 3, 8, 16),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Binding:
    """The binding of WEIGHTS, as it comes back from a golden."""
    made = bind(written(tmp_path_factory.mktemp("recorded"), WEIGHTS))
    return Binding.from_json(json.loads(json.dumps(made.to_json())), "binding.json")


def written(directory: Path, weights: Mapping[str, Array | None]) -> Path:
    """Write weights to an npz file; None leaves one out."""
    path = directory / "weights.npz"
    kept = {name: values for name, values in weights.items() if values is not None}
    tensors = []
    for name, values in kept.items():
        owner = name.partition("@")[0] if "@" in name else None
        role = "slot" if owner else "weight"
        tensors.append(TensorToWrite(name, values.dtype.name, values.shape, name, role, owner))
    blocks: Blocks = lambda key: iter([(0, kept[key].reshape(-1))])  # noqa: E731
    write_npz(path, tensors, blocks, overwrite=True)
    return path


def found(
    recorded: Binding, directory: Path, **changed: Array | None
) -> tuple[tuple[str, str, str], ...]:
    """Return (code, where, message) of what is said of WEIGHTS with some of them changed."""
    weights = {**WEIGHTS, **{name.replace("__", "/"): v for name, v in changed.items()}}
    rows = compare_bindings(recorded, bind(written(directory, weights), full=False))
    return tuple((row.code, row.where, row.message) for row in rows)


def set_at(values: Array, index: Any, value: Any) -> Array:
    """Return a copy with one part set."""
    new = values.copy()
    new[index] = value
    return new


def test_nothing_changed(recorded: Binding, tmp_path: Path) -> None:
    assert found(recorded, tmp_path) == ()
    assert bind(written(tmp_path, dict(reversed(WEIGHTS.items())))).digest == recorded.digest


def gates(name: str) -> Array:
    """Return weights of the LSTM with the gates in another order: i, c, f, o."""
    parts = np.split(WEIGHTS[name], 4, -1)
    return np.concatenate([parts[at] for at in (0, 2, 1, 3)], -1)


KERNEL, TABLE = WEIGHTS["a/kernel"], WEIGHTS["emb/embeddings"]
ONE_CHANGE: list[tuple[str, str, Array, str]] = [
    ("a/kernel", "weight.transposed", KERNEL.T, "transposed (1, 0)"),
    ("bn/moving_mean", "weight.constant.zero", np.zeros(16, "f4"), "all 16 elements are 0"),
    ("bn/gamma", "weight.constant", np.ones(16, "f4"), "all 16 elements are 1"),
    ("a/kernel", "weight.element", set_at(KERNEL, (3, 4), 2), "[3, 4] is 2, recorded "),
    ("a/kernel", "weight.nonfinite", set_at(KERNEL, (3, 4), np.nan), "[3, 4] is nan, recorded "),
    ("a/kernel", "weight.nonfinite", set_at(KERNEL, np.s_[:, 4], np.nan), "all in unit 4 of the"),
    ("a/kernel", "weight.nonfinite", set_at(KERNEL, 4, np.inf), "all in axis 0, place 4"),
    ("a/kernel", "weight.rounded", KERNEL.astype(np.float16), "rounded to float16"),
    ("lstm/kernel", "weight.gates", gates("lstm/kernel"), "another order: [0, 2, 1, 3]"),
    ("conv/kernel", "weight.scaled", WEIGHTS["conv/kernel"] * 255, "255 times so large"),
    ("conv/kernel", "weight.scaled", WEIGHTS["conv/kernel"] / 255, "1/255 times so large"),
    ("a/bias", "weight.scaled", -WEIGHTS["a/bias"], "are -1 times so large"),
    ("a/bias", "weight.shifted", WEIGHTS["a/bias"] + np.float32(0.5), "moved by 0.5"),
    ("conv/kernel", "weight.reordered", WEIGHTS["conv/kernel"][::-1], "reversed along axis 0"),
    ("emb/embeddings", "weight.reordered", np.roll(TABLE, 3, 0), "rows in another order"),
    ("emb/embeddings", "weight.reordered", np.roll(TABLE, 3, 1), "columns (units of the last axis"),
    ("emb/embeddings", "weight.part", set_at(TABLE, 500, 1), "rows 500 to 562 (of 1,000)"),
    ("emb/embeddings", "weight.shape", TABLE[:-1], "shape [999, 16], recorded [1000, 16]"),
    ("lstm/kernel", "weight.transposed", WEIGHTS["lstm/kernel"].T, "shape [64, 8]"),
    ("a/kernel", "weight.units", set_at(KERNEL, np.s_[:, 5], 0), "32 elements more are 0"),
    ("a/kernel", "weight.drift", KERNEL + np.float32(1e-3) * normal(32, 32), "of its rms"),
    ("a/kernel", "weight.other", normal(32, 32), "other values throughout"),
    ("a/kernel", "weight.moved", WEIGHTS["b/kernel"], "the values that were recorded of b/kernel"),
    ("a/kernel", "weight.cast", KERNEL.astype(ml_dtypes.bfloat16), "from float32 to bfloat16"),
    ("a/kernel", "weight.dtype", normal(32, 32).astype("f8"), "dtype float64, recorded as"),
    ("conv/kernel", "layer.fresh", glorot(3, 3, 8, 16), "freshly initialised"),
]


@pytest.mark.parametrize(
    ("name", "code", "values", "said"), ONE_CHANGE, ids=[f"{c[0]}-{c[1]}" for c in ONE_CHANGE]
)
def test_one_tensor_changed(
    recorded: Binding, tmp_path: Path, name: str, code: str, values: Array, said: str
) -> None:
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    [(kind, where, message)] = found(recorded, tmp_path, **{name.replace("/", "__"): values})
    assert (kind, where) == (code, name.partition("/")[0] if code == "layer.fresh" else name)
    assert said in message


def test_layers_that_changed_places(recorded: Binding, tmp_path: Path) -> None:
    names = ("kernel", "bias")
    changed = {f"a__{n}": WEIGHTS[f"b/{n}"] for n in names}
    changed |= {f"b__{n}": WEIGHTS[f"a/{n}"] for n in names}
    [(code, where, message)] = found(recorded, tmp_path, **changed)
    assert (code, where) == ("layer.swapped", "a")
    assert message == "layers 'a' and 'b' have changed places (bias, kernel)"


def test_weights_of_one_layer_that_changed_places(recorded: Binding, tmp_path: Path) -> None:
    mean, gamma = WEIGHTS["bn/moving_mean"], WEIGHTS["bn/gamma"]
    [(code, _, message)] = found(recorded, tmp_path, bn__moving_mean=gamma, bn__gamma=mean)
    assert code == "weight.swapped"
    assert message == "bn/gamma and bn/moving_mean have changed places"


def test_all_weights_rounded_or_cast_are_one_row(recorded: Binding, tmp_path: Path) -> None:
    short = {k.replace("/", "__"): v.astype(ml_dtypes.bfloat16) for k, v in WEIGHTS.items()}
    [(code, _, message)] = found(recorded, tmp_path, **short)
    assert code == "weight.cast"
    assert message.startswith("13 weights are cast from float32 to bfloat16: ")
    rounded = {name: v.astype(np.float32) for name, v in short.items()}
    [(code, _, message)] = found(recorded, tmp_path, **rounded)
    assert code == "weight.rounded"
    assert message.startswith("13 weights are rounded to bfloat16: ")


FIRST_BIAS = np.repeat(np.array([0, 1, 0, 0], "f4"), 16)
FRESH: dict[str, Array] = {
    "a__kernel": glorot(32, 32),
    "a__bias": np.zeros(32, "f4"),
    "b__kernel": glorot(32, 32),
    "b__bias": np.zeros(32, "f4"),
    "bn__beta": np.zeros(16, "f4"),
    "bn__gamma": np.ones(16, "f4"),
    "bn__moving_mean": np.zeros(16, "f4"),
    "bn__moving_variance": np.ones(16, "f4"),
    "lstm__bias": FIRST_BIAS,
    "lstm__kernel": glorot(8, 64),
    "lstm__recurrent_kernel": np.linalg.qr(RNG.normal(size=(64, 16)))[0].T.astype("f4"),
    "emb__embeddings": RNG.uniform(-0.05, 0.05, (1000, 16)).astype("f4"),
    "conv__kernel": glorot(3, 3, 8, 16),
}


@pytest.mark.parametrize("layer", ["a", "bn", "lstm", "emb", "conv"])
def test_a_layer_that_was_not_restored(recorded: Binding, tmp_path: Path, layer: str) -> None:
    changed = {name: v for name, v in FRESH.items() if name.startswith(f"{layer}__")}
    [(code, where, message)] = found(recorded, tmp_path, **changed)
    assert (code, where) == ("layer.fresh", layer)
    assert "freshly initialised, not restored" in message


def test_nothing_was_restored(recorded: Binding, tmp_path: Path) -> None:
    [(code, _, message)] = found(recorded, tmp_path, **FRESH)
    assert code == "weights.fresh"
    assert message == "no weight is as recorded: all 13 look freshly initialised"


def test_a_model_that_was_trained_on_is_not_called_fresh(recorded: Binding, tmp_path: Path) -> None:
    on = {name.replace("/", "__"): v + 0.2 * normal(*v.shape) for name, v in WEIGHTS.items()}
    kernel = {"conv__kernel": FRESH["conv__kernel"]}  # spread as an initialiser would leave it
    codes = {code for code, _, _ in found(recorded, tmp_path, **{**on, **kernel})}
    assert "layer.fresh" not in codes and "weight.other" in codes
    reset = {name: FRESH[name] for name in ("a__kernel", "a__bias")}  # its bias is zero again
    rows = found(recorded, tmp_path, **{**on, **reset})
    assert [where for code, where, _ in rows if code == "layer.fresh"] == ["a"]


def test_averages_in_place_of_weights(tmp_path: Path) -> None:
    kernels = {name: WEIGHTS[name] for name in ("a/kernel", "b/kernel")}
    bound = bind(written(tmp_path, kernels))
    average = bind(written(tmp_path, {name: value * 0.9 for name, value in kernels.items()}))
    averages = {
        f"{name}@ema": sketch._replace(role="ema", slot_of=name)
        for name, sketch in average.variables.items()
    }
    recorded = dataclasses.replace(bound, variables={**bound.variables, **averages})
    [row] = compare_bindings(recorded, average)
    assert row.code == "weight.averaged"
    assert row.message == "2 weights hold averages that the optimizer kept (use_ema), of a, b"


def test_only_the_optimizer_was_restored(tmp_path: Path) -> None:
    slots = {"a/kernel@m": normal(32, 32), "b/kernel@m": normal(32, 32)}
    kernels = {name: WEIGHTS[name] for name in ("a/kernel", "b/kernel")}
    recorded = bind(written(tmp_path, {**kernels, **slots}))
    fresh = {"a/kernel": glorot(32, 32), "b/kernel": glorot(32, 32)}
    [row] = compare_bindings(recorded, bind(written(tmp_path, {**fresh, **slots}), full=False))
    assert row.code == "weights.optimizer-only"
    assert "the 2 slots of the optimizer are as recorded" in row.message
    other = {name: values + 1 for name, values in slots.items()}
    now = bind(written(tmp_path, {**kernels, **other}), full=False)
    assert compare_bindings(recorded, now) == ()  # no output depends on slots


def test_layers_that_come_and_go(recorded: Binding, tmp_path: Path) -> None:
    rows = found(
        recorded, tmp_path, a__kernel=None, a__bias=None, b__bias=None, z__kernel=normal(3)
    )
    assert rows == (
        ("layer.missing", "a", "no values for layer 'a': bias, kernel"),
        ("weight.missing", "b/bias", "no weight b/bias"),
        ("weight.added", "z/kernel", "weight z/kernel is new"),
    )


def test_layers_in_a_python_list_are_said_to_be() -> None:
    """A checkpoint of a model with a list of blocks, of which TensorFlow restores none."""
    made = bind(GOLDEN / "tf2.21.0" / "list" / "ckpt")
    hidden = {name for name, sketch in made.variables.items() if sketch.hidden}
    assert hidden
    kept = {name: sketch for name, sketch in made.variables.items() if name not in hidden}
    now = Binding(made.form, "other", kept, source=made.source, keys=made.keys)
    rows = compare_bindings(made, now)
    assert {row.code for row in rows} <= {"layer.missing", "weight.missing"}
    assert all("Python list" in row.hint for row in rows)


# --- sketches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FIXED_DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3), (2, 1, 3, 4)])
def test_a_sketch_does_not_depend_on_how_it_is_cut(dtype: str, shape: tuple[int, ...]) -> None:
    values = values_of(dtype, shape)
    whole = _sketch.sketch_of(values, dtype)
    spec = TensorSpec("", dtype, shape, values.nbytes)
    flat = values.reshape(-1)
    for step in (1, 2, 5):
        parts = [flat[at : at + step] for at in range(0, flat.size, step)]
        cut = _sketch.sketch_blocks(spec, parts)
        assert repr(cut) == repr(whole) or cut._replace(rms=0) == whole._replace(rms=0)
    assert _sketch.places_sum(values) == whole.places
    assert Sketch.from_json(json.loads(json.dumps(whole.to_json())), "x").to_json() == (
        whole.to_json()
    )


def test_a_sketch_over_many_blocks() -> None:
    values = normal(700, 331)
    assert values.size > 4 * _sketch.BLOCK
    whole = _sketch.sketch_of(values, "float32")
    rng = np.random.default_rng(0)
    rows = _sketch.sketch_of(values[rng.permutation(700)], "float32")
    columns = _sketch.sketch_of(values[:, rng.permutation(331)], "float32")
    both = _sketch.sketch_of(values[rng.permutation(700)][:, ::-1], "float32")
    assert whole.values == rows.values == columns.values == both.values
    assert len({whole.places, rows.places, columns.places, both.places}) == 4
    assert (rows.rows, columns.columns) == (whole.rows, whole.columns)
    assert whole.rows not in (columns.rows, both.rows)
    assert whole.columns not in (rows.columns, both.columns)
    assert whole.rms == pytest.approx(float(np.sqrt(np.mean(values.astype("f8") ** 2))))


@settings(max_examples=60)
@given(st.integers(0, 199), st.floats(width=32), st.sampled_from(["f4", "i4", "u2", "i1"]))
def test_any_one_element_is_named(place: int, value: float, code: str) -> None:
    from ckptkit.golden.explain import _ChangedTensor, _one_element

    old = np.random.default_rng(1).integers(-100, 100, (20, 10)).astype(code)
    new = old.copy()
    with np.errstate(all="ignore"):
        new.reshape(-1)[place] = np.float64(value).astype(code)
    if new.tobytes() == old.tobytes():
        return
    dtype = new.dtype.name

    class Store:
        def read(self, key: str, start: int, stop: int) -> Array:
            return new.reshape(-1)[start:stop].copy()

    sketches = (_sketch.sketch_of(values, dtype) for values in (old, new))
    said = _one_element(_ChangedTensor(*sketches, Store(), "x"))  # type: ignore[arg-type, call-arg]
    assert said is not None
    index = list(np.unravel_index(place, old.shape))
    assert f"{[int(n) for n in index]} is " in said.text
    assert said.text.endswith(f"recorded {old.reshape(-1)[place]:.9g}")


@settings(max_examples=100)
@given(
    st.lists(st.binary(max_size=4), min_size=1, max_size=30, unique=True),
    st.integers(0, 29),
    st.sampled_from(["gone", "new", "changed"]),
)
def test_a_line_that_is_gone_new_or_changed_is_named(
    lines: list[bytes], place: int, what: str
) -> None:
    place %= len(lines)
    now = list(lines)
    if what == "gone":
        del now[place]
    elif what == "new":
        now.insert(place, b"a new line")
    else:
        now[place] = b"another line"
    said = explain_lines(sketch_lines(lines), now)
    assert said.startswith(f"line {place + 1} ")
    assert {"gone": "is gone", "new": "is new", "changed": "changed to"}[what] in said


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ([b"b", b"a", b"c", b"d"], "the same lines in another order"),
        ([b"x", b"y", b"c", b"d"], "several of 4 lines changed"),
        ([b"a"], "3 lines fewer: 1, recorded 4"),
        ([b"x", b"y", b"z"], "1 lines fewer: 3, recorded 4"),
        ([b"x", b"y", b"z", b"a", b"b"], "1 lines more: 5, recorded 4"),
        ([], "4 lines fewer: 0, recorded 4"),
    ],
)
def test_other_changes_of_lines(now: list[bytes], said: str) -> None:
    assert explain_lines(sketch_lines([b"a", b"b", b"c", b"d"]), now) == said
    assert explain_lines(LineSketch("0"), now) == "the content differs"


# --- files, constants, settings -------------------------------------------------------------------

NESTED = [
    GOLDEN / version / "files_nested" / name
    for version in ("tf2.12.1", "tf2.15.1", "tf2.16.2", "tf2.18.1", "tf2.21.0")
    for name in ("model.keras", "model.h5")
]


def test_one_model_saved_by_five_versions_in_two_forms() -> None:
    """No false alarm, whatever wrote it; only the names of an old `.h5` need alignment."""
    made = [bind(path) for path in NESTED if path.exists()]
    assert len(made) > 6
    assert len({binding.form for binding in made}) == 2
    for one in made:
        for other in made:
            assert compare_bindings(one, other) == ()


@pytest.mark.parametrize(
    "name", ["saved_model_export", "lookup", "module_saved_model", "saved_model_save"]
)
def test_a_saved_model_is_bound_the_same_twice(name: str, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(GOLDEN / "tf2.21.0" / name / "model", path)
    recorded = bind(GOLDEN / "tf2.21.0" / name / "model")
    with ThreadPoolExecutor(2) as executor:
        assert bind(path, executor=executor) == recorded
    assert compare_bindings(recorded, bind(path, full=False)) == ()


def test_a_vocabulary_line_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(GOLDEN / "tf2.21.0" / "lookup" / "model", path)
    recorded = bind(path)
    words = path / "assets" / "words.txt"
    lines = words.read_bytes().splitlines()
    words.write_bytes(b"\r\n".join(lines) + b"\n\n")
    assert compare_bindings(recorded, bind(path)) != ()  # other line ends are other bytes
    words.write_bytes(b"\n".join(lines) + b"\n\n")
    assert compare_bindings(recorded, bind(path)) == ()  # newlines at the end are not
    words.write_bytes(b"\n".join(lines[:1] + lines[2:]))
    [row] = compare_bindings(recorded, bind(path))
    assert (row.severity, row.code, row.where) == ("error", "asset.changed", "assets/words.txt")
    assert row.message.startswith(f"line 2 of {len(lines)} is gone, after ")
    words.unlink()
    [row] = compare_bindings(recorded, bind(path))
    assert (row.code, row.where) == ("asset.missing", "assets/words.txt")


def with_config(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a .keras archive with another config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(info, data)
    return target


def layers_of(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of the layers by name."""
    return {layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]}


def test_settings_that_change_what_is_computed(tmp_path: Path) -> None:
    source = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
    recorded = bind(source)
    name = next(n for n, layer in recorded.layers.items() if layer["class"] == "BatchNormalization")

    def harmless(config: dict[str, Any]) -> None:
        for layer in layers_of(config).values():
            layer["trainable"] = False
            layer["kernel_initializer"] = "zeros"
            layer["a_setting_of_the_next_version"] = 3

    def harmful(config: dict[str, Any]) -> None:
        layers_of(config)[name]["epsilon"] = 0.5

    same = with_config(source, tmp_path / "same.keras", harmless)
    assert compare_bindings(recorded, bind(same, full=False)) == ()
    other = with_config(source, tmp_path / "other.keras", harmful)
    [row] = compare_bindings(recorded, bind(other, full=False))
    assert (row.code, row.where) == ("layer.config", name)
    assert row.message == "epsilon is 0.5, recorded as 0.001"


def test_an_entry_of_a_vocabulary_in_the_config(tmp_path: Path) -> None:
    source = GOLDEN / "tf2.21.0" / "files_words" / "model.keras"
    words = [f"word{number}" for number in range(50)]

    def long(config: dict[str, Any]) -> None:
        next(s for s in layers_of(config).values() if "vocabulary" in s)["vocabulary"] = words

    def shorter(config: dict[str, Any]) -> None:
        vocabulary = words[:30] + words[31:]
        next(s for s in layers_of(config).values() if "vocabulary" in s)["vocabulary"] = vocabulary

    recorded = bind(with_config(source, tmp_path / "a.keras", long))
    [row] = compare_bindings(recorded, bind(with_config(source, tmp_path / "b.keras", shorter)))
    assert row.code == "layer.config"
    assert row.message == "vocabulary: line 31 of 50 is gone, after 'word29' and before 'word31'"


class Model:
    """A SavedModel without variables, whose graph holds constants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.message = message_class("RawSavedModel")()
        self.meta = self.message.meta_graphs.add()
        self.graph = message_class("GraphDef")()

    def constant(self, name: str, values: Array, *, packed: bool, captured: bool = False) -> Model:
        """Add a constant; packed: as bytes, not as a list of numbers."""
        node = self.graph.node.add(name=name, op="Const")
        tensor = node.attr["value"].tensor
        for size in values.shape:
            tensor.tensor_shape.dim.add(size=size)
        flat = values.reshape(-1)
        if values.dtype == object:
            tensor.dtype = 7
            tensor.string_val.extend(flat.tolist())
        else:
            tensor.dtype = {"float32": 1, "int64": 9}[values.dtype.name]
            if packed:
                tensor.tensor_content = flat.tobytes()
            else:
                (tensor.float_val if tensor.dtype == 1 else tensor.int64_val).extend(flat.tolist())
        if captured:
            self.meta.object_graph_def.nodes.add().constant.operation = name
        return self

    def save(self) -> Path:
        """Write saved_model.pb."""
        self.meta.graph_def = self.graph.SerializeToString()
        self.path.mkdir(exist_ok=True)
        (self.path / "saved_model.pb").write_bytes(self.message.SerializeToString())
        return self.path


DATA = normal(10, 20)
VOCABULARY = np.array([f"word{n}".encode() for n in range(60)], object)


def test_constants_are_compared_by_content(tmp_path: Path) -> None:
    one = Model(tmp_path / "a").constant("Const", DATA, packed=True, captured=True)
    one.constant("Const_1", VOCABULARY, packed=True).constant("eps", normal(1)[0], packed=True)
    recorded = bind(one.save())
    assert set(recorded.constants) == {"Const", "Const_1"}
    again = Model(tmp_path / "b").constant("Const_7", VOCABULARY, packed=True)
    again.constant("Const", np.arange(64), packed=True)  # new, and unlike any other
    again.constant("Const_9", DATA, packed=False, captured=True)
    rows = compare_bindings(recorded, bind(again.save()))
    assert [(row.severity, row.code) for row in rows] == [("note", "constant.new")]


@pytest.mark.parametrize(
    ("data", "words", "severity", "said"),
    [
        (DATA + 1, VOCABULARY, "error", "captured constant float32 [10, 20] holds other values"),
        (DATA, VOCABULARY[1:], "warning", "line 1 of 60 is gone, before 'word1'"),
        (DATA, np.roll(VOCABULARY, 1), "warning", "the same lines in another order"),
    ],
)
def test_stale_constants_are_named(
    tmp_path: Path, data: Array, words: Array, severity: str, said: str
) -> None:
    def model(name: str, data: Array, words: Array) -> Binding:
        made = Model(tmp_path / name).constant("c", data, packed=True, captured=True)
        return bind(made.constant("w", words, packed=True).save())

    [row] = compare_bindings(model("a", DATA, VOCABULARY), model("b", data, words))
    assert (row.severity, row.code) == (severity, "constant.changed")
    assert said in row.message


def test_single_floats_are_notes(tmp_path: Path) -> None:
    def model(name: str, scale: float) -> Binding:
        value = np.asarray(scale, "f4")
        return bind(Model(tmp_path / name).constant("s", value, packed=False).save())

    [row] = compare_bindings(model("a", 1 / 255), model("b", 1.0))
    assert (row.severity, row.code) == ("note", "constant.scalar")
    assert "0.003921568859368563 is gone, 1.0 is new" in row.message


def test_a_repeated_last_value_stands_for_the_rest(tmp_path: Path) -> None:
    filled, listed = np.full((100,), 2.5, "f4"), Model(tmp_path / "b")
    node = listed.graph.node.add(name="c", op="Const")
    node.attr["value"].tensor.dtype = 1
    node.attr["value"].tensor.tensor_shape.dim.add(size=100)
    node.attr["value"].tensor.float_val.append(2.5)
    recorded = bind(Model(tmp_path / "a").constant("c", filled, packed=True).save())
    assert bind(listed.save()).constants == recorded.constants


# --- refusals -------------------------------------------------------------------------------------


def test_a_model_in_one_file_is_bound_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"one")
    recorded = bind(path)
    assert compare_bindings(recorded, bind(path)) == ()
    path.write_bytes(b"two")
    assert [row.code for row in compare_bindings(recorded, bind(path))] == ["file.changed"]
    path.unlink()
    with pytest.raises(CkptkitError, match="no such file"):
        bind(path)


def test_damage_is_not_bound(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(GOLDEN / "tf2.21.0" / "saved_model_export" / "model", path)
    data = path / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[2] ^= 4
    data.write_bytes(content)
    with pytest.raises(CkptkitError, match="checksum of the stored bytes"):
        bind(path)


@settings(max_examples=150)
@given(st.data())
def test_a_binding_that_was_tampered_with_is_refused_or_read(data: st.DataObject) -> None:
    made = bind(GOLDEN / "tf2.21.0" / "saved_model_export" / "model").to_json()
    value: Any = json.loads(json.dumps(made))
    node, key = value, data.draw(st.sampled_from(sorted(value)))
    while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
        node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
    node[key] = data.draw(
        st.sampled_from([None, -1, 1.5, "x", [], {}, [1, "a"], {"a": 1}, True, "NaN", ["zz"]])
    )
    try:
        assert isinstance(Binding.from_json(value, "binding.json"), Binding)
    except FormatError as error:
        assert "binding.json" in str(error)


def test_rows_are_changes(recorded: Binding, tmp_path: Path) -> None:
    now = bind(written(tmp_path, {**WEIGHTS, "a/bias": np.zeros(32, "f4")}), full=False)
    [row] = compare_bindings(recorded, now)
    assert row == Discrepancy(
        "error", "weight.constant.zero", "a/bias", "zeroed: all 32 elements are 0", ""
    )


def test_factors_of_lora_that_keras_merged_are_a_note(tmp_path: Path) -> None:
    factors = {"a/lora_kernel_a": normal(32, 2), "a/lora_kernel_b": normal(2, 32)}
    product = factors["a/lora_kernel_a"] @ factors["a/lora_kernel_b"]
    merged = {**WEIGHTS, "a/kernel": KERNEL + product}
    sides = []
    for name, weights in (("adapted", {**WEIGHTS, **factors}), ("merged", merged)):
        (tmp_path / name).mkdir()
        sides.append(bind(written(tmp_path / name, weights)))
    for old, new in (sides, sides[::-1]):
        rows = compare_bindings(old, new)
        assert [(row.severity, row.code, row.where) for row in rows] == [
            ("note", "weight.merged", "a/kernel")
        ]
    without = {key: value for key, value in merged.items() if key != "b/kernel"}
    (tmp_path / "less").mkdir()
    rows = compare_bindings(sides[0], bind(written(tmp_path / "less", without)))
    assert {row.code for row in rows} == {"weight.merged", "weight.missing"}
