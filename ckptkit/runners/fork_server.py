"""Several runs, one import: a process imports a runtime once and is forked for each of them.

    with sharing_imports():     # in an operation that runs models several times
        execute(...)            # starts the server, which imports TensorFlow and forks
        execute(...)            # a fork

A fork is a child process like any other (`ckptkit.runners.process`): its own session, limits, files
and end.  What it computes is what a fresh one would, since the server has done nothing but import,
with the same environment in the same directory.  So it is used on Linux alone, by runtimes that can
be forked (`Runtime.imported_first`), where no GPU is visible, and for runs whose surroundings are
those of the server.  Any other run gets a process of its own, as does one whose fork ended without
an answer: whether the model or the fork was at fault, that one tells.

The server ends with the block, and by itself where this process is gone; a fork ends with either.
What runs in the server is `ckptkit.runners.child.fork_server`, which tells the protocol.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

from ckptkit.installation import CLAIM_NAME
from ckptkit.runners.registry import Runtime

_PROGRAM = (
    f"{CLAIM_NAME}; from ckptkit.runners.child.fork_server import serve; serve(); "
    "from ckptkit.runners.child.__main__ import run; run()"
)
_GPUS = "CUDA_VISIBLE_DEVICES"
_NO_GPU = "-1"
_MAX_MESSAGE = 1 << 16  # bytes, of the few that there are
_END_S = 1.0  # that a server gets to end by itself


class Surroundings(NamedTuple):
    """What a run finds when it starts, and a fork has from its server.

    module: of the runner.  limits: of the process (setrlimit(2)).  processors: those it may use.
    """

    module: str
    environment: Mapping[str, str]
    directory: str
    limits: tuple[tuple[int, int], ...]
    processors: frozenset[int]


class ForkServer:
    """The process that imports a runtime and is forked; it starts with the object.

    output: what it prints, and what is imported.
    """

    def __init__(
        self, surroundings: Surroundings, imports: Sequence[str], output: IO[bytes]
    ) -> None:
        self.surroundings = surroundings
        self.lost = False  # whether it cannot fork any more
        self.has_forked = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, self._pipe = os.pipe()  # it ends where nobody holds the writing end
        try:
            descriptors = (theirs.fileno(), reading)
            modules = [surroundings.module, *imports]
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, descriptors), *modules],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(surroundings.environment),
                cwd=surroundings.directory,
                start_new_session=True,
                pass_fds=descriptors,
            )
        except BaseException:
            self._channel.close()
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)
            theirs.close()

    def fork(self, argv: Sequence[str], pipe: int, output: IO[bytes]) -> ForkedChild:
        """Ask for a fork, which begins once all is imported.

        Args:
            argv: files of a request and of its result.
            pipe: the reading end of one whose other end this process alone has.
            output: what the fork prints.
        """
        message = json.dumps({"argv": list(argv)}).encode()
        try:
            socket.send_fds(self._channel, [message], [pipe, output.fileno()])
        except OSError:
            self.lost = True
        return ForkedChild(self)

    def receive(self, timeout_s: float | None) -> dict[str, Any]:
        """Return the next message; {} where none came in time, or none will come (`lost`)."""
        if self.lost:
            return {}
        self._channel.settimeout(timeout_s)
        try:
            message = self._channel.recv(_MAX_MESSAGE)
        except (TimeoutError, BlockingIOError):
            return {}
        except OSError:
            message = b""
        self.lost = not message
        found: dict[str, Any] = json.loads(message) if message else {}
        self.has_forked = self.has_forked or "pid" in found
        return found

    def end(self) -> None:
        """End the process, and with it a fork that runs."""
        self.lost = True
        self._channel.close()  # it then takes note of its last fork, and ends
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._pipe)


class ForkedChild:
    """A child that a server forks, with what `subprocess.Popen` has of one."""

    def __init__(self, server: ForkServer) -> None:
        self.server = server
        self._pid = 0
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """The number of the child; until it has begun, of the server, which does its work."""
        return self._pid or self.server.process.pid

    def poll(self) -> int | None:
        """Return how it ended, negative for a signal; None where it has not."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return how it ended; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._status is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            message = self.server.receive(left)
            self._pid = message.get("pid", self._pid)
            self._status = message.get("status")
            if "refused" in message or self.server.lost:
                self._status = 1
            if not message and self._status is None:
                raise subprocess.TimeoutExpired("fork", timeout or 0.0)
        return self._status

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)


