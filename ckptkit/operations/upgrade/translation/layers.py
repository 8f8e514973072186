"""The layers of Keras 2 in the form of Keras 3: classes and settings with another name or none.

A setting that Keras 3 does not have is dropped only where its value changes nothing; any other
value is an obstacle.  What these rules leave as it is, the installed Keras 3 is asked about before
anything is built (`ckptkit.runners.keras.revive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.operations.upgrade.translation.calls import Call
from ckptkit.operations.upgrade.translation.objects import (
    activation_of,
    is_hard_sigmoid,
    kind_of,
    object_of,
    policy_of,
)

Config = dict[str, Any]
Path = tuple[str, ...]


class Built(NamedTuple):
    """A layer in the form of Keras 3, but for its calls: module, class and settings."""

    module: str
    class_name: str
    config: Config


_ANY = object()
# Settings that Keras 3 has nowhere, and the value with which they change nothing (_ANY: each).
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "batch_input_shape": (_ANY,),  # an InputLayer says it
    "input_dtype": (_ANY,),
    "dynamic": (False,),
    "implementation": (_ANY,),  # how a recurrent layer is computed, not what
    "consume_less": (_ANY,),
    "time_major": (False,),
    "reverse_state_order": (False,),
    "num_constants": (None, 0),
    "fused": (_ANY,),
    "renorm": (False,),
    "renorm_clipping": (None, {}),
    "renorm_momentum": (_ANY,),  # means nothing without renorm, which is refused
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "query_shape": (_ANY,),  # Keras 3 takes them from the call
    "key_shape": (_ANY,),
    "value_shape": (_ANY,),
    "softmax_robust_masking": (False,),
    "rng_type": (_ANY,),  # of layers that draw at random in training alone
    "vocabulary_size": (_ANY,),  # follows from the vocabulary
    "has_input_vocabulary": (_ANY,),
    "experimental_autocast": (_ANY,),
    "autocast": (_ANY,),
}
# Settings that other layers have in earnest, by class.
_HARMLESS_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    "Embedding": {"input_length": (_ANY,), "sparse": (False,), "dropout": (0.0, 0)},
    "InputLayer": {"sparse": (False, None), "ragged": (False, None), "optional": (False, None)},
    **{f"Conv{rank}DTranspose": {"groups": (1,), "output_padding": (None,)} for rank in (1, 2, 3)},
    **{
        f"SeparableConv{rank}D": {
            "groups": (1,),
            "kernel_initializer": (_ANY,),  # of a kernel that the layer does not have
            "kernel_regularizer": (None,),
            "kernel_constraint": (None,),
        }
        for rank in (1, 2)
    },
    **{
        f"DepthwiseConv{rank}D": {
            "groups": (_ANY,),
            "filters": (None,),
            "kernel_initializer": (_ANY,),
            "kernel_regularizer": (None,),
            "kernel_constraint": (None,),
        }
        for rank in (1, 2)
    },
    **{
        name: {"zero_output_for_mask": (False,)}
        for name in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
    },
    "Attention": {"causal": (_ANY,)},  # an argument of its calls
    "AdditiveAttention": {"causal": (_ANY,)},
}
_RENAMED_SETTINGS: dict[str, dict[str, str]] = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "CategoryEncoding": {"max_tokens": "num_tokens"},
    "CenterCrop": {"target_height": "height", "target_width": "width"},
}
_RENAMED_CLASSES = {
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Convolution3DTranspose": "Conv3DTranspose",
    "SeparableConvolution1D": "SeparableConv1D",
    "SeparableConvolution2D": "SeparableConv2D",
    "MaxPool1D": "MaxPooling1D",
    "MaxPool2D": "MaxPooling2D",
    "MaxPool3D": "MaxPooling3D",
    "AvgPool1D": "AveragePooling1D",
    "AvgPool2D": "AveragePooling2D",
    "AvgPool3D": "AveragePooling3D",
    "GlobalMaxPool1D": "GlobalMaxPooling1D",
    "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "GlobalAvgPool1D": "GlobalAveragePooling1D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "UnifiedLSTM": "LSTM",
    "UnifiedGRU": "GRU",
}
# Classes that Keras 3 left out, and what to tell of each.
_GONE = {
    "LocallyConnected1D": "Keras 3 has no locally connected layers",
    "LocallyConnected2D": "Keras 3 has no locally connected layers",
    "RandomHeight": "Keras 3 has no layer that gives images of a random height",
    "RandomWidth": "Keras 3 has no layer that gives images of a random width",
    "DenseFeatures": "Keras 3 knows no feature columns",
    "SequenceFeatures": "Keras 3 knows no feature columns",
    "AddLoss": "Keras 3 takes losses from layers, not from tensors of a functional model",
    "AddMetric": "Keras 3 takes metrics from layers, not from tensors of a functional model",
    "MaxoutDense": "Keras 3 has no such layer",
    "Highway": "Keras 3 has no such layer",
    "PeepholeLSTMCell": "Keras 3 has no such cell",
}
ACTIVATION_KEYS = ("activation", "recurrent_activation")


def is_known(class_name: str) -> bool:
    """Whether there is a rule for a class of Keras 1 or 2, whatever the file says of it."""
    return class_name in _GONE or class_name in _RENAMED_CLASSES or class_name in _CLASS_RULES


def layer_of(class_name: str, config: Mapping[str, Any], path: Path, account: Account) -> Built:
    """Return a built-in layer as Keras 3 writes it, nested layers and calls left alone.

    Args:
        class_name: of Keras 2.
        config: of the layer.
        path: of the layer.
        account: where changes and obstacles are noted.
    """
    name = class_name.rpartition(">")[2].rpartition(".")[2]
    if name in _GONE:
        account.refuse(path, f"{name} has no counterpart: {_GONE[name]}")
    settings = dict(config)
    new = _RENAMED_CLASSES.get(name, name)
    rule = _CLASS_RULES.get(new)
    if rule is not None:
        new = rule(new, settings, path, account)
    if new != name:
        account.changed(path, f"{name} is {new}")
    _rename(new, settings, path, account)
    _drop(new, settings, path, account)
    translate_objects(settings, path, account)
    _scale(new, settings, path, account)
    return Built("keras.layers", new, settings)


def _rename(name: str, settings: Config, path: Path, account: Account) -> None:
    for old, new in _RENAMED_SETTINGS.get(name, {}).items():
        if old in settings and new not in settings:
            settings[new] = settings.pop(old)
            account.changed(path, f"{old} of {name} is called {new}")


def _drop(name: str, settings: Config, path: Path, account: Account) -> None:
    """Drop settings that Keras 3 does not have, where they change nothing."""
    harmless = {**_HARMLESS, **_HARMLESS_OF.get(name, {})}
    dropped = []
    for key in [key for key in settings if key in harmless]:
        values, value = harmless[key], settings[key]
        if not any(allowed is _ANY or allowed == value for allowed in values):
            if key not in _KEPT:
                account.refuse(path, f"{key}={value!r:.60} of {name} has no counterpart in Keras 3")
            continue
        del settings[key]
        if key not in _KEPT and key not in _OF_THE_INPUT:
            plain = value is None or isinstance(value, (bool, int, float, str))
            dropped.append(f"{key}={value}" if plain else key)
    if dropped:
        account.changed(path, f"dropped, since Keras 3 has no such settings: {', '.join(dropped)}")


_OF_THE_INPUT = ("batch_input_shape", "input_dtype")
_KEPT = ("sparse", "ragged", "optional", "output_padding", "zero_output_for_mask")


def translate_objects(settings: Config, path: Path, account: Account) -> None:
    """Put dtype, initialisers, regularisers, constraints and activations in the form of Keras 3.

    Args:
        settings: of a layer, changed in place.
        path: of the layer.
        account: where changes and obstacles are noted.
    """
    for key, value in settings.items():
        module = kind_of(key)
        if module is not None:
            settings[key] = object_of(value, module, path, account)
        elif key in ACTIVATION_KEYS:
            settings[key] = activation_of(value, path, account)
        elif key == "dtype":
            settings[key] = policy_of(value, path, account)


# -- hard_sigmoid ----------------------------------------------------------------------------------

_GATED = ("LSTM", "GRU", "LSTMCell", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_LINEAR = frozenset(
    {
        *("Dense", "EinsumDense", "DepthwiseConv1D", "DepthwiseConv2D"),
        *(f"Conv{rank}D{kind}" for rank in (1, 2, 3) for kind in ("", "Transpose")),
    }
)


def _scale(name: str, settings: Config, path: Path, account: Account) -> None:
    """Have weights scaled where an activation is `hard_sigmoid`, which Keras 3 calls another.

    Which variables these are, the child tells that builds the model.
    """
    keys = [key for key in ACTIVATION_KEYS if is_hard_sigmoid(settings.get(key))]
    if not keys or name == "Activation":
        return
    told = "hard_sigmoid of Keras 2, clip(0.2x + 0.5), is that of Keras 3 of 1.2x"
    is_gated = keys == ["recurrent_activation"] and name in _GATED
    if is_gated or (keys == ["activation"] and name in _LINEAR):
        account.hard_sigmoids.append("/".join(path))
        what = "the weights of its gates are" if is_gated else "its weights are"
        account.changed(path, f"{told}: {what} multiplied by 1.2")
    else:
        account.refuse(path, f"{name} with hard_sigmoid, which means something else in Keras 3")


# -- classes of their own --------------------------------------------------------------------------


def _cudnn(name: str, settings: Config, path: Path, account: Account) -> str:
    """CuDNNLSTM and CuDNNGRU: LSTM and GRU with the activations that cuDNN has."""
    base = name.removeprefix("CuDNN")
    settings.update({"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True})
    if base == "GRU":
        settings["reset_after"] = True
    return base


def _batch_normalization(name: str, settings: Config, path: Path, account: Account) -> str:
    axis = settings.get("axis")
    if isinstance(axis, list):
        if len(axis) == 1:
            settings["axis"] = axis[0]
            account.changed(path, f"axis={axis} of {name} is {axis[0]}")
        else:
            account.refuse(path, f"axis={axis} of {name}: Keras 3 normalises over one axis")
    if name == "SyncBatchNormalization":
        settings["synchronized"] = True
    return "BatchNormalization"


def _thresholded_relu(name: str, settings: Config, path: Path, account: Account) -> str:
    settings["threshold"] = settings.pop("theta", 1.0)
    return "ReLU"


def _gru(name: str, settings: Config, path: Path, account: Account) -> str:
    settings.setdefault("reset_after", False)  # files of before Keras 2.1.2 do not say
    return name


def _discretization(name: str, settings: Config, path: Path, account: Account) -> str:
    if settings.get("bin_boundaries") is None and settings.get("bins") is not None:
        settings["bin_boundaries"] = settings.pop("bins")
    if settings.get("bin_boundaries") is not None and settings.get("num_bins") is not None:
        settings["num_bins"] = None
    dtype = settings.get("dtype")
    if isinstance(dtype, str) and dtype.startswith(("int", "uint")):
        # Keras 2 converts its bins to this dtype, Keras 3 the numbers that are put into them too.
        settings["dtype"] = "float32"
        account.changed(
            path, f"dtype={dtype} of {name} is float32: Keras 3 would truncate its input"
        )
    return name


def _lookup(name: str, settings: Config, path: Path, account: Account) -> str:
    """Give a layer the words that the file keeps beside its config."""
    if settings.get("output_mode") == "tf_idf" and settings.get("idf_weights") is None:
        account.refuse(path, f"the file holds no idf_weights of this {name}")
    words = account.vocabularies.get("/".join(path), account.vocabularies.get(path[-1]))
    if settings.get("vocabulary") is None and words is not None:
        settings["vocabulary"] = words
        account.changed(path, f"its {len(words)} words are in its config")
    elif isinstance(settings.get("vocabulary"), str):
        account.refuse(path, f"{name} takes its words from a file: {settings['vocabulary']!r}")
    elif settings.get("vocabulary") is None:
        account.refuse(path, f"the file holds no vocabulary of this {name}")
    return name


def _input(name: str, settings: Config, path: Path, account: Account) -> str:
    shape = settings.pop("batch_input_shape", None)
    if shape is not None and settings.get("batch_shape") is None:
        settings["batch_shape"] = shape
        account.changed(path, "batch_input_shape of InputLayer is called batch_shape")
    if settings.get("dtype") is None and settings.get("input_dtype"):
        settings["dtype"] = settings.pop("input_dtype")
    for key in ("shape", "input_tensor", "type_spec", "batch_size"):
        if settings.get(key) is None:
            settings.pop(key, None)
    settings.pop("trainable", None)
    return name


def _lambda(name: str, settings: Config, path: Path, account: Account) -> str:
    """Lambda: a function by its name, or Python bytecode, which only trust takes over."""
    for key in ("function", "output_shape", "mask"):
        kind = settings.pop(f"{key}_type", None)
        module = settings.pop("module" if key == "function" else f"{key}_module", None)
        value = settings.get(key)
        code = _code_of(value)
        if code is not None:
            account.holds_code = True
            if not account.is_trusted:
                account.refuse(path, f"{name} holds Python code ({key})")
            settings[key] = {"class_name": "__lambda__", "config": code}
            account.changed(path, f"{key} of {name}: Python code taken over as it is")
        elif isinstance(value, str) and kind == "function":
            settings[key] = {
                "module": module,
                "class_name": "function",
                "config": value,
                "registered_name": value,
            }
        elif value is None:
            settings.pop(key, None)
    return name


def _code_of(value: Any) -> Config | None:
    """Return Python bytecode as Keras 3 keeps it; None where a setting holds none."""
    if isinstance(value, Mapping) and value.get("class_name") == "__lambda__":
        config = value.get("config") or {}
        return dict(config) if isinstance(config, Mapping) else None
    is_dump = isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)
    return dict(zip(("code", "defaults", "closure"), value, strict=True)) if is_dump else None


_CLASS_RULES: dict[str, Callable[[str, Config, Path, Account], str]] = {
    "CuDNNLSTM": _cudnn,
    "CuDNNGRU": _cudnn,
    "BatchNormalization": _batch_normalization,
    "SyncBatchNormalization": _batch_normalization,
    "ThresholdedReLU": _thresholded_relu,
    "GRU": _gru,
    "GRUCell": _gru,
    "Discretization": _discretization,
    "StringLookup": _lookup,
    "IntegerLookup": _lookup,
    "TextVectorization": _lookup,
    "InputLayer": _input,
    "Lambda": _lambda,
}


# -- calls -----------------------------------------------------------------------------------------


def arguments_of(
    class_name: str, call: Call, config: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call as Keras 3 takes them.

    Keras 2 gives recurrent layers their states within the list of inputs; Keras 3 takes them by
    `initial_state`.

    Args:
        class_name: of Keras 3.
        call: of the layer.
        config: of the layer, as Keras 2 has it.
    """
    kwargs = dict(call.kwargs)
    inputs = call.inputs
    if is_recurrent(class_name) and isinstance(inputs, list) and len(inputs) > 1:
        inputs, states = inputs[0], inputs[1:]
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        kwargs["initial_state"] = states
    if is_recurrent(class_name) and kwargs.get("constants") is None:
        kwargs.pop("constants", None)
    if class_name in ("Attention", "AdditiveAttention") and config.get("causal"):
        kwargs["use_causal_mask"] = True
    return [inputs], kwargs


def is_recurrent(class_name: str) -> bool:
    """Whether a layer of Keras takes states beside its input."""
    return class_name in ("RNN", "LSTM", "GRU", "SimpleRNN", "Bidirectional") or (
        class_name.startswith("ConvLSTM")
    )
