"""What lies in a directory: checkpoints, and models of other formats, directly in it or below.

Entries are told apart by name, since a file that is damaged is still meant; SavedModels by the
files that make them one, checkpoints of Orbax as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.places import names_in
from ckptkit.stores.orbax.layout import is_checkpoint
from ckptkit.stores.registry import OBJECT_GRAPH, SAVED_MODEL, format_of_name
from ckptkit.stores.sets import is_index_name, is_set_member
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.state_file import is_unfinished, is_v1, prefixes
from ckptkit.stores.tensor_bundle.v1_files import files_of_checkpoint_v1

ORBAX = "orbax"


class DirectoryContents(NamedTuple):
    """What can be read of a directory.

    checkpoints: their prefixes.  models: directories that are one model or checkpoint each, and
    files that are called as one of a format whose tensors are read; of files that an index holds
    together, the index.
    parts: names of entries that are read through one of these.
    """

    checkpoints: tuple[Path, ...]
    models: tuple[Path, ...]
    parts: frozenset[str]


def contents_of(directory: Path) -> DirectoryContents:
    """Return what lies directly in a directory; raises OSError where it cannot be listed."""
    checkpoints = prefixes(directory)
    parts = {file.name for p in checkpoints if is_v1(p) for file in files_of_checkpoint_v1(p)}
    entries = sorted(directory.iterdir())
    parts.update(_members_of_sets(entries))
    models = [entry for entry in entries if entry.name not in parts and _is_model(entry)]
    return DirectoryContents(tuple(checkpoints), tuple(models), frozenset(parts))


def models_in(directory: Path) -> list[Path]:
    """Return the models directly in a directory, without a look at its checkpoints."""
    entries = sorted(directory.iterdir())
    parts = _members_of_sets(entries)
    return [entry for entry in entries if entry.name not in parts and _is_model(entry)]


def _members_of_sets(entries: Sequence[Path]) -> set[str]:
    if not any(is_index_name(entry.name) for entry in entries):
        return set()
    return {entry.name for entry in entries if is_set_member(entry.name)}


def is_saved_model(path: Path) -> bool:
    """Whether a directory is a SavedModel, or one whose graph was never written or copied."""
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        return True
    return index_path(path / "variables" / "variables").is_file()


def format_of_directory(path: Path) -> str:
    """Return the format of a directory that is one model or checkpoint, "" for any other."""
    if is_saved_model(path):
        return SAVED_MODEL
    return ORBAX if is_checkpoint(path) else ""


def is_model_directory(path: Path) -> bool:
    """Whether a directory is one model or checkpoint: nothing else is looked for in it."""
    return bool(format_of_directory(path))


def _is_model(entry: Path) -> bool:
    try:
        if entry.is_dir():
            return not is_unfinished(entry.name) and is_model_directory(entry)
    except OSError:  # whoever reads it says what is wrong
        pass
    row = format_of_name(entry.name)
    return row is not None and row.is_readable and row.structure != OBJECT_GRAPH


def directories_below(
    top: Path, is_whole: Callable[[Path], bool], on_error: Callable[[OSError], object]
) -> Iterator[tuple[Path, list[str]]]:
    """Yield a directory and those below it, each with the names of those in it that come next.

    is_whole: whether a directory is one model, which nothing is looked for in.  Directories that
    unfinished saves left are passed over, as they are findings of the one they lie in; links are
    not followed.
    on_error: called with what keeps a directory from being listed.
    """
    pending = [top]
    while pending:  # os.walk of Python 3.11 and older calls itself, once a level
        place = pending.pop()
        try:
            names = [name for name, is_directory in names_in(place) if is_directory]
        except OSError as error:
            on_error(error)
            continue
        names = [n for n in names if not is_unfinished(n) and not _holds(is_whole, place / n)]
        yield place, names
        pending += [place / name for name in reversed(names)]


def _holds(is_whole: Callable[[Path], bool], directory: Path) -> bool:
    try:
        return is_whole(directory)
    except OSError:  # listing it tells what is wrong
        return False
