"""One call beside what its caller does meanwhile.

The thread is a daemon, so that Ctrl-C ends the process at once though a file is on its way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ckptkit.errors import CkptkitError

T = TypeVar("T")


def beside(call: Callable[[], T]) -> Future[T]:
    """Begin a call in a thread of its own; its future has what it returns or raises."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call()
        except (CkptkitError, OSError, KeyboardInterrupt) as error:
            future.set_exception(error)  # which whoever asks for the result gets
        except BaseException as error:  # a bug of ours
            future.set_exception(error)
            raise
        else:
            future.set_result(result)

    threading.Thread(target=run, name="ckptkit-beside", daemon=True).start()
    return future
