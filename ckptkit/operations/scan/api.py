"""`scan`: what a model file could do when it is loaded or run, found without doing either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit._io.file_states import os_error
from ckptkit._io.files import file_size, read_exact, taking_paths
from ckptkit._io.places import is_there, path_of
from ckptkit._io.progress import phase
from ckptkit.errors import CkptkitError, FormatError, PathNotFoundError, UsageError
from ckptkit.operations.findings import Check, Finding, Unit
from ckptkit.operations.input_files import DIRECTORY, UNKNOWN, unchanged_inputs
from ckptkit.operations.scan import hooks
from ckptkit.operations.scan.archives import (
    CONFIG,
    MAX_JSON,
    STRANGER,
    WEIGHTS,
    WEIGHTS_NPZ,
    has_keras_name,
    is_archive,
)
from ckptkit.operations.scan.hdf5 import scan_hdf5
from ckptkit.operations.scan.keras import is_config
from ckptkit.operations.scan.litert import is_litert, scan_litert
from ckptkit.operations.scan.pickles import FRONT, is_pickle
from ckptkit.operations.verify.api import Verification
from ckptkit.stores.directories import (
    ORBAX,
    contents_of,
    directories_below,
    format_of_directory,
    is_model_directory,
)
from ckptkit.stores.hdf5.user_block import SIGNATURE, start_of_hdf5
from ckptkit.stores.locate import locate
from ckptkit.stores.npz.npy import MAGIC
from ckptkit.stores.pytorch.detection import MAGIC as OLD_PYTORCH
from ckptkit.stores.registry import KERAS, SAVED_MODEL, format_of, function_of, open_format
from ckptkit.stores.tensor_bundle.state_file import STATE_FILE, prefix_name
from ckptkit.text import count_text, list_text
from ckptkit.wording import say

__all__ = ["Scan", "scan"]

SCHEMA = "ckptkit.scan/2"
_GRAPH_SUFFIXES = (".pb", ".pbtxt", ".cpb", ".meta")


@dataclass(frozen=True, slots=True, repr=False)
class Scan(Verification):
    """What a scan of one operand found; the same shape as a verification.

    A finding of severity "error" is known to act on the outside, a "warning" is not known to be
    harmless.  No finding means that all ops and classes are on the allowlist, which is as much as
    can be said: whether the model is right, or safe to obey, is another question.
    """

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.scan/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        document = Verification.to_json(self)
        del document["tensors"], document["bytes"]
        return {**document, "schema": SCHEMA}


@taking_paths
def scan(path: str | os.PathLike[str], *, recursive: bool = False) -> Scan:
    """Look for what a SavedModel, GraphDef, Keras or weights file could do when run.

    Nothing is loaded, built or executed.  A file is judged by what its loaders make of it, not by
    its name: numpy, Keras and libhdf5 each go by other bytes.  What a loader takes and this does
    not understand is a finding too; what cannot be read at all could not be told.

    Args:
        path: a model file, the prefix of a checkpoint, or a directory: a model, or each checkpoint
            and model in it.
        recursive: of a directory, also all that lies below it; links are not followed.

    Returns:
        What was found; `ok` where all ops and classes are known to be harmless.

    Raises:
        PathNotFoundError: nothing lies there, or nothing that can be loaded.
        UsageError: a part of a file (`PATH#SUBTREE`) is asked for.
        ChangedError: a file was replaced or written to while it was read.
    """
    path = path_of(path)
    try:
        with unchanged_inputs(path):
            return Scan(path, tuple(_units(path, recursive)))
    except OSError as error:
        raise os_error(path, error) from error


def _units(path: Path, recursive: bool = False) -> Iterator[Unit]:
    if path.is_dir():
        models = list(_models_in(path))
        units = models or list(_below(path) if recursive else _entries(path, []))
        if all(unit.format == DIRECTORY for unit in units):
            if recursive:
                raise PathNotFoundError("nothing to scan in it or below it", where=str(path))
            yield _nothing_in(path)
        yield from units
    elif path.is_file() and path.suffix in _GRAPH_SUFFIXES:
        if path.name in (*hooks.GRAPH_FILES, hooks.CHUNKED_GRAPH):
            yield from _models_in(path.parent)
        elif path.name == "keras_metadata.pb":
            yield _guarded(path, "keras-metadata", lambda: [hooks.scan_metadata(path)])
        else:
            yield _guarded(path, "graph", lambda: [hooks.scan_graph_file(path)])
    else:
        yield _file(path)


def _nothing_in(path: Path) -> Unit:
    """Return the directory as one that is known and not read; raises PathNotFoundError else."""
    try:
        return _file(path)
    except PathNotFoundError as error:
        if not any(entry.is_dir() for entry in path.iterdir()):
            raise
        hint = say("‹recursive› also looks below it")
        raise PathNotFoundError("nothing to scan in it", where=str(path), hint=hint) from error


def _below(top: Path) -> Iterator[Unit]:
    """Yield what lies in a directory and in those below it."""
    failed: list[OSError] = []
    for place, names in directories_below(top, is_model_directory, failed.append):
        models = list(_models_in(place)) if place != top else []
        yield from models or _entries(place, names)
    for error in failed:
        where = Path(error.filename or top)
        yield Unit(where, UNKNOWN, refusal=os_error(where, error))


def _entries(path: Path, below: Sequence[str]) -> Iterator[Unit]:
    """Yield each checkpoint and model in a directory, and what it has beside them.

    Files are told by name and by content, since loaders go by either.
    below: names of directories in it that are gone through as well.
    """
    contents = contents_of(path)
    yield from (_file(prefix) for prefix in contents.checkpoints)
    models = {model.name for model in contents.models}
    checkpoints = {prefix.name for prefix in contents.checkpoints}
    known = contents.parts.union(below, [STATE_FILE])
    others = []
    for entry in sorted(path.iterdir()):
        if entry.name in known or prefix_name(entry.name) in checkpoints:
            continue  # read through another
        if entry.name in models or _is_loadable(entry):
            yield from _guarded_units(entry)
        else:
            others.append(entry.name)
    if others:
        what = count_text(len(others), "other entry")
        yield Unit(path, DIRECTORY, not_checked=(f"{what} in {path}: {list_text(others)}",))


def _is_loadable(entry: Path) -> bool:
    """Whether an entry of a directory is one that some loader takes, for its content."""
    try:
        if entry.is_dir():
            return _is_saved_model(entry) or _is_keras_directory(entry)
        return entry.is_file() and (entry.suffix in _GRAPH_SUFFIXES or bool(_views(entry)))
    except (CkptkitError, OSError):  # what cannot be read is told of it
        return True


def _guarded_units(entry: Path) -> Iterator[Unit]:
    """Yield the units of an entry; what keeps it from being read is one of them."""
    try:
        yield from _units(entry)
    except CkptkitError as error:
        yield Unit(entry, UNKNOWN, refusal=error)
    except OSError as error:
        yield Unit(entry, UNKNOWN, refusal=os_error(entry, error))


def _models_in(path: Path) -> Iterator[Unit]:
    """Yield what loaders take a directory for: a SavedModel, a model of Keras, or both, ..."""
    if format_of_directory(path) == ORBAX:
        yield _located(ORBAX, path)
    if _is_saved_model(path):
        yield _located(SAVED_MODEL, path)
    if _is_keras_directory(path):
        yield _guarded(path, KERAS, lambda: hooks.scan_keras_directory(path))


def _is_saved_model(path: Path) -> bool:
    names = (*hooks.GRAPH_FILES, hooks.CHUNKED_GRAPH)
    return any(is_there(path / name) for name in names)


def _is_keras_directory(path: Path) -> bool:
    """Whether `keras.saving.load_model` takes a directory, and it is not another library's."""
    if not (path / CONFIG).is_file():
        return False
    if any((path / name).exists() for name in (WEIGHTS, WEIGHTS_NPZ)):
        return True
    return file_size(path / CONFIG) <= MAX_JSON and is_config((path / CONFIG).read_bytes())


