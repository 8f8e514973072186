"""Configs of Keras 1 in the form of Keras 2: names of settings, of classes, and their values.

Keras 1 (1.0 to 1.2, until 2017) has `nb_filter`, `border_mode`, `subsample`, `output_dim`, `init`,
`W_regularizer`, `dim_ordering`, `mode` of Merge.  The table is that of
keras/legacy/interfaces.py of Keras 2.0 to 2.2, which took the arguments of Keras 1 for those of 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.stores.keras.config import as_layer

Config = dict[str, Any]
Path = tuple[str, ...]

_SETTINGS = {
    "init": "kernel_initializer",
    "inner_init": "recurrent_initializer",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer",
    "W_constraint": "kernel_constraint",
    "U_constraint": "recurrent_constraint",
    "b_constraint": "bias_constraint",
    "bias": "use_bias",
    "inner_activation": "recurrent_activation",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
    "border_mode": "padding",
    "subsample": "strides",
    "stride": "strides",
    "subsample_length": "strides",
    "nb_filter": "filters",
    "filter_length": "kernel_size",
    "pool_length": "pool_size",
    "atrous_rate": "dilation_rate",
    "p": "rate",
    "beta_init": "beta_initializer",
    "gamma_init": "gamma_initializer",
    "upsampling_factor": "size",
    "sigma": "stddev",
    "concat_axis": "axis",
}
_SETTINGS_OF = {
    "Dense": {"output_dim": "units"},
    "LSTM": {"output_dim": "units"},
    "GRU": {"output_dim": "units"},
    "SimpleRNN": {"output_dim": "units"},
    "Embedding": {
        "init": "embeddings_initializer",
        "W_regularizer": "embeddings_regularizer",
        "W_constraint": "embeddings_constraint",
    },
    "PReLU": {"init": "alpha_initializer"},
    "UpSampling1D": {"length": "size"},
}
_CLASSES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "Deconvolution3D": "Conv3DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "TimeDistributedDense": "TimeDistributed",
}
_ORDERINGS = {"th": "channels_first", "tf": "channels_last"}
# settings of a first layer whose shape `batch_input_shape` says
_OF_INPUTS = ("input_dim", "input_length", "input_shape")
# settings that only Keras 1 has: a layer with one of them is of Keras 1
_MARKS = frozenset(_SETTINGS) | {"nb_row", "output_dim", "dim_ordering", "create_input_layer"}


def as_keras2(value: Any, account: Account, path: Path = ()) -> Any:
    """Return a config with what is of Keras 1 in the form of Keras 2; not changed in place.

    Args:
        value: the config of a model or layer, of Keras 1 or 2.
        account: where changes and obstacles are noted.
        path: of the layer.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("class_name"), str):
        return value
    node = dict(value)
    config = node.get("config")
    if isinstance(config, list):
        config = {"name": node.get("name") or "sequential", "layers": config}
    if not isinstance(config, Mapping):
        return node
    config = dict(config)
    layers = config.get("layers")
    if isinstance(layers, list):
        config["layers"] = [as_keras2(item, account, _below(item, path)) for item in layers]
        node["config"] = config
        return node
    if node["class_name"] == "Graph":
        account.refuse(path, "Graph, of Keras before 1.0")
    for key in ("layer", "backward_layer", "cell"):
        if as_layer(config.get(key)) is not None:
            config[key] = as_keras2(config[key], account, _below(config[key], path))
    node["config"] = config
    return _layer(node, config, path, account) if _is_old(node, config, account) else node


def _is_old(node: Mapping[str, Any], config: Mapping[str, Any], account: Account) -> bool:
    """Whether a layer has the settings of Keras 1: of its own layers, as the file or they tell."""
    layer = as_layer(node)
    if layer is None or "module" in node or not (layer.built_in or layer.class_name in _CLASSES):
        return False
    if account.is_keras1 or layer.class_name in (*_CLASSES, "Merge"):
        return True
    own = {"output_dim"} if layer.class_name == "Embedding" else set()
    return not (_MARKS - own).isdisjoint(config)


def _below(item: Any, path: Path) -> Path:
    layer = as_layer(item)
    return (*path, layer.name or layer.class_name) if layer is not None else path


