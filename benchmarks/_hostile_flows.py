"""Hostile graphs whose paths look like the model's own asset until something runs.

Whoever follows a path back must know what an op hands to the function that it calls: a loop hands
over what its body gave the last time, a data set hands over elements beside what the function
captures, and a variable holds what the checkpoint says.  Each case reads the secret of its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks._hostile_cases import Place, case
from benchmarks._hostile_graphs import _asset, _exported, _secret

raw = tf.raw_ops
Read = Callable[[Any, str], Any]  # the asset's path and the secret's -> what was read


def _loop(asset: Any, secret: str) -> Any:
    def body(number: Any, path: Any, _read: Any) -> Any:
        return number + 1, tf.constant(secret), tf.io.read_file(path)

    return tf.while_loop(lambda n, *_: n < 2, body, [0, asset, ""])[2]


def _for(asset: Any, secret: str) -> Any:
    def body(_number: Any, path: Any, _read: Any) -> Any:
        return tf.constant(secret), tf.io.read_file(path)

    made = tf.function(body, autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.string)
    )
    made.add_to_graph()
    return raw.For(start=0, limit=2, delta=1, input=[asset, ""], body=made)[1]


def _first(dataset: Any) -> Any:
    return dataset.reduce(tf.constant(""), lambda state, element: state + element)


def _scan(asset: Any, secret: str) -> Any:
    paths = tf.data.Dataset.from_tensors(secret)
    return _first(paths.scan(asset, lambda state, path: (state, tf.io.read_file(path))))


def _state(asset: Any, secret: str) -> Any:
    twice = tf.data.Dataset.range(2)
    return _first(twice.scan(asset, lambda state, _n: (secret, tf.io.read_file(state))))


def _reduce(asset: Any, secret: str) -> Any:
    paths = tf.data.Dataset.from_tensors(secret)
    return paths.reduce(asset, lambda state, path: tf.io.read_file(path))


def _parallel(asset: Any, secret: str) -> Any:
    def read(path: Any) -> Any:
        return tf.io.read_file(path) + tf.strings.substr(asset, 0, 0)

    return _first(tf.data.Dataset.from_tensors(secret).map(read, num_parallel_calls=1))


def _interleaved(asset: Any, secret: str) -> Any:
    def read(path: Any) -> Any:
        text = tf.io.read_file(path) + tf.strings.substr(tf.strings.join([asset] * 3), 0, 0)
        return tf.data.Dataset.from_tensors(text)

    paths = tf.data.Dataset.from_tensors(secret)
    return _first(paths.interleave(read, cycle_length=1, num_parallel_calls=1))


def _folded(asset: Any, secret: str) -> Any:
    return tf.foldl(
        lambda _state, path: tf.io.read_file(path), tf.constant([secret]), initializer=asset
    )


def _mapped(asset: Any, secret: str) -> Any:
    return tf.map_fn(tf.io.read_file, tf.stack([asset, tf.constant(secret)]))[1]


def _ragged(asset: Any, secret: str) -> Any:
    """A list of tensors takes the asset's path in and gives the other out."""
    array = tf.TensorArray(tf.string, 2, clear_after_read=False)
    array = array.write(0, asset).write(1, secret)
    return tf.io.read_file(array.read(1))


def _queue(asset: Any, secret: str) -> Any:
    queue = raw.FIFOQueueV2(component_types=[tf.string])
    with tf.control_dependencies([raw.QueueEnqueueV2(handle=queue, components=[secret])]):
        return tf.io.read_file(raw.QueueDequeueV2(handle=queue, component_types=[tf.string])[0])


def _branch(asset: Any, secret: str) -> Any:
    path = tf.cond(tf.strings.length(asset) > 0, lambda: tf.constant(secret), lambda: asset)
    return tf.io.read_file(path)


def _switch(asset: Any, secret: str) -> Any:
    return tf.switch_case(
        tf.constant(1),
        [lambda: tf.io.read_file(asset), lambda: tf.io.read_file(tf.constant(secret))],
    )


_READS: dict[str, Read] = {
    "a loop's body gives the next path": _loop,
    "a counted loop's body gives the next path": _for,
    "an element of a scanned data set": _scan,
    "the state of a scanned data set": _state,
    "an element of a reduced data set": _reduce,
    "an element of a data set mapped in parallel": _parallel,
    "an element of an interleaved data set": _interleaved,
    "an element of a fold": _folded,
    "an element of a mapped tensor": _mapped,
    "an array of tensors": _ragged,
    "a queue": _queue,
    "a branch": _branch,
    "another branch": _switch,
}


def _beside_asset(read: Read) -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        module, asset = _asset(place)
        return _exported(
            lambda: read(asset.asset_path, _secret(place)), place.directory / "export", module
        )

    return make


for _name, _read in _READS.items():
    case(f"v2 asset: beside it, {_name}", "v2")(_beside_asset(_read))


@case("v2 asset: a variable that is restored with another path", "v2")
def _(place: Place) -> Path:
    module, asset = _asset(place)
    module.path = tf.Variable(_secret(place))

    def read() -> Any:
        text = tf.io.read_file(module.path.read_value())
        with tf.control_dependencies([text]):
            module.path.assign(asset.asset_path)
        return text

    return _exported(read, place.directory / "export", module)