def _guarded(path: Path, format_name: str, checks: Callable[[], list[Check]]) -> Unit:
    """Return the unit of these checks; what cannot be read, or is empty, could not be checked."""
    try:
        with phase(str(path)):
            made = tuple(checks())
    except PathNotFoundError:
        raise
    except CkptkitError as error:
        return Unit(path, format_name, refusal=error)
    if all(check.ok for check in made) and not sum(n for c in made for _noun, n in c.counts):
        return Unit(path, format_name, refusal=FormatError(str(path), "there is nothing in it"))
    return Unit(path, format_name, made, _UNSEEN)


_UNSEEN = (
    "bugs of the loader itself, which a crafted file may reach without any such op or class",
)


def _file(path: Path) -> Unit:
    """Scan a file as everything that a loader takes it for: by its content, not by its name."""
    views = _views(path)
    refusal: CkptkitError | None = None
    name, place = UNKNOWN, path
    try:
        located = locate(path)
        name, place = located.format, located.path
        if located.subtree is not None:
            raise UsageError(
                "a whole file is scanned, not a part of it",
                where=str(path),
                hint="leave out what follows the #",
            )
    except UsageError:
        raise
    except CkptkitError as error:
        if not views and isinstance(error, PathNotFoundError):
            raise
        refusal = error
    if not views:
        return Unit(path, name, refusal=refusal) if refusal else _located(name, place)

    def checks() -> list[Check]:
        try:
            made = [check for view in views.values() for check in view(path)]
        except CkptkitError as error:
            raise refusal or error from None  # what a file is, if that is known
        if len(views) > 1:
            kinds = " and ".join(views)
            message = f"a file that is {kinds} at once: which one is read is up to the loader"
            made.append(
                Check("kinds", (), (Finding("warning", "file.ambiguous", path.name, message),))
            )
        # What is an archive of another kind is neither clean nor an alarm for its members' names.
        if refusal is not None and views.keys() == {_ARCHIVE} and _only_strangers(made):
            raise refusal
        return made

    return _guarded(path, name, checks)


