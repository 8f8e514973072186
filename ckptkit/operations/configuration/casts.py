"""What some versions of Keras write between layers, and others do inside of them.

A layer casts what it is called with to its own dtype.  Keras 3.5 to 3.8 put an operation `Cast`
before the layer when a functional model is built or loaded; older and newer ones put none there.
Keras 3 writes how a mask comes about, where one is passed from layer to layer; Keras 2 does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ckptkit.operations.configuration.calls import TensorOf
from ckptkit.operations.configuration.node import ConfigNode

_CAST = "Cast"
_QUANTIZED, _MIXED = "_from_", "mixed_"


def without_casts(layers: Sequence[ConfigNode]) -> list[ConfigNode]:
    """Return the layers of a functional model without casts that the layers after them do anyway.

    A cast to the dtype that every layer it feeds computes in goes; those are fed by what fed it.
    """
    fed_by = {
        layer.name: layer.calls.feeds[0]
        for layer in layers
        if layer.kind == "operation" and layer.class_name == _CAST and len(layer.calls.feeds) == 1
    }
    gone = {name: feed for name, feed in fed_by.items() if _is_done_anyway(name, layers)}
    if not gone:
        return list(layers)

    def source(tensor: TensorOf) -> TensorOf:
        while tensor.layer in gone:
            tensor = gone[tensor.layer]
        return tensor

    def moved(tensors: Sequence[TensorOf]) -> tuple[TensorOf, ...]:
        return tuple(map(source, tensors))

    return [
        replace(
            layer,
            calls=layer.calls._replace(
                feeds=moved(layer.calls.feeds), masks=moved(layer.calls.masks)
            ),
        )
        for layer in layers
        if layer.name not in gone
    ]


def without_masks(layers: Sequence[ConfigNode], outputs: Sequence[TensorOf]) -> list[ConfigNode]:
    """Return the layers of a functional model without operations that make nothing but masks."""
    operations = {layer.name: layer for layer in layers if layer.kind == "operation"}
    pending = [
        feed.layer for layer in layers if layer.kind != "operation" for feed in layer.calls.feeds
    ]
    pending += [output.layer for output in outputs]
    needed: set[str] = set()
    while pending:
        name = pending.pop()
        if name in operations and name not in needed:
            needed.add(name)
            pending += [feed.layer for feed in operations[name].calls.feeds]
    return [layer for layer in layers if layer.kind != "operation" or layer.name in needed]


def _is_done_anyway(name: str, layers: Sequence[ConfigNode]) -> bool:
    dtype = next(layer for layer in layers if layer.name == name).settings.get("dtype", "float32")
    users = [layer for layer in layers if any(feed.layer == name for feed in layer.calls.feeds)]
    return bool(users) and all(
        user.kind == "layer"
        and _computes_in(user) == dtype
        and user.settings.get("autocast", True) is not False
        for user in users
    )


def _computes_in(layer: ConfigNode) -> object:
    """Return the dtype that a layer casts to: of a policy, that of its computation."""
    policy = layer.settings.get("dtype", "float32")
    if isinstance(policy, Mapping):  # with settings of its own, or a policy for each layer
        policy = policy.get("class")
    if not isinstance(policy, str):
        return policy
    return policy.rpartition(_QUANTIZED)[2].removeprefix(_MIXED)
