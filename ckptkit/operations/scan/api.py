"""`scan`: what a model file could do when it is loaded or run, found without doing either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit._io.files import os_error
from ckptkit.errors import CkptkitError, PathNotFoundError, UnsupportedError
from ckptkit.operations.findings import Check, Unit, is_damage, of_error
from ckptkit.operations.scan.hooks import GRAPH_FILES, scan_graph_file, scan_metadata
from ckptkit.operations.verify.api import Verification
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import SAVED_MODEL, format_of, function_of, open_format

__all__ = ["Scan", "scan"]

SCHEMA = "ckptkit.scan/1"


@dataclass(frozen=True, slots=True, repr=False)
class Scan(Verification):
    """What a scan of one operand found; the same shape as a verification.

    A finding of severity "error" is known to act on the outside, a "warning" is not known to be
    harmless.  No finding means that all ops and classes are on the allowlist, which is as much as
    can be said: whether the model is right, or safe to obey, is another question.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.scan/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        document = Verification.to_json(self)
        del document["tensors"], document["bytes"]
        return {**document, "schema": SCHEMA}


def scan(path: str | os.PathLike[str]) -> Scan:
    """Look for what a SavedModel, GraphDef, Keras or weights file could do when run.

    Nothing is loaded, built or executed.  A file that cannot be read for sure is a finding too.

    Args:
        path: a model file, a directory, or the prefix of a checkpoint.

    Returns:
        What was found; `ok` where all ops and classes are known to be harmless.

    Raises:
        PathNotFoundError: nothing lies there.
    """
    path = Path(path)
    try:
        return Scan(path, tuple(_units(path)))
    except OSError as error:
        raise os_error(path, error) from error


def _units(path: Path) -> Iterator[Unit]:
    if path.is_dir() and any((path / name).exists() for name in GRAPH_FILES):
        yield _located(SAVED_MODEL, path)
    elif path.is_file() and path.suffix in (".pb", ".pbtxt"):
        if path.name in GRAPH_FILES:
            yield _located(SAVED_MODEL, path.parent)
        elif path.name == "keras_metadata.pb":
            yield _guarded(path, "keras-metadata", lambda: [scan_metadata(path)])
        else:
            yield _guarded(path, "graph", lambda: [scan_graph_file(path)])
    else:
        yield _file(path)


def _guarded(path: Path, format_name: str, checks: Callable[[], list[Check]]) -> Unit:
    """Return the unit of these checks; what cannot be read is a finding."""
    try:
        return Unit(path, format_name, tuple(checks()), _UNSEEN)
    except UnsupportedError as error:
        return Unit(path, format_name, refusal=error)
    except PathNotFoundError:
        raise
    except CkptkitError as error:
        if not is_damage(error):
            return Unit(path, format_name, refusal=error)
        finding = of_error(error, "file")
        return Unit(path, format_name, (Check("structure", (), (finding,)),))


_UNSEEN = (
    "bugs of the loader itself, which a crafted file may reach without any such op or class",
)


def _file(path: Path) -> Unit:
    try:
        located = locate(path)
    except UnsupportedError as error:
        return Unit(path, "unknown", refusal=error)
    except PathNotFoundError:
        raise
    except CkptkitError as error:
        return Unit(path, "unknown", (Check("structure", (), (of_error(error, "file"),)),))
    return _located(located.format, located.path)


def _located(format_name: str, path: Path) -> Unit:
    """Scan what a format's row names; of a format that it names nothing for, open the tensors."""
    hook = format_of(format_name).scan

    def checks() -> list[Check]:
        if hook:
            found: list[Check] = function_of(hook)(path)
            return found
        store = open_format(format_name, path)
        return [Check("tensors only", (("tensor", len(store.specs)),))]

    return _guarded(path, format_name, checks)
