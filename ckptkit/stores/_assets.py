"""Files that a model needs beside its tensors: vocabularies and the like.

They are compared by content, since every format calls them differently: the `assets/vocabulary.txt`
of a SavedModel is `assets/layers/string_lookup/vocabulary.txt` in a `.keras` archive.  Newlines at
the end do not count: one of them writes a last one, the other does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ckptkit._files import file_size, os_error, read_exact
from ckptkit.stores._zip import member_chunks, read_directory
from ckptkit.stores.base import Store

_CHUNK = 1 << 20
_MAX_TEXT = 64 << 20  # bytes of an asset that is looked at line by line


def assets(store: Store) -> dict[str, str | None]:
    """Return {name: SHA-256 of the content} of what the store's model names as its assets.

    None stands for a file that is named and is not there.  Reads saved_model.pb.
    """
    names = store.model.assets if store.model is not None else ()
    if store.format == "keras":
        members = read_directory(store.path)
        return {name: _digest(member_chunks(store.path, members[name])) for name in names}
    if store.format == "saved-model":
        return {f"assets/{name}": _file_digest(store.path / "assets" / name) for name in names}
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


def _file_digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return _digest(iter(lambda: file.read(_CHUNK), b""))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise os_error(path, error) from error


def _digest(chunks: Iterable[bytes]) -> str:
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
