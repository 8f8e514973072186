"""What every store elsewhere gives: names, states and ranges of bytes of its objects.

A range is asked for on condition that the object is still in the state that is known, and what
comes is compared with it again, since some stores pass over conditions: ETag, size, and the exact
number of bytes.  So nothing is ever made of bytes of two states.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol

from ckptkit._io.file_states import ELSEWHERE, FileState
from ckptkit.errors import CkptkitError, PathNotFoundError, UnsupportedError
from ckptkit.wording import say


class ObjectState(NamedTuple):
    """What tells one content of an object from another, as far as its store says.

    size: bytes.  etag: without quotes; "" where the store gives none.  modified_ns: since 1970, 0
    where it is not told.  Listings round the time in their own ways: it counts without ETag alone.
    """

    size: int
    etag: str
    modified_ns: int

    @property
    def is_told(self) -> bool:
        """Whether another content would have another state."""
        return bool(self.etag or self.modified_ns)

    def is_that_of(self, other: ObjectState) -> bool:
        """Whether both are of one content."""
        if self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        return self.modified_ns == other.modified_ns

    @property
    def file_state(self) -> FileState:
        """The state in the terms of files: the number of an inode stands for the ETag."""
        if not self.etag:
            return FileState(ELSEWHERE, 1, self.size, self.modified_ns, 0)
        number = int.from_bytes(sha256(self.etag.encode()).digest()[:7], "big") | 1
        return FileState(ELSEWHERE, number, self.size, 0, 0)


class Answer(NamedTuple):
    """Bytes of an object, and the state of the object that they are of."""

    data: bytes
    state: ObjectState


Listing = Mapping[str, ObjectState | None]
"""What lies in a directory, by name; None for a directory."""


class ObjectSource(Protocol):
    """A store of objects, by keys without a leading slash; it pickles.

    Where no whole answer came, and one may come later, each of its functions raises `RetryError`.
    """

    @property
    def root(self) -> str:
        """What stands before a key in a message: "s3://bucket/"; no credentials are in it."""

    @property
    def identity(self) -> object:
        """What is equal for sources of the same objects that are asked in the same way."""

    @property
    def lists(self) -> bool:
        """Whether directories can be listed."""

    def list_directory(self, key: str) -> Listing:
        """Return what lies directly in a directory.

        Args:
            key: of the directory, "" for the root.

        Returns:
            State by name, None for a directory; {} where there is no such directory.

        Raises:
            AccessError: these credentials may not.
            CkptkitError: it cannot be had.
        """

    def start_of(self, key: str, nbytes: int) -> Answer | None:
        """Return the first bytes of an object, whose state is not known yet.

        Args:
            key: of the object.
            nbytes: that are wanted at most.

        Returns:
            Its bytes, fewer where it has fewer, and its state; None where there is none.

        Raises:
            AccessError: these credentials may not.
            UnsupportedError: ranges of bytes are not known there.
            CkptkitError: it cannot be had.
        """

    def get(self, key: str, start: int, stop: int, state: ObjectState) -> Answer:
        """Return bytes [start, stop) of an object, on condition that it is in that state.

        `RemoteChanged` says that it is in another.

        Args:
            key: of the object.
            start: the first byte.
            stop: the byte after the last, at most the size.
            state: that is known of it.

        Returns:
            The bytes, and the state that the store says they are of.

        Raises:
            CkptkitError: it cannot be had.
        """


class AccessError(CkptkitError):
    """The store is there, and does not let these credentials read."""

    code = "access"


class RemoteChanged(Exception):
    """An object is in another state than the one that is known."""


class RetryError(Exception):
    """No whole answer came, for a reason that may pass.

    Args:
        reason: in a few words.
        wait_s: what the server asks to wait, seconds.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


def refusal(status: int, where: str, detail: str = "", credentials: str = "") -> CkptkitError:
    """Return what to say where a store answers with an HTTP status that is no success.

    Args:
        status: of the answer.
        where: what was asked for.
        detail: what the store says.
        credentials: how they are given; "" for as the store's own tools take them.
    """
    said = f": {detail}" if detail else ""
    if "expired" in detail.lower():
        return AccessError(
            f"the credentials are expired ({status}{said})",
            where=where,
            hint="get new ones and run it again",
        )
    if status in (401, 403):
        return AccessError(
            f"access is denied ({status}{said})",
            where=where,
            hint=credentials
            or say(
                "give credentials as the store's own tools take them, or ‹anonymous=True› for what "
                "is public"
            ),
        )
    if status in (404, 410):
        return PathNotFoundError(f"no such object ({status})", where=where)
    if status == 200:
        return UnsupportedError(
            "the server sends whole files only: it does not know ranges of bytes",
            where=where,
            hint="download it first",
        )
    return CkptkitError(f"the store answers with {status}{said}", where=where)
