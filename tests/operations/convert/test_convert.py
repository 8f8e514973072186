"""`convert` without TensorFlow: every weight store to every other, and back, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.errors import CkptkitError, OutputError, UnsupportedError, UsageError
from ckptkit.operations.convert import write as write_module
from ckptkit.operations.convert.api import MismatchError, convert, plan
from ckptkit.operations.convert.destination import target_of
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.registry import format_of
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.object_graph import parse_object_graph
from support.goldens import Golden, golden, goldens
from support.places import environment
from support.values import FIXED_DTYPES, blocks_of, out_tensors, same_bits, values_of
from support.weights import write_bundle

KINDS = {
    "checkpoint": ("checkpoint", ""),
    "saved-model": ("saved_model", ""),
    "keras": ("keras", ".keras"),
    "weights.h5": ("weights.h5", ".weights.h5"),
}
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Keras 2.12 called an HDF5 file .keras, too.
ROUND = [g for g in goldens(*KINDS) if ckptkit.open(g.path).store.format != "h5"]
ADAM = golden("tf2.21.0/adam/ckpt").path


def everything(path: Path) -> dict[str, Any]:
    """Return {key: values} of all that has an array form, object graph included."""
    checkpoint = ckptkit.open(path)
    return {
        key: checkpoint.store.read(key)
        for key, spec in checkpoint.specs.items()
        if spec.dtype not in ("variant", "resource")
    }


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for key in one:
        assert same_bits(one[key], two[key]), key


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """Write arrays to a safetensors file, or to a name-based checkpoint."""
    if path.suffix == ".safetensors":
        tensors = {key: (str(a.dtype), a) for key, a in arrays.items()}
        write_safetensors(path, out_tensors(tensors), blocks_of(tensors, 1 << 20))
        return path
    return write_bundle(path, arrays)


# -- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "npz"])
@pytest.mark.parametrize("there", ROUND, ids=lambda g: g.name)
def test_every_golden_comes_back_from_a_neutral_file(
    there: Golden, form: str, tmp_path: Path
) -> None:
    before = everything(there.path)
    opaque = [k for k in ckptkit.open(there.path).specs if k not in before]
    model = ckptkit.open(there.path).store.model
    lost = [*opaque, *(["assets/*"] if model is not None and model.assets else [])]
    middle = tmp_path / f"m.{form}"
    assert convert(there.path, middle, allow_unused=lost).ok
    to, suffix = KINDS[there.kind]
    back = tmp_path / f"back{suffix}"
    done = convert(middle, back, to=to, like=there.path)
    assert done.ok and done.proof is not None and done.proof.tensors == len(done.plan.tensors)
    after = everything(back)
    if opaque:  # state of an iterator: its attribute is gone from the graph
        for tensors in (before, after):
            del tensors[GRAPH]
    assert_equal(before, after)


def test_a_checkpoint_of_keras_2_and_its_graph_come_back_whole(tmp_path: Path) -> None:
    source = golden("tf2.12.1/legacy_adam/ckpt").path
    convert(source, tmp_path / "copy", to="checkpoint")
    assert_equal(everything(source), everything(tmp_path / "copy"))


@pytest.mark.parametrize(
    "name", ["tf2.12.1/files_nested/model.h5", "tf2.16.2/files_nested/model.h5"]
)
def test_legacy_h5_into_keras_3(name: str, tmp_path: Path) -> None:
    like = golden("tf2.21.0/files_nested/model.keras").path
    done = convert(golden(name).path, tmp_path / "new.keras", like=like, weights_only=True)
    assert done.ok
    old = {t.variable: t.digest for t in golden(name).tensors.values() if t.role == "weight"}
    new = ckptkit.open(tmp_path / "new.keras")
    assert ckptkit.diff(golden(name).path, tmp_path / "new.keras", roles=["weight"]).same
    assert len(old) == sum(n.role == "weight" for n in new.names.values())


def test_tensorflow_1_into_tensorflow_2_and_back(tmp_path: Path) -> None:
    two = golden("tf2.21.0/adam/ckpt").path
    one = tmp_path / "one"
    names = {naming.name: naming.full_name for naming in ckptkit.open(two).names.values()}
    convert(two, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", one, to="checkpoint")  # no graph: by name
    assert ckptkit.open(one).store.style == "name-based"
    assert {n for n in names if "@" not in n and n != GRAPH} <= set(ckptkit.open(one))
    convert(one, tmp_path / "two", like=two)
    assert_equal(everything(two), everything(tmp_path / "two"))
    saver = golden("tf2.12.1/saver/model.ckpt").path
    convert(saver, tmp_path / "s.npz")
    convert(tmp_path / "s.npz", tmp_path / "saver", to="checkpoint")
    assert_equal(everything(saver), everything(tmp_path / "saver"))


NUMBERS = [d for d in FIXED_DTYPES if d != "complex128"]


@st.composite
def stores(draw: st.DrawFn) -> dict[str, tuple[str, Any]]:
    names = draw(
        st.lists(
            st.from_regex(r"[a-z]{1,3}(/[a-z]{1,4}){0,2}", fullmatch=True),
            min_size=1,
            max_size=6,
            unique=True,
        )
    )
    found = {}
    for seed, name in enumerate(names):
        dtype = draw(st.sampled_from([*NUMBERS, "complex128", "string"]))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        found[name] = (dtype, values_of(dtype, shape, seed))
    return found


@settings(max_examples=30)
@given(tensors=stores(), order=st.permutations(["checkpoint", "safetensors", "npz"]))
def test_a_conversion_and_its_inverse_are_the_identity(
    tensors: dict[str, tuple[str, Any]], order: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # TensorFlow knows no float8_e3m4 and the like
    tensors = {
        k: v
        for k, v in tensors.items()
        if not v[0].startswith(("float8_e3m4", "float8_e4m3", "float8_e8m0"))
    }
    if not tensors:
        return
    root = tmp_path_factory.mktemp("inverse")
    first = root / "first.npz"
    write_npz(first, out_tensors(tensors), blocks_of(tensors))
    last = first
    for number, form in enumerate(order):
        suffix = "" if form == "checkpoint" else f".{form}"
        path = root / f"{number}{suffix}"
        assert convert(last, path, to=form).ok
        last = path
    assert convert(last, root / "end.npz", like=first).ok
    assert_equal(everything(first), everything(root / "end.npz"))
    shutil.rmtree(root)


def test_names_survive_a_rule_and_its_inverse(tmp_path: Path) -> None:
    convert(ADAM, tmp_path / "a.safetensors", rules=["^=>net/"], names=["!optimizer*"])
    assert all(name.startswith("net/") for name in ckptkit.open(tmp_path / "a.safetensors").specs)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", rules=["^net/=>"])
    convert(ADAM, tmp_path / "c.safetensors", names=["!optimizer*"])
    assert_equal(everything(tmp_path / "b.safetensors"), everything(tmp_path / "c.safetensors"))


# -- SavedModel --------------------------------------------------------------------------------


def test_a_saved_model_goes_under_another_root(tmp_path: Path) -> None:
    source = golden("tf2.21.0/saved_model_save/model").path
    done = convert(source, tmp_path / "ckpt", to="checkpoint")
    assert done.ok and any("re-rooted" in note for note in done.plan.notes)
    new, old = ckptkit.open(tmp_path / "ckpt"), ckptkit.open(source)
    graph = new.structure
    assert [edge for edge, _ in graph.nodes[0].children] == ["model", "save_counter"]  # type: ignore[union-attr]
    assert set(new.specs) == {
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE",
        GRAPH,
        *(f"model/{key}" for key in old.specs if key != GRAPH),
    }
    convert(f"{tmp_path}/ckpt#model", tmp_path / "again", to="checkpoint")
    part, whole = ckptkit.open(tmp_path / "again").structure, old.structure
    assert len(part.nodes) <= len(whole.nodes)  # type: ignore[union-attr]
    assert ckptkit.diff(tmp_path / "again", source, roles=["all"]).same


def test_a_donor_keeps_its_graph_and_takes_the_values(tmp_path: Path) -> None:
    donor = golden("tf2.21.0/module_saved_model/model").path
    arrays = {
        name: np.full_like(array, 0.25)
        for name, array in ckptkit.open(donor).items()
        if name != GRAPH
    }
    save(tmp_path / "new.safetensors", arrays)
    done = convert(tmp_path / "new.safetensors", tmp_path / "out", like=donor)
    assert done.ok and done.files == (tmp_path / "out",)
    assert (tmp_path / "out/saved_model.pb").read_bytes() == (donor / "saved_model.pb").read_bytes()
    out = ckptkit.open(tmp_path / "out")
    assert all((out[name] == 0.25).all() for name in arrays)
    old, new = (p / "fingerprint.pb" for p in (donor, tmp_path / "out"))
    assert len(new.read_bytes()) < len(old.read_bytes())  # the stale hash of the values is gone


def test_what_does_not_follow_the_new_weights_is_listed(tmp_path: Path) -> None:
    donor = golden("tf2.21.0/lookup/model").path
    done = convert(donor, tmp_path / "out", to="saved_model", check=False)
    notes = " ".join(done.plan.notes)
    assert "does not follow the new weights: assets/" in notes and "table" in notes
    assert {p.name for p in (tmp_path / "out/assets").iterdir()} == {
        p.name for p in (donor / "assets").iterdir()
    }


def test_a_vocabulary_that_is_not_carried_is_refused_by_name(tmp_path: Path) -> None:
    source = golden("tf2.21.0/lookup/model").path
    with pytest.raises(MismatchError, match=r"assets/.*txt of \S+ would not be carried"):
        convert(source, tmp_path / "w.safetensors")
    other = shutil.copytree(source, tmp_path / "other")
    [asset] = (other / "assets").iterdir()
    asset.write_text("other\nwords\n")
    with pytest.raises(MismatchError, match=rf"{asset.name} of \S+ differs from assets/"):
        convert(source, tmp_path / "out", like=other)
    asset.unlink()
    with pytest.raises(MismatchError, match=f"{asset.name} is named in the donor's graph"):
        convert(source, tmp_path / "out", like=other)
    assert not (tmp_path / "out").exists()


def test_a_stale_donor_is_refused_by_name(tmp_path: Path) -> None:
    donor = shutil.copytree(golden("tf2.21.0/module_saved_model/model").path, tmp_path / "donor")
    arrays = {key: a for key, a in everything(donor).items() if key != GRAPH}
    specs = ckptkit.open(donor).specs
    key = next(key for key in arrays if len(specs[key].shape) == 2)
    shape = (specs[key].shape[0] + 1, specs[key].shape[1])
    from ckptkit.stores.tensor_bundle.reader import graph_bytes
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from ckptkit.stores.writing import TensorToWrite

    graph = graph_bytes(ckptkit.open(donor).store)
    parse_object_graph(graph, "test")
    arrays[key] = np.zeros(shape, np.float32).reshape(-1)
    tensors = [
        TensorToWrite(k, specs[k].dtype, shape if k == key else specs[k].shape) for k in arrays
    ]
    write_tensor_bundle(
        donor / "variables/variables",
        tensors,
        lambda k: iter([(0, arrays[k])]),
        object_graph=graph,
        overwrite=True,
    )
    with pytest.raises(MismatchError, match=r"the donor is stale: .* in the graph"):
        convert(donor / "variables/variables", tmp_path / "out", like=donor)


# -- strict by default ---------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return SRC and LIKE, that fit."""
    arrays = {
        f"{layer}/{part}": np.arange(4.0, dtype="f4") + n
        for n, (layer, part) in enumerate(
            [("a", "kernel"), ("a", "bias"), ("b", "kernel"), ("b", "bias")]
        )
    }
    empty = {name: np.zeros(4, np.float32) for name in arrays}
    return save(tmp_path / "src", arrays), save(tmp_path / "like", empty)


