"""Saves one set of variables in the V1 format, whole and in two shards, and in that of today.

python -m support.make_checkpoint_v1 DIR, in a process of its own: shards are made by device, and
how many of them TensorFlow has is settled by the first session.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

v1 = tf.compat.v1
DTYPES = (
    *("bool", "complex128", "complex64", "float16", "float32", "float64"),
    *("int16", "int32", "int64", "int8", "string", "uint16", "uint8"),
)


def save(folder: Path) -> None:
    """Write DIR/single/model.ckpt-1, DIR/sharded/model.ckpt-1 and DIR/v2/model.ckpt-1."""
    for name in ("single", "sharded", "v2"):
        (folder / name).mkdir()
    cut = v1.fixed_size_partitioner
    with tf.Graph().as_default() as graph:
        with tf.device("/cpu:0"):
            v1.get_variable("rows", [6, 4], partitioner=cut(3), use_resource=False)
            v1.get_variable("empty", [0, 3], use_resource=False)
        with tf.device("/cpu:1"):
            v1.get_variable("columns", [2, 6], partitioner=cut(2, axis=1), use_resource=False)
            wide = v1.get_variable("wide", [300, 300], use_resource=False)
        with tf.device("/cpu:0"):
            step = v1.train.get_or_create_global_step()
            for dtype in DTYPES:
                v1.Variable(_values(dtype), name=f"of_{dtype}", use_resource=False)
        with tf.device("/cpu:1"):
            train = v1.train.AdamOptimizer().minimize(tf.reduce_sum(wide), global_step=step)
        two = v1.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=True)
        with v1.Session(graph=graph, config=two) as session:
            session.run(v1.global_variables_initializer())
            session.run(train)
            old = v1.train.SaverDef.V1
            for saver, name in (
                (v1.train.Saver(write_version=old), "single"),
                (v1.train.Saver(write_version=old, sharded=True), "sharded"),
                (v1.train.Saver(), "v2"),
            ):
                saver.save(session, str(folder / name / "model.ckpt"), global_step=step)


def _values(dtype: str) -> Any:
    if dtype == "string":
        return tf.constant([[b"a", b""], [b"longer \xff" * 90, b"x"]])
    return tf.cast(tf.constant([[0, 1, 2], [3, 100, 127]]), dtype)


if __name__ == "__main__":
    v1.disable_eager_execution()
    save(Path(sys.argv[1]))
