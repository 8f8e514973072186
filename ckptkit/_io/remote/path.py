"""A path of an object elsewhere, which answers as paths of this machine do.

`RemotePath` is a path: it has parts, parents and names, and is asked whether a file is there, how
long it is and what lies beside it.  It has no place in the file system of this machine; whoever
needs one (a library that opens files by itself) is told so.
"""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any, TypeVar

from ckptkit._io.file_states import (
    ELSEWHERE,
    FileState,
    Handle,
    SourcePath,
)
from ckptkit._io.pointers import MAX_POINTER_BYTES, pointer_in
from ckptkit._io.remote.blocks import ObjectBytes
from ckptkit._io.remote.objects import ObjectState, RemoteChanged
from ckptkit._io.remote.snapshot import Snapshot
from ckptkit.errors import ChangedError, PathNotFoundError, UnsupportedError

T = TypeVar("T")

# Files that make a directory one to look into, where a server cannot list it; the second group is
# asked for where none of the first is there.
MARKS = (
    ("saved_model.pb", "checkpoint", "model.safetensors.index.json", "model.safetensors"),
    ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"),
)


def path_in_store(snapshot: Snapshot, text: str, state: FileState | None = None) -> RemotePath:
    """Return the path that is spelled `text` ("s3://bucket/key"), to be asked of `snapshot`."""
    path = RemotePath(text)
    path.snapshot = snapshot
    path.state = state
    return path


