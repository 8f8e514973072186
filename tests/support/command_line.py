"""Running the command line inside the test process, exit code and all."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from typing import Any, NamedTuple
from unittest.mock import patch

from ckptkit.cli.main import main


class Result(NamedTuple):
    """What one call printed, and its exit code."""

    code: int
    out: str
    err: str


class _Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal; how wide, COLUMNS says."""

    def isatty(self) -> bool:
        return True


def ckptkit(*arguments: object, columns: int | None = None) -> Result:
    """Run `ckptkit ARGUMENTS...`; an exception that is no exit is a traceback, and is raised.

    columns: of a terminal that standard output is.
    """
    stream = _Terminal if columns else io.TextIOWrapper
    printed = io.BytesIO(), io.BytesIO()
    out = stream(printed[0], "utf-8", write_through=True)
    err = io.TextIOWrapper(printed[1], "utf-8", "backslashreplace", write_through=True)
    thresholds = gc.get_threshold()
    code: object = None
    try:
        with (
            patch.object(sys, "argv", ["ckptkit", *map(str, arguments)]),
            patch.dict(os.environ, {"COLUMNS": str(columns)} if columns else {}),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as exit_:
        code = exit_.code
    finally:
        gc.set_threshold(*thresholds)
    assert isinstance(code, int)
    texts = [stream.getvalue().decode() for stream in printed]
    if "json" in arguments and texts[0].startswith("{"):
        _is_of_its_schema(texts[0])
    return Result(code, *texts)


def _is_of_its_schema(text: str) -> None:
    """Hold a document to docs/schemas, whichever test prints it."""
    # An environment that is older than this need of the tests is told by tests/test_schemas.py.
    if find_spec("jsonschema") is not None:
        from support.schemas import refused as not_allowed

        assert not_allowed(json.loads(text)) == []


def json_results(*arguments: object) -> list[dict[str, Any]]:
    """Run a command of several operands with `--format json`; return one document per operand."""
    document = json.loads(ckptkit(*arguments, "--format", "json").out)
    assert list(document) == ["schema", "results", "refused"]
    found: list[dict[str, Any]] = document["results"]
    assert all(result["schema"] == document["schema"] for result in found)
    return found


def refused(*arguments: object) -> str:
    """Run a command that must exit 2 with one line on stderr and nothing on stdout; return it."""
    result = ckptkit(*arguments)
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith("ckptkit: ")
    assert result.err.count("\n") == 1, result.err
    return result.err
