"""What keeps a Keras from building the model of a config: read off the config, nothing is built.

Keras looks classes up by module and name (`.keras`: keras/src/saving/serialization_lib.py) or by
name alone (HDF5 and SavedModels: keras/src/legacy/saving/), calls them with what the config holds,
and then joins layers by the numbers of their calls ("nodes").  So a config fails where a class, or
an argument of it, is not one of that Keras's (`keras_api`), where a node is counted as an older
Keras counts, and where it names code that the file does not hold.  Each is measured in
docs/needs.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ckptkit.operations.needs.code_packages import (
    CodePackage,
    package_of_module,
    package_of_registered,
)
from ckptkit.operations.needs.environment import Environment
from ckptkit.operations.needs.keras_api import KerasApi
from ckptkit.operations.needs.lambda_code import lambda_need
from ckptkit.operations.needs.types import Need
from ckptkit.text import list_text

_MODELS = ("Functional", "Model", "Sequential")
# Keras imports the modules of these by itself (_retrieve_class_or_fn), since 3.10 no others
_IMPORTED_BY_KERAS = ("keras", "keras_cv", "keras_hub", "keras_nlp")
_FUNCTION_ROOMS = ("activations", "losses", "metrics", "initializers", "regularizers")
# namespaces in which a name without a module is looked for
_ROOMS = (
    *("layers", "initializers", "regularizers", "constraints", "optimizers", "losses", "metrics"),
    *("optimizers.schedules", "optimizers.legacy", "mixed_precision", "dtype_policies"),
)
# what Keras 2 takes out of a Lambda's config, and Keras 3 of that of an HDF5 file
_OF_LAMBDAS = frozenset(
    {"module", "function_type", "output_shape_type", "output_shape_module"}
    | {"mask_type", "mask_module"}
)
_OPTIMIZERS = {"rmsprop": "RMSprop", "adamw": "AdamW", "sgd": "SGD"}  # not capitalised alone


class ConfigReader:
    """Reads a config as one Keras does.

    Args:
        api: of that Keras.
        environment: what is installed.
        by_name: whether the config names no modules (HDF5, SavedModels).
    """

    def __init__(self, api: KerasApi, environment: Environment, *, by_name: bool) -> None:
        self.api = api
        self.environment = environment
        self.by_name = by_name
        self.is_keras_3 = api.generation >= 3

    def needs(self, config: Any, path: str) -> Iterator[Need]:
        """Yield what building a config takes that is not in it.

        path: of the config, for `where`.
        """
        pending: list[tuple[Any, str, bool]] = [(config, path, True)]
        while pending:
            item, place, is_layer = pending.pop()
            if isinstance(item, Mapping):
                listed = item.get("class_name")
                if isinstance(listed, str) and "config" in item:
                    yield from self._object(item, listed, place, is_layer)
                inner = [
                    (value, f"{place}.{key}", _holds_layers(str(key), is_layer))
                    for key, value in item.items()
                    if key != "build_config"
                ]
                pending.extend(reversed(inner))
            elif isinstance(item, list):
                pending.extend(
                    (v, f"{place}[{i}]", is_layer) for i, v in reversed([*enumerate(item)])
                )

    def _object(
        self, node: Mapping[str, Any], name: str, place: str, is_layer: bool
    ) -> Iterator[Need]:
        config = node["config"]
        if name == "__lambda__":
            return  # told of with the layer, or below
        if name.startswith("__"):
            return
        if name == "function":
            yield from self._function(node, config, place)
            return
        if name == "Lambda":
            # Keras 2 runs the code of an HDF5 file unasked
            need = lambda_need(config, place, is_asked=self.is_keras_3 or not self.by_name)
            if need is not None:
                yield need
        module = node.get("module")
        path = self._path(node, name, module, is_layer)
        if path is None or (is_layer and self._is_unlisted(name)):
            yield self._missing(node, name, module, place)
            return
        if name in _MODELS:
            yield from self._model(config, place)
            return
        if isinstance(config, Mapping):
            yield from self._arguments(path, name, config, place)
            yield from self._values(name, config, place, is_layer)

    # --- classes and functions ---

    def _path(self, node: Mapping[str, Any], name: str, module: Any, is_layer: bool) -> str | None:
        """Return the class that this Keras takes for an object; None where it knows none."""
        if not self.is_keras_3 and name.startswith(
            "Custom>"
        ):  # its own optimizers, and some layers
            name = name.removeprefix("Custom>")
        if "module" in node and (module is not None or not self.by_name):
            found = self.api.path(f"{module}.{name}") if isinstance(module, str) else None
            if found is None and not self.is_keras_3 and self.by_name:
                return self.api.path(f".{name}")  # layers.deserialize goes by names first
            return found
        if self.by_name and is_layer and (found := self.api.path(f".{name}")):
            return found
        for room in _ROOMS:
            if found := self.api.path(f"keras.{room}.{name}"):
                return found
        return self.api.path(f"keras.{name}")

    def _is_unlisted(self, name: str) -> bool:
        """Whether Keras 2 exports a layer that it does not look up by its name, as it does all."""
        if self.is_keras_3 or self.api.path(f".{name}") is not None:
            return False
        return self.api.path(f"keras.layers.{name}") is not None

    def _missing(self, node: Mapping[str, Any], name: str, module: Any, place: str) -> Need:
        """Return the need of a class that is not one of this Keras's."""
        registered = node.get("registered_name")
        full = registered if isinstance(registered, str) and ">" in registered else name
        is_kerass = isinstance(module, str) and re.match(r"(tf_)?keras(\.|$)", module)
        if is_kerass or (module is None and self._is_some_kerass(name)):
            whose = f"{module}.{name}" if is_kerass else name
            return Need("layer", whose, f"Keras {self.api.version} has no such class", where=place)
        package = package_of_registered(full)
        if package is None and isinstance(module, str):
            package = package_of_module(module)
        return code_need(full, package, place, self.environment, module)

    def _is_some_kerass(self, name: str) -> bool:
        """Whether some other Keras has a class of that name."""
        return any(KerasApi(version).path(f".{name}") is not None for version in ("2.15", "3.15"))

    def _function(self, node: Mapping[str, Any], name: Any, place: str) -> Iterator[Need]:
        module = node.get("module")
        if not isinstance(name, str):
            return
        if str(module).startswith(("keras.", "tf_keras.")):
            return  # an exported function, such as one of keras.ops
        rooms = _FUNCTION_ROOMS if module in ("builtins", None) else ()
        if any(self.api.has_function(f"keras.{room}.{name}") for room in rooms):
            return
        registered = node.get("registered_name")
        full = registered if isinstance(registered, str) and ">" in registered else name
        package = package_of_registered(full)
        if package is None and isinstance(module, str):
            package = package_of_module(module)
        yield code_need(full, package, place, self.environment, module, what="function")

    # --- arguments and values ---

    def _arguments(
        self, path: str, name: str, config: Mapping[str, Any], place: str
    ) -> Iterator[Need]:
        taken = self.api.arguments(path)
        if taken is None:
            return
        given = {str(key) for key in config}
        if self.by_name and self.is_keras_3:
            given -= {"batch_input_shape"}  # saving_utils.model_from_config translates it
        if name == "Lambda" and self.by_name:
            given -= _OF_LAMBDAS
        unknown = sorted(given - taken)
        if unknown:
            reason = f"{name} of Keras {self.api.version} takes no {list_text(unknown, 4)}"
            yield Need("layer", f"{name}({', '.join(unknown)})", reason, where=place)

    def _values(
        self, name: str, config: Mapping[str, Any], place: str, is_layer: bool
    ) -> Iterator[Need]:
        if self.is_keras_3:
            dtype = config.get("dtype")
            if isinstance(dtype, Mapping) and dtype.get("class_name") in ("Policy", "PolicyV1"):
                reason = f"Keras {self.api.version} does not read a dtype policy of Keras 2"
                yield Need("layer", f"{name}(dtype)", reason, where=f"{place}.config.dtype")
            axis = config.get("axis")
            axes = axis if name == "BatchNormalization" and isinstance(axis, list) else None
            if axes is not None and not (self.by_name and len(axes) == 1):
                reason = f"BatchNormalization of Keras {self.api.version} takes one axis"
                yield Need("layer", f"{name}(axis)", reason, where=f"{place}.config.axis")
        if name == "GRU" and "reset_after" not in config and config.get("use_bias", True):
            # Keras up to 2.1 had no other kind; both readers make the new kind of it
            reason = f"Keras {self.api.version} makes GRU(reset_after=True) of an older GRU"
            yield Need("layer", "GRU(reset_after)", reason, where=place)
        if self.by_name and is_layer and self.is_keras_3:
            yield from self._shadowed(name, config, place)
        activation = config.get("activation")
        if isinstance(activation, str) and not self._is_activation(activation):
            yield code_need(
                activation, None, f"{place}.config.activation", self.environment, None, "function"
            )

    def _shadowed(self, name: str, config: Mapping[str, Any], place: str) -> Iterator[Need]:
        """Yield words that Keras 3 takes for its functions: `score_mode="dot"` for layers.dot."""
        for key, value in config.items():
            if key != "name" and isinstance(value, str) and self.api.has_function(f".{value}"):
                reason = f"Keras {self.api.version} takes {key}={value!r} for its function {value}"
                yield Need("layer", f"{name}({key})", reason, where=f"{place}.config.{key}")

    def _is_activation(self, name: str) -> bool:
        if self.api.has_function(f"keras.activations.{name}"):
            return True
        if name == "softmax_v2" and not self.is_keras_3:  # what tf.nn.softmax is called
            return True
        return any(self.api.path(f"keras.{room}.{name}") for room in ("layers", "activations"))

    def is_optimizer(self, name: str) -> bool:
        """Whether this Keras has an optimizer that is called so, in whatever case."""
        return any(
            self.api.path(f"keras.optimizers.{known}")
            for known in (name, name.capitalize(), name.upper(), _OPTIMIZERS.get(name.lower(), ""))
        )

    def is_function(self, name: str) -> bool:
        """Whether this Keras finds a loss or metric by its name."""
        rooms = ("losses", "metrics")
        return any(
            self.api.has_function(f"keras.{room}.{name}") or self.api.path(f"keras.{room}.{name}")
            for room in rooms
        )

    def is_function_of_some_keras(self, name: str) -> bool:
        """Whether some Keras has a loss or metric of that name."""
        return any(
            KerasApi(version).has_function(f"keras.{room}.{name}")
            for version in ("2.15", "3.15")
            for room in ("losses", "metrics")
        )

    # --- the graph of a Functional model ---

    def _model(self, config: Any, place: str) -> Iterator[Need]:
        if isinstance(config, list):
            if self.is_keras_3:
                reason = f"Keras {self.api.version} does not read a Sequential model that is a list"
                yield Need("graph", "Sequential", reason, where=f"{place}.config")
            return
        layers = config.get("layers") if isinstance(config, Mapping) else None
        if self.is_keras_3 and isinstance(layers, list):
            unresolved = _unresolved(config, layers)
            if unresolved:
                reason = (
                    f"Keras {self.api.version} counts the calls of a nested model otherwise: "
                    f"{list_text(unresolved, 3)}"
                )
                yield Need("graph", "calls of layers", reason, where=f"{place}.config.layers")
            operations = [] if not self.by_name else _operations(layers, self.api)
            if operations:
                reason = f"Keras {self.api.version} takes operations for layers in an HDF5 file: "
                reason += list_text(operations, 3)
                yield Need("graph", "operations", reason, where=f"{place}.config.layers")
            unread = sorted(set(_unread_arguments(layers)))
            if unread:
                reason = (
                    f"Keras {self.api.version} does not read tensors that a layer of Keras 2 is "
                    f"called with by name: {list_text(unread, 3)}"
                )
                yield Need("graph", "calls by name", reason, where=f"{place}.config.layers")


