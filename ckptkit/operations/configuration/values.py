"""The settings of one object of Keras in one form, whichever version wrote them.

A setting is a plain value, or a serialized object: `{"class_name", "config", …}` with a module and
a registered name that versions call differently.  Keras 2 wrote a function by its name, Keras 3 as
an object; lists, tuples and arrays likewise (keras/src/saving/serialization_lib.py,
keras/src/legacy/saving/serialization.py).  In the canonical form

- a setting that has its default is left out, so that files of before and after there was one agree;
- a number that a float32 holds is the shortest decimal that it is the float32 of (a learning rate
  of 0.001 is saved as 0.0010000000474974513), and 1.0 is 1;
- tuples, shapes and arrays are lists; a dtype policy without settings is its name; a function is
  its name; an initializer or loss without settings is the name of its class, `glorot_uniform` as
  well;
- what Keras makes up is left out: names that count, modules, shared object ids, the build.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from ckptkit.operations.configuration.defaults import class_of_word, defaults_of, folded, one_name
from ckptkit.operations.configuration.python_code import digest_of_code
from ckptkit.text import lazy_pattern

Settings = dict[str, Any]

# Words of lookup tables are compared as such, by whichever means a file holds them.
VOCABULARY = "vocabulary"
# Follow from the words, or from how an object was stored.
_OF_THE_WORDS = frozenset({"vocabulary_size", "has_vocabulary", "has_input_vocabulary"})
# How optimizers of Keras 2 are run; they choose it by themselves, from the machine.
_OF_THE_MACHINE = frozenset({"jit_compile", "is_legacy_optimizer"})
# What the name of a dtype policy is made of.
_OF_THE_NAME = frozenset({"name", "mode", "source_name"})
# How a layer of dtype int8 or float8 is quantized where nothing is said of it, as by Keras before
# there was such a setting (keras/src/layers/core/dense.py, `_int8_build`).
_QUANTIZED_ANYWAY = (
    {"class": "Int8QuantizationConfig", "activation_quantizer": "AbsMaxQuantizer"},
    {"class": "Float8QuantizationConfig"},
)
CODE = "<lambda>"  # as Keras 2 wrote every function without a name
_ARRAYS = ("__numpy__", "__tensor__")
_GENERATION = lazy_pattern(r"V[123]$")
_COUNTER = lazy_pattern(r"_\d+$")
_DIRECTION = lazy_pattern(r"^((forward|backward)_)+")  # as Bidirectional calls its layers
# Which family a setting is of, by the end of its name.
_FAMILIES = {
    "initializer": "initializers",
    "regularizer": "regularizers",
    "constraint": "constraints",
    "optimizer": "optimizers",
    "rate": "optimizers",  # a learning rate may be a schedule
    "loss": "losses",
    "metrics": "metrics",
    "quantizer": "quantizers",
    "layer": "layers",
    "cell": "layers",
    "cells": "layers",
    "activation": "activations",
}


def class_of(name: str, family: str = "layers") -> str:
    """Return a class's name without what registers it ("Package>Name") and TensorFlow's "V2".

    Of several names that Keras has for one class, it is always the same one.
    """
    return one_name(_GENERATION.sub("", name.rpartition(">")[2]) or name, family)


def is_automatic(name: str, class_name: str) -> bool:
    """Whether Keras made up an object's name: `dense_7` of a Dense, `model_1` of a Functional."""
    made = folded(_COUNTER.sub("", name).rpartition(".")[2])  # of Keras 2: tf.math.multiply_1
    bare = folded(class_of(class_name))
    return made == bare or made == {"functional": "model", "inputlayer": "input"}.get(bare)


def family_of(key: str) -> str:
    """Return the family of classes that a setting of this name holds; "" where none is known."""
    return _FAMILIES.get(key.rpartition("_")[2], "")


def settings_of(
    class_name: str,
    module: str,
    config: Mapping[str, Any],
    family: str,
    left_out: frozenset[str] = frozenset(),
) -> tuple[Settings, Settings]:
    """Return (settings that are not the default, defaults) of an object, in the canonical form.

    Args:
        class_name: as the config has it.
        module: as the config has it, or "".
        config: its settings.
        family: of its class, where no module tells.
        left_out: settings that are told otherwise.
    """
    known = defaults_of(class_of(class_name), module, family)
    defaults = canonical_defaults(class_of(class_name), module, family)
    if family == "optimizers":
        left_out |= _OF_THE_MACHINE
    found: Settings = {}
    for key, value in config.items():
        if key in left_out or key in _OF_THE_WORDS or key == VOCABULARY:
            continue
        if key == "name" and isinstance(value, str) and is_made_up(value, class_name):
            continue
        plain = canonical(value, key)
        if family == "losses" and _is_its_own_function(key, value, class_name):
            continue
        if f"bounds.{key}" in known:
            plain = _one_factor(plain, known[f"bounds.{key}"])
        if key not in defaults or not is_default(plain, defaults[key]):
            found[key] = plain
    if "merge_mode" in config:  # Bidirectional
        _without_mirror(found)
    if found.get("lora_rank") is not None:  # keras/src/layers/core/dense.py, `enable_lora`
        found.setdefault("lora_alpha", found["lora_rank"])
    if found.get("quantization_config") in _QUANTIZED_ANYWAY:
        del found["quantization_config"]
    told_otherwise = {"name", *left_out}
    return found, {key: value for key, value in defaults.items() if key not in told_otherwise}


