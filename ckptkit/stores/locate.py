"""From what a user typed to the file or files meant: one grammar for every command.

A checkpoint prefix, any of its member files, a training directory (its latest complete
checkpoint), a SavedModel directory, or a Keras, safetensors or npz file; `PATH#SUBTREE` narrows it
(a literal path that contains "#" wins).  Content decides, then the suffix.  What cannot be read is
named for what it is, with what to try.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.file_states import SourcePath, is_file, is_local
from ckptkit._io.files import read_start
from ckptkit._io.places import can_list, is_there, missing_hint, path_of, text_of
from ckptkit.errors import (
    CkptkitError,
    FormatError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.stores.directories import ORBAX, models_in
from ckptkit.stores.hdf5.user_block import start_of_hdf5
from ckptkit.stores.orbax.layout import (
    CHECKPOINT_METADATA,
    MANIFEST,
    TREE_METADATA,
    is_checkpoint,
    latest_step,
)
from ckptkit.stores.registry import HEAD_BYTES, Head, detect_format, format_of_name
from ckptkit.stores.tensor_bundle.files import index_path, is_table
from ckptkit.stores.tensor_bundle.state_file import (
    STATE_FILE,
    is_state_file,
    is_v1,
    latest_checkpoint,
    prefixes,
)
from ckptkit.stores.tensor_bundle.v1_files import prefix_of, shard_files
from ckptkit.text import lazy_pattern, list_text

_MEMBER = lazy_pattern(r"\.(index|data-\d{5}-of-\d{5}|meta)$")
_OF_ORBAX = (CHECKPOINT_METADATA, TREE_METADATA, MANIFEST)  # files that a checkpoint has
_DISTRIBUTED = ".distcp"  # suffix of the files that torch.distributed.checkpoint writes
MAX_SHOWN = 400  # characters of a path that the system refuses
_NO_VARIABLES = "there are no variables beside it; save it anew in binary form"


class Location(NamedTuple):
    """Where an operand leads: a format of `registry.FORMATS`, a path, what to tell the user."""

    format: str
    path: Path
    subtree: str | None = None
    notes: tuple[str, ...] = ()


def locate(operand: str | os.PathLike[str]) -> Location:
    """Return what `operand` means; reads a few bytes at most.

    Raises PathNotFoundError, UnsupportedError (known, not readable), FormatError (neither).
    """
    text = text_of(operand)
    prefix_wins = not text.endswith("/")
    try:
        path = path_of(operand)
        if "#" in text and not _exists(path):
            head, subtree = without_subtree(path)
            if _exists(head):
                return _locate(head, prefix_wins)._replace(subtree=subtree or None)
        return _locate(path, prefix_wins)
    except OSError as error:
        where = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2]}..."
        raise CkptkitError(error.strerror or str(error), where=where) from error


def without_subtree(path: Path) -> tuple[Path, str]:
    """Return a path without what stands behind its last "#", and that."""
    if isinstance(path, SourcePath):
        head, _, subtree = str(path).rpartition("#")
        return path.spelled(head), subtree
    head, _, subtree = os.fspath(path).rpartition("#")
    if not head:  # as of a variable of the shell that is not set
        raise PathNotFoundError("no path before the #", where=str(path))
    return Path(head), subtree


def _exists(path: Path) -> bool:
    return is_there(path) or index_path(path).is_file() or bool(shard_files(path))


def _locate(path: Path, prefix_wins: bool) -> Location:
    if path.is_dir():
        return _directory(path, prefix_wins)
    if path.is_file():
        return _file(path)
    if index_path(path).is_file():
        return Location("tensor-bundle", path)
    if shard_files(prefix_of(path)):  # its prefix, or the pattern that a state file has
        return Location("checkpoint-v1", prefix_of(path))
    if is_there(path):
        raise _no_file(path)
    if not is_local(path) and (is_file(path) or is_file(index_path(path))):
        return _locate(path, prefix_wins)  # no listing has it, and it is there all the same
    raise _not_found(path)


def _no_file(path: Path) -> FormatError:
    """Return what is said of an entry that is neither a file nor a directory."""
    what = "neither a file nor a directory"
    if path.is_symlink() and not path.exists():
        to = path.readlink()
        return FormatError(str(path), f"{what}, but a link that leads nowhere: to {to}")
    if path.is_fifo():
        hint = "save to a file what comes out of it"
        return FormatError(str(path), f"{what}, but a pipe", hint=hint)
    return FormatError(str(path), what)


def _directory(path: Path, prefix_wins: bool) -> Location:
    if (path / "saved_model.pb").exists():
        return Location("saved-model", path)
    if (path / ".index").is_file():
        return Location("tensor-bundle", path)
    if prefix_wins and path.name and path.with_name(f"{path.name}.index").is_file():
        return Location("tensor-bundle", path)  # ckpt-3/ lies beside ckpt-3.index
    if (path / "saved_model.pbtxt").exists():
        variables = path / "variables/variables"
        has_weights = index_path(variables).is_file()
        raise UnsupportedError(
            "a SavedModel in text form (saved_model.pbtxt)",
            where=str(path),
            hint=f"its weights can be read: give {variables}" if has_weights else _NO_VARIABLES,
        )
    if is_checkpoint(path):  # before state files, since old ones have a file of that name
        return Location(ORBAX, path)
    if (path / STATE_FILE).is_file() or (can_list(path) and prefixes(path)):
        prefix, notes = latest_checkpoint(path)
        return Location(_format_at(prefix), prefix, None, (*notes, *_beside(path)))
    step = latest_step(path) if can_list(path) else None
    if step is not None:
        return Location(ORBAX, step[0], None, step[1])
    models = models_in(path) if can_list(path) else _named_models(path)
    for name, form in (
        ("model.safetensors.index.json", "safetensors-index"),
        ("model.safetensors", "safetensors"),
    ):
        if len(models) == 1 and models[0].name == name and models[0].is_file():
            return Location(form, path / name, None, (f"reading {name} in that directory",))
    found = detect_format(Head(path, is_directory=True))
    if found is not None:
        return Location(found.name, path)
    raise _no_checkpoint_in(path, models)


def _named_models(path: Path) -> list[Path]:
    """Return the one file in a directory, which cannot be listed, that is asked for by name."""
    names = ("model.safetensors.index.json", "model.safetensors")
    return [path / name for name in names if (path / name).is_file()][:1]


def _beside(path: Path) -> tuple[str, ...]:
    """Say what else a training directory holds, which is not what is read."""
    models = models_in(path) if can_list(path) else []
    names = list_text([model.name for model in models], 4)
    return (f"not read: {names} beside the checkpoints",) if models else ()


def _format_at(prefix: Path) -> str:
    return "checkpoint-v1" if is_v1(prefix) else "tensor-bundle"


def _no_checkpoint_in(path: Path, models: Sequence[Path]) -> CkptkitError:
    names = sorted(entry.name for entry in path.iterdir())
    where = str(path)
    if not names:
        return PathNotFoundError("an empty directory", where=where)
    if ".metadata" in names and any(name.endswith(_DISTRIBUTED) for name in names):
        return _distributed(path)
    if len(models) > 1:
        return UsageError(
            f"holds {len(models)} models, and no checkpoint: {list_text([m.name for m in models])}",
            where=where,
            hint=f"give one of them, such as {models[0]}",
        )
    hint = f"did you mean {models[0]}?" if models else f"it holds {', '.join(names[:5])}"
    return PathNotFoundError("no checkpoint in this directory", where=where, hint=hint)


def _distributed(path: Path) -> CkptkitError:
    """Name a directory, or a file of one, that torch.distributed.checkpoint wrote."""
    directory = path.parent if path.suffix == _DISTRIBUTED else path
    return UnsupportedError(
        "a distributed checkpoint of PyTorch, whose tensors are not read",
        where=str(path),
        hint=f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {directory} "
        "weights.pt` makes one file of it",
    )


def _file(path: Path) -> Location:
    if _MEMBER.search(path.name):
        return _member(path)
    if path.suffix == _DISTRIBUTED and is_file(path.with_name(".metadata")):
        raise _distributed(path)
    if path.name in ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb"):
        return _directory(path.parent, prefix_wins=False)
    if path.name == "saved_model.pbtxt" or path.name in _OF_ORBAX:
        return _directory(path.parent, prefix_wins=False)
    start = read_start(path, HEAD_BYTES)
    if not start:
        raise FormatError(
            str(path), "an empty file", hint="it was never written, or cut to nothing"
        )
    if is_state_file(path):
        return _directory(path.parent, prefix_wins=False)
    head = Head(path, start)
    found = detect_format(head)
    if found is not None:
        is_shard = found.name == "checkpoint-v1"
        return Location(found.name, prefix_of(path) if is_shard else path)
    if head.is_zip:
        raise _strange_zip(head)
    if is_table(path):
        raise _table_without_suffix(path)
    if index_path(path).is_file():  # a stray file that has a checkpoint's prefix for its name
        return Location("tensor-bundle", path)
    raise _unreadable(path, head.start)


def _member(path: Path) -> Location:
    name = _MEMBER.sub("", path.name)
    prefix = path.with_name(name) if name else path.parent  # .index and .data-00000-of-00001
    if index_path(prefix).is_file() or is_v1(prefix):
        return Location(_format_at(prefix), prefix)
    raise PathNotFoundError(
        f"its index {index_path(prefix).name} is missing",
        where=str(path),
        hint="the save was not finished or not all files were copied",
    )


def _table_without_suffix(path: Path) -> CkptkitError:
    """Name an index under another name: the tables of V1 checkpoints were recognised before."""
    return UnsupportedError(
        "the index of a checkpoint under another name",
        where=str(path),
        hint=f"rename it to {path.name}.index, with its .data files beside it",
    )


def _strange_zip(head: Head) -> CkptkitError:
    """Say what a zip archive is that no format is kept in."""
    where, names = str(head.path), head.members
    if any(name.endswith("data.pkl") for name in names):
        return UnsupportedError(
            "a PyTorch file, whose pickle is never loaded here",
            where=where,
            hint="save it as .safetensors with the safetensors package",
        )
    if any(name.endswith("saved_model.pb") for name in names):
        return UnsupportedError("a zipped SavedModel", where=where, hint="unpack it first")
    if any(name.endswith("/.data/extern_modules") for name in names):
        return UnsupportedError(
            "a package of torch.package, whose code and tensors are not read",
            where=where,
            hint="`torch.save(MODULE.state_dict(), 'weights.pt')` keeps the weights of what is in "
            "it, which `torch.package.PackageImporter(FILE)` loads",
        )
    if any(name.count("/") == 1 and name.endswith("/archive_format") for name in names):
        return UnsupportedError(
            "a program of torch.export, whose tensors are not read",
            where=where,
            hint="`torch.save(torch.export.load(FILE).state_dict, 'weights.pt')` keeps its weights",
        )
    if any(name.endswith("/.data/serialization_id") for name in names):
        return FormatError(
            where,
            "a PyTorch file without data.pkl: saving it was not finished",
            hint="save it again",
        )
    return UnsupportedError(
        "a zip archive that is neither .keras nor .npz",
        where=where,
        hint=f"it holds {', '.join(names[:3])}" if names else "it is empty",
    )


_MAGICS = (
    (0, b"\x80\x02", "a Python pickle, which is never loaded here"),
    (0, b"\x80\x03", "a Python pickle, which is never loaded here"),
    (0, b"\x80\x04", "a Python pickle, which is never loaded here"),
    (0, b"\x80\x05", "a Python pickle, which is never loaded here"),
    (0, b"\x93NUMPY", "a single numpy array (.npy); archives of them (.npz) are read"),
    (4, b"ORTM", "an ONNX model in the form of ONNX Runtime (.ort)"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "a gzip file; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
)


def _container(name: str) -> str:
    """Return what a file of this name is kept in: "a zip archive", "an HDF5 file" or ""."""
    row = format_of_name(name)
    if row is None:
        return ""
    if row.is_archive:
        return "a zip archive"
    return "an HDF5 file" if row.suffixes[0].endswith(".h5") else ""


def _unreadable(path: Path, head: bytes) -> CkptkitError:
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return UnsupportedError(what, where=str(path))
    if path.suffix == ".tflite":
        return FormatError(str(path), "no LiteRT model, as its name says")
    if path.suffix == ".onnx":
        return FormatError(str(path), "not an ONNX model, though its name says so")
    if head.startswith(b"\x08\x01\x12"):  # saved_model_schema_version: 1, then meta_graphs
        return UnsupportedError(
            "the graph of a SavedModel under another name",
            where=str(path),
            hint="call it saved_model.pb, with its variables/ beside it, and give the directory",
        )
    if path.suffix == ".pb":
        return FormatError(str(path), "no TensorFlow graph, as its name says")
    if path.suffix == ".pbtxt":
        return UnsupportedError("a graph in text form; it holds no weights", where=str(path))
    expected = _container(path.name)
    before = start_of_hdf5(path)
    if before:
        return UnsupportedError(
            f"an HDF5 file behind {before} bytes of something else (a user block)",
            where=str(path),
            hint=f"h5unjam -i {path.name} -u BLOCK -o NEW.h5, of HDF5's tools, takes them off",
        )
    if expected:
        return FormatError(
            str(path),
            f"not {expected}, as its name says",
            found=f"a file that begins with {head[:8]!r}",
            expected=expected,
            hint="it is damaged or was never finished; copy it again",
        )
    return UnsupportedError(
        "not a checkpoint, SavedModel, Keras, safetensors or npz file",
        where=str(path),
        hint=f"it begins with {head[:8]!r}",
    )


def _not_found(path: Path) -> CkptkitError:
    parent = path.parent
    if not can_list(parent) or not parent.is_dir():
        return PathNotFoundError(
            "no such file or directory", where=str(path), hint=missing_hint(path)
        )
    names = sorted(entry.name for entry in parent.iterdir())
    members = [name for name in names if name.startswith(f"{path.name}.data-")]
    if members:
        return PathNotFoundError(
            f"its index {path.name}.index is missing (there is {members[0]})",
            where=str(path),
            hint="the save was not finished or not all files were copied",
        )
    from difflib import get_close_matches  # here, since almost every path exists

    operands = {_MEMBER.sub("", name) for name in names} - {"", path.name}
    close = get_close_matches(path.name, operands, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(str(parent / name) for name in close)}?" if close else ""
    return PathNotFoundError(
        "no such file, directory or checkpoint prefix", where=str(path), hint=hint
    )
