"""Makes `keras_api.txt` of `needs`: the classes of each Keras and the arguments that they take.

    python tests/support/make_keras_api.py describe 3.15.json       of the installed keras
    python tests/support/make_keras_api.py describe 2.21.json tf_keras
    python tests/support/make_keras_api.py table 2.13.json 2.15.json ... 3.15.json

The first form is run once with each version of Keras (`pip install --no-deps --target DIR
keras==VERSION`, DIR on PYTHONPATH, beside a TensorFlow that it imports with); a file is called as
the version that it describes.  Which arguments a class takes is read off its constructors, those
of its bases included, and off the keys that they and `from_config` take out of what they are given.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckptkit.operations.needs import keras_api as _keras_api

TARGET = Path(_keras_api.__file__).with_name("keras_api.txt")
_POPPED = re.compile(r'(?:kwargs|config)\.pop\(\s*["\'](\w+)["\']')
_ALLOWED = re.compile(r"allowed_kwargs\s*=\s*\{([^}]*)\}", re.DOTALL)
_REFUSES = re.compile(
    r"if kwargs:\s*\n\s*raise|validate_kwargs|Unrecognized keyword|raise .*kwargs"
)
_NOT_MODELS = re.compile(
    r"test|\.(benchmarks|integration|api|_tf_keras|premade\w*|protobuf|distribute|dtensor|callbacks"
    r"|backend|applications|datasets|testing|legacy_tf_layers|optimizer_v1|initializers_v1)\b"
)
ANYTHING = "**"
_FUNCTIONS = re.compile(r"keras\.(activations|losses|metrics|initializers|regularizers)\.\w+")


def describe(root: str) -> dict[str, Any]:
    """Return the names, classes, arguments and functions of the Keras that is installed."""
    keras = importlib.import_module(root)
    classes: dict[str, list[str]] = {}

    def noted(kind: type) -> str:
        path = f"{kind.__module__}.{kind.__name__}"
        if path not in classes:
            classes[path] = _arguments(kind)
        return path

    exported = _exported(root)
    names = {n: noted(o) for n, o in exported.items() if _is_serializable(o)}
    functions = [n for n, o in exported.items() if inspect.isfunction(o)]
    for info in pkgutil.walk_packages(keras.__path__, f"{root}."):
        if _NOT_MODELS.search(info.name):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # of a backend that is not here
            continue
        for name, value in vars(module).items():
            if _is_serializable(value) and value.__module__ == module.__name__:
                names[f"{module.__name__}.{name}"] = noted(value)
    layers = _layers(root)
    names |= {f".{name}": noted(o) for name, o in layers.items() if _is_serializable(o)}
    functions += [f".{name}" for name, o in layers.items() if inspect.isfunction(o)]
    plain = re.compile(r"^tf_keras\.")
    return {
        "names": {plain.sub("keras.", n): plain.sub("keras.", p) for n, p in names.items()},
        "classes": {plain.sub("keras.", path): keys for path, keys in classes.items()},
        "functions": [n for n in functions if _FUNCTIONS.fullmatch(n) or n.startswith(".")],
    }


def _is_serializable(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "from_config")


def _exported(root: str) -> dict[str, Any]:
    """Return public objects by the names that configs have for them."""
    try:
        api = importlib.import_module(f"{root}.src.api_export")
        return dict(api.REGISTERED_NAMES_TO_OBJS)
    except (ImportError, AttributeError):
        from tensorflow.python.util import tf_export

        found = dict(tf_export._NAME_TO_SYMBOL_MAPPING)
        return {name: value for name, value in found.items() if name.startswith("keras.")}


def _layers(root: str) -> dict[str, Any]:
    """Return what an HDF5 file's class names are looked up in."""
    layers = importlib.import_module(f"{root}.src.layers")
    if hasattr(layers, "serialization") and hasattr(layers.serialization, "LOCAL"):
        layers.serialization.populate_deserializable_objects()
        return dict(layers.serialization.LOCAL.ALL_OBJECTS)
    models = importlib.import_module(f"{root}.src.models")
    names = ("Functional", "Model", "Sequential")
    return {**vars(layers), **{name: getattr(models, name) for name in names}}


def _arguments(kind: type) -> list[str]:
    """Return the names that a class's config may have; ANYTHING among them where that is open."""
    names: set[str] = set()
    is_closed = False
    for base in kind.__mro__:
        from_config = vars(base).get("from_config")
        if from_config is not None:
            names.update(_POPPED.findall(_source(getattr(from_config, "__func__", from_config))))
        if is_closed or base is object or "__init__" not in vars(base):
            continue
        make = inspect.unwrap(vars(base)["__init__"])
        parameters = list(inspect.signature(make).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names.update(p.name for p in parameters if p.kind in named)
        source = _source(make)
        names.update(_POPPED.findall(source))
        for allowed in _ALLOWED.findall(source):
            names.update(re.findall(r'["\'](\w+)["\']', allowed))
        has_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        is_closed = not has_more or bool(_REFUSES.search(source))
    return sorted(names) + ([] if is_closed else [ANYTHING])


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


# --- the table ------------------------------------------------------------------------------------


def table(described: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of the table, from descriptions by version, oldest first."""
    versions = list(described)
    names: dict[tuple[str, str], set[str]] = {}
    classes: dict[str, dict[str, set[str]]] = {}
    there: dict[str, set[str]] = {}
    functions: dict[str, set[str]] = {}
    for version, found in described.items():
        for name, path in found["names"].items():
            names.setdefault((name, path), set()).add(version)
        for path, keys in found["classes"].items():
            there.setdefault(path, set()).add(version)
            for key in keys:
                classes.setdefault(path, {}).setdefault(key, set()).add(version)
        for name in found["functions"]:
            functions.setdefault(name, set()).add(version)
    lines = [f"versions {' '.join(versions)}"]
    for path, where in sorted(there.items()):
        if re.match(r"keras\.src\.ops\.", path):  # operations: what they take is in the graph
            lines.append(f"class {path}{_ranges(where, versions)} {ANYTHING}")
            continue
        keys = [
            key + ("" if at == where else _ranges(at, versions))
            for key, at in sorted(classes.get(path, {}).items())
        ]
        lines.append(" ".join([f"class {path}{_ranges(where, versions)}", *keys]))
    for (name, path), where in sorted(names.items()):
        if name != path:
            lines.append(f"name {name}{_ranges(where, versions)} {path}")
    for name, where in sorted(functions.items()):
        lines.append(f"function {name}{_ranges(where, versions)}")
    return lines


def _ranges(where: Iterable[str], versions: list[str]) -> str:
    """Return ":FIRST-LAST,..." for versions; "" for all of them, open at the newest one."""
    at = sorted(map(versions.index, where))
    if len(at) == len(versions):
        return ""
    spans: list[list[int]] = []
    for index in at:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    newest = len(versions) - 1
    return ":" + ",".join(
        f"{versions[first]}-{'' if last == newest else versions[last]}" for first, last in spans
    )


def main(arguments: list[str]) -> None:
    """Describe the installed Keras, or make the table; see the text above."""
    action, *paths = arguments
    if action == "describe":
        root = paths[1] if len(paths) > 1 else "keras"
        Path(paths[0]).write_text(json.dumps(describe(root)), encoding="utf-8")
    else:
        described = {
            Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8")) for path in paths
        }
        text = "\n".join([*_keras_api.HEAD, *table(described), ""])
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
