"""A Keras model's config as a tree of layers in one form, whichever Keras wrote it.

A config of Keras 1 or 2 is translated first, by the rules of `upgrade`; what these have no
counterpart for is compared as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ckptkit.operations.configuration.calls import calls_of, ends_of
from ckptkit.operations.configuration.casts import without_casts
from ckptkit.operations.configuration.defaults import defaults_of
from ckptkit.operations.configuration.node import INPUT, ConfigNode
from ckptkit.operations.configuration.values import (
    VOCABULARY,
    Settings,
    canonical,
    class_of,
    codes_in,
    is_same,
    settings_of,
)
from ckptkit.operations.upgrade.source import plain
from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.operations.upgrade.translation.models import NotAModelError, translate
from ckptkit.stores.keras.config import LayerConfig, as_layer

_SHAPES = ("batch_shape", "batch_input_shape")
_MODELS = ("functional", "sequential")
# What a model says of its layers, of how it was built, and what is told otherwise.
_OF_A_MODEL = frozenset(
    {"name", "layers", "input_layers", "output_layers", "build_input_shape", "batch_input_shape"}
)
_OPERATIONS_OF_KERAS2 = (
    *("TFOpLambda", "TensorFlowOpLayer", "SlicingOpLambda", "ClassMethod", "InstanceMethod"),
    "InstanceProperty",
)
# How a Lambda's code is stored, beside the code.
_OF_THE_CODE = frozenset({"function_type", "output_shape_type", "output_shape_module"})
# How a model is compiled where nothing is said (keras/src/trainers/trainer.py, `compile`).
_COMPILED = {
    "run_eagerly": False,
    "jit_compile": False,
    "steps_per_execution": 1,
    "auto_scale_loss": True,
}


def tree_of(
    config: object, compiled: object = None, *, generation: int | None = None
) -> ConfigNode | None:
    """Return the tree of a model's config; None where it is none.

    Args:
        config: as JSON has it.
        compiled: how the model was compiled, where that stands elsewhere; None where it is unknown.
        generation: of the Keras that wrote it: 1, 2 or 3; by default the config tells.
    """
    config = plain(config)
    if as_layer(config) is None:
        return None
    assert isinstance(config, Mapping)
    if compiled is None and isinstance(config["config"].get("training_config"), Mapping):
        compiled = config["config"]["training_config"]
    compiled = config.get("compile_config") if compiled is None else compiled
    is_old = (generation or _generation(config)) < 3
    if is_old:
        config = _translated(config, generation == 1)
    layer = as_layer(config)
    assert layer is not None
    node = replace(_node(layer, layer.name), is_old=is_old)
    if not isinstance(compiled, Mapping) or not compiled:
        return node
    return replace(node, compiled=_compiled(compiled))


def _translated(config: Mapping[str, Any], is_keras1: bool) -> Mapping[str, Any]:
    """Return a config in the form of Keras 3; as it stands where something has no counterpart."""
    account = Account(is_trusted=True, is_keras1=is_keras1)
    try:
        found = translate(_with_words(config), account)
    except (NotAModelError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return config  # a config that breaks Keras's own rules is compared as it stands
    return config if account.obstacles else found


def _with_words(value: Any) -> Any:
    """Return a config whose lookup layers have words, which are told by other means."""
    if isinstance(value, Mapping):
        found = {key: _with_words(item) for key, item in value.items()}
        if VOCABULARY in found and not isinstance(found[VOCABULARY], list):
            found[VOCABULARY] = []
        return found
    return [_with_words(item) for item in value] if isinstance(value, list) else value


def _generation(config: Mapping[str, Any]) -> int:
    """Return which Keras wrote a config, by what only Keras 2 writes, or 3."""
    pending: list[Any] = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            module = item.get("module")
            if "batch_input_shape" in item:
                return 2
            if isinstance(module, str) and ".engine." in f".{module}.":
                return 2
            nodes = item.get("inbound_nodes")
            if isinstance(nodes, list) and nodes:
                return 3 if isinstance(nodes[0], Mapping) else 2
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return 3


# -- layers ----------------------------------------------------------------------------------------


def _node(layer: LayerConfig, name: str) -> ConfigNode:
    listed = _listed(layer.config)
    kind = _kind(layer, listed)
    known = defaults_of(class_of(layer.class_name), layer.module, "layers")
    of_calls = {key[5:]: value for key, value in known.items() if key.startswith("call.")}
    calls = calls_of(layer.node.get("inbound_nodes"), of_calls)
    if layer.class_name == INPUT:
        settings, defaults = _of_input(layer)
        return ConfigNode(name, INPUT, kind, settings, defaults)
    inner: list[ConfigNode] = []
    own = _without_models(layer.config, inner) if not listed else layer.config
    left_out = _OF_A_MODEL if listed is not None else frozenset({"name"})
    if class_of(layer.class_name) == "Lambda":
        left_out |= _OF_THE_CODE
    settings, defaults = settings_of(
        layer.class_name, layer.module, own, "models" if kind in _MODELS else "layers", left_out
    )
    if kind == "operation":  # their defaults are in no list of classes: off, or none
        settings = {k: v for k, v in settings.items() if v is not None and v is not False}
    layers = [_node(one, _name_of(one)) for one in listed or ()]
    if kind == "functional":
        layers = without_casts(layers)
    input_name = ""
    if kind == "sequential":
        input_name = next((one.name for one in layers if one.is_input), "")
        settings |= _input_of_sequential(layer.config, layers)
        layers = [one for one in layers if not one.is_input]
    codes = dict(codes_in({k: v for k, v in layer.config.items() if k != "layers"}))
    return ConfigNode(
        name,
        _class(layer),
        kind,
        settings,
        defaults,
        calls,
        codes,
        (*layers, *inner),
        tuple(ends_of(layer.config.get("input_layers"))),
        tuple(ends_of(layer.config.get("output_layers"))),
        input_name=input_name,
        rank=_rank(layer),
    )


def _rank(layer: LayerConfig) -> int | None:
    """Return the rank of the first tensor that a layer is called with, or was built on."""
    shape = layer.build_config.get("input_shape")
    nodes = layer.node.get("inbound_nodes")
    if isinstance(shape, list) and all(axis is None or type(axis) is int for axis in shape):
        return len(shape)
    shapes = list(_shapes_in(nodes))
    return len(shapes[0]) if shapes and shapes[0] else None


def _shapes_in(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, Mapping):
        shape = value.get("shape")
        if "keras_history" in value and isinstance(shape, list):
            yield shape
        for item in value.values():
            yield from _shapes_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _shapes_in(item)


def _name_of(layer: LayerConfig) -> str:
    """Return what others call a layer, which a class of a user's own may not have in its config."""
    name = layer.node.get("name")
    return name if isinstance(name, str) and name else layer.name