def _is_its_own_function(key: str, value: Any, class_name: str) -> bool:
    """Whether a loss of Keras 2 names the function that its class stands for."""
    return key == "fn" and isinstance(value, str) and folded(value) == folded(class_of(class_name))


def _one_factor(value: Any, bounds: Sequence[Any]) -> Any:
    """Return a pair as the number that Keras 3 makes this pair of; older versions keep the number.

    Source: keras/src/layers/preprocessing/image_preprocessing/base_image_preprocessing_layer.py.
    """
    if isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) for x in value):
        lower, upper = value
        return upper if upper >= 0 and lower == max(-upper, bounds[0]) else value
    return value


def _without_mirror(settings: Settings) -> None:
    """Leave out what Bidirectional makes of its layer by itself.

    That is its second layer where it is the first one, run backwards, which Keras 2 writes only
    where it was given; and `zero_output_for_mask` of both
    (keras/src/layers/rnn/bidirectional.py, `force_zero_output_for_mask`).
    """
    layer, other = settings.get("layer"), settings.get("backward_layer")
    for inner in (layer, other):
        # one that says null is let alone, which is no default
        if isinstance(inner, dict) and inner.get("zero_output_for_mask") is not None:
            del inner["zero_output_for_mask"]
    if isinstance(layer, dict) and isinstance(other, dict):
        turned = bool(layer.get("go_backwards")) != bool(other.get("go_backwards"))
        if turned and is_same(*map(_either_way, (layer, other))):
            del settings["backward_layer"]


def _either_way(layer: Settings) -> Settings:
    """Return settings of a layer of Bidirectional without those that tell its two layers apart."""
    found = {key: value for key, value in layer.items() if key != "go_backwards"}
    if isinstance(found.get("name"), str):
        found["name"] = _DIRECTION.sub("", found["name"])
    return found


def mirrored(layer: Mapping[str, Any]) -> Settings:
    """Return the settings of the second layer that Bidirectional makes of its first one."""
    found = _either_way(dict(layer))
    if "name" in found:
        found["name"] = f"backward_{found['name']}"
    return found if layer.get("go_backwards") else {**found, "go_backwards": True}


def defaults_below(class_name: str, key: str) -> Settings:
    """Return the defaults of a canonical object that a setting holds."""
    return dict(canonical_defaults(class_name, "", family_of(key)))


@cache
def canonical_defaults(class_name: str, module: str, family: str) -> Mapping[str, Any]:
    """Return the defaults of a class's settings in the canonical form."""
    known = defaults_of(class_name, module, family)
    return {key: canonical(value, key) for key, value in known.items() if "." not in key}


def is_made_up(name: str, class_name: str) -> bool:
    """Whether a name is automatic, that of a wrapper for its layer included."""
    return is_automatic(_DIRECTION.sub("", name), class_name)


def is_default(value: Any, default: Any) -> bool:
    """Whether a canonical value is a default; what is off unless given is saved as false."""
    return is_same(value, default) or (value is False and default is None)


def is_same(one: Any, other: Any) -> bool:
    """Whether two canonical values are the same, true and 1 told apart."""
    if one is None or isinstance(one, (bool, str)):
        return type(one) is type(other) and bool(one == other)
    return text_of(one) == text_of(other)


