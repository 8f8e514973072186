"""Building a model from a config that was translated from Keras 2, in Keras 3.  Child alone.

Nothing is built before every class and every setting of the config has been looked up in the
installed Keras: what is not there is told all at once, with the layer that it belongs to.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptkit.runners.child.session import Request, Result, import_extras

Problem = list[str]  # [where, what]
_WRAPPED = ("layer", "backward_layer", "forward_layer", "cell")
_WITHOUT_CODE = "the code of the class is not in the file"


def action(keras: Callable[[Request], Any]) -> Callable[[Request], Result]:
    """Return the action that builds a model and writes it.

    keras: returns Keras 3, ready to make models.  request: config, a file of JSON; out, a `.keras`
    file; trust, whether Lambda layers may run their code; imports in its options.
    The result: problems [[where, what], ...], dropped, likewise what was left out because it is
    None; hard_sigmoids, [[path of a variable, gates], ...] of what feeds that activation, and
    versions.
    """

    def revive(request: Request) -> Result:
        module = keras(request)
        import_extras(request)
        known = _known(module, request)
        config = json.loads(Path(request["config"]).read_text(encoding="utf-8"))
        dropped: list[Problem] = []
        problems = list(_problems(module, config, (), known, dropped))
        gates: list[list[Any]] = []
        if not problems:
            problems = list(_build(module, config, request, known, gates))
        return {
            "problems": problems,
            "dropped": dropped,
            "hard_sigmoids": gates,
            "versions": _versions(module),
        }

    return revive


def export_action(keras: Callable[[Request], Any]) -> Callable[[Request], Result]:
    """Return the action that writes the model of a `.keras` file as a SavedModel.

    keras: returns Keras 3.  request: file, out, trust, imports in its options.
    """

    def export(request: Request) -> Result:
        module = keras(request)
        import_extras(request)
        safe = not request.get("trust")
        model = module.saving.load_model(request["file"], safe_mode=safe, compile=False)
        model.export(request["out"], verbose=False)
        return {"versions": _versions(module)}

    return export


def _versions(keras: Any) -> dict[str, str]:
    return {"keras": str(keras.__version__), "backend": str(keras.backend.backend())}


def _registered(keras: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = keras.saving.get_custom_objects()
    return found


def _known(keras: Any, request: Request) -> dict[str, Any]:
    """Return what the imports define: classes and functions by name, and as they are registered."""
    import sys

    found: dict[str, Any] = {}
    for name in request["options"].get("imports", ()):
        module = sys.modules.get(Path(name).stem if name.endswith(".py") else name)
        for key, value in vars(module).items() if module is not None else ():
            own = getattr(value, "__module__", None) == getattr(module, "__name__", None)
            if own and callable(value) and not key.startswith("_"):
                found[key] = value
    return {**found, **_registered(keras)}


# -- looking things up -----------------------------------------------------------------------------


def _problems(
    keras: Any,
    node: Any,
    path: tuple[str, ...],
    known: Mapping[str, Any],
    dropped: list[Problem],
) -> Iterator[Problem]:
    """Yield what a config names and Keras does not have; puts the names of imported classes in.

    A setting that is None, and that Keras does not have, is dropped.
    """
    where = "/".join(path)
    found = _class_of(keras, node, known)
    config = node["config"]
    if found is None:
        custom = node.get("registered_name") and not node.get("module")
        what = f"class {node.get('registered_name') or node['class_name']} is not known"
        yield [where, f"{what}: {_WITHOUT_CODE}" if custom else f"{what} to Keras 3"]
        return
    if not (isinstance(found, type) and issubclass(found, (keras.layers.Layer, keras.Operation))):
        yield [where, f"{node['class_name']} is no layer of Keras 3, but {_origin(found)}"]
        return
    if node.get("module") is not None and node["class_name"] not in ("Functional", "Sequential"):
        _drop_common(found, config)
        for key in list(_unknown_settings(found, config)):
            if config[key] is None:
                del config[key]
                dropped.append([where, f"{key}=None of {node['class_name']} is dropped"])
                continue
            text = f"{key}={config[key]!r:.60}"
            yield [where, f"{text} of {node['class_name']}: Keras 3 has no such setting"]
    for key, value in list(config.items()):
        yield from _object_problems(keras, key, value, path, known, node["class_name"], dropped)
    for item in config.get("layers") or ():
        if isinstance(item, Mapping) and "class_name" in item:
            name = item.get("name") or item["config"].get("name") or item["class_name"]
            yield from _problems(keras, item, (*path, str(name)), known, dropped)


def _origin(found: Any) -> str:
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__name__', found)}"


def _class_of(keras: Any, node: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Return the class behind a node; None where there is none.  A user's own comes first."""
    for name in (node.get("registered_name"), node["class_name"]):
        own = known.get(name) if isinstance(name, str) else None
        if own is not None and node["class_name"] not in ("Functional", "Sequential"):
            # by this name the scope of custom objects knows it
            node.update({"module": None, "registered_name": name})  # type: ignore[attr-defined]
            return own
    return _public(keras, node.get("module"), node["class_name"])


