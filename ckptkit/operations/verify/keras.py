"""A Keras file's config against its weights: every layer that should have values has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding, of_error
from ckptkit.stores.base import KerasStructure, KerasVariable, Store
from ckptkit.stores.keras.config import LayerConfig, as_layer, layers_of
from ckptkit.stores.keras.layer_variables import quantization_mode, variable_names
from ckptkit.stores.registry import format_of, model_config

Shape = tuple[int | None, ...]
# Modes of quantization that put several weights into a byte: along which axis, versions differ.
_PACKED = ("int4", "gptq", "awq")
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "SimpleRNN": 1, "SimpleRNNCell": 1}


def config_check(store: Store) -> Check | None:
    """Return the check of a model's config, None where the file has none."""
    structure = store.structure
    if not isinstance(structure, KerasStructure):
        return None
    try:
        config = model_config(store.format, store.path)
        model = as_layer(config)
    except CkptkitError as error:
        return Check("config", (), (of_error(error, "config"),))
    if config is None and format_of(store.format).holds_model:
        finding = Finding(
            "error",
            "config.missing",
            str(store.path),
            "no config of a model in it, and Keras loads none without",
            "the save was not finished, or this is no model; weights alone go into .weights.h5",
        )
        return Check("config", (), (finding,))
    if model is None or model.kind not in ("functional", "sequential"):
        return None
    layers = list(_layers(model, ()))
    weights: dict[tuple[str, ...], list[tuple[str, KerasVariable]]] = {}
    for key, variable in structure.variables.items():
        if variable.role == "weight":
            weights.setdefault(variable.layers, []).append((key, variable))
    findings = [*_missing(store, layers, weights), *_strangers(store, model, weights)]
    for path, layer in layers:
        for key, variable in weights.get(path, ()):
            findings.extend(_shape(store, layer, key, variable))
    return Check("config", (("layer", len(layers)),), tuple(findings))


def _layers(
    model: LayerConfig, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], LayerConfig]]:
    """Yield every layer of nested models with its path."""
    for layer in layers_of(model):
        path = (*above, layer.name)
        yield path, layer
        if layer.kind in ("functional", "sequential"):
            yield from _layers(layer, path)


def _missing(
    store: Store,
    layers: list[tuple[tuple[str, ...], LayerConfig]],
    weights: Mapping[tuple[str, ...], Any],
) -> Iterator[Finding]:
    """Yield an error per built layer that must have variables, and has none in the file."""
    holders = {name for path in weights for name in path}
    for path, layer in layers:
        # one that occurs in two models is stored once; a layer that was never built has none
        if layer.kind != "layer" or layer.name in holders or not layer.built_in:
            continue
        if layer.build_config and _needs_variables(layer):
            yield Finding(
                "error",
                "config.missing-weights",
                f"{store.path}: layer {'/'.join(path)}",
                f"{layer.class_name} in the config, but the file holds no values of it",
                "config and weights are of two models, or the save was not finished",
            )


def _needs_variables(layer: LayerConfig) -> bool:
    """Whether a layer of this class and config always has variables of its own."""
    shapes: list[tuple[int, ...]]
    for rank in range(1, 6):
        for count in range(1, 4):
            shapes = [(1,) * rank] + [(1,)] * (count - 1)
            if any(v is not None for v in variable_names(layer.class_name, layer.config, shapes)):
                return True
    return False


def _strangers(
    store: Store, model: LayerConfig, weights: Mapping[tuple[str, ...], Any]
) -> Iterator[Finding]:
    """Yield a warning per layer with values that the config does not list."""
    names = set(_names_in(model.node))
    for path in weights:
        if path and not names & set(path):
            yield Finding(
                "warning",
                "config.stranger",
                f"{store.path}: {'/'.join(path)}",
                "has values in the file, but is no layer of the config",
                "config and weights may be of two models",
            )


def _names_in(node: object) -> Iterator[str]:
    """Yield the names of all layers in a config, of those that others wrap too."""
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            layer = as_layer(item)
            if layer is not None:
                yield layer.name
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _shape(
    store: Store, layer: LayerConfig, key: str, variable: KerasVariable
) -> Iterator[Finding]:
    """Yield an error where the stored shape is not that which the config asks for."""
    wanted = expected_shapes(layer).get(variable.name or "")
    found = store.specs[key].shape
    if wanted is None:
        return
    fits = len(wanted) == len(found) and all(
        size is None or size == other for size, other in zip(wanted, found, strict=True)
    )
    if not fits:
        shape = ", ".join("?" if size is None else str(size) for size in wanted)
        yield Finding(
            "error",
            "config.shape",
            f"{store.path}: {key}",
            f"{variable.name} of {layer.name} ({layer.class_name}) is {list(found)}, and the "
            f"config asks for [{shape}]",
            "config and weights are of two models",
        )


def expected_shapes(layer: LayerConfig) -> dict[str, Shape]:
    """Return the shapes that follow from the config alone, None where a size does not."""
    shapes = _plain_shapes(layer)
    if quantization_mode(layer.config) in _PACKED:
        return {name: shape for name, shape in shapes.items() if name == "bias"}
    return shapes


def _plain_shapes(layer: LayerConfig) -> dict[str, Shape]:
    config, name = layer.config, layer.class_name
    if not layer.built_in:
        return {}
    if name == "Dense" and _is_size(config.get("units")):
        return {"kernel": (None, config["units"]), "bias": (config["units"],)}
    if name == "Embedding" and _is_size(config.get("input_dim")):
        return {"embeddings": (config["input_dim"], config.get("output_dim"))}
    if name in ("Conv1D", "Conv2D", "Conv3D") and _is_size(config.get("filters")):
        kernel = config.get("kernel_size")
        if isinstance(kernel, list) and all(map(_is_size, kernel)):
            filters = config["filters"]
            return {"kernel": (*kernel, None, filters), "bias": (filters,)}
    if name in _GATES and _is_size(config.get("units")):
        units = config["units"]
        width = units * _GATES[name]
        return {"kernel": (None, width), "recurrent_kernel": (units, width)}
    return {}


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
