"""Reading and writing `.keras`, `.weights.h5`, `.weights.json` and legacy `.h5` files."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from ckptkit import dtypes
from ckptkit.checkpoint.names import name_tensors
from ckptkit.errors import OutputError, PathNotFoundError, UnknownTensorError, UsageError
from ckptkit.stores.containers import byte_range as _byte_range
from ckptkit.stores.hdf5 import reader as hdf5
from ckptkit.stores.hdf5.bounded import LeftToLibhdf5
from ckptkit.stores.hdf5.classic import scan_classic
from ckptkit.stores.keras.archive import open_keras, open_weights_h5, open_weights_json
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.legacy_h5 import open_legacy_h5
from ckptkit.stores.keras.writer import write_keras as rewrite_keras
from ckptkit.stores.keras.writer import write_weights_h5 as rewrite_weights
from support import keras_files
from support.keras_files import READABLE, VALUES, h5_bytes, write_h5, write_keras, write_legacy

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

DTYPES = [
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
    *("bfloat16", "float8_e4m3fn"),
]


def _names(store: H5Store) -> dict[str, str]:
    """Return name -> key."""
    return {n.name: key for key, n in name_tensors(store.specs, store.structure).items()}


def _whole(store: H5Store, key: str, max_elements: int) -> bytes:
    parts: list[bytes] = []
    expected = 0
    for start, values in store.blocks(key, max_elements):
        assert start == expected and 0 < len(values) <= max_elements and values.ndim == 1
        expected += len(values)
        parts.append(values.tobytes())
    assert expected == store.specs[key].size
    return b"".join(parts)


@pytest.fixture(
    params=["keras", "deflated", "weights.h5", "h5", "new-style", "gzip", "weights.json"]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> H5Store:
    """The same three tensors in every form."""
    kind = request.param
    if kind == "keras":
        return open_keras(write_keras(tmp_path / "m.keras"))
    if kind == "deflated":
        path = write_keras(tmp_path / "m.keras", compression=zipfile.ZIP_DEFLATED)
        return open_keras(path)
    if kind == "h5":
        return open_legacy_h5(write_legacy(tmp_path / "m.h5"))
    path = tmp_path / "m.weights.h5"
    if kind == "gzip":
        write_h5(path, compression="gzip", shuffle=True, fletcher32=True, chunks=True)
    elif kind == "new-style":
        with h5py.File(path, "w", libver="latest") as file:
            for group, name in keras_files.NAMES.items():
                file.create_group(f"{group}/vars").attrs["name"] = name
            for key, array in VALUES.items():
                file[key] = array
    elif kind == "weights.json":
        return open_weights_json(_shards(tmp_path))
    else:
        write_h5(path)
    return open_weights_h5(path)


def _shards(folder: Path) -> Path:
    """Write two shards and their index."""
    split = [dict(list(VALUES.items())[:2]), dict(list(VALUES.items())[2:])]
    for number, values in enumerate(split):
        write_h5(folder / f"m_{number:05}.weights.h5", values=values)
    weight_map = {
        "/layers/conv2d/vars": "m_00000.weights.h5",
        "/layers/dense/vars": ["m_00000.weights.h5", "m_00001.weights.h5"],
    }
    index = folder / "m.weights.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_every_form_gives_the_same_tensors(store: H5Store) -> None:
    names = _names(store)
    assert set(names) == READABLE
    expected = dict(zip(["stem/kernel", "head/kernel", "head/bias"], VALUES.values(), strict=True))
    for name, array in expected.items():
        spec = store.specs[names[name]]
        assert (spec.dtype, spec.shape, spec.nbytes) == ("float32", array.shape, array.nbytes)
        for step in (1, 7, 1 << 20):
            assert _whole(store, names[name], step) == array.tobytes()
        assert np.array_equal(store.read(names[name], 2, 5), array.reshape(-1)[2:5])
        assert store.read(names[name], 3, 3).shape == (0,)


def test_a_pickled_store_reads_the_same(store: H5Store) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    for key in store.specs:
        assert copy.read(key).tobytes() == store.read(key).tobytes()


def test_offsets_are_of_the_outer_file(store: H5Store) -> None:
    for key, spec in store.specs.items():
        assert store.mappable(key) == (spec.offset is not None)
        if spec.offset is not None:
            assert spec.shard is not None
            data = store.shards[spec.shard].read_bytes()
            assert data[spec.offset : spec.offset + spec.nbytes] == store.read(key).tobytes()


def test_stored_archives_are_mapped_and_others_not(tmp_path: Path) -> None:
    plain = open_keras(write_keras(tmp_path / "a.keras"))
    packed = open_keras(write_keras(tmp_path / "b.keras", compression=zipfile.ZIP_DEFLATED))
    assert all(plain.mappable(key) for key in plain.specs)
    assert not any(packed.mappable(key) for key in packed.specs)


def test_misuse_is_refused(store: H5Store) -> None:
    key = next(iter(store.specs))
    with pytest.raises(UnknownTensorError):
        store.read("absent")
    with pytest.raises(UsageError):
        store.read(key, 5, 2)
    with pytest.raises(UsageError):
        store.read(key, 0, 10**6)
    with pytest.raises(UsageError):
        store.blocks(key, 0)


def test_no_handle_stays_open(tmp_path: Path) -> None:
    from ckptkit._io.files import close_handles

    close_handles()
    _byte_range.forget_spools()
    before = len(list(Path("/proc/self/fd").iterdir()))
    write_h5(tmp_path / "m.weights.h5", compression="gzip", chunks=True)
    for path, opener in (
        (write_keras(tmp_path / "a.keras"), open_keras),
        (write_keras(tmp_path / "b.keras", compression=zipfile.ZIP_DEFLATED), open_keras),
        (tmp_path / "m.weights.h5", open_weights_h5),
    ):
        store = opener(path)
        for key in store.specs:
            for _ in store.blocks(key, 3):
                break
    close_handles()
    _byte_range.forget_spools()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 1, 3, 1, 2, 1, 1, 2)])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "gzip"])
def test_dtypes_and_shapes(
    dtype: str, shape: tuple[int, ...], options: dict[str, Any], tmp_path: Path
) -> None:
    size = int(np.prod(shape))
    array = (np.arange(size) % 3).reshape(shape).astype(dtypes.numpy_dtype(dtype))
    path = tmp_path / "m.weights.h5"
    write_h5(path, values={"layer/vars/0": array}, names={}, **(options if size else {}))
    store = open_weights_h5(path)
    spec = store.specs["layer/vars/0"]
    assert (spec.dtype, spec.shape, spec.nbytes) == (dtype, shape, array.nbytes)
    values = store.read("layer/vars/0")
    assert values.dtype == array.dtype and values.tobytes() == array.tobytes()
    assert _whole(store, "layer/vars/0", 5) == array.tobytes()


def test_foreign_byte_order_is_turned(tmp_path: Path) -> None:
    array = np.arange(10, dtype=">f4")
    write_h5(tmp_path / "m.weights.h5", values={"a/vars/0": array, "b/vars/0": array.astype(">i2")})
    store = open_weights_h5(tmp_path / "m.weights.h5")
    assert not store.mappable("a/vars/0")
    assert store.read("a/vars/0").tolist() == list(range(10))
    assert store.read("b/vars/0", 2, 4).dtype == np.int16


def test_strings_come_as_bytes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["a/vars/0"] = np.array([b"one", b"three"])
        file.create_dataset("a/vars/1", data=["x", "yz"], dtype=h5py.string_dtype())
    store = open_weights_h5(tmp_path / "m.weights.h5")
    assert store.specs["a/vars/0"].dtype == store.specs["a/vars/1"].dtype == "string"
    assert store.read("a/vars/0").tolist() == [b"one", b"three"]
    assert store.read("a/vars/1", 1).tolist() == [b"yz"]


def test_an_unmarked_opaque_value_is_shown_as_bytes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["a/vars/0"] = np.arange(4).astype(ml_dtypes.float8_e4m3fn)
    store = open_weights_h5(tmp_path / "m.weights.h5")
    assert store.specs["a/vars/0"].dtype == "void8"
    blocks = [b.tolist() for _, b in store.blocks("a/vars/0")]
    assert blocks == [np.arange(4).astype(ml_dtypes.float8_e4m3fn).view(np.uint8).tolist()]
    assert not store.mappable("a/vars/0")


def test_values_never_written_read_as_the_fill_value(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file.create_dataset("a/vars/0", shape=(4,), dtype="f4", fillvalue=2.0)
    store = open_weights_h5(tmp_path / "m.weights.h5")
    assert store.specs["a/vars/0"].offset is None
    assert store.read("a/vars/0").tolist() == [2.0] * 4


@pytest.mark.parametrize("chunked", [False, True])
def test_legacy_lists_may_be_split(chunked: bool, tmp_path: Path) -> None:
    store = open_legacy_h5(write_legacy(tmp_path / "m.h5", chunked))
    assert set(_names(store)) == READABLE
    assert store.producer == "Keras 2.15.0"
    assert not hdf5.is_weights_h5(tmp_path / "m.h5")


def test_content_tells_weights_from_legacy(tmp_path: Path) -> None:
    write_h5(tmp_path / "model.h5")
    assert hdf5.is_weights_h5(tmp_path / "model.h5")


def test_layers_versions_and_notes(tmp_path: Path) -> None:
    store = open_keras(write_keras(tmp_path / "m.keras", extra={"assets/vocabulary.txt": b"a"}))
    assert store.producer == "Keras 3.15.1" and store.model is not None
    rows = [(r.name, r.class_name, r.params, r.flag) for r in store.model.layers]
    assert rows == [
        ("input_layer", "InputLayer", 0, ""),
        ("stem", "Conv2D", 72, ""),
        ("head", "Dense", 25, ""),
    ]
    assert store.model.layers[0].output_shape == (None, 8, 8, 2)
    assert store.model.assets == ("assets/vocabulary.txt",)
    write_h5(tmp_path / "m.weights.h5")
    bare = open_weights_h5(tmp_path / "m.weights.h5")
    assert bare.model is None and any("no config" in note for note in bare.notes)


@pytest.mark.parametrize(
    ("entry", "flag"),
    [
        (keras_files.layer("Lambda", "x"), "unsafe: Lambda"),
        (keras_files.layer("TorchModuleWrapper", "x"), "unsafe: TorchModuleWrapper"),
        (keras_files.layer("TFSMLayer", "x", filepath="/etc"), "unsafe: TFSMLayer"),
        (
            keras_files.layer("TimeDistributed", "x", layer=keras_files.layer("Lambda", "inner")),
            "unsafe: Lambda",
        ),
        (keras_files.layer("StringLookup", "x", vocabulary="/etc/passwd"), "unsafe: vocabulary"),
        ({**keras_files.layer("Block", "x"), "module": None, "registered_name": "my>B"}, "custom"),
        ({**keras_files.layer("Dense", "x"), "module": "builtins_of_mine"}, "custom"),
        (keras_files.layer("Dense", "x"), ""),
    ],
)
def test_layers_are_flagged(entry: dict[str, Any], flag: str, tmp_path: Path) -> None:
    nested = {"name": "outer", "layers": [entry]}
    model = {**keras_files.CONFIG, "config": {"name": "m", "layers": [
        {**keras_files.layer("Sequential", "outer"), "config": nested}
    ]}}  # fmt: skip
    store = open_keras(write_keras(tmp_path / "m.keras", config=model))
    assert store.model is not None
    flags = {row.name: row.flag for row in store.model.layers}
    assert flags["outer/x"].startswith(flag) and bool(flags["outer/x"]) == bool(flag)


def test_an_index_names_its_missing_shard(tmp_path: Path) -> None:
    index = _shards(tmp_path)
    (tmp_path / "m_00001.weights.h5").unlink()
    with pytest.raises(PathNotFoundError, match=r"m_00001\.weights\.h5"):
        open_weights_json(index)


def test_headers_cost_neither_numpy_nor_h5py(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras")
    code = (
        "import sys; from pathlib import Path\n"
        "from ckptkit.stores.keras.archive import open_keras\n"
        "from ckptkit.checkpoint.names import name_tensors; s = open_keras(Path(sys.argv[1]))\n"
        "name_tensors(s.specs, s.structure)\n"
        "print(sorted({'numpy', 'h5py', 'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.needs_tf
@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"libver": ("v108", "v108")}])
@pytest.mark.parametrize("nested", [False, True])
def test_both_readers_of_headers_agree(
    nested: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    """The classic reader against libhdf5, on types, attributes and a group of many members."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", **options) as file:
        base = file.create_group("a/b/c") if nested else file
        for number in range(4 if options else 300):
            base[f"d{number}"] = np.zeros((number % 4, 2), ["f4", "f8", "i2", ">f4"][number % 4])
        base.attrs.update(
            text="ü", bytes=b"x", number=3, real=1.5, many=[1, 2], none=h5py.Empty("f")
        )
        more = file.create_group("more")
        more.attrs.update(truth=True, big=np.array([1, 2], ">i4"), empty="", nothing=[])
        more["truth"] = np.array([True, False])
        more["words"] = ["x", "", "yz"]
        more["complex"] = np.array([1j, 2], "c8")
        more["long double"] = np.array([1, 2], "f8")
        more["enumeration"] = np.array([1, 0], h5py.enum_dtype({"A": 0, "B": 1}, "i2"))
        base.attrs["table"] = np.array([["a", "bc"], ["d", "e"]], dtype="S2")
        more.attrs["long"] = [f"name {i}" for i in range(300)]
        base["named"] = np.dtype("f4")
        base.create_dataset("compact", data=[1, 2], dtype="i4")
    byte_range = _byte_range.whole_file(path)
    assert scan_classic(byte_range) == hdf5.scan_with_libhdf5(byte_range)


