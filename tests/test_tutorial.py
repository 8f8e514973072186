"""docs/tutorial.md, walked from its first block to its last: `--regen` writes what was printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.places import ROOT, environment

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"(?ms)^```(python|console)\n(.*?)^```\n(?:```output\n(.*?)^```\n)?")
_NUMBERED = re.compile(r"(?m)(?:^_all_variables/\d+ .*\n)+")
# Runs the blocks of Python in one namespace, the commands between them as a shell does.
_WALK = r"""
import contextlib, io, json, shlex, subprocess, sys

space, printed = {}, []
for kind, text in json.load(open("blocks.json")):
    if kind == "python":
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(text, "tutorial", "exec"), space)
        printed.append(out.getvalue())
        continue
    lines = []
    for line in text.splitlines():
        if line.startswith("$ "):
            words = [sys.executable, "-m", *shlex.split(line[2:])]
            done = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            lines += [line, done.stdout.rstrip()]
    printed.append("\n".join(filter(None, lines)) + "\n")
json.dump(printed, open("printed.json", "w"))
"""

pytestmark = [pytest.mark.needs_tf, pytest.mark.slow]


def test_the_tutorial(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = [(match[1], match[2]) for match in _BLOCK.finditer(text)]
    (tmp_path / "blocks.json").write_text(json.dumps(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _WALK],
        cwd=tmp_path,
        env={**environment(), "COLUMNS": "100", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = iter(json.loads((tmp_path / "printed.json").read_text(encoding="utf-8")))

    def shown(match: re.Match[str]) -> str:
        output = next(printed)
        if match[1] == "console":
            return f"```console\n{output}```\n"
        kept = f"```output\n{output}```\n" if output else ""
        return f"```python\n{match[2]}```\n{kept}"

    expected = _BLOCK.sub(shown, text)
    if _lasting(text) != _lasting(expected) and request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
        text = expected
    assert _lasting(text) == _lasting(expected), "run: make docs"


def _lasting(text: str) -> str:
    """Return a page without what is another in each run.

    That is the versions of TensorFlow and Keras, and the order in which Keras numbers the variables
    of an export: TensorFlow keeps those that a graph reads in a set, by their place in memory
    (`_watched_variables` of tensorflow/python/framework/func_graph.py).
    """
    text = re.sub(r"\b(TensorFlow|Keras) \d+\.\d[\w.]*", r"\1", text)
    return _NUMBERED.sub(_sorted_rows, text)


def _sorted_rows(match: re.Match[str]) -> str:
    rows = re.sub(r"_all_variables/\d+ +", "", match[0]).splitlines()
    return "\n".join(sorted(re.sub(" +", " ", row) for row in rows)) + "\n"
