"""What each class of Keras takes for a setting that a config does not give.

`keras_defaults.txt` says it for Keras 3.1 to 3.15, and for classes that only Keras 2 has; it was
read off their constructors (`tests/support/make_keras_defaults.py`).  With it, a setting that came
with a later version is the same, left out or written with its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HEAD = (
    "# Settings of Keras classes and their defaults: FAMILY.CLASS, then SETTING=JSON, by tabs;",
    "# and other names of classes and functions: FAMILY.NAME, tab, FAMILY.CLASS.",
    "# Made by tests/support/make_keras_defaults.py.",
)
# What every layer takes, custom ones included (keras/src/layers/layer.py, `Layer.__init__`).
_LAYER = "layers.Layer"
_FAMILIES = frozenset(
    {"layers", "models", "initializers", "regularizers", "constraints", "optimizers", "losses"}
    | {"metrics", "activations", "dtype_policies", "quantizers", "random"}
)


def defaults_of(class_name: str, module: str, kind: str = "") -> Mapping[str, Any]:
    """Return {setting: default} of a class; of an unknown one, what all of its kind take.

    Beside settings there are the defaults of what a layer is called with (`call.training`), and the
    bounds of a `factor` that may be a number or a pair (`bounds.factor`).

    Args:
        class_name: without what registers it.
        module: as a config names it ("keras.layers", "keras.src.layers.core.dense"), or "".
        kind: the family where a config tells no module: "layers", "optimizers", ...
    """
    family = kind
    if f"{module}.".startswith(("keras.", "tf_keras.")):
        family = next((part for part in module.split(".") if part in _FAMILIES), kind)
    elif module:  # somebody's own class, whatever it is called
        return _table().defaults.get(_LAYER, {}) if kind == "layers" else {}
    found = _table().defaults.get(f"{family}.{one_name(class_name, family)}")
    if family == "models" or (found is None and family == "layers"):
        return {**_table().defaults.get(_LAYER, {}), **(found or {})}
    return found or {}


def one_name(name: str, family: str) -> str:
    """Return the name that stands for a class or function that Keras has by several."""
    return _table().names.get(f"{family}.{name}", f".{name}").split(".", 1)[1]


def class_of_word(word: str, family: str) -> str | None:
    """Return the class that a word such as `glorot_uniform` stands for in a family; None if none.

    Args:
        word: as a config has it in place of a serialized object.
        family: "initializers", "optimizers", ...
    """
    return _table().words.get((family, folded(one_name(word, family))))


def folded(word: str) -> str:
    """Return a name without underscores and capitals, as `glorot_uniform` and `GlorotUniform`."""
    return word.replace("_", "").lower()


class _KerasDefaults(NamedTuple):
    """defaults: by "family.Class".  names: other name -> that one.  words: folded -> class."""

    defaults: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]
    words: Mapping[tuple[str, str], str]


@cache
def _table() -> _KerasDefaults:
    text = Path(__file__).with_name("keras_defaults.txt").read_text(encoding="utf-8")
    defaults: dict[str, Mapping[str, Any]] = {}
    names: dict[str, str] = {}
    words: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, *pairs = line.split("\t")
        if len(pairs) == 1 and "=" not in pairs[0]:
            names[name] = pairs[0]
            continue
        defaults[name] = {
            key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)
        }
        family, short = name.split(".", 1)
        if not short.islower():  # of Keras 2: classes of TensorFlow 1 called as functions
            words[family, folded(short)] = short
    return _KerasDefaults(defaults, names, words)
