"""Initialisers, regularisers, constraints, activations and dtype policies of Keras 1 and 2.

Keras 3 serialises each as {"module", "class_name", "config", "registered_name"}
(https://keras.io/api/models/model_saving_apis/serialization_utils/); Keras 2 up to 2.11, and its
`.h5` files ever since, leave module and registered name out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.text import lazy_pattern

Config = dict[str, Any]
Path = tuple[str, ...]

_KINDS = {
    "initializer": "keras.initializers",
    "regularizer": "keras.regularizers",
    "constraint": "keras.constraints",
}
# Spellings of TensorFlow 1 and Keras 1 -> those that Keras 3 knows.
_RENAMED = {
    "WeightRegularizer": "L1L2",
    "ActivityRegularizer": "L1L2",
    "L1L2Regularizer": "L1L2",
    "uniform": "random_uniform",
    "normal": "random_normal",
    "zero": "zeros",
    "one": "ones",
    "maxnorm": "max_norm",
    "nonneg": "non_neg",
    "unitnorm": "unit_norm",
    "l1l2": "l1_l2",
}
_VERSION = lazy_pattern(r"(?<=[a-z])V[12]$")
_POLICIES = ("Policy", "PolicyV1", "DTypePolicy", "FloatDTypePolicy")


def kind_of(key: str) -> str | None:
    """Return the module whose objects a setting holds; None where that is no such setting."""
    return _KINDS.get(key.rpartition("_")[2])


def is_object(value: object) -> bool:
    """Whether a value is a serialised object."""
    return isinstance(value, Mapping) and isinstance(value.get("class_name"), str)


def object_of(value: Any, module: str, path: Path, account: Account) -> Any:
    """Return an initialiser, regulariser or constraint as Keras 3 writes it.

    Args:
        value: as the file has it: None, a name, or a serialised object.
        module: of its kind, such as "keras.initializers".
        path: of the layer.
        account: what changes are noted in.
    """
    if isinstance(value, Mapping) and not is_object(value) and isinstance(value.get("name"), str):
        value = _of_keras1(value)
    if isinstance(value, str):
        return _RENAMED.get(value, value)
    if not is_object(value):
        return value
    if value.get("registered_name") and not str(value.get("module")).startswith("keras."):
        return dict(value)  # of a user's own: what its name is, the imports say
    name = _VERSION.sub("", value["class_name"].rpartition(">")[2])
    name = _RENAMED.get(name, name)
    if name != value["class_name"]:
        account.changed(path, f"{value['class_name']} is called {name}")
    config = dict(value.get("config") or {})
    config.pop("dtype", None)  # of initialisers of TensorFlow 1
    if name == "VarianceScaling" and config.get("distribution") == "normal":
        config["distribution"] = "truncated_normal"
    for old, new in (("m", "max_value"),):
        if module == "keras.constraints" and old in config:
            config[new] = config.pop(old)
    config.pop("name", None)
    return _serialised(module, name, config)


def _of_keras1(value: Mapping[str, Any]) -> Config:
    """Return a regulariser or constraint as Keras 1 wrote it, {"name": ..., settings}."""
    config = {key: item for key, item in value.items() if key != "name"}
    return {"class_name": value["name"], "config": config}


def _serialised(module: str, name: str, config: Config) -> Config:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def policy_of(value: Any, path: Path, account: Account) -> Any:
    """Return a layer's dtype: a name, or a policy as Keras 3 writes it; None for none.

    Args:
        value: as the file has it.
        path: of the layer.
        account: what changes are noted in.
    """
    if not is_object(value):
        return value
    name = (value.get("config") or {}).get("name")
    if value["class_name"].rpartition(">")[2] not in _POLICIES or not isinstance(name, str):
        account.refuse(path, f"dtype policy {value['class_name']} has no counterpart in Keras 3")
        return value
    if name == "_infer":  # of TensorFlow 1: the dtype of the first input
        account.changed(path, "the dtype was taken from the first input; float32 now")
        return "float32"
    account.changed(path, f"policy {name} is a DTypePolicy")
    return _serialised("keras", "DTypePolicy", {"name": name})


# -- activations -----------------------------------------------------------------------------------

_ACTIVATIONS = {"softplus_v2": "softplus", "swish": "silu", "relu_v2": "relu"}


def activation_of(value: Any, path: Path, account: Account) -> Any:
    """Return an activation as Keras 3 writes it: a name, or an object.

    Args:
        value: as the file has it: None, a name, or a serialised function or layer.
        path: of the layer.
        account: what changes are noted in.
    """
    if isinstance(value, str):
        name = value.removeprefix("keras.activations.")
        if name == "<lambda>":  # as Keras 2 calls any function without a name
            account.refuse(path, "an activation is a lambda, of which the file has no code")
        new = _ACTIVATIONS.get(name, name)
        if new != value:
            account.changed(path, f"activation {value} is called {new}")
        return new
    if is_object(value) and value["class_name"] == "function" and isinstance(value["config"], str):
        if str(value.get("module")) in ("builtins", "keras.activations"):
            return activation_of(value["config"], path, account)
        return dict(value)
    return dict(value) if is_object(value) else value


def is_hard_sigmoid(value: Any) -> bool:
    """Whether an activation is `hard_sigmoid`, which means something else in Keras 3.

    Keras 1 and 2: clip(0.2 x + 0.5, 0, 1); Keras 3: clip(x / 6 + 0.5, 0, 1), so that the old one of
    x is the new one of 1.2 x.
    """
    return isinstance(value, str) and value == "hard_sigmoid"


HARD_SIGMOID_FACTOR = 1.2
