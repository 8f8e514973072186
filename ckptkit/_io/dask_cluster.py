"""A Dask cluster to work on: where its scheduler answers, and whether its workers are of use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from typing import Any

from ckptkit._version import __version__
from ckptkit.errors import CkptkitError, MissingDependencyError

SCHEME = "dask://"
CONNECT_TIMEOUT_S = 15


@contextmanager
def cluster(address: str, most_at_once: int | None = None) -> Iterator[Executor]:
    """Yield an executor of the cluster at `dask://HOST:PORT`, for so many tasks at once.

    Raises MissingDependencyError, and CkptkitError where no scheduler answers, or a worker has not
    this version of the package.
    """
    client = _connected(address)
    try:
        _check_workers(client, address)
        executor = client.get_executor(pure=False)
        executor.most_at_once = most_at_once  # which `ckptkit._io.engines` asks for
        yield executor
    finally:
        with suppress(Exception):  # the cluster may be gone, and nothing is lost with it here
            client.close(timeout=1)


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError(
            "working on a Dask cluster needs Dask", hint="pip install 'ckptkit-tf[dask]'"
        ) from error
    # What it would say on standard error is told by what becomes of the tasks.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    place = address.removeprefix(SCHEME)
    try:
        _await_greeting(place)
        return Client(f"tcp://{place}", timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is one
        raise CkptkitError(
            f"no Dask scheduler answers there within {CONNECT_TIMEOUT_S} seconds",
            where=address,
            hint="`dask scheduler` prints its address",
        ) from error


def _await_greeting(place: str) -> None:
    """Wait for the first byte of a scheduler, which greets whoever connects.

    Dask's client waits without end for a server of another kind (a dashboard's port) to do so.
    Raises OSError.
    """
    import socket

    host, _, port = place.rpartition(":")
    address = host.strip("[]"), int(port)
    with (
        suppress(ConnectionRefusedError),  # it may begin in a moment: the client tries again
        socket.create_connection(address, CONNECT_TIMEOUT_S) as connection,
    ):
        if not connection.recv(1):
            raise ConnectionAbortedError("closed without a word")


def _check_workers(client: Any, address: str) -> None:
    """Raise CkptkitError where a worker that is there lacks this version of the package."""
    try:
        versions = client.run(_version_asker(), on_error="return")
    except Exception as error:  # whatever the connection raises: nothing has been done yet
        raise CkptkitError(
            f"its workers do not answer ({type(error).__name__})", where=address
        ) from error
    for worker, version in sorted(versions.items()):
        if isinstance(version, OSError):
            continue  # it was lost as it was asked; every task tells of its version, too
        if version != __version__:
            has = f"ckptkit {version}" if isinstance(version, str) else "no ckptkit"
            raise CkptkitError(
                f"the worker at {worker} has {has}, and here is {__version__}",
                where=address,
                hint="install the same version of ckptkit-tf where the workers run",
            )


def _version_asker() -> Callable[[], str | None]:
    """Return a function that is sent by value, since a worker may not have this package."""

    def version() -> str | None:
        from importlib import import_module

        try:
            found: str = import_module("ckptkit._version").__version__
        except ImportError:
            return None
        return found

    version.__module__ = "__main__"  # else it would be sent by its name
    return version
