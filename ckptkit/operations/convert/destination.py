"""What is to be written, and where: the form of DST, its suffix, what is there already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import OutputError, UnsupportedError, UsageError
from ckptkit.stores.base import Store
from ckptkit.stores.safetensors.reader import INDEX_SUFFIX
from ckptkit.stores.safetensors.writer import shards_beside
from ckptkit.stores.saved_model.reader import MODEL_FILE
from ckptkit.stores.tensor_bundle.writer import data_files
from ckptkit.wording import say

FORMS = ("saved_model", "checkpoint", "keras", "weights.h5", "safetensors", "npz")
_MODEL_FORMS = ("saved_model", "checkpoint", "keras", "weights.h5")
_SUFFIXES = (
    (INDEX_SUFFIX, "safetensors"),
    (".safetensors", "safetensors"),
    (".weights.h5", "weights.h5"),
    (".keras", "keras"),
    (".npz", "npz"),
    (".ckpt", "checkpoint"),
)
_FORM_OF_FORMAT = {"tensor-bundle": "checkpoint", "saved-model": "saved_model"}
_UNSUPPORTED = {
    (".h5", ".hdf5"): "the legacy Keras .h5; write .keras or .weights.h5",
    (".weights.json",): "sharded Keras weights; write .weights.h5",
    (".pt", ".pth", ".bin", ".pkl", ".pickle"): "a pickle; write .safetensors",
    (".onnx", ".tflite", ".pb"): "a graph in another language",
}


class Target(NamedTuple):
    """What is written: one of FORMS, at `path` (of a checkpoint, its prefix)."""

    form: str
    path: Path

    @property
    def index_file(self) -> Path:
        return Path(f"{self.path}.index")

    @property
    def is_set(self) -> bool:
        """Whether several safetensors files and their index are asked for by name."""
        return self.form == "safetensors" and self.path.name.endswith(INDEX_SUFFIX)

    def as_set(self) -> Target:
        """Return the target cut into files: of `x.safetensors` that is its index file."""
        if self.form != "safetensors" or self.is_set:
            return self
        name = self.path.name.removesuffix(".safetensors") + INDEX_SUFFIX
        return self._replace(path=self.path.with_name(name))

    def existing(self) -> list[Path]:
        """Return what lies there already."""
        if self.form == "checkpoint":
            index = [self.index_file] if os.path.lexists(self.index_file) else []
            return index + data_files(os.fspath(self.path))
        if self.is_set:
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
    """
    text = os.fspath(dst)
    if not text or "\0" in text:
        raise UsageError("the destination is no path", where=repr(text))
    if to is not None and to not in FORMS:
        raise UsageError(f"no form {to!r}", hint=f"one of {', '.join(FORMS)}")
    path = Path(text)
    for suffixes, what in _UNSUPPORTED.items():
        if to is None and path.name.endswith(suffixes) and not path.name.endswith(".weights.h5"):
            raise UnsupportedError(f"nothing is written as {what}", where=text)
    by_suffix = form_by_name(path)
    # `ckpt-1.index` means the checkpoint whose prefix is `ckpt-1`.
    if path.name.endswith(".index") and to in (None, "checkpoint"):
        path, by_suffix = path.with_name(path.name.removesuffix(".index")), "checkpoint"
    # A SavedModel is a directory, and directories are called anything.
    if to is not None and by_suffix not in (None, to) and to != "saved_model":
        raise UsageError(
            say(f"‹to={to}› writes no file of that name"),
            where=text,
            hint=f"its name says {by_suffix}",
        )
    form = to or by_suffix
    if form is None and like is not None:
        form = _FORM_OF_FORMAT.get(like.format)
    if form is None:
        raise UsageError(
            "its name does not say what to write",
            where=text,
            hint=say("‹to=checkpoint› or ‹to=saved_model› does"),
        )
    _check_name(form, path, text)
    return Target(form, path)


def _check_name(form: str, path: Path, text: str) -> None:
    """Refuse names under which nobody would find the file again."""
    needed = {"keras": ".keras", "weights.h5": ".weights.h5", "npz": ".npz"}.get(form, "")
    if form == "safetensors" and form_by_name(path) != "safetensors":
        needed = ".safetensors"
    if needed and not path.name.endswith(needed):
        raise UsageError(f"the name of this form ends in {needed}", where=text)
    if form == "checkpoint" and not path.name:
        raise UsageError("a checkpoint needs a prefix", where=text, hint="such as run/ckpt-1")


def form_by_name(path: Path) -> str | None:
    """Return the form that a file's name tells, or None."""
    return next((form for suffix, form in _SUFFIXES if path.name.endswith(suffix)), None)


def refuse_existing(target: Target, overwrite: bool) -> None:
    """Raise OutputError where something lies at the target, or nothing can be put there."""
    existing = target.existing()
    if existing and not overwrite:
        raise OutputError(
            "already exists", where=str(existing[0]), hint=say("‹overwrite› replaces it")
        )
    for path in existing:
        if path.is_dir() != (target.form == "saved_model"):
            raise OutputError("is not of the form to be written", where=str(path))
        # A directory is replaced whole: only one that is a SavedModel may go.
        if path.is_dir() and any(path.iterdir()) and not (path / MODEL_FILE).is_file():
            raise OutputError(
                f"the directory holds no {MODEL_FILE}, so it is not replaced",
                where=str(path),
                hint="remove it yourself, or write elsewhere",
            )
    if not target.path.absolute().parent.is_dir():
        raise OutputError(
            f"no such directory: {target.path.parent}", where=str(target.path), hint="make it first"
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
        if target.form not in _MODEL_FORMS:
            raise UsageError(
                say(f"‹model›: a {target.form} file needs no model"), hint="leave it out"
            )
        return model
    if like is not None:
        builds = like.store.format == "keras" and target.form in ("saved_model", "checkpoint")
        return str(like.path) if builds else None
    is_archive = source.store.format == "keras" and source.subtree is None
    return str(source.path) if is_archive and target.form == "saved_model" else None
