"""A runner whose children run a script, for `support.scripts`; in the child process alone."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python ARGV` in a directory; return what it prints."""
    how, *rest = request["argv"]
    os.chdir(request["directory"])
    sys.path[:0] = [request["directory"]]
    printed = io.StringIO()
    with redirect_stdout(printed):
        if how == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<script>", "exec"), {"__name__": "__main__"})
        elif how == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [how, *rest]
            sys.path[:0] = [str(Path(how).parent)]
            runpy.run_path(how, run_name="__main__")
    return {"printed": printed.getvalue()}


ACTIONS = {"run": run}