def without(path: Path, *names: str, **others: Any) -> Path:
    arrays = {k: a for k, a in ckptkit.open(path).items() if k not in names}
    return save(path.with_name(f"{path.name}-changed"), {**arrays, **others})


def test_missing_is_refused_by_name_and_may_be_allowed(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source = without(pair[0], "b/bias")
    with pytest.raises(MismatchError, match=r"b/bias of \S+ has no value in "):
        convert(source, tmp_path / "out", like=pair[1])
    done = convert(source, tmp_path / "out", like=pair[1], allow_missing=["b/*"])
    assert done.ok and not ckptkit.open(tmp_path / "out")["b/bias"].any()
    assert ckptkit.open(tmp_path / "out")["a/kernel"].any()


def test_unused_is_refused_by_name_and_may_be_allowed(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    like = without(pair[1], "a/kernel")
    with pytest.raises(MismatchError, match=r"a/kernel of \S+: \S+ has no place"):
        convert(pair[0], tmp_path / "out", like=like)
    done = convert(pair[0], tmp_path / "out", like=like, allow_unused=["a/kernel"])
    assert [item.name for item in done.plan.leftovers] == ["a/kernel"]


def test_a_relaxation_that_is_not_needed_is_an_error(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    options: dict[str, Any]
    for option in ("allow_missing", "allow_unused", "allow_renamed"):
        options = {option: ["a/*"]}
        with pytest.raises(UsageError, match="allowed nothing"):
            convert(pair[0], tmp_path / "out", like=pair[1], **options)
    with pytest.raises(UsageError, match="paired nothing"):
        convert(pair[0], tmp_path / "out", like=pair[1], rules=["^zz=>y"])
    with pytest.raises(UsageError, match="changed nothing"):
        convert(pair[0], tmp_path / "out.npz", casts=["float64=float32"])
    with pytest.raises(UsageError, match="no role"):
        convert(pair[0], tmp_path / "out.npz", drop_roles=["slots"])


def test_wrong_shape_and_dtype_are_refused_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    like = without(pair[1], "a/bias", **{"a/bias": np.zeros(5, np.float32)})
    with pytest.raises(MismatchError, match=r"a/bias is \(4\) in \S+, it is \(5\) in "):
        convert(pair[0], tmp_path / "out", like=like)
    like = without(like, "a/bias", **{"a/bias": np.zeros(4, np.float16)})
    with pytest.raises(MismatchError, match=r"a/bias is float16, \S+ has float32"):
        convert(pair[0], tmp_path / "out", like=like)
    done = convert(pair[0], tmp_path / "out", like=like, casts=["float32=float16"])
    assert done.ok and ckptkit.open(tmp_path / "out")["a/bias"].dtype == np.float16


def test_two_sources_for_one_target_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="send both"):
        convert(pair[0], tmp_path / "out", like=pair[1], rules=["^[ab]/kernel$=>a/kernel"])
    with pytest.raises(UsageError, match="send both"):
        convert(pair[0], tmp_path / "out.npz", rules=["^[ab]/=>"])


def test_a_map_that_swaps_equal_shapes_is_refused_by_name(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    rules = ["^a/kernel$=>b/kernel", "^b/kernel$=>a/kernel"]
    with pytest.raises(MismatchError, match=r"a rule sends a/kernel to b/kernel, although \S+ has"):
        convert(pair[0], tmp_path / "out", like=pair[1], rules=rules)
    done = convert(pair[0], tmp_path / "out", like=pair[1], rules=rules, allow_renamed=["?/kernel"])
    assert done.ok
    old, new = ckptkit.open(pair[0]), ckptkit.open(tmp_path / "out")
    assert (new["a/kernel"] == old["b/kernel"]).all() and (new["a/bias"] == old["a/bias"]).all()


def test_what_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    for name, message in (
        ("x.h5", "Keras 1 and 2"),
        ("x.pt", "pickle"),
        ("x.onnx", "ONNX model"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            convert(ADAM, tmp_path / name)
    for options, message in (
        ({}, "to='tensor-bundle'"),
        ({"to": "keras"}, "ends in .keras"),
        ({"to": "saved_model"}, "a donor"),
        ({"to": "nonsense"}, "one of"),
        ({"to": "checkpoint", "root": "a/b"}, "cannot be the name"),
        ({"to": "checkpoint", "shard_size": "much"}, "not a size"),
        (
            {"to": "saved_model", "shard_size": 5, "like": golden("tf2.21.0/lookup/model").path},
            "cut",
        ),
        ({"to": "checkpoint", "casts": ["float32"]}, "not a cast"),
        ({"to": "checkpoint", "casts": ["float32=int8"]}, "a cast goes from"),
        ({"to": "checkpoint", "ema": True}, "no averaged variables"),
        ({"to": "checkpoint", "like": ADAM, "model": "a:b"}, "exclude each other"),
        ({"to": "checkpoint", "like": ADAM, "root": "r"}, "exclude each other"),
        ({"to": "checkpoint", "names": ["nothing*"]}, "no tensor passes"),
    ):
        with pytest.raises(UsageError, match=message):
            convert(ADAM, tmp_path / "x", **options)
    with pytest.raises(UsageError, match="its name says npz"):
        convert(ADAM, tmp_path / "x.npz", to="safetensors")
    assert not list(tmp_path.iterdir())


# -- casts, averages -----------------------------------------------------------------------------


def test_a_cast_measures_what_is_lost(tmp_path: Path) -> None:
    values = np.array([1.0, 1.0 + 2**-10, -3.0], np.float32)
    source = save(tmp_path / "src", {"w": values, "step": np.int64(7).reshape(())})
    done = convert(source, tmp_path / "out.safetensors", casts=["float32=bfloat16"])
    assert done.ok and done.proof is not None
    loss = done.proof.losses["w"]
    assert (loss.n_diff, loss.max_abs) == (1, 2**-10)
    assert ckptkit.open(tmp_path / "out.safetensors")["w"].dtype == "bfloat16"
    assert ckptkit.open(tmp_path / "out.safetensors")["step"].dtype == np.int64


def test_a_cast_that_overflows_is_rejected(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.array([1.0, 1e9], np.float32)})
    done = convert(source, tmp_path / "out.npz", casts=["float32=float16"])
    assert not done.ok and done.exit_code == 1
    assert "1 finite values became infinite" in done.proof.failures[0]  # type: ignore[union-attr]
    assert not (tmp_path / "out.npz").exists() and (tmp_path / "out.npz.rejected").exists()


def test_a_cast_of_integers_loses_none(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.array([1, -2, 3], np.int64)})
    assert convert(source, tmp_path / "out.npz", casts=["int64=int8"]).ok
    source = save(tmp_path / "src2", {"w": np.array([1, 300], np.int64)})
    done = convert(source, tmp_path / "out2.npz", casts=["int64=int8"])
    assert not done.ok and "1 integers became others" in done.proof.failures[0]  # type: ignore[union-attr]


def test_several_checkpoints_give_their_average(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: list[dict[str, Any]] = [
        {
            "w": rng.normal(size=(700, 3)).astype("f4"),
            "h": rng.normal(size=5).astype("f2"),
            "global_step": np.int64(n).reshape(()),
            "rows": np.arange(3) + n,
        }
        for n in range(3)
    ]
    paths = [save(tmp_path / f"c{n}", item) for n, item in enumerate(arrays)]
    done = convert(paths, tmp_path / "mean", to="checkpoint")
    assert done.ok
    mean = ckptkit.open(tmp_path / "mean")
    wide = np.mean([item["w"].astype("f8") for item in arrays], axis=0)
    assert (mean["w"] == wide.astype("f4")).all() and mean["h"].dtype == np.float16
    assert mean["global_step"] == 2 and (mean["rows"] == np.arange(3) + 2).all()
    with pytest.raises(UsageError, match="given twice"):
        convert([paths[0], paths[1], paths[0]], tmp_path / "mean2", to="checkpoint")
    lame = save(tmp_path / "lame", {k: a for k, a in arrays[0].items() if k != "w"})
    with pytest.raises(MismatchError, match="w is missing from"):
        convert([lame, paths[1]], tmp_path / "mean2", to="checkpoint")


def test_ema_takes_the_averaged_variables(tmp_path: Path) -> None:
    source = golden("tf2.21.0/ema/ckpt").path
    done = convert(source, tmp_path / "w.safetensors", ema=True, weights_only=True)
    assert done.ok
    new, old = ckptkit.open(tmp_path / "w.safetensors"), ckptkit.open(source)
    averaged = {n.slot_of: n.name for n in old.names.values() if n.role == "ema"}
    assert averaged and set(averaged) <= set(new)
    for name in new:
        assert (new[name] == old[averaged.get(name, name)]).all()


# -- writing ---------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.ones(3, np.float32)})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for dst, to in (("src", "checkpoint"), ("src.index", None)):
        with pytest.raises(OutputError, match="already exists"):
            convert(source, tmp_path / dst, to=to)
    (tmp_path / "there.npz").write_bytes(b"mine")
    with pytest.raises(OutputError, match="already exists"):
        convert(source, tmp_path / "there.npz")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/mine").write_bytes(b"")
    donor = golden("tf2.21.0/module_saved_model/model").path
    with pytest.raises(OutputError, match=r"no saved_model\.pb, so it is not replaced"):
        convert(donor, tmp_path / "dir", to="saved_model", overwrite=True)
    with pytest.raises(OutputError, match="no such directory"):
        convert(source, tmp_path / "no/where.npz")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before} == before


def test_a_checkpoint_may_be_replaced_by_itself(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.linspace(0, 1, 9, dtype="f4")})
    convert(source, source, to="checkpoint", casts=["float32=float16"], overwrite=True)
    assert ckptkit.open(source)["w"].dtype == np.float16
    # the old data file stayed until the new index was there, so the new ones have other names
    assert not (tmp_path / "src.data-00000-of-00001").exists()
    assert len(list(tmp_path.iterdir())) == 1 + len(ckptkit.open(source).store.shards)


def test_shards_are_cut_to_size(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {f"w{n}": np.ones(1000, np.float32) for n in range(5)})
    convert(source, tmp_path / "cut", to="checkpoint", shard_size="8kB")
    assert len(ckptkit.open(tmp_path / "cut").store.shards) == 3
    done = convert(source, tmp_path / "m.safetensors.index.json", shard_size=8000)
    assert done.ok and len(done.files) == 4 and done.files[-1].name == "m.safetensors.index.json"
    assert_equal(everything(source), everything(tmp_path / "m.safetensors.index.json"))


@pytest.mark.parametrize("dst", ["out", "out.npz", "out.safetensors.index.json"])
def test_a_failed_proof_leaves_rejected_and_the_old_file(
    dst: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "src", {"first/w": np.ones(9, np.float32), "v": np.zeros(3, "f4")})
    to = None if "." in dst else "checkpoint"
    convert(source, tmp_path / dst, to=to)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = write_module.write

    def damaging(planned: Any, path: Path, _executor: Any) -> None:
        """Write one tensor with another one's first value."""
        tensors = list(planned.tensors)
        at = next(n for n, f in enumerate(tensors) if f.key == "first/w")
        from ckptkit.operations.convert.value_stores import ValueSource
        from support.weights import MemoryStore

        wrong = np.ones(9, np.float32)
        wrong[4] = 2
        tensors[at] = tensors[at]._replace(values=ValueSource(MemoryStore({"w": wrong}), "w"))
        from dataclasses import replace

        real(replace(planned, tensors=tuple(tensors)), path)

    monkeypatch.setattr(write_module, "write", damaging)
    for _ in range(2):  # an older rejected one is replaced
        done = convert(source, tmp_path / dst, to=to, overwrite=True)
        assert not done.ok and done.path.name.startswith(f"{dst}.rejected")
        assert "first/w: 1 of 9 elements" in done.proof.failures[0]  # type: ignore[union-attr]
    new = [p.name for p in tmp_path.iterdir() if p.name not in old]
    assert len(new) == (3 if to else 1) and all(n.startswith(f"{dst}.rejected") for n in new)
    if dst != "out.safetensors.index.json":
        assert ckptkit.open(done.path)["first/w"][4] == 2
    assert {n: (tmp_path / n).read_bytes() for n in old} == old


def test_a_damaged_source_proves_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.ones(9, np.float32)})
    data = tmp_path / "src.data-00000-of-00001"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    with pytest.raises(CkptkitError, match="checksum of the stored bytes"):
        convert(source, tmp_path / "out.npz")
    data.unlink()
    with pytest.raises(CkptkitError, match="missing"):
        convert(source, tmp_path / "out.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["src.index"]


# -- plan, receipt, command ----------------------------------------------------------------------


def test_a_receipt_says_what_was_done(tmp_path: Path) -> None:
    receipt = tmp_path / "r.json"
    convert(ADAM, tmp_path / "w.safetensors", weights_only=True, receipt=receipt)
    document = json.loads(receipt.read_text())
    assert document["schema"] == "ckptkit.convert/1" and document["ok"]
    digest = ckptkit.ls(ADAM, digest=True).digest
    assert document["sources"][0]["digest"] == digest
    assert ckptkit.ls(tmp_path / "w.safetensors", digest=True).digest == digest
    import hashlib

    store = ckptkit.open(tmp_path / "w.safetensors").store
    for row in document["tensors"]:
        assert row["sha256"] == hashlib.sha256(store.read(row["key"]).tobytes()).hexdigest()
    assert {item["role"] for item in document["left"]} >= {"slot", "counter"}
    with pytest.raises(OutputError, match="already exists"):
        convert(ADAM, tmp_path / "v.safetensors", receipt=receipt)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(ADAM, tmp_path / f"{name}.npz")
        convert(ADAM, tmp_path / name, to="checkpoint")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.index").read_bytes() == (tmp_path / "b.index").read_bytes()


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    planned = plan(ADAM, tmp_path / "w.safetensors", weights_only=True)
    assert planned.nbytes == sum(
        spec.nbytes
        for key, spec in ckptkit.open(ADAM).specs.items()
        if ckptkit.open(ADAM).names[key].role == "weight"
    )
    assert not planned.problems and not list(tmp_path.iterdir())
    assert json.dumps(planned.to_json())


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    dry = invoke(ADAM, out, "--dry-run", "--drop-role", "slot,counter")
    assert dry.exit_code == 0 and "would write" in dry.output and "LEFT BEHIND" in dry.output
    done = invoke(ADAM, out, "--weights-only", "--jobs", 1)
    assert done.exit_code == 0 and "every bit as it should be" in done.output
    refused = invoke(out, tmp_path / "back", "--like", ADAM)
    assert refused.exit_code == 1 and "missing:" in refused.output
    assert "hint (missing)" in refused.output
    dry = invoke(out, tmp_path / "back", "--like", ADAM, "--dry-run")
    assert dry.exit_code == 1 and "would refuse" in dry.output
    again = invoke(out, tmp_path / "back", "--like", ADAM, "--weights-only")
    assert again.exit_code == 0
    unproven = invoke(out, tmp_path / "x.npz", "--no-check")
    assert unproven.exit_code == 0 and "not proven" in unproven.output


def test_a_conversion_imports_no_tensorflow(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, ckptkit; ckptkit.convert(sys.argv[1], sys.argv[2]); "
        "assert not {'tensorflow', 'keras', 'click', 'h5py'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(ADAM), str(tmp_path / "w.npz")], check=True)


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["checkpoint", "saved_model", "npz"])
def test_a_killed_run_leaves_the_old_output_or_nothing(
    form: str, stride: int, tmp_path: Path
) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "support.killing_convert", form, str(tmp_path), str(stride)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdicts = done.stdout.split()
    assert {"nothing", "new", "old"} == set(verdicts) and len(verdicts) > 50 / stride


def test_a_receipt_tells_of_the_source_as_it_was(tmp_path: Path) -> None:
    source = save(tmp_path / "src", {"w": np.linspace(0, 1, 10, dtype="f4")})
    digest = ckptkit.ls(source, digest=True).digest
    receipt = tmp_path / "r.json"
    options: dict[str, Any] = {"to": "checkpoint", "overwrite": True, "receipt": receipt}
    convert(source, source, casts=["float32=float16"], **options)
    assert json.loads(receipt.read_text())["sources"][0]["digest"] == digest
    assert ckptkit.ls(source, digest=True).digest != digest
    done = convert(
        source, tmp_path / "x.npz", casts=["float16=float8_e4m3fn"], receipt=receipt, overwrite=True
    )
    assert done.ok and json.loads(receipt.read_text())["proof"]["worst_loss"]["changed"] == 1


def test_a_donor_may_be_renewed_in_place(tmp_path: Path) -> None:
    export = shutil.copytree(golden("tf2.21.0/module_saved_model/model").path, tmp_path / "export")
    arrays = {n: np.full_like(a, 7) for n, a in ckptkit.open(export).items() if n != GRAPH}
    save(tmp_path / "new.safetensors", arrays)
    assert convert(tmp_path / "new.safetensors", export, like=export, overwrite=True).ok
    assert all((a == 7).all() for n, a in ckptkit.open(export).items() if n != GRAPH)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["export", "new.safetensors"]


def test_an_export_alone_makes_no_checkpoint_that_restores_nothing(tmp_path: Path) -> None:
    export = golden("tf2.21.0/saved_model_export/model").path
    with pytest.raises(UsageError, match="flat lists"):
        convert(export, tmp_path / "ckpt", to="checkpoint")
    assert list(tmp_path.iterdir()) == []
    assert convert(export, tmp_path / "ckpt", to="checkpoint", root="").ok


@pytest.mark.parametrize(
    ("spelling", "printed"),
    [
        *((name, name) for name in ("tensor-bundle", "safetensors", "npz")),
        ("checkpoint", "tensor-bundle"),
    ],
)
def test_to_takes_what_ls_prints_and_other_spellings(
    pair: tuple[Path, Path], spelling: str, printed: str, tmp_path: Path
) -> None:
    suffix = next(iter(format_of(spelling).suffixes)) if printed != "tensor-bundle" else ""
    made = convert(pair[0], tmp_path / f"made{suffix}", to=spelling)
    assert made.to_json()["to"] == printed
    assert ckptkit.open(tmp_path / f"made{suffix}").store.format == printed


@pytest.mark.parametrize("name", ["h5", "weights.json", "tflite", "onnx"])
def test_a_format_that_is_not_written_is_no_destination(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"ckptkit cannot write '{name}'"):
        target_of(tmp_path / "x", name, None)


def test_no_format_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format 'gguf' \(one of .*saved-model"):
        target_of(tmp_path / "x", "gguf", None)