def _holds_layers(key: str, is_layer: bool) -> bool:
    """Whether what stands under a key of a layer's config are layers, where names tell."""
    if key in ("config", "layers", "layer", "cell", "cells", "backward_layer", "forward_layer"):
        return is_layer
    return False


def code_need(
    name: str,
    package: CodePackage | None,
    place: str,
    environment: Environment,
    module: Any,
    what: str = "class",
) -> Need:
    """Return the need of somebody's class or function, and of the package that brings it."""
    if package is None:
        if isinstance(module, str) and module not in ("__main__", "builtins", ""):
            return Need("code", name, f"a {what} of {module}", where=place, met=None)
        reason = f"a custom {what}, whose code is not in the file"
        hint = "import the module that defines it, or pass it in custom_objects"
        return Need("code", name, reason, where=place, hint=hint)
    found = environment.version(package.distribution)
    has_it = bool(found) or environment.has_module(package.module)
    reason = f"a {what} of {package.distribution}"
    hint = f"import {package.module} before loading"
    if isinstance(module, str) and module.partition(".")[0] in _IMPORTED_BY_KERAS:
        hint = ""
    return Need(
        "code",
        name,
        reason,
        where=place,
        found=f"{package.distribution} {found}" if found else "",
        met=has_it,
        hint=hint,
        pip=package.distribution,
    )