_ARCHIVE, _HDF5, _ARRAY, _PICKLE = "an archive", "an HDF5 file", "an array", "a pickle"
_CONFIG, _LITERT = "the config of a model", "a LiteRT model"


def _only_strangers(checks: list[Check]) -> bool:
    return all(f.code == STRANGER for check in checks for f in check.findings)


def _views(path: Path) -> dict[str, Callable[[Path], list[Check]]]:
    """Return what loaders may take a file for, with how each is scanned.

    numpy goes by the first bytes, `zipfile` (so Keras) by the last ones, libhdf5 by those at 0,
    512, 1024, ...
    """
    if not path.is_file() or not file_size(path):
        return {}
    front = read_exact(path, 0, min(file_size(path), FRONT))
    begins_as_zip = front.startswith((b"PK\3\4", b"PK\5\6"))
    views: dict[str, Callable[[Path], list[Check]]] = {}
    if start_of_hdf5(path) is not None:
        views[_HDF5] = scan_hdf5
    if front.startswith(MAGIC):
        views[_ARRAY] = hooks.scan_array
    elif front.startswith(OLD_PYTORCH):
        pass  # of which numpy loads a number, and torch.load the rest
    elif not begins_as_zip and not front.startswith(SIGNATURE) and _unpickles(path):
        views[_PICKLE] = hooks.scan_pickle
    if begins_as_zip or ((views or has_keras_name(path)) and is_archive(path)):
        views[_ARCHIVE] = hooks.scan_zip
    if is_litert(front):
        views[_LITERT] = scan_litert
    if path.suffix == ".json" and file_size(path) <= MAX_JSON and is_config(path.read_bytes()):
        views[_CONFIG] = hooks.scan_config
    return views


def _unpickles(path: Path) -> bool:
    """Whether numpy would unpickle a file."""
    with path.open("rb") as stream:
        return is_pickle(stream)


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