class RemotePath(SourcePath):
    """A path in a store elsewhere; made by `path_in_store`, and from such a one."""

    snapshot: Snapshot

    # --- text -------------------------------------------------------------------------------------

    def __str__(self) -> str:
        # A path has one slash where a URL has two.
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        raise UnsupportedError(
            "is elsewhere, and a file of this machine is needed",
            where=str(self),
            hint="download it first",
        )

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return path_in_store, (self.snapshot, str(self), self.state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RemotePath) or str(self) != str(other):
            return False
        # One bucket may be asked of two servers.
        return self.snapshot.source.identity == other.snapshot.source.identity

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: Any) -> bool:
        return str(self) < str(other)

    @property
    def key(self) -> str:
        """The key of the object in its store."""
        root = self.snapshot.source.root
        return f"{self}/".removeprefix(root).strip("/")

    # --- other paths ------------------------------------------------------------------------------

    def _made(self, path: PosixPath) -> RemotePath:
        if not isinstance(path, RemotePath):
            path = RemotePath(str(path))
        path.snapshot = self.snapshot
        return path

    def with_segments(self, *segments: Any) -> RemotePath:
        made = RemotePath(*(str(segment) for segment in segments))
        made.snapshot = self.snapshot
        return made

    def __truediv__(self, key: Any) -> RemotePath:
        return self.joinpath(key)

    def joinpath(self, *others: Any) -> RemotePath:
        text = "/".join([str(self), *(str(other).strip("/") for other in others)])
        return self._made(RemotePath(text))

    @property
    def parent(self) -> RemotePath:
        root = self.snapshot.source.root
        return self._made(RemotePath(root + self.key.rpartition("/")[0]))

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(self.stem + suffix)

    def absolute(self) -> RemotePath:
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        key = posixpath.normpath(f"/{self.key}").lstrip("/")
        return self._made(RemotePath(self.snapshot.source.root + key))

    def expanduser(self) -> RemotePath:
        return self

    # --- what lies there --------------------------------------------------------------------------

    def _found(self) -> ObjectState:
        found = self.snapshot.state(self.key)
        if found is None:
            raise FileNotFoundError(2, "no such object", str(self))
        return found

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.is_file():
            found = self._found()
            mode, state, modified_ns = stat.S_IFREG | 0o444, found.file_state, found.modified_ns
        elif self.is_dir():
            mode, state, modified_ns = stat.S_IFDIR | 0o555, FileState(ELSEWHERE, 0, 0, 0, 0), 0
        else:
            raise FileNotFoundError(2, "no such object", str(self))
        seconds = modified_ns // 10**9
        fields = (mode, state.inode, 0, 1, 0, 0, state.size, seconds, seconds, 0)
        times = {"st_mtime_ns": modified_ns, "st_ctime_ns": 0, "st_atime_ns": modified_ns}
        return os.stat_result(fields, times)

    def lstat(self) -> os.stat_result:
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self.snapshot.state(self.key) is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.snapshot.is_directory(self.key, MARKS)

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        for name in self.snapshot.names(self.key):
            yield self / name

    def glob(self, pattern: str, **_options: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Yield what fits a pattern; `**` stands for any levels."""
        first, _, rest = pattern.partition("/")
        for path in list(self.iterdir()) if self.is_dir() else ():
            if first == "**":
                if fnmatchcase(path.name, rest):
                    yield path
                if path.is_dir():
                    yield from path.glob(pattern)
            elif fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def rglob(self, pattern: str, **_options: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        yield from self.glob(f"**/{pattern}")

    def open(  # type: ignore[override]
        self, mode: str = "r", *_args: Any, **_options: Any
    ) -> io.BufferedReader:
        """Open the object for reading; no other mode than "rb" is meant."""
        if mode != "rb":
            raise UnsupportedError("is elsewhere, and is only read", where=str(self))
        return io.BufferedReader(_ObjectFile(self.open_handle()))

    def read_bytes(self) -> bytes:
        handle = self.open_handle()
        return handle.read_at(0, handle.size)

    def read_text(self, encoding: str | None = None, *_args: Any, **_options: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    # --- bytes ------------------------------------------------------------------------------------

    @property
    def is_listed(self) -> bool:
        self.exists()  # that listing is not allowed shows when it is tried
        return self.snapshot.lists

    @property
    def is_web_page(self) -> bool:
        return self.key in getattr(self.snapshot.source, "pages", ())

    def is_there_after_all(self) -> bool:
        return self.snapshot.asked_itself(self.key) is not None

    def state_there(self) -> FileState:
        return self._found().file_state

    def spelled(self, text: str) -> RemotePath:
        return path_in_store(self.snapshot, text)

    def in_state(self, state: FileState) -> RemotePath:
        return path_in_store(self.snapshot, str(self), state)

    def use_copy(self, copy: Path) -> None:
        self.snapshot.object(self.key, self._found()).use_copy(copy)

    def begin_copy(self, place: Path) -> Callable[[], None]:
        arriving = self.snapshot.object(self.key, self._found()).begin_copy(place)

        def wait() -> None:
            if arriving is not None:
                self.unchanged_by(arriving.wait)

        return wait

    def unchanged_by(self, read: Callable[[], T]) -> T:
        """Read; raises ChangedError where the object turns out to be in another state."""
        try:
            return read()
        except RemoteChanged:
            self.snapshot.forget()
            raise ChangedError(self) from None

    def open_handle(self) -> Handle:
        found = self.snapshot.state(self.key) or self.snapshot.asked_itself(self.key)
        if found is None:
            raise PathNotFoundError("no such object", where=str(self))
        return RemoteHandle(self, self.snapshot.object(self.key, found))


class RemoteHandle(Handle):
    """Reads one object in the state in which it was found."""

    def __init__(self, path: RemotePath, content: ObjectBytes) -> None:
        self.fd = -1
        self.size = content.state.size
        self.state = content.state.file_state
        self._path, self._content = path, content
        if 0 < self.size <= MAX_POINTER_BYTES:
            pointer = pointer_in(self.read_at(0, self.size))
            if pointer is not None:
                raise UnsupportedError(
                    str(pointer), where=str(path), hint="give the address of the file itself"
                )

    def read_at(self, offset: int, nbytes: int) -> bytes:
        buffer = bytearray(max(0, min(nbytes, self.size - offset)))
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview, until: int = 0) -> int:
        count = max(0, min(len(buffer), self.size - offset))
        self._path.unchanged_by(lambda: self._content.read_into(offset, buffer[:count], until))
        return count

    def lent(self, offset: int, nbytes: int, until: int = 0) -> memoryview | None:
        return self._path.unchanged_by(lambda: self._content.lent(offset, nbytes, until))

    def state_now(self) -> FileState:
        return self.state  # each answer was compared with it

    def will_be_read(self, spans: Sequence[tuple[int, int]]) -> None:
        self._path.unchanged_by(lambda: self._content.fetch(spans))

    def will_be_read_on(self, then: Handle | None) -> None:
        self._content.will_be_read_on(then._content if isinstance(then, RemoteHandle) else None)

    def begin(self) -> None:
        self._path.unchanged_by(self._content.begin)


class _ObjectFile(io.RawIOBase):
    """An object as a file that is read."""

    def __init__(self, handle: Handle) -> None:
        self._handle, self._at = handle, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._handle.size)[whence]
        if self._at < 0:
            raise OSError(22, "a place before the start")
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        done = self._handle.read_into(self._at, memoryview(buffer).cast("B"))
        self._at += done
        return done