# --- nodes ----------------------------------------------------------------------------------------


def _unresolved(config: Mapping[str, Any], layers: list[Any]) -> list[str]:
    """Return the layers whose inputs Keras 3 does not find, of a config with nodes of Keras 2.

    As `functional_from_config` does it (keras/src/models/functional.py): each layer is called once
    for each of its nodes, as soon as the outputs that they name are there.
    """
    made: dict[str, int] = {}
    waiting: dict[str, list[list[tuple[str, int]]]] = {}
    functional: set[str] = set()
    for layer in layers:
        if not isinstance(layer, Mapping):
            return []
        config_of_layer = layer.get("config")
        inner = config_of_layer.get("name") if isinstance(config_of_layer, Mapping) else None
        name = layer.get("name") or inner
        nodes = layer.get("inbound_nodes")
        if not isinstance(name, str) or not isinstance(nodes, list):
            return []
        if any(isinstance(node, Mapping) for node in nodes):
            return []  # as Keras 3 writes them
        made[name] = 1 if layer.get("class_name") == "InputLayer" else 0
        if layer.get("class_name") in ("Functional", "Model"):
            functional.add(name)
        waiting[name] = [_references(node) for node in nodes]
    moved = True
    while moved:
        moved = False
        for name, nodes in waiting.items():
            while nodes and all(made.get(other, 0) > index for other, index in nodes[0]):
                nodes.pop(0)
                made[name] += 1
                moved = True
    found = [name for name, nodes in waiting.items() if nodes]
    if found:
        return found
    outputs = _flat_references(config.get("output_layers"))
    return [n for n, i in outputs if made.get(n, 0) <= i - (1 if n in functional else 0)]