def _kind(layer: LayerConfig, listed: Sequence[LayerConfig] | None) -> str:
    bare = class_of(layer.class_name)
    if listed is not None:
        if bare == "Sequential":
            return "sequential"
        if "input_layers" in layer.config or bare == "Functional":
            return "functional"
        return "model"
    if not layer.is_layer or layer.class_name in _OPERATIONS_OF_KERAS2:
        return "operation"
    is_unmarked = "trainable" not in layer.config and "inbound_nodes" in layer.node
    if is_unmarked and "module" not in layer.node and layer.class_name != INPUT:
        return "operation"  # of Keras 3 in `.h5`, which names no module
    return "layer"


def _class(layer: LayerConfig) -> str:
    """Return the class, with the package that a user's own one is registered by."""
    for name in (layer.registered_name, layer.class_name):
        package, _, bare = name.rpartition(">")
        if package and package != "Custom" and not layer.registered_name.startswith("keras"):
            return f"{package}>{bare}"
    return class_of(layer.class_name)


def _listed(config: Mapping[str, Any]) -> list[LayerConfig] | None:
    """Return what a model lists, operations of a functional graph included; None of no model."""
    listed = config.get("layers")
    if isinstance(listed, Mapping):  # Keras 1 wrote {"layers": {...}} for some models
        listed = list(listed.values())
    if not isinstance(listed, list):
        return None
    found = [as_layer(item) for item in listed]
    layers = [layer for layer in found if layer is not None]
    return layers if layers or not listed else None


def _without_models(config: Mapping[str, Any], inner: list[ConfigNode]) -> Mapping[str, Any]:
    """Return settings without the models in them (of TimeDistributed), which are nodes below."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        layer = as_layer(value)
        if layer is not None and _listed(layer.config) is not None:
            inner.append(_node(layer, layer.name or key))
        else:
            kept[key] = value
    return kept


def _of_input(layer: LayerConfig) -> tuple[Settings, Settings]:
    left_out = frozenset({"name", *_SHAPES})
    settings, defaults = settings_of(INPUT, layer.module, layer.config, "layers", left_out)
    shape = next(filter(None, map(layer.config.get, _SHAPES)), None)
    for key in ("shape", "batch_shape", "batch_size", "input_tensor"):
        defaults.pop(key, None)
    if shape is not None:
        settings["shape"] = canonical(shape)
    return settings, defaults


def _input_of_sequential(config: Mapping[str, Any], layers: Sequence[ConfigNode]) -> Settings:
    """Return the input of a Sequential model: what its InputLayer says, or how it was built.

    Versions list the InputLayer or leave it out.
    """
    first = next((one for one in layers if one.is_input), None)
    if first is not None:
        return {f"input.{key}": value for key, value in first.settings.items()}
    built = config.get("build_input_shape") or config.get("batch_input_shape")
    return {"input.shape": canonical(built)} if isinstance(built, list) else {}


def _compiled(config: Mapping[str, Any]) -> Settings:
    """Return how a model was compiled, of `compile_config` or `training_config`."""
    renamed = {"optimizer_config": "optimizer"}
    found: Settings = {}
    for key, value in config.items():
        name = renamed.get(key, key)
        if value is None:
            continue
        value = canonical(value, name)
        if not is_same(_COMPILED.get(name), value):
            found[name] = value
    return found
