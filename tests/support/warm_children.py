"""Children of runners that need no start of TensorFlow: forks of a process that has it imported.

Most of what a small model's child takes is the import of TensorFlow.  Until its first op runs, a
process that has it imported can be forked, and each fork starts it with settings of its own.  What
is asked of a child, in which directory and environment, is as always; that a process is started,
watched and ended as it should be is what other tests look at.

    python -m support.warm_children     reads a request a line, writes an exit status a line
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from ckptkit.runners import process
from ckptkit.runners.registry import RUNNERS
from support.places import environment

RUNTIME = "tensorflow"
LEAST_S = 60.0  # a shorter limit is one that a test is about
# what is read when the packages are imported, and cannot be another in a fork
_AT_IMPORT = ("KERAS_", "TF_USE_LEGACY_KERAS", "CKPTKIT_KERAS", "PYTHONHASHSEED")


_PATHS = {"PYTHONPATH": environment()["PYTHONPATH"]}
started = process.run  # in a process of its own


def _at_import(variables: Mapping[str, str]) -> dict[str, str]:
    # a request that does not say which Keras has this one all the same
    all_of_them = {**RUNNERS[RUNTIME].environment, **variables}
    return {name: text for name, text in all_of_them.items() if name.startswith(_AT_IMPORT)}


class WarmChildren:
    """The process that forks; started when first asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._environment = process._environment(RUNNERS[RUNTIME].environment)
        self._lock = Lock()

    def run(
        self,
        runner: str,
        request: Mapping[str, Any],
        *,
        timeout_s: float,
        max_rss_bytes: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Carry out a request in a fork, in place of `ckptkit.runners.process.run`.

        One that is for another runtime, or about limits, gets a process of its own.
        """
        given = process._environment(environment or {})
        limited = timeout_s < LEAST_S or max_rss_bytes is not None
        if runner != RUNTIME or limited or _at_import(given) != _at_import(self._environment):
            return started(
                runner,
                request,
                timeout_s=timeout_s,
                max_rss_bytes=max_rss_bytes,
                environment=environment,
            )
        with tempfile.TemporaryDirectory(prefix="ckptkit-warm-") as scratch:
            asked, answer, output = (
                Path(scratch, name) for name in ("request.json", "result.json", "output")
            )
            module = RUNNERS[runner].module
            asked.write_text(json.dumps({"runner": module, **request}), encoding="utf-8")
            files = [str(asked), str(answer), str(output)]
            status = self._ask({"files": files, "cwd": str(Path.cwd()), "environment": given})
            with output.open("rb") as printed:
                return process._result(answer, status, printed)

    def _ask(self, question: Mapping[str, Any]) -> int:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "support.warm_children"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**self._environment, **_PATHS},
                    text=True,
                )
            there, back = self._process.stdin, self._process.stdout
            assert there is not None and back is not None
            there.write(json.dumps(question) + "\n")
            there.flush()
            return int(back.readline())

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


def _serve() -> None:
    """Fork for each request, until there are no more."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import ckptkit.runners.tensorflow.actions  # noqa: F401
    from ckptkit.runners.tensorflow.build import keras

    keras()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        child = os.fork()
        if not child:
            _carry_out(question)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


def _carry_out(question: Mapping[str, Any]) -> None:
    """Do what a child of a runner does, and end."""
    from ckptkit.runners.child.__main__ import main

    status = 1
    try:
        asked, answer, output = question["files"]
        os.setsid()
        os.chdir(question["cwd"])
        os.environ.clear()
        os.environ.update(question["environment"])
        # what this process was given to find is not all that a child finds
        sys.path[:0] = question["environment"].get("PYTHONPATH", "").split(os.pathsep)
        printed = os.open(output, os.O_WRONLY | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(printed, descriptor)
        main(Path(asked), Path(answer))
        sys.stdout.flush()
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
