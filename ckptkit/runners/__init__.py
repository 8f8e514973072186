"""How models are executed: one module per runtime, always in a child process.

    run("tensorflow", {"action": "outputs", ...}, timeout_s=600) -> result

A request and its result are plain values (JSON).  What a runtime imports, which devices it sees and
how it dies is the child's affair: a crash, a hang or a model that eats all memory is a RunnerError
here.  To add a runtime: one module with `ACTIONS: Mapping[str, Callable[[request], result]]`, and
one row in RUNNERS.
"""

from __future__ import annotations

from ckptkit.runners.process import RUNNERS, RunnerError, run

__all__ = ["RUNNERS", "RunnerError", "run"]
