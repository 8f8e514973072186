"""What loading a Keras config could do: classes outside an allowlist, code, paths.

A class is allowed when it is one of Keras's own that a config can name, in a public module or among
the operations of `keras.ops`, and does nothing but compute with what its config holds: all but
those of `stores._keras_config.UNSAFE` and the operations that call a function they are given.
`keras_classes.txt` is the list; `python tests/support/make_keras_classes.py` makes it anew from the
installed Keras, to which the layers of Keras 1 and 2 are added.  Whatever else a config names is
"unknown", at any depth: it needs code that is not in the file, or runs code that is.

Strings that are paths or URLs are reported too: a layer opens its `vocabulary` when it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ckptkit.operations.findings import Finding
from ckptkit.stores.keras.config import LEGACY_CLASSES, UNSAFE

# Operations of keras.ops that take a function, or look one up.
_CALLERS = frozenset(
    {"Cond", "Map", "Scan", "AssociativeScan", "WhileLoop", "ForiLoop", "VectorizedMap", "Switch"}
    | {"CustomGradient", "Vectorize", "Fori", "Operation", "Layer", "Wrapper", "Metric", "Loss"}
    | {"Function", "JVP"}
)
# How Keras writes plain values; __lambda__ is not among them.
_VALUES = frozenset(
    {
        "__bytes__",
        "__complex__",
        "__ellipsis__",
        "__keras_tensor__",
        "__numpy__",
        "__slice__",
        "__tensor__",
        "__tuple__",
        "__typespec__",
        "CompositeTensorSpec",
        "DType",
        "TensorShape",
        "TypeSpec",
    }
)
# Keras 2.11 to 2.15 registers its own optimizers as if they were somebody else's.
_OPTIMIZERS = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion")
_OWN_CUSTOM = frozenset(f"Custom>{name}" for name in (*_OPTIMIZERS, "Nadam", "RMSprop", "SGD"))
_MODULES = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras")
_PATH_KEYS = frozenset({"vocabulary", "filepath", "filename", "file", "path", "url", "idf_weights"})
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|/|~|\\\\|[A-Za-z]:[\\/]|\.\.[\\/]")


def may_be_allowed(name: str) -> bool:
    """Whether the rule allows one of Keras's own classes by that name."""
    return name not in UNSAFE and name not in _CALLERS


@cache
def allowed_classes() -> frozenset[str]:
    """Return the names of the classes that only compute."""
    text = Path(__file__).with_name("keras_classes.txt").read_text(encoding="utf-8")
    listed = (line for line in text.splitlines() if line and not line.startswith("#"))
    # Keras 2 keeps calls of TensorFlow functions by name in TFOpLambda
    legacy = {name for name in LEGACY_CLASSES if may_be_allowed(name) and name != "TFOpLambda"}
    return frozenset(listed) | legacy


def config_findings(config: Any, where: str) -> Iterator[Finding]:
    """Yield what is not known to be harmless in a config, with the JSON path of each."""
    pending: list[tuple[Any, str]] = [(config, "")]
    while pending:
        item, path = pending.pop()
        if isinstance(item, Mapping):
            yield from _object(item, f"{where}{path}")
            pending.extend((item[key], f"{path}.{key}") for key in reversed([*item]))
            for key, value in item.items():
                yield from _string(str(key), value, f"{where}{path}.{key}")
        elif isinstance(item, list):
            pending.extend((value, f"{path}[{i}]") for i, value in reversed([*enumerate(item)]))
            for index, value in enumerate(item):
                yield from _string("", value, f"{where}{path}[{index}]")


def _object(item: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Judge one serialized object."""
    if "class_name" not in item:
        return
    name, module = item["class_name"], item.get("module")
    registered = item.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None):
        yield Finding("warning", "keras.unknown", where, "a class name that is no text")
    elif name == "__lambda__" or name == "Lambda":
        hint = "never load it with safe_mode=False"
        yield Finding("error", "keras.lambda", where, "holds Python code of its own", hint)
    elif name in UNSAFE:
        yield Finding("error", "keras.unsafe", where, f"{name}: {UNSAFE[name]}")
    elif name == "function":
        what = item.get("config")
        yield _unknown(where, f"the function {what!r} of {module or 'an unnamed module'}")
    elif name in _VALUES and (module is None or _is_keras(module) or _is_typespec(name, module)):
        return
    elif name not in allowed_classes() and name not in _OWN_CUSTOM:
        yield _unknown(where, f"the class {_full(module, registered, name)}")
    elif module is not None and not _is_keras(module):
        yield _unknown(where, f"the class {name} of {module}, which is not Keras's")
    elif isinstance(registered, str) and registered not in ("", name) and ">" in registered:
        yield _unknown(where, f"the registered class {registered}")


def _unknown(where: str, what: str) -> Finding:
    hint = "it needs Python code that is not in the file, or is not known to be harmless"
    return Finding("warning", "keras.unknown", where, f"names {what}", hint)


def _full(module: str | None, registered: object, name: str) -> str:
    if isinstance(registered, str) and ">" in registered:
        return registered
    return f"{module}.{name}" if module else name


def _is_typespec(name: str, module: str) -> bool:
    return name == "__typespec__" and f"{module}.".startswith("tensorflow.")


def _is_keras(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _MODULES)


def _string(key: str, value: Any, where: str) -> Iterator[Finding]:
    """Report a string that names a file or address."""
    if not isinstance(value, str) or not value:
        return
    if key in _PATH_KEYS or _PATH.match(value):
        shown = value if len(value) <= 80 else f"{value[:80]}..."
        message = f"the text {shown!r} looks like a path or address; it may be opened"
        yield Finding("warning", "keras.path", where, message)
