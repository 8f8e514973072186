"""docs/transcripts.md: a shell, a pipeline and a notebook; `--regen` writes what was printed."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.command_line import ckptkit
from support.places import ROOT, environment

PAGE = ROOT / "docs" / "transcripts.md"
_BLOCK = re.compile(r"(?ms)^```(console|sh|python)\n(.*?)^```\n(\n```output\n.*?^```\n)?")
_COMMAND = re.compile(r"(?m)^\$ ckptkit (.*)$")
_NOW = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
_SOME_DAY = "2026-01-31 12:00:00Z"


def _session(text: str) -> str:
    """Return commands with what each prints, and its exit code where that is not 0."""
    lines = []
    for words in _COMMAND.findall(text):
        done = ckptkit(*shlex.split(words))
        lines += [f"$ ckptkit {words}", *done.out.splitlines(), *done.err.splitlines()]
        lines += [f"[exit code {done.code}]"] if done.code else []
        lines.append("")
    return "\n".join(line.rstrip() for line in lines[:-1]) + "\n"


def _script(text: str, folder: Path) -> str:
    """Return what a script prints, in which `ckptkit` is this one; it must end well."""
    bin_ = folder / "bin"
    bin_.mkdir()
    program = bin_ / "ckptkit"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ckptkit "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", text],
        env=environment(PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _cell(text: str, space: dict[str, Any]) -> str:
    """Return what a cell shows: its last line, where that is a value."""
    *body, last = ast.parse(text).body
    if not isinstance(last, ast.Expr):
        body.append(last)
    exec(compile(ast.Module(body, []), "cell", "exec"), space)
    if not isinstance(last, ast.Expr):
        return ""
    return f"{eval(compile(ast.Expression(last.value), 'cell', 'eval'), space)}\n"


def test_the_transcripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    space: dict[str, Any] = {}

    def walked(match: re.Match[str]) -> str:
        kind, code = match[1], match[2]
        if kind == "console":
            return f"```console\n{_NOW.sub(_SOME_DAY, _session(code))}```\n"
        shown = _script(code, tmp_path) if kind == "sh" else _cell(code, space)
        return f"```{kind}\n{code}```\n\n```output\n{shown}```\n"

    expected = _BLOCK.sub(walked, text)
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected, "run: make docs"