def _layer(node: Config, config: Config, path: Path, account: Account) -> Config:
    old = str(node["class_name"])
    rule = _RULES.get(old)
    new = _CLASSES.get(old, old)
    if old in ("Convolution1D", "Conv1D", "AtrousConvolution1D"):
        _first_of(config, ("filter_length", "kernel_size"), "kernel_size")
    rows = [config.pop(f"nb_{side}", None) for side in ("row", "col")]
    depth = [config.pop(f"kernel_dim{number}", None) for number in (1, 2, 3)]
    if all(side is not None for side in rows):
        config["kernel_size"] = rows
    elif all(side is not None for side in depth):
        config["kernel_size"] = depth
    ordering = config.pop("dim_ordering", None)
    if ordering is not None:
        config["data_format"] = _ORDERINGS.get(ordering, ordering)
    table = {**_SETTINGS, **_SETTINGS_OF.get(new, {})}
    for key, name in table.items():
        if key in config and name not in config:
            config[name] = config.pop(key)
        elif key in config:
            config.pop(key)
    if new not in ("Embedding",):
        for key in _OF_INPUTS:
            config.pop(key, None)
    if "forget_bias_init" in config:
        config["unit_forget_bias"] = config.pop("forget_bias_init") in ("one", "ones")
    if rule is not None:
        new = rule(config, path, account)
    if new.startswith(("Conv", "MaxPooling", "AveragePooling")) and isinstance(
        config.get("padding"), str
    ):
        config["padding"] = {"full": "valid"}.get(config["padding"], config["padding"])
    account.changed(path, f"{old} of Keras 1 has the settings of {new} of Keras 2")
    return {**node, "class_name": new, "config": config}


def _first_of(config: Config, keys: tuple[str, ...], name: str) -> None:
    for key in keys:
        if key in config:
            config[name] = config.pop(key)
            return


# -- classes whose settings mean something else ----------------------------------------------------


def _merge(config: Config, path: Path, account: Account) -> str:
    mode, axis = config.pop("mode", "sum"), config.pop("axis", -1)
    dot_axes = config.pop("dot_axes", -1)
    for key in list(config):
        if key not in ("name", "trainable"):
            if config[key] not in (None, "raw", {}) and not key.startswith("output_"):
                account.refuse(path, f"Merge with {key}")
            config.pop(key)
    classes = {
        "sum": "Add",
        "mul": "Multiply",
        "concat": "Concatenate",
        "ave": "Average",
        "max": "Maximum",
        "dot": "Dot",
    }
    if mode not in classes:
        account.refuse(path, f"Merge with mode={mode!r} has no counterpart in Keras 3")
        return "Merge"
    if mode == "concat":
        config["axis"] = axis
    if mode == "dot":
        config["axes"] = dot_axes
    return classes[mode]


def _batch_normalization(config: Config, path: Path, account: Account) -> str:
    mode = config.pop("mode", 0)
    if mode not in (0, 2):
        account.refuse(path, f"BatchNormalization with mode={mode} has no counterpart in Keras 3")
    elif mode == 2:
        account.refuse(path, "BatchNormalization with mode=2 normalises over the last axis alone")
    return "BatchNormalization"


def _time_distributed_dense(config: Config, path: Path, account: Account) -> str:
    inner = {key: config.pop(key) for key in list(config) if key not in ("name", "trainable")}
    shape = inner.pop("batch_input_shape", None)
    inner["name"] = f"{config.get('name')}_dense"
    inner["units"] = inner.pop("output_dim", inner.get("units"))
    config["layer"] = {"class_name": "Dense", "config": inner}
    if shape is not None:
        config["batch_input_shape"] = shape
    return "TimeDistributed"


def _deconvolution(config: Config, path: Path, account: Account) -> str:
    config.pop("output_shape", None)
    return "Conv2DTranspose"


def _dropout_embedding(config: Config, path: Path, account: Account) -> str:
    dropout = config.pop("dropout", 0.0)
    if dropout:
        account.changed(path, f"dropout={dropout} of Embedding is dropped: it acts in training")
    return "Embedding"


_RULES: Mapping[str, Callable[[Config, Path, Account], str]] = {
    "Merge": _merge,
    "BatchNormalization": _batch_normalization,
    "TimeDistributedDense": _time_distributed_dense,
    "Deconvolution2D": _deconvolution,
    "Embedding": _dropout_embedding,
}
