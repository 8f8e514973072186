"""A model of Keras 1 or 2 as Keras 3 writes it: the tree of layers, and how they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.operations.upgrade.translation.calls import (
    Call,
    Reference,
    calls_of,
    endpoints_of,
    map_references,
    references_in,
)
from ckptkit.operations.upgrade.translation.keras1 import as_keras2
from ckptkit.operations.upgrade.translation.layers import (
    Built,
    arguments_of,
    is_known,
    layer_of,
    translate_objects,
)
from ckptkit.operations.upgrade.translation.objects import is_hard_sigmoid
from ckptkit.operations.upgrade.translation.operations import OP_CLASSES, operation_of
from ckptkit.stores.keras.config import as_layer

Config = dict[str, Any]
Path = tuple[str, ...]
_FUNCTIONAL = ("Functional", "Model", "Container", "Graph")
_LAYER_SETTINGS = ("layer", "backward_layer", "forward_layer", "cell")


class NotAModelError(ValueError):
    """The config is none of a model; the message says why."""


def translate(config: Any, account: Account) -> Config:
    """Return the config of a model in the form of Keras 3.

    Args:
        config: of Keras 1 or 2, as a file has it; not changed.
        account: where changes, obstacles and scaled weights are noted.

    Returns:
        {"module", "class_name", "config", "registered_name", ...}, as `config.json` of a `.keras`
        archive has it; not whole where there are obstacles.

    Raises:
        NotAModelError: it is no config of a model.
    """
    node = as_keras2(config, account)
    if as_layer(node) is None:
        raise NotAModelError("its config is none of a Keras model")
    if node.get("compile_config"):
        account.changed((), "how it was compiled is set aside: compile it again to train it")
    return _node(node, (), account)


def _node(node: Mapping[str, Any], path: Path, account: Account) -> Config:
    """Return a layer or model in the form of Keras 3, without its calls."""
    layer = as_layer(node)
    if layer is None:
        raise NotAModelError(f"no layer in the config at {'/'.join(path) or 'its root'}")
    name = layer.class_name.rpartition(">")[2]
    config = dict(layer.config)
    if name == "Functional" or (name in _FUNCTIONAL and "input_layers" in config):
        if name != "Functional" and layer.built_in:
            account.changed(path, f"{name} is Functional")
        return _serialised(
            "keras.src.models.functional",
            "Functional",
            _functional(config, path, account),
            "Functional",
        )
    if name == "Sequential":
        return _serialised("keras", "Sequential", _sequential(config, path, account))
    if not layer.built_in and ("module" in node or not is_known(name)):
        return _custom(node, config, path, account)
    built = layer_of(layer.class_name, config, path, account)
    if built.class_name == "Activation" and is_hard_sigmoid(built.config.get("activation")):
        built = _hard_sigmoid(built, path, account)
    _nested(built.config, path, account)
    return _serialised(built.module, built.class_name, built.config)


def _serialised(
    module: str, class_name: str, config: Config, registered_name: str | None = None
) -> Config:
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": registered_name,
    }


def _nested(config: Config, path: Path, account: Account) -> None:
    """Translate the layers that are settings of another one."""
    for key in _LAYER_SETTINGS:
        if as_layer(config.get(key)) is not None:
            inner = as_layer(config[key])
            assert inner is not None
            config[key] = _node(config[key], (*path, _step(key, inner.name)), account)
    cells = config.get("cells")
    if isinstance(cells, list):
        config["cells"] = [
            _node(cell, (*path, str(number)), account) if as_layer(cell) is not None else cell
            for number, cell in enumerate(cells)
        ]


def _step(key: str, name: str) -> str:
    return name or key


def _custom(node: Mapping[str, Any], config: Config, path: Path, account: Account) -> Config:
    """Return a layer of a user's own: its settings are its own, but for those of every layer."""
    config.pop("batch_input_shape", None)
    if any(is_hard_sigmoid(value) for value in config.values()):
        what = "hard_sigmoid means something else in Keras 3, and what a class of one's own"
        account.refuse(path, f"{what} does with it cannot be told")
    translate_objects(config, path, account)
    _nested(config, path, account)
    if isinstance(config.get("layers"), list) and "input_layers" in config:
        config = _functional(config, path, account)
    name = str(node.get("registered_name") or node["class_name"])
    found = _serialised("", str(node["class_name"]), config, name)
    found["module"] = None
    if node.get("build_config"):
        found["build_config"] = node["build_config"]
    return found


