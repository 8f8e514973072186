"""Variables that were cut when they were saved, and checkpoints of which a part is lost.

The truth is what TensorFlow's own reader gives, or the values that were saved.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from support.command_line import ckptkit as run

pytestmark = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of TensorFlow 1: partitioned by rows and by columns, with Adagrad."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        rows = tf1.fixed_size_partitioner(3, axis=0)
        columns = tf1.fixed_size_partitioner(2, axis=1)
        normal = tf1.random_normal_initializer(seed=1)
        # The older optimizer and saver take variables of reference, as TensorFlow 1 made them.
        options = {"initializer": normal, "use_resource": False}
        w = tf1.get_variable("model/softmax_w", [10, 3], partitioner=rows, **options)
        cols = tf1.get_variable("cols", [4, 6], partitioner=columns, **options)
        parts = [tf1.get_variable(f"plain/part_{n}", [2, 3], **options) for n in (0, 1)]
        step = tf1.train.get_or_create_global_step()
        total = sum(tf.reduce_sum(tf.convert_to_tensor(x)) for x in (w, cols, *parts))
        train = tf1.train.AdagradOptimizer(0.1).minimize(total**2, global_step=step)
        session.run(tf1.global_variables_initializer())
        session.run(train)
        prefix = tmp_path_factory.mktemp("partitioned") / "model.ckpt"
        tf1.train.Saver(sharded=True).save(session, str(prefix), write_meta_graph=False)
    return prefix


def test_partitioned_variables_are_whole(partitioned: Path) -> None:
    import tensorflow as tf

    listing = ckptkit.ls(partitioned)
    names = {tensor.naming.name: tensor for tensor in listing.tensors}
    shapes = dict(tf.train.list_variables(str(partitioned)))
    assert {tensor.spec.key: list(tensor.spec.shape) for tensor in listing.tensors} == shapes
    for name in ("model/softmax_w", "cols", "plain/part_0", "plain/part_1"):
        assert names[name].naming.role == "weight"
        assert names[f"{name}@accumulator"].naming.slot_of == name
    reader = tf.train.load_checkpoint(str(partitioned))
    checkpoint = ckptkit.open(partitioned)
    for name in shapes:
        assert np.array_equal(checkpoint[name], reader.get_tensor(name)), name


def test_verify_counts_as_ls_does(partitioned: Path) -> None:
    count = len(ckptkit.ls(partitioned).tensors)
    assert f"sound ({count} tensors" in run("verify", partitioned).out


def test_written_whole_they_restore(partitioned: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    ckptkit.convert(partitioned, tmp_path / "whole", to="checkpoint")
    reader = tf.train.load_checkpoint(str(partitioned))
    whole = tf.train.load_checkpoint(str(tmp_path / "whole"))
    for name in whole.get_variable_to_shape_map():
        assert np.array_equal(whole.get_tensor(name), reader.get_tensor(name)), name
    assert not any(tensor.spec.slices for tensor in ckptkit.ls(tmp_path / "whole").tensors)


def test_a_sharded_variable_is_one(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.distribute.sharded_variable import ShardedVariable

    full = np.random.default_rng(2).normal(size=(100, 8)).astype("f4")
    parts = [tf.Variable(full[at : at + 25], name=f"emb/part_{at}") for at in range(0, 100, 25)]
    model = tf.Module()
    model.table = ShardedVariable(parts, name="emb")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    [table] = ckptkit.ls(tmp_path / "ckpt", roles=["weight"]).tensors
    assert table.spec.shape == (100, 8)
    assert np.array_equal(ckptkit.open(tmp_path / "ckpt")[table.naming.name], full)


def test_a_lost_shard_is_named_and_the_rest_is_rescued(tmp_path: Path) -> None:
    import tensorflow as tf

    values = {f"v{n}": np.full((50, 4), n, "f4") for n in range(3)}
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=900)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    variables = {name: tf.Variable(value) for name, value in values.items()}
    tf.train.Checkpoint(**variables).write(str(tmp_path / "full/ckpt"), options=options)
    shards = sorted((tmp_path / "full").glob("*.data-*"))
    assert len(shards) > 1
    lost = shards[-1]
    shutil.copytree(tmp_path / "full", tmp_path / "lost", ignore=lambda *_: [lost.name])
    listed = run("ls", tmp_path / "lost" / "ckpt")
    assert listed.code == 2
    assert lost.name in listed.err
    assert all(name in listed.out for name in values)
    result = run("convert", "--salvage", tmp_path / "lost" / "ckpt", tmp_path / "rescued.npz")
    assert result.code == 1
    rescued = ckptkit.open(tmp_path / "rescued.npz")
    assert 0 < len(rescued) < len(values)
    for name, value in rescued.items():
        assert np.array_equal(value, values[name.partition("/")[0]])
