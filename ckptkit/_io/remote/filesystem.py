"""Files that a caller's fsspec file system reads, or objects of a caller's store of obstore.

fsspec knows no conditions, so the state of a file is asked for again after each range: a range
counts only where the file was in the same state before and behind it.
https://filesystem-spec.readthedocs.io/en/latest/api.html
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ckptkit._io.remote.objects import (
    AccessError,
    Answer,
    Listing,
    ObjectSource,
    ObjectState,
    RemoteChanged,
    RetryError,
)
from ckptkit._io.remote.requests import count
from ckptkit.errors import CkptkitError, PathNotFoundError, UsageError
from ckptkit.wording import say

# What implementations call what tells one content from another, and the time of a change.
_TAGS = ("ETag", "etag", "e_tag", "generation", "md5Hash", "ino", "sha256", "blob_id", "oid")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class FileSystemSource:
    """A file system of fsspec, which pickles by itself.

    Args:
        fs: an `fsspec.AbstractFileSystem`.
    """

    lists = True

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self.root = f"{protocol}://"
        self._slash = str(fs.root_marker)

    def __reduce__(self) -> Any:
        return FileSystemSource, (self._fs,)

    @property
    def identity(self) -> object:
        """See `ObjectSource.identity`."""
        return getattr(self._fs, "_fs_token", None) or id(self._fs)

    def list_directory(self, key: str) -> Listing:
        path = self._slash + key
        count(1)
        try:
            entries = self._fs.ls(path, detail=True, refresh=True)
        except TypeError:  # one that keeps no listings knows no `refresh`
            entries = self._fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (PermissionError, OSError) as error:
            raise _refusal(error, self.root + key) from error
        found: dict[str, ObjectState | None] = {}
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name.strip("/") == path.strip("/"):  # of a file some list the file itself
                continue
            is_file = entry.get("type") == "file"
            found[name.rpartition("/")[2]] = _state(entry) if is_file else None
        return found

    def start_of(self, key: str, nbytes: int) -> Answer | None:
        state = self._state(key)
        if state is None:
            return None
        return (
            self.get(key, 0, min(nbytes, state.size), state) if state.size else Answer(b"", state)
        )

    def get(self, key: str, start: int, stop: int, state: ObjectState) -> Answer:
        try:
            data = self._fs.cat_file(self._slash + key, start=start, end=stop)
        except FileNotFoundError:
            raise RemoteChanged(key) from None
        except OSError as error:
            raise _refusal(error, self.root + key) from error
        count(1)
        now = self._state(key)
        if now is None:
            raise RemoteChanged(key)
        if (state.etag and now.etag) or not state.etag:
            return Answer(bytes(data), now)
        # A listing may tell less than a look at the file itself, or more.
        return Answer(bytes(data), now._replace(etag=""))

    def _state(self, key: str) -> ObjectState | None:
        try:
            path = self._slash + key
            invalidate = getattr(self._fs, "invalidate_cache", None)
            if invalidate is not None:
                invalidate(self._fs._parent(path))
            info = self._fs.info(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(error, self.root + key) from error
        return _state(info) if info.get("type") == "file" else None


def _state(info: Mapping[str, Any]) -> ObjectState:
    if info.get("size") is None:
        raise CkptkitError("the file system tells no size", where=str(info.get("name")))
    etag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    time: Any = next((info[name] for name in _TIMES if info.get(name)), None)
    modified_ns = 0
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time.replace("Z", "+00:00"))
        except ValueError:
            etag = etag or time
    if isinstance(time, datetime):
        modified_ns = int(time.timestamp() * 1e6) * 1000
    elif isinstance(time, int | float):
        modified_ns = int(time * 1e6) * 1000
    if etag and modified_ns and "ino" in info:  # of a local file: an inode may be written to
        etag = f"{etag}-{modified_ns}"
    return ObjectState(int(info["size"]), etag.strip('"'), modified_ns)


def _refusal(error: OSError, where: str) -> Exception:
    said = (str(error) or type(error).__name__).partition("\n")[0][:300]
    if isinstance(error, PermissionError) or "403" in said or "401" in said:
        return AccessError(f"access is denied: {said}", where=where)
    if isinstance(error, FileNotFoundError):
        return PathNotFoundError("no such file", where=where)
    return RetryError(said)


def source_of(fs: Any, path: str) -> tuple[ObjectSource, str]:
    """Return (source, key) of a path as a file system calls it, or an obstore store its objects."""
    if hasattr(fs, "cat_file") and hasattr(fs, "root_marker"):
        return FileSystemSource(fs), str(fs._strip_protocol(path)).strip("/")
    if type(fs).__module__.partition(".")[0] == "obstore":
        from ckptkit._io.remote.cloud import CloudSource

        name = type(fs).__name__.removesuffix("Store").lower()
        return CloudSource(f"{name}://store/", {}, {}, fs), path.strip("/")
    raise UsageError(
        say("‹fs› is no fsspec file system and no store of obstore"), where=repr(type(fs))
    )
