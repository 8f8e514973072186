"""Files made this minute by the installed TensorFlow, compared with its own reader."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.dtypes import DTYPES, numpy_dtype
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.table import parse_table, read_table
from support.values import FIXED_DTYPES, values_of

pytestmark = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def tf() -> Any:
    from ckptkit.runners.tensorflow.module import tensorflow

    return tensorflow()


def assert_equal_to_tensorflow(tf: Any, prefix: Path | str) -> int:
    """Compare every tensor with TensorFlow's reader; return how many there are."""
    reader = tf.compat.v1.train.NewCheckpointReader(str(prefix))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    checkpoint = ckptkit.open(str(prefix))
    assert {key: list(spec.shape) for key, spec in checkpoint.specs.items()} == shapes
    assert {key: spec.dtype for key, spec in checkpoint.specs.items()} == {
        key: dtype.name for key, dtype in dtypes.items()
    }
    loaded = ckptkit.load(str(prefix))
    for key, spec in checkpoint.specs.items():
        if spec.dtype == "variant":
            continue
        theirs = np.asarray(reader.get_tensor(key), object if spec.dtype == "string" else None)
        for ours in (
            checkpoint.store.read(key).reshape(spec.shape),
            checkpoint[checkpoint.names[key].name],
            loaded[checkpoint.names[key].name],
        ):
            assert ours.shape == theirs.shape, key
            if spec.dtype == "string":
                assert ours.tolist() == theirs.tolist(), key
            else:
                assert ours.dtype == numpy_dtype(spec.dtype)
                assert ours.tobytes() == theirs.tobytes(), key
    return len(shapes)


def save_v2(tf: Any, prefix: Path | str, tensors: dict[str, Any]) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def test_every_dtype_zero_size_and_eight_axes(tf: Any, tmp_path: Path) -> None:
    names = [name for name in FIXED_DTYPES if DTYPES[name].enum and not name.startswith("q")]
    tensors = {}
    for name in names:
        for shape in ((), (0,), (3, 0, 2), (5, 3), (2, 1, 3, 1, 2, 1, 1, 2)):
            values = values_of(name, shape)
            with suppress(TypeError, ValueError):  # a dtype that this TensorFlow does not have yet
                tensors[f"{name}/{len(shape)}/{values.size}"] = tf.constant(values)
    assert len(tensors) > 90
    save_v2(tf, tmp_path / "all", tensors)
    assert assert_equal_to_tensorflow(tf, tmp_path / "all") == len(tensors)


def test_strings_empty_huge_and_unicode(tf: Any, tmp_path: Path) -> None:
    tensors = {
        "empty": tf.zeros([0], tf.string),
        "empty_matrix": tf.zeros([2, 0], tf.string),
        "nothing": tf.constant(""),
        "scalar": tf.constant("zażółć 🎈".encode()),
        "huge": tf.constant([b"x" * 5_000_000, b"", b"y" * 4_300_000, b"z\0"]),
        "many": tf.constant([str(number).encode() * (number % 5) for number in range(10_000)]),
        "square": tf.constant([[b"\xff\xfe", b"\0"], [b"a\0", b"b\nc"]]),
    }
    save_v2(tf, tmp_path / "strings", tensors)
    assert assert_equal_to_tensorflow(tf, tmp_path / "strings") == 7


def test_shards(tf: Any, tmp_path: Path) -> None:
    for shard in range(3):
        values = {f"v{shard}/{index}": tf.range(shard, 50, index + 1.0) for index in range(4)}
        save_v2(tf, tmp_path / f"part-{shard}", values)
    parts = [str(tmp_path / f"part-{shard}") for shard in range(3)]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "merged")
    )
    assert len(open_bundle(tmp_path / "merged").shards) == 3
    assert assert_equal_to_tensorflow(tf, tmp_path / "merged") == 12


