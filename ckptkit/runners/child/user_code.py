"""Calling what a user names: `package.module:callable[?json]` or `file.py:callable[?json]`.

Imported in a child process alone; the same for every runtime.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ckptkit._io.side_files import read_whole
from ckptkit.errors import UsageError

MAX_CODE_BYTES = 64 << 20  # no module that a person or a generator writes comes near


def call_code(spec: str, before: Callable[[], None] = lambda: None) -> Any:
    """Return what the callable of `spec` returns; before: what is called between import and call.

    Raises UsageError where there is no such module, file or callable, or the arguments are no JSON
    object.
    """
    where, _, arguments = spec.partition("?")
    module, colon, name = where.rpartition(":")
    if not colon:
        raise UsageError(f"{spec!r} names no callable", hint="write package.module:callable")
    function = _attribute(import_code(module), name, where)
    try:
        options = json.loads(arguments) if arguments else {}
    except json.JSONDecodeError as error:
        raise UsageError(f"{arguments!r} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise UsageError(f"{arguments!r} is no JSON object of keyword arguments")
    before()
    return function(**options)


def import_code(name: str) -> Any:
    """Return the module of that name, or of that `.py` file.

    Raises UsageError; PathNotFoundError and FormatError where no such regular file is.
    """
    if not name.endswith(".py"):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise
            raise UsageError(f"no module {name!r}", hint="run where it can be imported") from error
    path = Path(name).resolve()
    read_whole(path, MAX_CODE_BYTES, "code")  # Python itself would wait for a pipe for ever
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError("cannot be imported", where=name)
    # so that it can import its neighbours
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _attribute(module: Any, name: str, where: str) -> Callable[..., Any]:
    value = module
    for step in name.split("."):
        value = getattr(value, step, None)
    if not callable(value):
        raise UsageError(f"nothing callable is called {name!r} there", where=where)
    return value  # type: ignore[no-any-return]
