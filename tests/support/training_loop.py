"""A training loop that saves without a pause, until it is killed.

    python -m support.training_loop DIRECTORY [sharded]

`tf.train.CheckpointManager` keeps two checkpoints of a small model; *sharded*: in data files of
4 KiB.  Prints "saved" after the first.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def main(directory: str, *, sharded: bool) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    variables = [tf.Variable(tf.random.normal([32, 32]), name=f"kernel_{n}") for n in range(4)]
    checkpoint = tf.train.Checkpoint(variables=variables, step=tf.Variable(0, dtype=tf.int64))
    options = None
    if sharded:
        policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=4096)
        options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=2)
    number = 0
    while True:
        number += 1
        manager.save(checkpoint_number=number, options=options)
        if number == 3:
            print("saved", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sharded=sys.argv[2:] == ["sharded"])
