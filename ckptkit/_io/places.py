"""What a person typed as a path: of this machine, or a URL of what is elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ckptkit._io.file_states import GONE, GONE_HINT, SourcePath, is_left_behind
from ckptkit.errors import PathNotFoundError, UsageError
from ckptkit.text import lazy_pattern

_URL = lazy_pattern(r"(?!(?i:file):)[A-Za-z][A-Za-z0-9+.-]+://?(?=[^/])")
_FILE_URL = lazy_pattern(r"(?i:file):(?://localhost)?(?P<path>/.*)\Z", re.DOTALL)


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether this is a URL (`s3://bucket/key`), and not a file of this machine that is called so.

    A path of a store elsewhere is one; so is a URL that pathlib took a slash of.
    """
    if isinstance(text, SourcePath):
        return True
    text = os.fsdecode(text)
    return bool(_URL.match(text)) and not os.path.lexists(text)


def text_of(path: str | os.PathLike[str]) -> str:
    """Return a path as text, without its `#SUBTREE` taken off."""
    return str(path) if isinstance(path, SourcePath) else os.fsdecode(path)


def path_of(text: str | os.PathLike[str]) -> Path:
    """Return the path of a text, one of a store elsewhere where it is a URL.

    Raises:
        PathNotFoundError: an empty text, one with a NUL in it, or a `file:` URL.
        UnsupportedError, UsageError, MissingDependencyError: a URL that cannot be read.
    """
    if isinstance(text, SourcePath):
        return text
    text = os.fsdecode(text)
    if not is_url(text):
        return local_path(text)
    from ckptkit._io.remote.urls import path_of_url  # few operands are elsewhere

    scheme, _, rest = text.partition(":")
    return path_of_url(f"{scheme}://{rest.lstrip('/')}")


def local_path(text: str | os.PathLike[str]) -> Path:
    """Return a text as a path of this machine.

    Raises PathNotFoundError for an empty text, which `Path` takes for the working directory (what
    a variable of the shell that is not set stands for), for one with a NUL in it, for a `file:`
    URL, and for a relative path where the working directory was removed: it looks empty.
    """
    plain = os.fsdecode(text)
    if not plain or "\0" in plain:
        raise PathNotFoundError("not a path" if plain else "empty path", where=repr(plain))
    named = path_in_file_url(plain)
    if named:
        raise PathNotFoundError("a URL, and no path", where=plain, hint=f"give {named}")
    if is_left_behind(plain):
        raise PathNotFoundError(GONE, where=plain, hint=GONE_HINT)
    return Path(plain)


def path_in_file_url(text: str) -> str:
    """Return the path that a URL of this machine's files (`file:///x`) names; "" of another text.

    Also of one that was made a path, which takes slashes off.
    """
    match = _FILE_URL.match(text)
    if match is None or os.path.lexists(text):
        return ""
    from urllib.parse import unquote  # here, since such a URL is rare

    path = f"/{match['path'].lstrip('/')}"
    return path if os.path.lexists(path) else unquote(path)


def remote_path(
    url: str | os.PathLike[str],
    *,
    anonymous: bool = False,
    endpoint: str = "",
    storage_options: Mapping[str, Any] | None = None,
    fs: Any = None,
) -> Path:
    """Return the path of what is elsewhere, for every function that takes a path to read from.

    Args:
        url: `s3://bucket/run/ckpt-3`, `gs://`, `az://`, `https://` or `hf://`; with `fs`, a path as
            that calls it.
        anonymous: without credentials, for what is public.
        endpoint: the address of the server that is asked, if not the store's own.
        storage_options: what else the store takes (docs/buckets.md).
        fs: an fsspec file system, or a store of obstore, that reads it.

    Returns:
        A path; what is seen through it and the paths made of it stays, as of one time.

    Raises:
        UsageError: no URL, or an option that the store does not know.
        UnsupportedError: a scheme that is not read.
        MissingDependencyError: the scheme needs a package that is not installed.
        PathNotFoundError: no such repository (`hf://`).
        AccessError: these credentials may not read it (`hf://`).
    """
    from ckptkit._io.remote.urls import path_of_url  # few operands are elsewhere

    if isinstance(url, SourcePath) or (fs is None and not is_url(url)):
        what = "a path" if isinstance(url, SourcePath) else "a file of this machine"
        raise UsageError(f"{what}, and no URL that is read with options", where=text_of(url))
    options = dict(storage_options or {})
    if anonymous:
        options["anonymous"] = True
    if endpoint:
        options["endpoint"] = endpoint
    return path_of_url(os.fspath(url), options, fs)


def is_there(path: Path) -> bool:
    """Whether anything has that path, a link that leads nowhere too."""
    return path.exists() if isinstance(path, SourcePath) else os.path.lexists(path)


def missing_hint(path: Path) -> str:
    """Return the next step where nothing has that path; "" where it is of this machine."""
    if not isinstance(path, SourcePath):
        return ""
    if any(letter in path.name for letter in "*?["):
        return "no pattern is expanded in a URL: give the names"
    if path.is_web_page:
        return (
            "a web page came there, and no file: is that the file's own address, and is a login "
            "needed? of a directory, give a file or the prefix of a checkpoint"
        )
    return "is the address right? a checkpoint is given by its prefix, without .index"


def readable(path: Path) -> Path | BinaryIO:
    """Return what `zipfile` opens: a path of this machine, or an open file of what is elsewhere.

    Raises what opening the file raises.
    """
    return path.open("rb") if isinstance(path, SourcePath) else path


def fetched_path(path: Path) -> Path:
    """Return the path of a file of this machine, of a copy where the file is elsewhere.

    Raises what `remote.fetched.fetched_file` raises.
    """
    if not isinstance(path, SourcePath):
        return path
    from ckptkit._io.remote.fetched import fetched_file

    return fetched_file(path)


def begin_to_fetch(path: Path, *, must: bool) -> None:
    """Begin to copy a file that is elsewhere, where it will be read more than once.

    must: whether a copy will be needed.  Raises what `remote.fetched.fetched_file` raises.
    """
    if isinstance(path, SourcePath):
        from ckptkit._io.remote import fetched

        fetched.begin_to_fetch(path, must=must)


def can_list(path: Path) -> bool:
    """Whether it can be told what lies in a directory; a web server knows names alone."""
    return not isinstance(path, SourcePath) or path.is_listed


def entries_known(path: Path) -> list[Path]:
    """Return what lies in a directory, sorted; [] where that cannot be listed.  Raises OSError."""
    return sorted(path.iterdir()) if can_list(path) else []


def names_in(path: Path, *, follow: bool = False) -> list[tuple[str, bool]]:
    """Return (name, whether it is a directory) of what lies in a directory, sorted.

    follow: whether links to directories count as such.  Raises OSError.
    """
    if isinstance(path, SourcePath):
        return sorted((entry.name, entry.is_dir()) for entry in path.iterdir())
    with os.scandir(path) as entries:
        return sorted((e.name, e.is_dir(follow_symlinks=follow)) for e in entries)
