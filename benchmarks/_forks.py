"""Children without a new interpreter: forks of a process that has TensorFlow imported, not started.

TensorFlow takes seconds to import and a moment to start.  Until its first op runs, a process that
has it imported can be forked, and each fork starts it with settings of its own.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

LIMIT_S = 900.0


def preload() -> None:
    """Import what the forks need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import_module("keras")
    import_module("ckptkit.runners.tensorflow.actions")


def forked(function: Callable[..., Any], *arguments: Any, limit_s: float = LIMIT_S) -> Any:
    """Return what the function returns in a fork; raises RuntimeError where it raises or dies."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        _answer(send, function, arguments)
    os.close(send)
    parts: list[bytes] = []
    try:
        while select.select([receive], [], [], limit_s)[0]:
            part = os.read(receive, 1 << 20)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(receive)
        status = os.waitpid(child, 0)[1]
    if not parts:
        raise RuntimeError(f"{function.__name__}: the child died, status {status}")
    good, value = pickle.loads(b"".join(parts))
    if not good:
        raise RuntimeError(value)
    return value


def _answer(send: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Send what the function returns to the parent, and end."""
    code = 1
    try:
        silence()
        result = pickle.dumps((True, function(*arguments)))
        code = 0
    except BaseException:  # the parent raises it again
        result = pickle.dumps((False, traceback.format_exc()))
    with os.fdopen(send, "wb") as pipe:
        pipe.write(result)
    os._exit(code)


def silence() -> None:
    """Send what TensorFlow and Keras print nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


# --- requests to runners --------------------------------------------------------------------------


def run_here(runner: str, request: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Carry out a request as the runner's child would, in this process.

    In place of `ckptkit.runners.process.run`; raises RunnerError as that does.
    """
    from ckptkit.runners.child import __main__ as _child
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.registry import RUNNERS

    with tempfile.TemporaryDirectory(prefix="mutations-run-") as scratch:
        asked, answer = Path(scratch, "request.json"), Path(scratch, "result.json")
        asked.write_text(json.dumps({"runner": RUNNERS[runner].module, **request}), "utf-8")
        path = list(sys.path)
        _child.main(asked, answer)
        sys.path[:] = path
        result: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    error = result.get("error")
    if error is not None:
        raise RunnerError(error["message"], kind=error["kind"], hint=error.get("hint", ""))
    return result


def run_forked(runner: str, request: Mapping[str, Any], **_: Any) -> dict[str, Any]:
    """Carry out a request in a fork; this process must not have started TensorFlow."""
    from ckptkit.runners.errors import RunnerError

    good, value = forked(_tried, runner, dict(request))
    if not good:
        raise RunnerError(value[0], kind=value[1])
    found: dict[str, Any] = value
    return found


def _tried(runner: str, request: Mapping[str, Any]) -> tuple[bool, Any]:
    from ckptkit.runners.errors import RunnerError

    try:
        return True, run_here(runner, request)
    except RunnerError as error:
        return False, (error.message, error.kind)


def use(run: Callable[..., dict[str, Any]]) -> None:
    """Have runners' requests carried out by `run_here` or `run_forked` from now on."""
    from ckptkit.runners import client

    module: Any = client  # its own name for `run` is replaced
    module.run = run
