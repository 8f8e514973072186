"""`needs`: what must be here for a model or checkpoint to be opened, told without opening it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ckptkit._io.file_states import os_error
from ckptkit._io.files import taking_paths
from ckptkit._io.places import path_of
from ckptkit.errors import MissingDependencyError, UnsupportedError, UsageError
from ckptkit.operations.needs import graphs
from ckptkit.operations.needs.environment import Environment, environment_of
from ckptkit.operations.needs.types import Fact, Need, OpeningCall
from ckptkit.results import Document
from ckptkit.stores.locate import Location, locate
from ckptkit.stores.registry import (
    SAVED_MODEL,
    format_of,
    function_of,
    open_format,
)
from ckptkit.text import count_text, list_text

__all__ = ["Needs", "needs"]

SCHEMA = "ckptkit.needs/2"
# Packages whose versions are told with the answer.
_TOLD = ("tensorflow", "keras", "tf_keras", "jax", "torch", "h5py", "numpy", "ai-edge-litert")
_LOADS = "keras.saving.load_model"  # the call of Keras 3
_GRAPH = "graph"  # a text, or what TensorFlow 1 writes beside checkpoints


@dataclass(frozen=True, slots=True, repr=False)
class Needs(Document):
    """What one model or checkpoint needs.

    facts: what the file says of itself: its writer first.  loaders: the calls that open such files,
    the one that fits its writer first.  environment: versions of packages that were counted on.
    """

    ROWS: ClassVar[str] = "loaders"

    path: Path
    format: str
    facts: tuple[Fact, ...]
    loaders: tuple[OpeningCall, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether some call opens it here."""
        return any(loader.ok for loader in self.loaders)

    @property
    def exit_code(self) -> int:
        """0 some call opens it, 1 something is missing for all of them, 2 could not tell."""
        if self.ok:
            return 0
        return 2 if any(loader.opens is None for loader in self.loaders) else 1

    @property
    def writer(self) -> str:
        """Who wrote it ("Keras 2.13.1"); "" where the file does not say."""
        return next((fact.value for fact in self.facts if fact.name == "written by"), "")

    @property
    def missing(self) -> tuple[Need, ...]:
        """What is missing for the call that lacks least; nothing where one opens it."""
        if self.ok or not self.loaders:
            return ()
        return min((loader.missing for loader in self.loaders), key=len)

    @property
    def is_for_upgrade(self) -> bool:
        """Whether it is a model of an older Keras that Keras 3 does not open as such."""
        if not self.writer.startswith(("Keras 1", "Keras 2")) or self._holds_no_model:
            return False
        return not any(loader.ok and _LOADS in loader.call for loader in self.loaders)

    @property
    def _holds_no_model(self) -> bool:
        return any(fact.name == "holds" for fact in self.facts)

    @property
    def in_brief(self) -> str:
        """What a message says of a file that does not open ("" of one that does).

        Such as "written by Keras 2.13.1; needs tf_keras, or `ckptkit upgrade`".
        """
        if not self.missing:
            return ""
        by = f"written by {self.writer}; " if self.writer else ""
        first, *others = self.missing
        what = f"needs {first.name}{first.version}"
        if first.kind not in ("package", "file"):
            what = f"{what} ({first.reason}{f', at {first.where}' if first.where else ''})"
        more = ""
        if others and all(need.kind == "package" for need in others):
            more = f", {list_text([need.name + need.version for need in others])}"
        elif others:
            more = f" and {count_text(len(others), 'other thing')}"
        upgrade = ", or `ckptkit upgrade`" if self.is_for_upgrade else ""
        return f"{by}{what}{more}{upgrade}"

    @property
    def packages(self) -> tuple[str, ...]:
        """What to install for the first call that packages alone make open it, as pip takes it."""
        for loader in sorted(self.loaders, key=lambda loader: not loader.ok):
            unmet = [need for need in loader.needs if need.met is False]
            if all(need.pip for need in unmet):
                return tuple(dict.fromkeys(need.pip for need in loader.needs if need.pip))
        return ()

    def __repr__(self) -> str:
        opens = {0: "opens", 1: "does not open", 2: "not known whether it opens"}[self.exit_code]
        return f"<Needs: {self.format} at {str(self.path)!r}, {opens}>"

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.needs/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "format": self.format,
            "opens": {0: True, 1: False, 2: None}[self.exit_code],
            "writer": self.writer or None,
            "facts": [fact._asdict() for fact in self.facts],
            "loaders": [loader.to_json() for loader in self.loaders],
            "missing": [need.to_json() for need in self.missing],
            "packages": list(self.packages),
            "environment": dict(self.environment),
        }


@taking_paths
def needs(path: str | os.PathLike[str], *, environment: Sequence[str] = ()) -> Needs:
    """Tell what must be here for a model or checkpoint to be opened, and who wrote it.

    Nothing is loaded, built or executed, and none of the packages is imported: what is installed
    is asked of its metadata.

    Args:
        path: as `ckptkit.open` takes it; also a LiteRT or ONNX model, a GraphDef, a `.meta` file.
        environment: versions to ask about in place of what is installed, such as "keras==3.15".

    Returns:
        The calls that open such files, each with what it needs; `ok` where one opens it here.

    Raises:
        UsageError: a version that is not NAME==VERSION, or a part of a file (`PATH#SUBTREE`).
        PathNotFoundError, UnsupportedError, FormatError: nothing that is known is there.
    """
    told = environment_of(environment)
    path = path_of(path)
    try:
        return _needs(path, told)
    except OSError as error:
        raise os_error(path, error) from error


def _needs(path: Path, environment: Environment) -> Needs:
    pointer = graphs.pointer_need(path)
    if pointer is not None:
        loader = OpeningCall("any", "", (pointer,))
        return Needs(path, "pointer", (), (loader,), _versions(environment))
    name, place = _located(path)
    facts, loaders = _judged(name, place, environment)
    return Needs(place, name, tuple(facts), tuple(loaders), _versions(environment))


def _located(path: Path) -> tuple[str, Path]:
    """Return the format and place of what lies at a path, text graphs and `.meta` included."""
    if path.is_file() and path.name.endswith((".meta", ".pbtxt")):
        return _GRAPH, path
    if (path / "saved_model.pbtxt").is_file() and not (path / "saved_model.pb").exists():
        return SAVED_MODEL, path
    if _is_pointer_directory(path):
        return SAVED_MODEL, path
    location: Location = locate(path)
    if location.subtree is not None:
        raise UsageError(
            "what a whole file needs is told, not a part of it",
            where=str(path),
            hint="leave out what follows the #",
        )
    return location.format, location.path


def _is_pointer_directory(path: Path) -> bool:
    return graphs.pointer_need(path / "saved_model.pb") is not None


def _judged(name: str, path: Path, environment: Environment) -> _Judged:
    if name == _GRAPH:
        return graphs.graph_file(path, environment)
    row = format_of(name)
    hook = row.loaders
    if not hook:
        raise UnsupportedError(f"nothing is known of what opens {name} files", where=str(path))
    found: _Judged = function_of(hook)(path, environment)
    if not row.holds_model and row.opener:
        with suppress(UnsupportedError, MissingDependencyError):  # others may open it
            open_format(name, path)  # a name alone, such as *.safetensors, tells of no content
    return found


_Judged = tuple[list[Fact], list[OpeningCall]]


def _versions(environment: Environment) -> tuple[tuple[str, str], ...]:
    asked = [name for name in environment.asked if name not in _TOLD and name != "tf-keras"]
    return tuple((name, environment.version(name)) for name in (*_TOLD, *asked))