def _references(node: Any) -> list[tuple[str, int]]:
    """Return (layer, number of its call) for each input of a node."""
    if not isinstance(node, list):
        return []
    if _is_reference(node):
        return [(node[0], node[1])]
    return [(i[0], i[1]) for i in node if _is_reference(i)]


def _flat_references(value: Any) -> list[tuple[str, int]]:
    if _is_reference(value):
        return [(value[0], value[1])]
    items = value if isinstance(value, list) else [*value.values()] if _is_map(value) else []
    return [found for item in items for found in _flat_references(item)]


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:3])
    )


def _operations(layers: list[Any], api: KerasApi) -> list[str]:
    """Return operations (`x + 3.0`, `x + y`), which an HDF5 file calls as layers are called.

    It has the name of the class alone (`Add`), which is a layer's, and a layer takes tensors, one
    or a list of them.  An operation has none of the settings that all layers have.
    """
    found = []
    for layer in layers:
        nodes = layer.get("inbound_nodes") if isinstance(layer, Mapping) else None
        for node in nodes if isinstance(nodes, list) else []:
            given = node.get("args") if isinstance(node, Mapping) else None
            if not isinstance(given, list):
                continue
            settings = layer.get("config")
            is_layer = not isinstance(settings, Mapping) or {"trainable", "dtype"} & settings.keys()
            is_called_so = api.path(f"keras.layers.{layer.get('class_name')}") is not None
            has_several = len(given) > 1 and is_called_so and not is_layer
            if has_several or any(isinstance(item, int | float) for item in given):
                found.append(str(layer.get("name")))
    return found


def _unread_arguments(layers: list[Any]) -> Iterator[str]:
    """Yield "layer(argument)" for tensors among the named arguments of nodes of Keras 2."""
    for layer in layers:
        nodes = layer.get("inbound_nodes") if isinstance(layer, Mapping) else None
        for node in nodes if isinstance(nodes, list) else []:
            for item in node if isinstance(node, list) else []:
                named = item[3] if _is_reference(item) and len(item) == 4 else {}
                for key, value in named.items() if isinstance(named, Mapping) else []:
                    if _flat_references(value):
                        yield f"{layer.get('name')}({key})"
