"""Files that a model needs beside its tensors: vocabularies and the like.

They are compared by content, since every format calls them differently: the `assets/vocabulary.txt`
of a SavedModel is `assets/layers/string_lookup/vocabulary.txt` in a `.keras` archive.  Newlines at
the end do not count: one of them writes a last one, the other does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError, PathNotFoundError
from ckptkit.stores.base import Store
from ckptkit.stores.containers.zip_archive import member_chunks, read_directory

_CHUNK = 1 << 20
_MAX_TEXT = 64 << 20  # bytes of an asset that is looked at line by line


def assets(store: Store) -> dict[str, str | None]:
    """Return {name: SHA-256 of the content} of what the store's model names as its assets.

    None stands for a file that is named and is not there.  Reads saved_model.pb.
    Raises FormatError for a name, or a link, that leads out of assets/.
    """
    names = store.model.assets if store.model is not None else ()
    if store.format == "keras":
        members = read_directory(store.path)
        return {name: _digest(member_chunks(store.path, members[name])) for name in names}
    if store.format == "saved-model":
        inside = check_assets(store.path, names)
        return {f"assets/{name}": _file_digest(path) for name, path in inside.items()}
    return {}


def small_asset(store: Store, name: str) -> bytes | None:
    """Return the content of an asset that `assets` lists; None if it is large, or no text."""
    if store.format == "keras":
        member = read_directory(store.path)[name]
        if member.nbytes > _MAX_TEXT:
            return None
        data = b"".join(member_chunks(store.path, member))
    else:
        path = store.path / name
        if file_size(path) > _MAX_TEXT:
            return None
        data = read_exact(path, 0, file_size(path))
    return None if b"\0" in data else data


def is_plain_name(name: str) -> bool:
    """Whether an asset's file name stays below assets/ on every system."""
    if not name or "\0" in name or "\\" in name or re.match(r"[A-Za-z]:", name):
        return False
    path = PurePosixPath(name)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and str(path) == name


def check_assets(model: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the path of every asset of a SavedModel; FormatError for one outside."""
    root = (model / "assets").resolve()
    found = {}
    for name in names:
        path = model / "assets" / name
        if not is_plain_name(name) or not path.resolve().is_relative_to(root):
            raise FormatError(
                str(model),
                f"the asset {name!r} leads out of the directory of assets",
                hint="no exporter writes that: the model is forged; see `ckptkit verify`",
            )
        found[name] = path
    return found


def check_copied(directory: Path) -> None:
    """Raise FormatError unless all below a directory are files and directories of its own.

    A copy would follow a link to wherever it leads, and read a device or pipe without end.
    """
    root = directory.resolve()
    for at, names, files in os.walk(directory):
        for path in (Path(at, name) for name in (*names, *files)):
            is_own = path.resolve().is_relative_to(root) and (path.is_dir() or path.is_file())
            if not is_own:
                raise FormatError(
                    str(path),
                    "is a link that leads elsewhere, or no regular file: it is not copied",
                    hint="put the file itself there",
                )


def _file_digest(path: Path) -> str | None:
    try:
        size = file_size(path)
    except PathNotFoundError:
        return None
    starts = range(0, size, _CHUNK)
    return _digest(read_exact(path, start, min(_CHUNK, size - start)) for start in starts)


def _digest(chunks: Iterable[bytes]) -> str:
    import hashlib  # here, since most models have none

    total = hashlib.sha256()
    for chunk in _without_last_newlines(chunks):
        total.update(chunk)
    return total.hexdigest()


def _without_last_newlines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        text = chunk.rstrip(b"\r\n")
        if text:
            yield held + text
            held = chunk[len(text) :]
        else:
            held += chunk
