"""Names beside an output, and what the system says against it.

Temporary names look like `.NAME.ckptkit-tmp-1a2b3c4d`, the claim of a writer (`ckptkit._io.claims`)
like `.NAME.ckptkit-tmp-claim`.  Neither is ever taken for data.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptkit._io.file_states import GONE, GONE_HINT, is_left_behind
from ckptkit._io.places import path_in_file_url
from ckptkit.errors import OutputError
from ckptkit.text import lazy_pattern, without_secrets

_MARK = ".ckptkit-tmp-"
_CLAIM = "claim"
_TEMPORARY = lazy_pattern(r"\..*" + re.escape(_MARK) + r"([0-9a-f]{8,16}|claim)\Z", re.DOTALL)
_URL = lazy_pattern(r"(?:^|/)(?P<url>[A-Za-z][A-Za-z0-9+.-]+:/{1,3}[^/])")
_MAX_NAME = 255  # bytes; the limit of every common file system
_MAX_TOKEN = 16  # letters


def is_temporary(name: str) -> bool:
    """Whether `name` (no directory) is one of our own: a temporary name, or a writer's claim."""
    return _TEMPORARY.match(name) is not None


def is_claim(name: str) -> bool:
    """Whether `name` (no directory) is that of the claim of a writer."""
    match = _TEMPORARY.match(name)
    return match is not None and match[1] == _CLAIM


def token_of(name: str) -> str:
    """Return the token at the end of a temporary name; "" where it is none."""
    match = _TEMPORARY.match(name)
    return match[1] if match is not None and match[1] != _CLAIM else ""


def temporary_name(target: Path, token: str) -> Path:
    """Return the temporary name beside `target` that ends in `token` (8 to 16 hex digits)."""
    return target.with_name(f".{_shortened(target.name)}{_MARK}{token}")


def claim_name(target: Path) -> Path:
    """Return the name of the claim to `target`; two targets in one directory have two."""
    return target.with_name(f".{_shortened(target.name)}{_MARK}{_CLAIM}")


def _shortened(name: str) -> str:
    """Return a name to which a mark and a token can be added; one that is cut ends in a hash."""
    raw, room = os.fsencode(name), _MAX_NAME - 1 - len(_MARK) - _MAX_TOKEN
    if len(raw) <= room:
        return name
    import hashlib  # here, since names are seldom that long

    digest = hashlib.sha256(raw).hexdigest()[:8]
    return raw[: room - len(digest)].decode("utf-8", "ignore") + digest


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn operating-system errors into an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and is_left_behind(path):
            raise OutputError(GONE, where=str(path), hint=GONE_HINT) from error
        reason = error.strerror or type(error).__name__
        hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise OutputError(f"cannot write: {reason}", where=str(path), hint=hint) from error


def refuse_elsewhere(text: str) -> None:
    """Raise OutputError for a URL; one that was made a path, an absolute one too, still is one."""
    found = _URL.search(text)
    if found is not None and not os.path.lexists(text):
        url = text[found.start("url") :]
        named = path_in_file_url(url)
        if named:
            raise OutputError("a URL, and no path", where=url, hint=f"give {named}")
        scheme, _, rest = url.partition(":")
        raise OutputError(
            "is elsewhere, and nothing is ever written there",
            where=without_secrets(f"{scheme}://{rest.lstrip('/')}"),
            hint="give a path of this machine, and copy it from there",
        )


def check_parent(path: Path, target: Path) -> None:
    """Raise OutputError unless the directory is there that `target` goes into, which `path` means.

    path: as it was given; `target` is what its links lead to.
    """
    if not target.parent.is_dir():
        refuse_elsewhere(str(target))
        parent = target.parent if path.is_symlink() else path.parent
        raise OutputError(f"no such directory: {parent}", where=str(path), hint="make it first")
