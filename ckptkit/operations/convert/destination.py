"""What is to be written, and where: the form of DST, its suffix, what is there already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.file_states import is_local
from ckptkit._io.output_paths import refuse_elsewhere
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import OutputError, UnsupportedError, UsageError
from ckptkit.stores.base import Store
from ckptkit.stores.registry import (
    FORMATS,
    KERAS,
    LEGACY_KERAS,
    OBJECT_GRAPH,
    SAVED_MODEL,
    Format,
    format_of,
    format_of_name,
    index_format,
    writable_formats,
)
from ckptkit.stores.safetensors.writer import shards_beside
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.tensor_bundle.files import INDEX_SUFFIX as INDEX_OF_BUNDLE
from ckptkit.stores.tensor_bundle.writer import data_files
from ckptkit.text import nearest_text
from ckptkit.wording import say

_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")
_GRAPHS = (".pb",)


class Target(NamedTuple):
    """What is written: a format, at `path` (of a checkpoint, its prefix)."""

    format: Format
    path: Path

    @property
    def is_bundle(self) -> bool:
        """Whether it is a checkpoint, whose path is the prefix of its files."""
        return self.format.structure == OBJECT_GRAPH

    @property
    def index_file(self) -> Path:
        return Path(f"{self.path}.index")

    @property
    def commit_path(self) -> Path:
        """The file, or directory, that makes the output a whole."""
        return self.index_file if self.is_bundle else self.path

    def as_set(self) -> Target:
        """Return the target cut into files: of `x.safetensors` that is its index file."""
        index = index_format(self.format)
        if index is None or self.format.is_index:
            return self
        stem = self.path.name
        for suffix in self.format.suffixes:
            stem = stem.removesuffix(suffix)
        return Target(index, self.path.with_name(stem + index.suffixes[0]))

    def existing(self) -> list[Path]:
        """Return what lies there already."""
        if self.is_bundle:
            index = [self.index_file] if os.path.lexists(self.index_file) else []
            return index + data_files(os.fspath(self.path))
        if self.format.is_index:
            index = [self.path] if os.path.lexists(self.path) else []
            return index + shards_beside(self.path)
        return [self.path] if os.path.lexists(self.path) else []


def target_of(dst: str | os.PathLike[str], to: str | None, like: Store | None) -> Target:
    """Return what `dst` means: by `to`, else by its suffix, else by what `like` is.

    Args:
        dst: a file, a directory, or the prefix of a checkpoint.
        to: one of FORMS, or None.
        like: the store of LIKE, or None.

    Raises:
        UsageError: none of them says, or `to` and the suffix contradict each other.
        UnsupportedError: the suffix is of a form that is not written.
        OutputError: a URL.
    """
    text = os.fspath(dst)
    if not text or "\0" in text:
        raise UsageError("the destination is no path", where=repr(text))
    refuse_elsewhere(text)
    path = Path(text)
    wanted = _wanted(to)
    named = format_of_name(path.name)
    # `ckpt-1.index` means the checkpoint whose prefix is `ckpt-1`.
    if path.name.endswith(INDEX_OF_BUNDLE) and (wanted is None or wanted.structure == OBJECT_GRAPH):
        path = path.with_name(path.name.removesuffix(INDEX_OF_BUNDLE))
        named = FORMATS.first(lambda row: row.structure == OBJECT_GRAPH)
    if wanted is None:
        _refuse_unwritten(path, named)
    if wanted is not None and named is not None and not _agree(wanted, named):
        raise UsageError(
            say(f"‹to={to}› writes no file of that name"),
            where=text,
            hint=f"its name says {named.name}",
        )
    # A name may say more than the format: x.safetensors.index.json is a set of files.
    row = wanted if wanted is None or named is None or wanted.is_directory else named
    row = row or named
    if row is None and like is not None:
        of_like = format_of(like.format)
        row = of_like if of_like.structure in (OBJECT_GRAPH, SAVED_MODEL) else None
    if row is None:
        raise UsageError(
            "its name does not say what to write",
            where=text,
            hint=say("‹to=tensor-bundle› or ‹to=saved-model› does"),
        )
    _check_name(row, path, text)
    target = Target(row, path)
    return target.as_set() if wanted is not None and wanted.is_index else target


def _wanted(to: str | None) -> Format | None:
    """Return the format that is asked for by name; raises UsageError where it is not written."""
    if to is None:
        return None
    row = FORMATS.first(lambda row: to in (row.name, *row.aliases))
    if row is None or not row.writer:
        names = writable_formats()
        what = "no format" if row is None else "ckptkit cannot write"
        near = nearest_text(to, names)
        hint = f"one of {', '.join(names)}" + (f"; {near}" if near else "")
        raise UsageError(f"{what} {to!r}", hint=hint)
    return row


def _agree(wanted: Format, named: Format) -> bool:
    """Whether a file of the name that says `named` can be of the format `wanted`."""
    return wanted.is_directory or wanted == named or wanted.writer == named.writer != ""


def _refuse_unwritten(path: Path, named: Format | None) -> None:
    """Raise UnsupportedError for what is not written, with what is written in its place."""
    what = ""
    if path.name.endswith(_PICKLES):
        what = "a pickle; write .safetensors"
    elif path.name.endswith(_GRAPHS):
        what = "a graph alone; write a SavedModel"
    elif named is not None and not named.writer:
        what = f"{named.name} ({named.description})"
        if named.structure in (KERAS, LEGACY_KERAS):
            what += "; write .keras or .weights.h5"
    if what:
        raise UnsupportedError(f"ckptkit cannot write {what}", where=str(path))


def _check_name(row: Format, path: Path, text: str) -> None:
    """Refuse names under which nobody would find the file again."""
    if row.structure == OBJECT_GRAPH:
        if not path.name:
            raise UsageError("a checkpoint needs a prefix", where=text, hint="such as run/ckpt-1")
        return
    index = index_format(row)
    suffixes = (*row.suffixes, *(index.suffixes if index is not None else ()))
    if suffixes and not row.is_directory and not path.name.endswith(suffixes):
        raise UsageError(f"the name of this format ends in {row.suffixes[0]}", where=text)


def refuse_existing(target: Target, overwrite: bool) -> None:
    """Raise OutputError where something lies at the target, or nothing can be put there."""
    existing = target.existing()
    if existing and not overwrite:
        raise OutputError(
            "already exists", where=str(existing[0]), hint=say("‹overwrite› replaces it")
        )
    for path in existing:
        if path.is_dir() != target.format.is_directory:
            raise OutputError("is not of the format to be written", where=str(path))
        # A directory is replaced whole: only one that is a SavedModel may go.
        if path.is_dir() and any(path.iterdir()) and not (path / MODEL_FILE).is_file():
            raise OutputError(
                f"the directory holds no {MODEL_FILE}, so it is not replaced",
                where=str(path),
                hint="remove it yourself, or write elsewhere",
            )
    _refuse_missing_parent(target.path)


def refuse_nested(target: Target, sources: Sequence[Path], like: Path | None) -> None:
    """Raise OutputError where DST lies inside a directory that is read, or would take SRC along.

    A directory is copied while DST is written, and replaced whole: neither may hold the other.
    """
    dst = Path(os.path.realpath(target.path))
    for path in (*sources, *((like,) if like is not None else ())):
        if not is_local(path):
            continue
        real = Path(os.path.realpath(path))
        if real in dst.parents and real.is_dir():
            raise OutputError(
                f"lies inside {path}, which is read", where=str(target.path), hint="write elsewhere"
            )
        if target.format.is_directory and dst in real.parents:
            raise OutputError(
                f"would be replaced whole, and {path}, which is read, lies inside",
                where=str(target.path),
                hint="write elsewhere",
            )


def refuse_existing_file(path: Path, overwrite: bool) -> None:
    """Raise OutputError where something lies at the place of a file beside the output."""
    if os.path.lexists(path) and not overwrite:
        raise OutputError("already exists", where=str(path), hint=say("‹overwrite› replaces it"))
    if path.is_dir():
        raise OutputError("is a directory", where=str(path))
    _refuse_missing_parent(path)


def _refuse_missing_parent(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"no such directory: {path.parent}", where=str(path), hint="make it first"
        )


def model_of(
    source: Checkpoint, like: Checkpoint | None, model: str | None, target: Target
) -> str | None:
    """Return the model that must be built for this conversion; None where none is needed.

    Args:
        source: SRC, the last where there are several.
        like: LIKE, or None.
        model: code that makes the model, or None.
        target: what is written.

    Raises:
        UsageError: a model is given and cannot help.
    """
    if model is not None:
        if not target.format.structure:
            raise UsageError(
                say(f"‹model›: a {target.format.name} file needs no model"), hint="leave it out"
            )
        return model
    if like is not None:
        is_built = target.format.structure in (SAVED_MODEL, OBJECT_GRAPH)
        return str(like.path) if is_built and _is_keras_model(like) else None
    is_archive = _is_keras_model(source) and source.subtree is None
    return str(source.path) if is_archive and target.format.structure == SAVED_MODEL else None


def _is_keras_model(file: Checkpoint) -> bool:
    """Whether a file is a model that Keras builds from its own config."""
    row = format_of(file.store.format)
    return row.structure == KERAS and row.holds_model
