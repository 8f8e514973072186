"""From a URL to a path of a store elsewhere: which schemes there are, and what each takes.

`s3`, `gs`, `az` and their other spellings are read through obstore (the extra `remote`), `http`,
`https` and `hf` with nothing but Python, and what a caller's fsspec file system reads by that.
Options are the store's own (`storage_options`); `anonymous` and `endpoint` are ours, for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptkit._io.remote.access import shared_now
from ckptkit._io.remote.objects import ObjectSource
from ckptkit._io.remote.path import RemotePath, path_in_store
from ckptkit._io.remote.snapshot import Snapshot
from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.text import nearest_text, without_secrets
from ckptkit.wording import say

# A scheme, and the module that makes its source: `source_of(url, options) -> (source, key)`.
_CLOUD = "ckptkit._io.remote.cloud"
SCHEMES = {
    "http": "ckptkit._io.remote.http",
    "https": "ckptkit._io.remote.http",
    "hf": "ckptkit._io.remote.hub",
    "s3": _CLOUD,
    "s3a": _CLOUD,
    "gs": _CLOUD,
    "gcs": _CLOUD,
    "az": _CLOUD,
    "abfs": _CLOUD,
    "abfss": _CLOUD,
    "adl": _CLOUD,
    "azure": _CLOUD,
}


def path_of_url(
    url: str, storage_options: Mapping[str, Any] | None = None, fs: Any = None
) -> RemotePath:
    """Return the path of what a URL names.

    Args:
        url: "scheme://..."; with `fs`, what that file system calls a path.
        storage_options: of the store.
        fs: an fsspec file system, or a store of obstore, that reads it.

    Raises:
        UnsupportedError: a scheme that is not read.
        UsageError: options that the store does not know, or a URL that names nothing.
        MissingDependencyError: the scheme needs a package that is not installed.
    """
    shared = shared_now()
    options = dict(storage_options or {})
    if shared is not None and fs is None:
        access = shared.access
        options = {
            **({"anonymous": True} if access.anonymous else {}),
            **({"endpoint": access.endpoint} if access.endpoint else {}),
            **options,
        }
    source, key = _source(url, options, fs)
    if shared is None or fs is not None or storage_options:
        return path_in_store(Snapshot(source), source.root + key)
    snapshot = shared.once(source.identity, lambda: Snapshot(source))
    return path_in_store(snapshot, source.root + key)


def _source(url: str, options: dict[str, Any], fs: Any) -> tuple[ObjectSource, str]:
    from importlib import import_module

    if fs is not None:
        if options:
            raise UsageError(say("‹fs› and ‹storage_options› exclude each other"), where=url)
        found: tuple[ObjectSource, str] = import_module("ckptkit._io.remote.filesystem").source_of(
            fs, url
        )
        return found
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        near = nearest_text(scheme, SCHEMES)
        raise UnsupportedError(
            f"no store of {scheme}:// is read",
            where=without_secrets(url.partition("?")[0]),
            hint=f"{', '.join(f'{name}://' for name in ('s3', 'gs', 'az', 'http', 'https', 'hf'))} "
            f"are{'; ' + near if near else ''}; or download it first",
        )
    made: tuple[ObjectSource, str] = import_module(SCHEMES[scheme]).source_of(url, options)
    return made
