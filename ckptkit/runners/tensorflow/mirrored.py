"""A model under MirroredStrategy: each replica computes its share of the batch.  Child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.runners.tensorflow.endpoints import Endpoint
from ckptkit.runners.tensorflow.module import tensorflow

Tensors = Mapping[str, Any]


def mirrored(strategy: Any, endpoint: Endpoint) -> Callable[[Tensors], dict[str, Any]]:
    """Return a call that splits the batch over the replicas, and puts their outputs together.

    Inputs whose first axis the signature leaves open are split; every replica gets all of others.
    """
    tf = tensorflow()
    replicas = strategy.num_replicas_in_sync
    split = {
        info.name
        for info in endpoint.inputs or ()
        if info.shape is None or (info.shape and info.shape[0] is None)
    }
    step = tf.function(lambda inputs: strategy.run(endpoint.call, args=(inputs,)), autograph=False)

    def call(inputs: Tensors) -> dict[str, Any]:
        # a replica without rows would give empty outputs, which nothing can be compared with
        rows = {int(value.shape[0]) for name, value in inputs.items() if name in split}
        if len(rows) != 1 or min(rows) < replicas:
            raise UsageError(f"a batch of {replicas} rows or more is needed for {replicas} devices")
        shares = _shares(rows.pop(), replicas)

        def part(context: Any) -> dict[str, Any]:
            start, stop = shares[context.replica_id_in_sync_group]
            return {n: v[start:stop] if n in split else v for n, v in inputs.items()}

        outputs = step(strategy.experimental_distribute_values_from_function(part))
        lengths = [stop - start for start, stop in shares]
        return {
            name: _joined(name, strategy.experimental_local_results(value), lengths)
            for name, value in outputs.items()
        }

    return call


def _shares(rows: int, replicas: int) -> list[tuple[int, int]]:
    edges = [number * rows // replicas for number in range(replicas + 1)]
    return list(pairwise(edges))


def _joined(name: str, parts: Sequence[Any], lengths: Sequence[int]) -> Any:
    tf = tensorflow()
    if all(part.shape.rank and part.shape[0] == n for part, n in zip(parts, lengths, strict=True)):
        with tf.device("/CPU:0"):
            return tf.concat(parts, 0)
    if all(bool(tf.reduce_all(part == parts[0])) for part in parts[1:]):
        return parts[0]
    raise UnsupportedError(f"output {name!r} has no batch axis, and differs between replicas")
