"""The settings of a layer in one form, whichever version of Keras wrote them.

A setting is a plain value, or a serialized object: `{"class_name", "config", …}` with a module and
a registered name that versions call differently.  Keras 2 wrote a function by its name, Keras 3 as
an object; lists, tuples and arrays likewise (keras/src/saving/serialization_lib.py,
keras/src/legacy/saving/serialization.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ckptkit.golden.keras_config import decides
from ckptkit.stores.keras.config import LayerConfig

Settings = dict[str, Any]

# Python code, which every version of Python writes as other bytes; and what goes with it.
_CODE = frozenset({"function", "function_type", "output_shape_type", "mask"})
# Words of lookup tables are compared as such (`vocabularies`).
VOCABULARY = "vocabulary"
_UNNAMED = "<lambda>"  # as Keras 2 wrote every function without a name
_ARRAYS = ("__numpy__", "__tensor__")
_GENERATION = re.compile(r"V[123]$")
_COUNTER = re.compile(r"_\d+$")
_MAX_SHOWN = 40
# What `.keras` calls a class that `.h5` calls by its name in Python: the one layer of Keras 3 whose
# name in `keras_export` is another one.
_EXPORTED = {"GroupQueryAttention": "GroupedQueryAttention"}


def class_of(name: str) -> str:
    """Return a class's name without what registers it ("Package>Name") and TensorFlow's "V2"."""
    bare = _GENERATION.sub("", name.rpartition(">")[2]) or name
    return _EXPORTED.get(bare, bare)


def settings_of(layer: LayerConfig) -> Settings:
    """Return what a layer's own config sets that decides what it computes."""
    return _settings(layer.class_name, layer.config)


def _settings(class_name: str, config: Mapping[str, Any]) -> Settings:
    code = _CODE if class_of(class_name) == "Lambda" else frozenset()
    return {
        key: _axis(value) if key == "axis" else plain(value)
        for key, value in config.items()
        if decides(key) and key not in code and key != VOCABULARY
    }


def _axis(value: Any) -> Any:
    """Return one axis as a number: Keras 2 wrote `[3]`."""
    return value[0] if isinstance(value, list) and len(value) == 1 else plain(value)


def plain(value: Any) -> Any:
    """Return a setting as plain values: names of functions, lists for tuples and arrays."""
    if _is_code(value):
        return _UNNAMED
    if isinstance(value, Mapping):
        return _object(value) if "class_name" in value else _each(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_code(value: Any) -> bool:
    """Whether this is the code of a function without a name, as Keras 3 writes one in `.h5`.

    A list of its bytes in base64, default arguments and closure; the bytes are marshalled, so a "c"
    leads them, with or without the highest bit.
    """
    if isinstance(value, Mapping) and set(value) == {"value"}:
        value = value["value"]
    if not isinstance(value, list) or len(value) != 3:
        return False
    return isinstance(value[0], str) and len(value[0]) > 40 and value[0].startswith(("4w", "Y"))


def _each(values: Mapping[str, Any]) -> Settings:
    return {str(key): plain(value) for key, value in values.items() if decides(str(key))}


def _object(value: Mapping[str, Any]) -> Any:
    """Return a serialized object: a name for functions and policies, plain values for arrays."""
    name, config = str(value["class_name"]), value.get("config")
    if name == "__lambda__":
        return _UNNAMED
    if isinstance(value.get("items"), list):  # `__tuple__`, and `TensorShape` in SavedModels
        return plain(value["items"])
    if name in _ARRAYS and isinstance(config, Mapping):
        return plain(config.get("value"))
    if isinstance(config, str):  # a function: `{"class_name": "function", "config": "my_relu"}`
        return class_of(config)
    inner = config if isinstance(config, Mapping) else {}
    if name.endswith("Policy") and isinstance(inner.get("name"), str):
        return inner["name"]
    return {"class": class_of(name), **_settings(name, inner)}


# -- comparing -------------------------------------------------------------------------------------


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, of OLD, of NEW) of the settings that both have and that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) & set(new)):
            yield from differences(old[key], new[key], f"{path}.{key}" if path else key)
    elif isinstance(old, Mapping) != isinstance(new, Mapping):
        # one version wrote the object, the other its name alone
        thing, name = (old, new) if isinstance(old, Mapping) else (new, old)
        same_name = isinstance(name, str) and _snake(name) == _snake(str(thing.get("class")))
        if not same_name:
            yield path, old, new
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from differences(left, right, f"{path}[{at}]")
    elif not _same(old, new, path.rpartition(".")[2]):
        yield path, old, new


def _snake(name: str) -> str:
    return class_of(name).replace("_", "").lower()


def _same(old: Any, new: Any, key: str) -> bool:
    if key == "axis" and type(old) is type(new) is int and (old < 0) != (new < 0):
        return True  # counted from the other end; the rank is not known
    if key == "dtype" and isinstance(old, str) and isinstance(new, str):
        # Keras 2 gives a layer that looks words up the dtype of what it returns, Keras 3 a policy
        return old == new or "float" not in old or "float" not in new
    if isinstance(old, list) != isinstance(new, list):
        # `kernel_size=3` and `[3, 3]` are one setting of old and new versions
        many, one = (old, new) if isinstance(old, list) else (new, old)
        return bool(many) and all(item == one for item in many)
    return bool(old == new)


def shown(value: Any) -> str:
    """Return a setting as one short word or so."""
    if isinstance(value, Mapping) and "class" in value:
        value = value["class"]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def is_automatic(name: str, class_name: str) -> bool:
    """Whether Keras made up a layer's name: `dense_7` of a Dense."""
    return _snake(_COUNTER.sub("", name)) == _snake(class_name)
