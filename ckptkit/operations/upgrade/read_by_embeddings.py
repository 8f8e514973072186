"""Inputs of float dtypes that an Embedding takes for rows of its table, as old models have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def ranges_of_embeddings(config: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return what numbers are drawn within for inputs that an Embedding reads, by name.

    Args:
        config: of a model, in the form of Keras 3.

    Returns:
        {input: (0, the last row)} of inputs whose dtype does not say that they are integers.
    """
    layers = config["config"].get("layers") or []
    inputs = {
        layer["config"].get("name")
        for layer in layers
        if layer["class_name"] == "InputLayer"
        and str(layer["config"].get("dtype") or "float32").startswith("float")
    }
    found: dict[str, tuple[float, float]] = {}
    before: Mapping[str, Any] | None = None
    for layer in layers:
        rows = layer["config"].get("input_dim") if layer["class_name"] == "Embedding" else None
        if type(rows) is int and rows > 1:
            names = set(_sources(layer.get("inbound_nodes")))
            if "inbound_nodes" not in layer and before is not None:  # a Sequential model
                names = {before["config"].get("name")}
            for name in names & inputs:
                found[name] = (0.0, min(rows - 1.0, found.get(name, (0.0, rows - 1.0))[1]))
        before = layer
    return found


def _sources(value: Any) -> Iterator[str]:
    """Yield the layers that calls take tensors of."""
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
        for item in value.values():
            yield from _sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from _sources(item)