@pytest.mark.parametrize(
    ("shape", "axis", "parts"),
    [((7, 3), 0, 3), ((4, 9), 1, 4), ((5,), 0, 5), ((2, 3, 4), 2, 4), ((1, 1, 6), 2, 2)],
)
def test_partitioned_variables(
    tf: Any, tmp_path: Path, shape: tuple[int, ...], axis: int, parts: int
) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable(
            "table",
            shape,
            tf.float64,
            initializer=v1.random_normal_initializer(seed=1),
            partitioner=tf.compat.v1.fixed_size_partitioner(parts, axis),
            use_resource=False,
        )
        v1.get_variable("whole", (2, 2), tf.float32, use_resource=False)
        session.run(v1.global_variables_initializer())
        prefix = v1.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)
    assert len(open_bundle(Path(prefix)).specs["table"].slices) == parts
    assert assert_equal_to_tensorflow(tf, prefix) == 2


def test_a_grid_of_slices_and_dtypes(tf: Any, tmp_path: Path) -> None:
    whole = np.arange(5 * 6).reshape(5, 6)
    tensors, names, slices = [], [], []
    for dtype in ("int16", "complex64", "bfloat16"):
        for row, height in ((0, 2), (2, 3)):
            for column, width in ((0, 1), (1, 5)):
                part = whole[row : row + height, column : column + width]
                tensors.append(tf.cast(part, dtype))
                names.append(dtype)
                slices.append(f"5 6 {row},{height}:{column},{width}")
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "grid"), tensor_names=names, shape_and_slices=slices, tensors=tensors
    )
    assert assert_equal_to_tensorflow(tf, tmp_path / "grid") == 3


def test_an_index_of_several_blocks(tf: Any, tmp_path: Path) -> None:
    count = 6000
    tensors = {
        f"tower_{index % 7}/block_{index}/attention/output/dense/kernel": np.float32(index)
        for index in range(count)
    }
    save_v2(tf, tmp_path / "big", tensors)
    index = tmp_path / "big.index"
    assert index.stat().st_size > 1 << 18
    assert len(read_table(index)) == count + 1 == len(parse_table(index.read_bytes(), "x"))
    assert assert_equal_to_tensorflow(tf, tmp_path / "big") == count


def test_a_prefix_that_ends_in_a_slash(tf: Any, tmp_path: Path) -> None:
    prefix = f"{tmp_path / 'step'}/"
    Path(prefix).mkdir()
    save_v2(tf, prefix, {"a": tf.range(5), "s": tf.constant(["x"])})
    assert sorted(path.name for path in Path(prefix).iterdir()) == [
        ".data-00000-of-00001",
        ".index",
    ]
    assert assert_equal_to_tensorflow(tf, prefix) == 2
    assert set(ckptkit.open(prefix)) == set(ckptkit.open(prefix.rstrip("/"))) == {"a", "s"}


def test_keras_model_with_optimizer_and_its_names(tf: Any, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="look"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="say"),
        ]
    )
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    prefix = checkpoint.save(str(tmp_path / "run"))
    assert_equal_to_tensorflow(tf, prefix)
    opened = ckptkit.open(prefix)
    for variable in model.variables:
        assert np.array_equal(opened[variable.path], variable.numpy()), variable.path
    weights = {naming.name for naming in opened.names.values() if naming.role == "weight"}
    assert weights == {variable.path for variable in model.variables}
    slots = {naming.name for naming in opened.names.values() if naming.role == "slot"}
    assert slots == {f"{v.path}@{m}" for v in model.trainable_variables for m in _ADAM}


_ADAM = ("momentum", "velocity")


def _flip(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_flipped_bits_of_the_index_tensorflow_lists_fewer_and_we_refuse(
    tf: Any, tmp_path: Path
) -> None:
    count = 9000
    prefix = tmp_path / "big"
    names = {f"scope_{index}/{'long_name_' * 4}/kernel": np.int8(1) for index in range(count)}
    save_v2(tf, prefix, names)
    index = tmp_path / "big.index"
    clean = index.read_bytes()
    silent = 0
    for bit in range(8 * 1000, 8 * len(clean), 8 * len(clean) // 16):
        index.write_bytes(_flip(clean, bit))
        try:
            listed: int | None = len(tf.train.list_variables(str(prefix)))
        except (tf.errors.OpError, RuntimeError):
            listed = None
        silent += listed is not None and listed < count
        with pytest.raises(ckptkit.CkptkitError):
            ckptkit.open(prefix)
    assert silent > 0  # else TensorFlow has learned to check, and docs should say so
