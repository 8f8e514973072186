"""Every form to every other, on the goldens of Keras 2 and 3: what goes there comes back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.operations.convert import pipeline
from ckptkit.operations.convert.api import MismatchError, convert
from ckptkit.stores.base import ObjectGraph
from support.goldens import golden, goldens
from support.values import same_bits

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
SUFFIX = {"keras": ".keras", "weights.h5": ".weights.h5", "npz": ".npz"}
NESTED = [g for g in goldens("keras", "weights.h5", "h5") if "files_nested/model" in g.name]
# TensorFlow 2.12 wrote HDF5 under the name of .keras, too.
STRUCTURES = [g for g in NESTED if ckptkit.open(g.path).store.format in ("keras", "weights.h5")]
CHECKPOINTS = [
    "tf2.12.1/legacy_adam/ckpt",  # Keras 2
    "tf2.15.1/adamw/ckpt",
    "tf2.16.2/adam/ckpt",  # Keras 3
    "tf2.21.0/adam/ckpt",
    "tf2.21.0/ema/ckpt",
    "tf2.21.0/shards/ckpt",
]
HAVE = [name for name in CHECKPOINTS if name in {g.name for g in goldens("checkpoint")}]
MODELS = [g for g in goldens("saved-model") if "lookup" not in g.name]


@pytest.fixture(autouse=True)
def no_models_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are compared in test_convert_tensorflow; here every bit of the files is."""
    monkeypatch.setattr(pipeline, "compare_files", lambda *_, **__: None)


def weights(path: Path) -> dict[str, Any]:
    """Return the weights by name."""
    checkpoint = ckptkit.open(path)
    return {
        naming.name: checkpoint.store.read(key)
        for key, naming in checkpoint.names.items()
        if naming.role == "weight"
    }


def assert_same(one: Path, two: Path) -> None:
    result = ckptkit.diff(one, two, roles=["weight"], bitwise=True)
    assert result.same and result.counts["equal"] > 0


def content(array: Any) -> tuple[Any, ...]:
    return array.shape, array.tobytes()


def rules_between(source: Any, like: Any) -> list[str]:
    """Return what must be told: Keras 3's .h5 leaves out the layer of a nested model's weights."""
    nameless = "inner/kernel" in weights(source.path) and "out/kernel" in weights(like.path)
    return [r"^inner/(kernel|bias)$=>out/\1"] if nameless else []