def _public(keras: Any, module: Any, name: str) -> Any:
    if not isinstance(module, str) or not f"{module}.".startswith("keras."):
        return None
    if module.startswith("keras.src"):
        try:
            return getattr(importlib.import_module(module), name, None)
        except ImportError:
            return None
    place = keras
    for step in module.split(".")[1:]:
        place = getattr(place, step, None)
    return getattr(place, name, None)


def _drop_common(found: type, config: dict[str, Any]) -> None:
    """Drop settings that every layer of Keras 2 has, of a class whose constructor takes none."""
    parameters = inspect.signature(found.__init__).parameters  # type: ignore[misc]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in ("trainable", "dtype", "autocast"):
        if key not in parameters:
            config.pop(key, None)


def _unknown_settings(found: type, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that no constructor of a class takes, nor one that it passes options on to."""
    taken = {"name"}
    for base in found.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        taken |= set(parameters)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            break
    yield from (key for key in config if key not in taken)


def _object_problems(
    keras: Any,
    key: str,
    value: Any,
    path: tuple[str, ...],
    known: Mapping[str, Any],
    owner: str,
    dropped: list[Problem],
) -> Iterator[Problem]:
    """Yield what a setting names and Keras does not have: layers, initialisers, functions."""
    if key in _WRAPPED or (key == "cells" and isinstance(value, list)):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping) and "class_name" in item:
                name = item["config"].get("name") if isinstance(item["config"], Mapping) else None
                yield from _problems(keras, item, (*path, str(name or key)), known, dropped)
        return
    where = "/".join(path)
    if key.endswith("activation") and isinstance(value, str):
        if value not in known and not hasattr(keras.activations, value):
            what = f"{key}={value!r} of {owner}: Keras 3 has no such function"
            yield [where, f"{what}, and {_WITHOUT_CODE.replace('class', 'function')}"]
        return
    if not isinstance(value, Mapping) or not isinstance(value.get("class_name"), str):
        return
    name = value["config"] if value["class_name"] == "function" else value["class_name"]
    registered = value.get("registered_name")
    for candidate in (registered, name):
        if isinstance(candidate, str) and candidate in known:
            value.update({"module": None, "registered_name": candidate})  # type: ignore[attr-defined]
            return
    if value["class_name"].startswith("__"):
        return
    if _public(keras, value.get("module"), str(name)) is None:
        yield [where, f"{key}={registered or name} of {owner} is not known: {_WITHOUT_CODE}"]


# -- building --------------------------------------------------------------------------------------


def _build(
    keras: Any,
    config: dict[str, Any],
    request: Request,
    known: Mapping[str, Any],
    gates: list[list[Any]],
) -> Iterator[Problem]:
    """Build the model and write it; yield why not.  gates: takes what feeds a hard_sigmoid."""
    from ckptkit.runners.keras.model import layers_of, seed

    seed(keras)
    with keras.saving.custom_object_scope(dict(known)):
        model = keras.saving.deserialize_keras_object(config, safe_mode=not request.get("trust"))
        shapes = config.get("build_config") or {}
        if not model.built and shapes.get("input_shape"):
            model.build_from_config(shapes)
        plain = keras.layers.Layer.build
        unbuilt = [
            layer
            for layer in layers_of(model)
            if not layer.built and type(layer).build is not plain
        ]
        if not model.built or unbuilt:
            names = ", ".join(layer.name for layer in unbuilt[:4]) or model.name
            yield [names, "the file does not say what shapes go in, so its weights have no place"]
            return
        for layer in layers_of(model):
            gates += _gates(keras, layer)
        model.save(request["out"])


_GATES = {
    # which blocks of the last axis of a cell's weights go through its recurrent activation
    "LSTMCell": [True, True, False, True],
    "ConvLSTMCell": [True, True, False, True],
    "GRUCell": [True, True, False],
}


def _gates(keras: Any, layer: Any) -> Iterator[list[Any]]:
    """Yield (path, gates) of the variables of a layer that feed a hard_sigmoid."""
    hard = keras.activations.hard_sigmoid
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    name = type(layer).__name__
    if getattr(layer, "recurrent_activation", None) is hard and name in _GATES:
        yield from ([variable.path, _GATES[name]] for variable in own)
    elif getattr(layer, "activation", None) is hard and not hasattr(layer, "recurrent_activation"):
        yield from ([variable.path, [True]] for variable in own)