def _hard_sigmoid(built: Built, path: Path, account: Account) -> Built:
    """Return the hard_sigmoid of Keras 2, clip(0.2x + 0.5, 0, 1), as two layers of Keras 3."""
    name, dtype = built.config.get("name", "hard_sigmoid"), built.config.get("dtype", "float32")
    linear = {"name": f"{name}_linear", "scale": 0.2, "offset": 0.5, "dtype": dtype}
    clipped = {"name": f"{name}_clipped", "max_value": 1.0, "dtype": dtype}
    account.changed(path, "hard_sigmoid means something else in Keras 3: Rescaling and ReLU")
    layers = [
        _serialised("keras.layers", "Rescaling", linear),
        _serialised("keras.layers", "ReLU", clipped),
    ]
    return Built("keras", "Sequential", {"name": name, "layers": layers})


# -- sequential models -----------------------------------------------------------------------------


def _sequential(config: Config, path: Path, account: Account) -> Config:
    listed = [item for item in config.get("layers", ()) if as_layer(item) is not None]
    name = config.get("name") or "sequential"
    found: Config = {"name": name}
    if config.get("trainable") is False:
        found["trainable"] = False
    layers = [_node(item, _path_of(item, path), account) for item in listed]
    shape = _input_shape(listed)
    if shape is not None and layers and layers[0]["class_name"] != "InputLayer":
        first = as_layer(listed[0])
        assert first is not None
        if first.kind == "layer":
            layers.insert(0, _input_of(first.name, first.config, shape))
            account.changed(
                _path_of(listed[0], path), "batch_input_shape is that of an InputLayer before it"
            )
        else:
            found["build_input_shape"] = shape
    found["layers"] = layers
    built_with = config.get("build_input_shape")
    if built_with and "build_input_shape" not in found:
        found["build_input_shape"] = built_with
    return found


def _path_of(item: Mapping[str, Any], path: Path) -> Path:
    layer = as_layer(item)
    assert layer is not None
    return (*path, layer.name or layer.class_name)


def _input_shape(listed: Sequence[Mapping[str, Any]]) -> Any:
    """Return the shape that the first layer of a Sequential model says it takes; None for none."""
    for item in listed[:1]:
        layer = as_layer(item)
        assert layer is not None
        shape = layer.config.get("batch_input_shape") or layer.config.get("batch_shape")
        if shape is not None or layer.kind == "layer":
            return shape
        inner = layer.config.get("layers")
        return _input_shape([one for one in inner or () if as_layer(one) is not None])
    return None


def _input_of(name: str, config: Mapping[str, Any], shape: Any) -> Config:
    """Return the InputLayer that Keras 2 itself makes for a first layer with an input shape."""
    dtype = config.get("input_dtype") or config.get("dtype")
    settings = {
        "batch_shape": shape,
        "dtype": dtype if isinstance(dtype, str) else "float32",
        "name": f"{name}_input",
    }
    return _serialised("keras.layers", "InputLayer", settings)


# -- functional models -----------------------------------------------------------------------------


class _CalledLayer(NamedTuple):
    """A layer of a functional model: as Keras 2 has it, in the form of Keras 3, and its calls."""

    name: str
    config: Mapping[str, Any]
    node: Config
    calls: list[Call]
    args: list[tuple[list[Any], dict[str, Any]]]


