"""What loading a Keras config could do: classes outside an allowlist, code, paths.

A class is allowed when it is one of Keras's own that a config can name, in a public module or among
the operations of `keras.ops`, and does nothing but compute with what its config holds: all but
those of `stores.keras.config.UNSAFE` and the operations that call a function they are given.
`keras_classes.txt` is the list; `python tests/support/make_keras_classes.py` makes it anew from the
installed Keras, to which the layers of Keras 1 and 2 are added.  Whatever else a config names is
"unknown", at any depth: it needs code that is not in the file, or runs code that is.

A function is allowed by name where Keras finds it in its own modules (`keras_functions.txt`), and a
function of TensorFlow (TFOpLambda of Keras 2) where its op only computes.

Strings that are paths or URLs are reported too: a layer opens its `vocabulary` when it is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ckptkit.operations.findings import Finding
from ckptkit.operations.scan.rule import harmless_ops
from ckptkit.stores.keras.config import LEGACY_CLASSES, UNSAFE
from ckptkit.text import lazy_pattern

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
        "CompositeTensorSpec",
        "DType",
        "TensorShape",
        "TypeSpec",
    }
)
# Keras 2 registers its own optimizers (2.11 to 2.15) and layers of its applications as if they
# were somebody else's.
_OPTIMIZERS = ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lion")
_OWN = frozenset({*_OPTIMIZERS, "Nadam", "RMSprop", "SGD", "CustomScaleLayer", "LayerScale"})
_OWN_CUSTOM = frozenset(f"Custom>{name}" for name in _OWN)
_MODULES = (
    *("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras"),
    *("tensorflow.python.ops.init_ops", "tensorflow.python.ops.init_ops_v2"),  # initializers
)
_PATH_KEYS = frozenset(
    {"vocabulary", "vocab", "vocabulary_file", "vocab_file", "idf_weights", "merges"}
    | {"filepath", "filename", "file", "path", "url", "uri", "origin", "directory", "dirpath"}
)
_TOKENS = lazy_pattern(r"vocab(ulary)?|\w*_tokens?")  # texts of the model itself, when listed
_PATH = lazy_pattern(r"[A-Za-z][A-Za-z0-9+.-]*://|/|~|\\\\|[A-Za-z]:[\\/]|\.\.[\\/]")


def may_be_allowed(name: str) -> bool:
    """Whether the rule allows one of Keras's own classes by that name."""
    return name not in UNSAFE and name not in _CALLERS


def _listed(name: str) -> frozenset[str]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


@cache
def allowed_classes() -> frozenset[str]:
    """Return the names of the classes that only compute."""
    # Keras 2 keeps calls of TensorFlow functions by name in TFOpLambda
    legacy = {name for name in LEGACY_CLASSES if may_be_allowed(name) and name not in _TF_CALLERS}
    return _listed("keras_classes.txt") | legacy


@cache
def allowed_functions() -> frozenset[str]:
    """Return the names of Keras's own functions that only compute, as configs give them."""
    return _listed("keras_functions.txt")


