"""How the stores that URLs of a command name are asked, and what its operands share.

It is imported by every command that takes URLs, so it imports nothing that reads them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ckptkit.text import count_text

_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 1000), ("bytes", 0))


class Access(NamedTuple):
    """How stores elsewhere are asked, where the caller says nothing else.

    anonymous: without credentials.  endpoint: the address of a server that speaks the store's
    language; "" for the store's own.
    """

    anonymous: bool = False
    endpoint: str = ""


class Shared:
    """What all operands of one command share: how stores are asked, and what was seen of them."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._made: dict[object, Any] = {}
        self._lock = threading.Lock()

    def once(self, name: object, make: Callable[[], Any]) -> Any:
        """Return what is called `name`, made when it is first asked for."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]


_shared: Shared | None = None


def shared_now() -> Shared | None:
    """Return what the running command shares; None in a program."""
    return _shared


@contextmanager
def asking(access: Access) -> Iterator[None]:
    """Let URLs that are met in the block be asked in that way, and each directory be listed once.

    For a command, which is the only one of its process.
    """
    global _shared
    before, _shared = _shared, Shared(access)
    try:
        yield
    finally:
        _shared = before


def traffic() -> tuple[int, int]:
    """Return requests and bytes received of this process so far."""
    requests = sys.modules.get("ckptkit._io.remote.requests")
    return (0, 0) if requests is None else tuple(requests.traffic())


def traffic_text(before: tuple[int, int]) -> str:
    """Return what went over the network since: "6 requests, 396 kB received"; "" for nothing."""
    count, nbytes = (now - earlier for now, earlier in zip(traffic(), before, strict=True))
    if not count:
        return ""
    unit, size = next((u, s) for u, s in _UNITS if nbytes >= s)
    number = f"{nbytes / size:.1f}" if size > 1000 else f"{nbytes // max(size, 1)}"
    return f"{count_text(count, 'request')}, {number} {unit} received"