def _functional(config: Config, path: Path, account: Account) -> Config:
    members = [
        _member(item, path, account) for item in _layer_list(config) if as_layer(item) is not None
    ]
    inputs = endpoints_of(config.get("input_layers", []))
    outputs = endpoints_of(config.get("output_layers", []))
    used = [*(call for member in members for call in _used(member)), *references_in(outputs)]
    offsets = {member.name: _offset(member, used) for member in members}
    functional = {member.name for member in members if member.node["class_name"] == "Functional"}

    def argument(reference: Reference) -> Any:
        return reference.to_json(offsets.get(reference.layer, 0))

    def endpoint(reference: Reference) -> Any:
        place = reference.node - offsets.get(reference.layer, 0)
        return [reference.layer, place + (reference.layer in functional), reference.tensor]

    layers = []
    for member in members:
        nodes = [
            {"args": map_references(args, argument), "kwargs": map_references(kwargs, argument)}
            for args, kwargs in member.args
        ]
        layers.append({**member.node, "name": member.name, "inbound_nodes": nodes})
    found: Config = {
        "name": config.get("name") or "model",
        "trainable": config.get("trainable", True),
        "layers": layers,
        "input_layers": map_references(inputs, endpoint),
        "output_layers": map_references(outputs, endpoint),
    }
    for key, value in config.items():  # of a class of a user's own
        if key not in (*found, "trainable"):
            found[key] = value
    return found


def _layer_list(config: Mapping[str, Any]) -> list[Any]:
    listed = config.get("layers")
    if isinstance(listed, Mapping):
        return list(listed.values())
    return listed if isinstance(listed, list) else []


def _member(item: Mapping[str, Any], path: Path, account: Account) -> _CalledLayer:
    layer = as_layer(item)
    assert layer is not None
    # the name by which others call it, which a class of a user's own may not have in its config
    name = item.get("name") if isinstance(item.get("name"), str) else layer.name
    here = (*path, str(name))
    try:
        calls = calls_of(item.get("inbound_nodes") or [])
    except ValueError as error:
        raise NotAModelError(f"{'/'.join(here)}: {error}") from error
    class_name = layer.class_name.rpartition(">")[2]
    if class_name in OP_CLASSES and not isinstance(layer.config.get("layers"), list):
        return _operation(str(name), class_name, layer.config, calls, here, account)
    node = _node(item, here, account)
    args = [arguments_of(node["class_name"], call, layer.config) for call in calls]
    account.is_random |= any(kwargs.get("training") is True for _, kwargs in args)
    return _CalledLayer(str(name), layer.config, node, calls, args)


def _operation(
    name: str,
    class_name: str,
    config: Mapping[str, Any],
    calls: list[Call],
    path: Path,
    account: Account,
) -> _CalledLayer:
    found = operation_of(class_name, config, calls, path, account)
    if found is None:
        return _CalledLayer(name, config, _serialised("", class_name, {}), calls, [])
    return _CalledLayer(name, config, found.to_json(name), calls, [(found.args, {})])


def _used(member: _CalledLayer) -> Iterator[Reference]:
    for args, kwargs in member.args:
        yield from references_in([args, kwargs])


def _offset(member: _CalledLayer, used: Sequence[Reference]) -> int:
    """Return what the calls of a member are counted from.

    Keras 2 counts those of a nested model from 1, but of a Sequential one that had no input shape
    when it was called.  The references tell: with n calls, those counted from 1 reach n.
    """
    layer_class = str(member.node["class_name"])
    if layer_class not in ("Functional", "Sequential") and "layers" not in member.node["config"]:
        return 0
    places = [reference.node for reference in used if reference.layer == member.name]
    count = len(member.calls)
    if not places or min(places) == 0:
        return 0
    if max(places) >= count:
        return 1
    listed = member.config.get("layers")
    first = as_layer(listed[0]) if isinstance(listed, list) and listed else None
    return int(first is not None and first.class_name == "InputLayer")