class SharedImports:
    """The servers of runs that come one after another.

    most: how many there are at a time, each of surroundings of its own: Keras 3 and Keras 2, or
        models that are run and those that are converted.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._servers: list[ForkServer] = []  # the one that was asked last is the last
        self._asked: Surroundings | None = None
        self._lock = Lock()

    @contextmanager
    def fork(
        self,
        runtime: Runtime,
        environment: Mapping[str, str],
        argv: Sequence[str],
        pipe: int,
        output: IO[bytes],
    ) -> Iterator[ForkedChild | None]:
        """Yield a child for a run, or None where it is to have a process of its own.

        Args:
            runtime: of the model.
            environment: all variables of the child.
            argv, pipe, output: see `ForkServer.fork`.
        """
        surroundings = _surroundings(runtime, environment)
        if surroundings is None or not self._lock.acquire(blocking=False):
            yield None
            return
        child = None
        try:
            server = self._server_for(surroundings, runtime.imported_first, output)
            child = server.fork(argv, pipe, output) if server is not None else None
            yield child
        finally:
            # one that nobody has waited for would be taken for the next
            if child is not None and child.poll() is None:
                self._end(child.server)
            self._lock.release()

    def _server_for(
        self, surroundings: Surroundings, imports: Sequence[str], output: IO[bytes]
    ) -> ForkServer | None:
        """Return a server; None where those of other surroundings stay, or none could be forked.

        Surroundings that are asked for twice in succession replace others.
        """
        asked, self._asked = self._asked, surroundings
        found = next((s for s in self._servers if s.surroundings == surroundings), None)
        if found is not None and found.lost and found.has_forked:
            self._end(found)
            found = None
        if found is None:
            if len(self._servers) == self._most and asked != surroundings:
                return None
            if len(self._servers) == self._most:
                self._end(self._servers[0])
            found = ForkServer(surroundings, imports, output)
            self._servers.append(found)
        self._servers.sort(key=lambda server: server is found)
        return None if found.lost else found

    def _end(self, server: ForkServer) -> None:
        self._servers.remove(server)
        server.end()

    def close(self) -> None:
        """End the servers."""
        while self._servers:
            self._end(self._servers[0])


def _surroundings(runtime: Runtime, environment: Mapping[str, str]) -> Surroundings | None:
    """Return what a run has to find; None for one that no fork can carry out."""
    if not runtime.imported_first or environment.get(_GPUS) != _NO_GPU:
        return None
    if sys.platform != "linux":
        return None
    import resource  # is not everywhere

    try:
        directory = str(Path.cwd())
    except OSError:  # it is gone; the child says so
        return None
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return Surroundings(
        runtime.module,
        dict(environment),
        directory,
        tuple(resource.getrlimit(getattr(resource, name)) for name in names),
        frozenset(os.sched_getaffinity(0)),
    )


_SHARED: ContextVar[SharedImports | None] = ContextVar("shared_imports", default=None)


@contextmanager
def sharing_imports(imports: SharedImports | None = None) -> Iterator[None]:
    """Let runs in this block share the import of their runtime, wherever that changes nothing.

    In a block within such a block, the outer one's server serves.

    Args:
        imports: whose server is used, and goes on after the block; by default one of the block's
            own, which ends with it.
    """
    if imports is None and _SHARED.get() is not None:
        yield
        return
    shared = SharedImports() if imports is None else imports
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)
        if imports is None:
            shared.close()


def shared_imports() -> SharedImports | None:
    """Return what the runs of this block share; None outside of one."""
    return _SHARED.get()