@pytest.mark.parametrize(
    ("source", "like"),
    [pair for pair in itertools.product(NESTED, STRUCTURES) if pair[0] is not pair[1]],
    ids=lambda item: item.name.replace("/files_nested", ""),
)
def test_keras_files_into_each_other(
    source: Any, like: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Legacy .h5, .keras and .weights.h5 of five releases; the model is one."""
    if source is not next(other for other in NESTED if other is not like):
        # Keras has loaded a file of this structure: what comes from elsewhere is the same but for
        # its values, which are compared
        monkeypatch.setattr(pipeline, "load_output", lambda *_: None)
    out = tmp_path / f"out{SUFFIX[like.kind]}"
    rules = rules_between(source, like)
    alone = tmp_path / f"alone{SUFFIX[like.kind]}"
    if rules:
        try:
            convert(source.path, alone, like=like.path, weights_only=True)
        except MismatchError as error:
            assert f"out/kernel of {like.path} has no value in {source.path}" in str(error)
    assert convert(source.path, out, like=like.path, weights_only=True, rules=rules).ok
    if alone.exists():  # the order of the weights told as much as the rules
        assert_same(alone, out)
    if not rules:
        assert_same(source.path, out)
    if source in STRUCTURES:
        back = tmp_path / f"back{SUFFIX[source.kind]}"
        assert convert(out, back, like=source.path, weights_only=True).ok
        assert_same(source.path, back)


@pytest.mark.parametrize("form", ["safetensors", "npz"])
@pytest.mark.parametrize("source", NESTED, ids=lambda g: g.name)
def test_keras_files_through_neutral_ones(source: Any, form: str, tmp_path: Path) -> None:
    assert convert(source.path, tmp_path / f"w.{form}", weights_only=True).ok
    assert_same(source.path, tmp_path / f"w.{form}")
    assert convert(tmp_path / f"w.{form}", tmp_path / "ckpt", to="checkpoint").ok  # by name
    assert_same(source.path, tmp_path / "ckpt")
    like = STRUCTURES[0]
    back = tmp_path / f"back{SUFFIX[like.kind]}"
    rules = rules_between(source, like)
    assert convert(tmp_path / "ckpt", back, like=like.path, weights_only=True, rules=rules).ok
    old, new = (
        sorted(weights(source.path).values(), key=content),
        sorted(weights(back).values(), key=content),
    )
    assert all(same_bits(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("name", HAVE)
def test_checkpoints_through_every_form_that_needs_no_model(name: str, tmp_path: Path) -> None:
    source = golden(name).path
    last = source
    for number, form in enumerate(["safetensors", "checkpoint", "npz", "safetensors", "npz"]):
        path = tmp_path / (f"{number}.{form}" if form != "checkpoint" else f"{number}")
        assert convert(last, path, to=form).ok
        last = path
    assert convert(last, tmp_path / "back", like=source).ok
    one, two = ckptkit.open(source), ckptkit.open(tmp_path / "back")
    assert set(one.specs) == set(two.specs)
    for key in one.specs:
        assert same_bits(one.store.read(key), two.store.read(key)), key


@pytest.mark.parametrize("source", MODELS, ids=lambda g: g.name)
def test_saved_models_become_checkpoints_and_models_again(source: Any, tmp_path: Path) -> None:
    """With themselves as donor: values go out by way of another form, and come back in."""
    model = ckptkit.open(source.path).store.model
    assert model is not None
    assets = [f"assets/{name}" for name in model.assets]  # which a checkpoint has no place for
    try:
        assert convert(source.path, tmp_path / "ckpt", to="checkpoint", allow_unused=assets).ok
    except UsageError as error:  # an export(): no live model would restore it
        assert "flat lists" in str(error)
        done = convert(
            source.path, tmp_path / "ckpt", to="checkpoint", root="", allow_unused=assets
        )
        assert done.ok
    else:
        graph = ckptkit.open(tmp_path / "ckpt").structure
        if isinstance(graph, ObjectGraph):
            assert graph.nodes[0].children[0][0] == "model"
    assert convert(tmp_path / "ckpt", tmp_path / "w.safetensors", weights_only=True).ok
    assert convert(
        tmp_path / "w.safetensors", tmp_path / "model", like=source.path, weights_only=True
    ).ok
    assert_same(source.path, tmp_path / "model")
    pb = (tmp_path / "model/saved_model.pb", source.path / "saved_model.pb")
    assert pb[0].read_bytes() == pb[1].read_bytes()


@pytest.mark.parametrize("source", ["tf2.12.1/saver/model.ckpt", "tf2.21.0/saver/model.ckpt"])
def test_tensorflow_1_through_neutral_files(source: str, tmp_path: Path) -> None:
    if source not in {g.name for g in goldens("checkpoint")}:
        pytest.skip("no such golden")
    path = golden(source).path
    convert(path, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", tmp_path / "one", to="checkpoint")
    one, two = ckptkit.open(path), ckptkit.open(tmp_path / "one")
    assert two.store.style == "name-based" and set(one.specs) == set(two.specs)
    assert all(same_bits(one.store.read(key), two.store.read(key)) for key in one.specs)


def test_the_average_of_a_run(tmp_path: Path) -> None:
    """Weights are averaged; the step, and the optimizer's state, are those of the last."""
    runs = [golden(f"tf2.21.0/manager/step-{n}").path for n in (200, 300)]
    assert convert(runs, tmp_path / "mean", to="checkpoint").ok
    first, last, mean = (ckptkit.open(path) for path in (*runs, tmp_path / "mean"))
    kinds = set()
    for key, naming in last.names.items():
        if key == GRAPH or last.specs[key].dtype == "string":
            continue
        one, two, new = (c.store.read(key) for c in (first, last, mean))
        if naming.role == "weight":
            wide = (one.astype("f8") + two.astype("f8")) / 2
            assert (new == wide.astype(one.dtype)).all(), naming.name
        else:
            assert same_bits(new, two), naming.name
        kinds.add(naming.role)
    assert {"weight", "counter"} <= kinds
    assert any((first[n] != mean[n]).any() for n in weights(runs[0]))


@pytest.mark.parametrize("like", STRUCTURES, ids=lambda g: g.name)
def test_seeded_mistakes_are_refused_by_name_in_keras_files(like: Any, tmp_path: Path) -> None:
    convert(like.path, tmp_path / "all.npz", weights_only=True)
    names = list(weights(like.path))
    lost = names[0]
    convert(tmp_path / "all.npz", tmp_path / "part.npz", names=[f"!{lost}"])
    out = tmp_path / f"out{SUFFIX[like.kind]}"
    with pytest.raises(MismatchError, match=rf"{lost} of \S+ has no value in "):
        convert(tmp_path / "part.npz", out, like=like.path, weights_only=True)
    from ckptkit.stores.npz.writer import write_npz
    from ckptkit.stores.writing import TensorToWrite

    arrays: dict[str, Any] = dict(ckptkit.open(tmp_path / "all.npz").items())

    def save(name: str, arrays: dict[str, Any]) -> Path:
        tensors = [TensorToWrite(key, str(a.dtype), a.shape) for key, a in arrays.items()]
        write_npz(tmp_path / name, tensors, lambda key: iter([(0, arrays[key].reshape(-1))]))
        return tmp_path / name

    more = save("more.npz", {**arrays, "other/kernel": np.ones(3, np.float32)})
    with pytest.raises(MismatchError, match=r"other/kernel of \S+: \S+ has no place"):
        convert(more, out, like=like.path, weights_only=True)
    wide = save("wide.npz", {**arrays, lost: np.ones((9, 9), np.float32)})
    with pytest.raises(MismatchError, match=rf"{lost} is \(9, 9\) in "):
        convert(wide, out, like=like.path, weights_only=True)
    twice = [f"^{names[1]}$=>{lost}", f"^{lost}$=>{lost}"]
    with pytest.raises(UsageError, match="send both"):
        convert(tmp_path / "all.npz", out, like=like.path, weights_only=True, rules=twice)
    assert not out.exists()
