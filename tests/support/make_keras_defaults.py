"""Makes `keras_defaults.txt`: what each class of Keras takes for a setting that is not given.

    python tests/support/make_keras_defaults.py describe 3.15.json       of the installed keras
    python tests/support/make_keras_defaults.py describe 2.21.json tf_keras
    python tests/support/make_keras_defaults.py table 2.21.json 3.1.json ... 3.15.json

Each version is installed as for `make_keras_api.py`.  Defaults are read off the constructors, those
of bases included.  Of a setting that several versions have, the default is that of the first one
given: a file without the setting was written before there was one, by a Keras that did what this
default means; where a later version changed it, its files say the value.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from ckptkit.operations.configuration import defaults as _defaults
from support.make_keras_api import _exported, _is_serializable

TARGET = Path(_defaults.__file__).with_name("keras_defaults.txt")
Defaults = dict[str, dict[str, Any]]


def describe(root: str) -> dict[str, Any]:
    """Return what the installed Keras says of its classes.

    Returns:
        "defaults": {"layers.Dense": {setting: value}}; "aliases": lists of names of one class or
        function, in Python's first.
    """
    importlib.import_module(root)
    defaults: Defaults = {}
    names: dict[int, list[str]] = {}
    for name, value in sorted({**_public(root), **_exported(root)}.items()):
        if name.count(".") < 2:
            continue
        family = name.split(".")[1]
        short = f"{family}.{name.rpartition('.')[2]}"
        if _is_serializable(value):
            defaults.setdefault(short, {}).update(_of_class(value))
            names.setdefault(id(value), []).extend((f"{family}.{value.__name__}", short))
        elif inspect.isfunction(value) and family in ("activations", "losses", "metrics"):
            names.setdefault(id(value), []).extend((f"{family}.{value.__name__}", short))
    aliases = [list(dict.fromkeys(group)) for group in names.values() if len({*group}) > 1]
    return {"defaults": defaults, "aliases": aliases}


def _public(root: str) -> dict[str, Any]:
    """Return what the public modules of a Keras hold, by every name that it is there by."""
    keras = importlib.import_module(root)
    modules = {name: value for name, value in vars(keras).items() if inspect.ismodule(value)}
    return {
        f"keras.{family}.{name}": value
        for family, module in modules.items()
        if not family.startswith("_") and family not in ("src", "ops", "backend")
        for name, value in vars(module).items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }


def _of_class(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {f"call.{key}": value for key, value in _of_call(kind).items()}
    bounds = getattr(kind, "_FACTOR_BOUNDS", None)
    if bounds:  # of a number that stands for a pair, from minus it or the bound up to it
        found["bounds.factor"] = list(bounds)
    for base in kind.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(inspect.unwrap(vars(base)["__init__"])).parameters)
        signature = inspect.signature(inspect.unwrap(vars(base)["__init__"]))
        for name in parameters[1:]:
            default = signature.parameters[name].default
            if default is not inspect.Parameter.empty and name not in found and _is_plain(default):
                found[name] = list(default) if isinstance(default, tuple) else default
        kinds = {p.kind for p in signature.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _of_call(kind: type) -> dict[str, Any]:
    """Return the defaults of the arguments that a layer is called with, but for None."""
    call = getattr(kind, "call", None)
    if not inspect.isfunction(call):
        return {}
    parameters = inspect.signature(inspect.unwrap(call)).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    return {name: value for name, value in defaults.items() if type(value) in (bool, int, float)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def table(described: list[dict[str, Any]]) -> list[str]:
    """Return a line per class, its name and `setting=JSON` by tabs, and one per other name."""
    merged: Defaults = {}
    for found in described:
        for name, settings in found["defaults"].items():
            kept = merged.setdefault(name, {})
            for key, value in settings.items():
                kept.setdefault(key, value)
    # Keras 2 writes all settings of an optimizer; those that are left out are Keras 3's, which
    # writes the word alone that a model was compiled with.
    for found in reversed(described[1:]):
        for name, settings in found["defaults"].items():
            if name.startswith("optimizers."):
                merged[name].update(settings)
    names = _one_name([group for found in reversed(described) for group in found["aliases"]])
    defaults = [
        "\t".join([name, *(f"{key}={json.dumps(value)}" for key, value in sorted(own.items()))])
        for name, own in sorted(merged.items())
        if names.get(name, name) == name
    ]
    return [*defaults, *(f"{name}\t{other}" for name, other in sorted(names.items()))]


def _one_name(groups: list[list[str]]) -> dict[str, str]:
    """Return {name: the one that stands for it}: the class's own in the first group that has it."""
    found: dict[str, str] = {}
    for group in groups:
        for family in dict.fromkeys(name.split(".")[0] for name in group):
            own = [name for name in group if name.startswith(f"{family}.")]
            chosen = next((found[name] for name in own if name in found), own[0])
            found |= dict.fromkeys(own, chosen)
    return {name: chosen for name, chosen in found.items() if name != chosen}


def main(arguments: list[str]) -> None:
    """Describe the installed Keras, or make the table; see the text above."""
    action, *paths = arguments
    if action == "describe":
        root = paths[1] if len(paths) > 1 else "keras"
        Path(paths[0]).write_text(json.dumps(describe(root)), encoding="utf-8")
    else:
        described = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
        TARGET.write_text("\n".join([*_defaults.HEAD, *table(described), ""]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