def test_both_readers_of_chunks_agree(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        for number in range(16):
            file.create_dataset(
                f"d{number}", data=np.arange(3000.0).reshape(60, 50), chunks=(7, 3 + number),
                compression=(None, "gzip", "lzf")[number % 3], shuffle=number % 2 == 1,
                fletcher32=number % 4 == 2, maxshape=(None, 50) if number % 5 == 1 else None,
            )  # fmt: skip
        file.create_dataset("empty", (0, 3), "f4", maxshape=(None, 3), chunks=(4, 3))
        file.create_dataset("never written", (40, 3), "f4", chunks=(4, 3), fillvalue=2.0)
        some = file.create_dataset("in part", (400, 3), "i2", chunks=(4, 3), compression="gzip")
        some[100:200] = 7
        some[300:] = 1
    byte_range = _byte_range.whole_file(path)
    assert scan_classic(byte_range).datasets == hdf5.scan_with_libhdf5(byte_range).datasets


def test_links_in_a_heap_are_left_to_libhdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        for number in range(40):
            file[f"a{number}"] = [1]
    with pytest.raises(LeftToLibhdf5):
        scan_classic(_byte_range.whole_file(tmp_path / "m.h5"))


def test_groups_whose_links_came_and_went(tmp_path: Path) -> None:
    """What libhdf5 leaves behind in heaps and B-trees when links are removed is no damage."""
    path = tmp_path / "m.h5"
    rng = random.Random(7)
    with h5py.File(path, "w") as file:
        names: list[str] = []
        for step in range(1500):
            if names and rng.random() < (0.3 if step < 900 else 0.7):
                del file[names.pop(rng.randrange(len(names)))]
            else:
                name = f"{rng.choice('abcdefgh')}{'x' * rng.randrange(30)}{step}"
                file.create_group(name).attrs["n"] = step
                names.append(name)
    byte_range = _byte_range.whole_file(path)
    assert scan_classic(byte_range) == hdf5.scan_with_libhdf5(byte_range)


# --- writing --------------------------------------------------------------------------------------


def _doubled(store: H5Store) -> Any:
    def blocks(key: str) -> Iterator[tuple[int, Any]]:
        for start, values in store.blocks(key, 7):
            yield start, values * 2

    return blocks


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": True}])
def test_an_archive_takes_new_values(
    compression: int, options: dict[str, Any], tmp_path: Path
) -> None:
    weights = h5_bytes(**options)
    source = write_keras(tmp_path / "a.keras", weights, compression=compression, extra={"x": b"y"})
    like = open_keras(source)
    rewrite_keras(tmp_path / "b.keras", like, _doubled(like))
    rewrite_keras(tmp_path / "c.keras", like, _doubled(like))
    assert (tmp_path / "b.keras").read_bytes() == (tmp_path / "c.keras").read_bytes()
    new = open_keras(tmp_path / "b.keras")
    assert new.structure == like.structure and new.model == like.model
    for key in like.specs:
        assert np.array_equal(new.read(key), like.read(key) * 2)
    with zipfile.ZipFile(tmp_path / "b.keras") as archive, zipfile.ZipFile(source) as before:
        assert archive.testzip() is None and archive.namelist() == before.namelist()
        assert archive.read("config.json") == before.read("config.json")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            assert file["layers/conv2d/vars"].attrs["name"] == "stem"
            assert np.array_equal(
                file["layers/dense/vars/0"][()], VALUES["layers/dense/vars/0"] * 2
            )


def test_the_same_values_give_the_same_file(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.weights.h5")
    like = open_weights_h5(tmp_path / "a.weights.h5")
    rewrite_weights(tmp_path / "b.weights.h5", like, like.blocks)
    assert (tmp_path / "b.weights.h5").read_bytes() == (tmp_path / "a.weights.h5").read_bytes()
    # an archive is a layout too, and a file may be written over itself
    rewrite_weights(tmp_path / "a.weights.h5", like, _doubled(like), overwrite=True)
    assert open_weights_h5(tmp_path / "a.weights.h5").read("layers/dense/vars/1").tolist() == [
        0.0, 2.0, 4.0, 6.0, 8.0
    ]  # fmt: skip


def _short(key: str) -> Iterator[tuple[int, Any]]:
    yield 0, np.zeros(1, "float32")


def _wrong_dtype(key: str) -> Iterator[tuple[int, Any]]:
    yield 0, np.zeros(VALUES[key].size, "float64")


@pytest.mark.parametrize("values", [_short, _wrong_dtype])
def test_values_that_do_not_fit_leave_nothing_behind(values: Any, tmp_path: Path) -> None:
    like = open_keras(write_keras(tmp_path / "a.keras"))
    with pytest.raises(OutputError):
        rewrite_keras(tmp_path / "b.keras", like, values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.keras"]


def test_layouts_that_cannot_be_filled_are_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.weights.h5")
    like = open_weights_h5(tmp_path / "a.weights.h5")
    with pytest.raises(OutputError, match=r"\.keras"):
        rewrite_keras(tmp_path / "b.keras", like, like.blocks)
    with pytest.raises(OutputError, match="exists"):
        rewrite_weights(tmp_path / "a.weights.h5", like, like.blocks)
    sharded = open_weights_json(_shards(tmp_path))
    with pytest.raises(OutputError, match="shards"):
        rewrite_weights(tmp_path / "c.weights.h5", sharded, sharded.blocks)
    with h5py.File(tmp_path / "s.weights.h5", "w") as file:
        file["a/vars/0"] = np.array([b"one"])
    strings = open_weights_h5(tmp_path / "s.weights.h5")
    with pytest.raises(OutputError, match="strings"):
        rewrite_weights(tmp_path / "c.weights.h5", strings, strings.blocks)


# --- Keras itself ---------------------------------------------------------------------------------


@pytest.mark.needs_tf
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("policy", ["float32", "bfloat16", "mixed_float16"])
def test_keras_loads_what_is_written(policy: str, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    keras.backend.clear_session(free_memory=False)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(4, dtype=policy, name="one")(inputs)
    model = keras.Model(inputs, keras.layers.BatchNormalization(dtype=policy)(hidden))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    like = open_keras(tmp_path / "a.keras")

    def values(key: str) -> Iterator[tuple[int, Any]]:
        for start, block in like.blocks(key, 3):
            yield start, (block + np.asarray(1).astype(block.dtype)).astype(block.dtype)

    rewrite_keras(tmp_path / "b.keras", like, values)
    loaded = keras.saving.load_model(tmp_path / "b.keras")
    names = _names(open_keras(tmp_path / "b.keras"))
    new = open_keras(tmp_path / "b.keras")
    for variable in loaded.weights:
        stored = new.read(names[variable.path])
        assert np.asarray(variable.numpy()).tobytes() == stored.tobytes(), variable.path
    assert int(loaded.optimizer.iterations.numpy()) == 1
    bare = open_weights_h5(tmp_path / "a.weights.h5")
    rewrite_weights(tmp_path / "b.weights.h5", bare, new.blocks)
    model.load_weights(tmp_path / "b.weights.h5")
    for old, fresh in zip(model.weights, loaded.weights, strict=True):
        assert np.asarray(old.numpy()).tobytes() == np.asarray(fresh.numpy()).tobytes()


@pytest.mark.needs_tf
@pytest.mark.filterwarnings("ignore")
def test_shards_of_keras_read_as_one(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    keras.backend.clear_session(free_memory=False)
    model = keras.Sequential([keras.Input((64,))] + [keras.layers.Dense(64) for _ in range(4)])
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=40_000 / 2**30)
    store = open_weights_json(tmp_path / "m.weights.json")
    assert len(store.shards) > 1
    names = _names(store)
    for variable in model.weights:
        assert store.read(names[variable.path]).tobytes() == variable.numpy().tobytes()


def test_the_process_of_libhdf5_follows_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        keras_files.write_h5(tmp_path / name / f"{name}.weights.h5", compression="gzip")
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        store = open_weights_h5(Path(f"{name}.weights.h5"))
        assert store.read("layers/dense/vars/1").tolist() == [0, 1, 2, 3, 4]
        assert hdf5.scan_with_libhdf5(store.ranges[0]).datasets == store.datasets