def text_of(value: Any) -> str:
    """Return a canonical value as JSON: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


# -- values ----------------------------------------------------------------------------------------


def canonical(value: Any, key: str = "") -> Any:
    """Return a setting as plain values.

    Args:
        value: as JSON has it.
        key: the name of the setting, which tells what a word or an object of Keras 2 is.
    """
    function = _function_in(value)
    if function is not None:
        return _canonical_function(function)
    if key == "dtype":
        return _dtype(value)
    if key == "reduction" and value == "auto":  # Keras 2, which means this one by it
        return "sum_over_batch_size"
    if key == "data_format" and value is None:
        return "channels_last"
    if isinstance(value, Mapping):
        return _object(value, key) if "class_name" in value else _each(value, key)
    if isinstance(value, list):
        if key == "axis" and len(value) == 1:  # Keras 2 wrote `[3]`
            return canonical(value[0])
        return [canonical(item, key) for item in value]
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str) and family_of(key):
        # without the package, which `.h5` alone writes here
        bare = value.rpartition(">")[2] or value
        return class_of_word(bare, family_of(key)) or one_name(bare, family_of(key))
    return value


def _dtype(value: Any) -> Any:
    if value is None:
        return "float32"
    if isinstance(value, Mapping):
        inner = value.get("config")
        if not isinstance(inner, Mapping):
            return canonical(inner)
        name = inner.get("name")
        if not isinstance(name, str) and inner.get("mode") and inner.get("source_name"):
            # the class's own name of it, `int8_from_float32`, is put together so
            name = f"{inner['mode']}_from_{inner['source_name']}"
        if isinstance(name, str):
            kind, module = str(value.get("class_name")), str(value.get("module") or "")
            settings, _ = settings_of(kind, module, inner, "dtype_policies", _OF_THE_NAME)
            return {"class": name, **settings} if settings else name
        return {"class": class_of(str(value.get("class_name"))), **_each(inner, "")}
    return value


def _each(values: Mapping[str, Any], key: str) -> Settings:
    return {
        str(name): canonical(value, key if key in _KEYED else str(name))
        for name, value in values.items()
    }


_KEYED = frozenset({"loss", "metrics", "weighted_metrics"})  # dictionaries by output


def _object(value: Mapping[str, Any], key: str) -> Any:
    """Return a serialized object: a name for functions and policies, plain values for arrays."""
    name, config = str(value["class_name"]), value.get("config")
    if isinstance(value.get("items"), list):  # `__tuple__`, and `TensorShape` in SavedModels
        return canonical(value["items"], key)
    if name in _ARRAYS and isinstance(config, Mapping):
        return canonical(config.get("value"))
    if isinstance(config, str):  # a function: `{"class_name": "function", "config": "my_relu"}`
        return canonical(class_of(config, family_of(key)), key)
    inner = config if isinstance(config, Mapping) else {}
    if name.endswith("Policy"):
        return _dtype(value)
    module = value.get("module")
    family = family_of(key)
    settings, _ = settings_of(name, module if isinstance(module, str) else "", inner, family)
    if not settings and family and family not in ("layers", "activations"):
        return class_of(name, family)
    return {"class": class_of(name, family or "layers"), **settings}


@lru_cache(maxsize=4096)
def _number(value: float) -> float | int:
    """Return the shortest decimal of a float32 that a double was made from; 1.0 as 1."""
    if value != value or value in (float("inf"), float("-inf")):
        return value
    if value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    try:
        single = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return value
    if single != value:
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.unpack("<f", struct.pack("<f", short))[0] == value:
            return int(short) if short.is_integer() else short
    return value


class _LambdaFunction(NamedTuple):
    """A function without a name: its code in base64, values of arguments and of free variables."""

    code: Any
    defaults: Any
    closure: Any


def _function_in(value: Any) -> _LambdaFunction | None:
    """Return a function without a name; None of any other value.

    Keras 3 writes `{"class_name": "__lambda__", "config": {"code", "defaults", "closure"}}` or, as
    Keras 1 and 2 do in `.h5`, a list of these three; the code is marshalled, so a "c" leads it,
    with or without the highest bit.
    """
    if isinstance(value, Mapping) and value.get("class_name") == "__lambda__":
        config = value.get("config")
        if not isinstance(config, Mapping):
            return _LambdaFunction(None, None, None)
        return _LambdaFunction(config.get("code"), config.get("defaults"), config.get("closure"))
    if isinstance(value, Mapping) and set(value) == {"value"}:
        value = value["value"]
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], str):
        return None
    looks = len(value[0]) > 40 and value[0].startswith(("4w", "Y"))
    return _LambdaFunction(*value) if looks else None


def _canonical_function(function: _LambdaFunction) -> Any:
    """Return a function by the values that its code uses; the code itself is told otherwise."""
    values = {"defaults": canonical(function.defaults), "closure": canonical(function.closure)}
    kept = {key: value for key, value in values.items() if value}
    return {"class": CODE, **kept} if kept else CODE


def _digest_of(code: Any) -> str:
    if isinstance(code, str):
        return digest_of_code(code)
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode("ascii")).hexdigest()


def codes_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, digest) of the code of each function without a name in a config."""
    function = _function_in(value)
    if function is not None:
        yield path, _digest_of(function.code)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from codes_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from codes_in(item, f"{path}[{at}]")