def text_findings(data: bytes, where: str) -> Iterator[Finding]:
    """Yield what there is to say of a config as it stands in a file: JSON, read as Keras reads it.

    A key that is given twice is a finding, since not all readers take the last value.
    """
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) < len(items):
            keys = [key for key, _item in items]
            twice.extend(key for key in value if keys.count(key) > 1)
        return value

    try:
        config = json.loads(data, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        message = f"a config that is not read: {type(error).__name__}: {error}"
        yield Finding("warning", "keras.unknown", where, message)
        return
    if twice:
        message = f"the key {twice[0]!r} is given twice: two programs would read two configs"
        yield Finding("warning", "keras.ambiguous", where, message)
    yield from config_findings(config, where)


def is_config(data: bytes) -> bool:
    """Whether JSON is the config of a Keras object, and not of another library's model."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return b"class_name" in data
    return isinstance(config, dict) and "class_name" in config


def revived_findings(data: bytes, where: str) -> Iterator[Finding]:
    """Yield what `text_findings` does, of an object that a SavedModel keeps a graph of.

    Keras 2 revives a layer from its graph where its class is not registered; it looks for code only
    where a config names a module.
    """
    for finding in text_findings(data, where):
        yield replace(finding, severity="note") if finding.code == _CUSTOM else finding


_CUSTOM = "keras.custom"  # a class of somebody else's, of which no module is said


def config_findings(config: Any, where: str) -> Iterator[Finding]:
    """Yield what is not known to be harmless in a config, with the JSON path of each."""
    pending: list[tuple[Any, str, str]] = [(config, "", "")]
    while pending:
        item, path, name = pending.pop()
        if isinstance(item, Mapping):
            yield from _object(item, f"{where}{path}")
            pending.extend((item[key], f"{path}.{key}", str(key)) for key in reversed([*item]))
            for key, value in item.items():
                yield from _string(str(key), value, f"{where}{path}.{key}")
        elif isinstance(item, list):
            pending.extend(
                (value, f"{path}[{i}]", name) for i, value in reversed([*enumerate(item)])
            )
            if not _TOKENS.fullmatch(name):
                for index, value in enumerate(item):
                    yield from _string("", value, f"{where}{path}[{index}]")


def _object(item: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Judge one serialized object."""
    if "class_name" not in item:
        return
    name, module = item["class_name"], item.get("module")
    if not isinstance(name, str) or not isinstance(module, str | None):
        yield Finding("warning", "keras.unknown", where, "a class name that is no text")
        return
    registered = item.get("registered_name")
    last = re.split(r"[.>]", name)[-1]
    if last in ("__lambda__", "Lambda"):
        yield _own_code(where)
    elif last in UNSAFE:
        yield Finding("error", "keras.unsafe", where, f"{name}: {UNSAFE[last]}")
    elif name == "__typespec__":
        if not _is_typespec(item):
            yield _unknown(where, f"the type {item.get('spec_name')!r} of {module}")
    elif name == "function":
        function = item.get("config")
        if not (module is not None and _is_function(function, module)):
            yield _unknown(where, f"the function {function!r} of {module or 'an unnamed module'}")
    elif name in _TF_CALLERS:
        config = item.get("config")
        function = config.get("function") if isinstance(config, Mapping) else None
        if not _is_tf_function(function):
            yield _unknown(where, f"the function {function!r} of TensorFlow")
    elif name in _VALUES and (module is None or _is_keras(module)):
        pass
    elif name not in allowed_classes() and name not in _OWN_CUSTOM:
        code = "keras.unknown" if module else _CUSTOM
        yield replace(_unknown(where, f"the class {_full(module, registered, name)}"), code=code)
    elif module is not None and not _is_keras(module):
        yield _unknown(where, f"the class {name} of {module}, which is not Keras's")
    if last not in ("__lambda__", "Lambda"):
        yield from _typed_functions(item.get("config"), where)
    if registered not in (None, "", name, f"Custom>{name}" if name in _OWN else name):
        yield _unknown(where, f"the registered name {registered!r}, by which Keras looks first")


def _typed_functions(config: Any, where: str) -> Iterator[Finding]:
    """Judge functions whose kind stands beside them: `mode` and `mode_type` of Keras 1's Merge.

    "lambda" is marshalled code, "function" the name of one that the loader has; "raw" is a value.
    """
    for key, kind in config.items() if isinstance(config, Mapping) else ():
        name = str(key).removesuffix("_type")
        if name == key or name not in config:
            continue
        if kind == "lambda":
            yield _own_code(f"{where}.config.{name}")
        elif kind == "function":
            yield _unknown(f"{where}.config.{name}", f"the function {config[name]!r}")


def _own_code(where: str) -> Finding:
    hint = "never load it with safe_mode=False"
    return Finding("error", "keras.lambda", where, "holds Python code of its own", hint)


def _unknown(where: str, what: str) -> Finding:
    hint = "it needs Python code that is not in the file, or is not known to be harmless"
    return Finding("warning", "keras.unknown", where, f"names {what}", hint)


def _full(module: str | None, registered: object, name: str) -> str:
    if isinstance(registered, str) and ">" in registered:
        return registered
    return f"{module}.{name}" if module else name


def _is_typespec(item: Mapping[str, Any]) -> bool:
    """Whether an object is a specification of TensorFlow's own, such as a TensorSpec."""
    name, module = item.get("spec_name"), item.get("module")
    if module is None and name is None:
        return False
    known = isinstance(name, str) and re.fullmatch(r"[A-Za-z]*Spec", name)
    return bool(known and isinstance(module, str) and _TF_SPECS.match(module))


_TF_SPECS = lazy_pattern(r"tensorflow\.python\.(framework|ops|data)\.[\w.]+\Z")
# Keras looks functions up in these; "builtins" is what it writes as the module of its own
_FUNCTION_MODULES = lazy_pattern(
    r"builtins|(keras|tf_keras)\.(activations|constraints|initializers|losses|metrics|regularizers"
    r"|src\.(activations|losses|metrics)\.\w+)"
)


def _is_function(name: Any, module: str) -> bool:
    """Whether a function is one of Keras's own that only compute."""
    return (
        isinstance(name, str)
        and name in allowed_functions()
        and _FUNCTION_MODULES.fullmatch(module) is not None
    )


# Keras 2 calls functions of TensorFlow by name, "math.multiply" or "reshape", in layers of these
# classes (keras/layers/core/tf_op_layer.py).
_TF_CALLERS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")
_TF_ROOMS = lazy_pattern(r"(math|nn|linalg|signal|image|__operators__|compat\.v1\.(math|nn))\.\w+")
_TF_ACTS = lazy_pattern(
    r"fixed_unigram|py_func|numpy_function|print|file|read|write|save|load|map_fn"
)
_TF_MAKERS = frozenset(
    {"convert_to_tensor", "stack", "unstack", "concat", "ones", "zeros", "constant", "split"}
)


def _is_tf_function(name: Any) -> bool:
    """Whether a function of TensorFlow, as Keras 2 names it, only computes: its op is harmless."""
    if not isinstance(name, str) or _TF_ACTS.search(name):
        return False
    if _TF_ROOMS.fullmatch(name) or name in _TF_MAKERS:
        return True
    op = "".join(part.capitalize() for part in name.split("_"))
    return name.isidentifier() and (op in harmless_ops() or f"{op}V2" in harmless_ops())


def _is_keras(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _MODULES)


def _string(key: str, value: Any, where: str) -> Iterator[Finding]:
    """Report a string that names a file or address."""
    if key == "vocabulary" and isinstance(value, Mapping) and not _is_array(value):
        yield _unknown(where, "a vocabulary that is neither a list nor an array")
    if not isinstance(value, str) or not value:
        return
    looks_like_path = _PATH.match(value) and not _TOKENS.fullmatch(key)
    if key in _PATH_KEYS or looks_like_path:
        shown = value if len(value) <= 80 else f"{value[:80]}..."
        message = f"the text {shown!r} looks like a path or address; it may be opened"
        yield Finding("warning", "keras.path", where, message)


def _is_array(value: Mapping[str, Any]) -> bool:
    """Whether a serialized value is a list or an array: a text in its place would be a path."""
    config = value.get("config")
    if value.get("class_name") == "__tuple__":
        return isinstance(value.get("items", config), list)
    held = config.get("value") if isinstance(config, Mapping) else None
    return value.get("class_name") in ("__numpy__", "__tensor__") and isinstance(held, list)
