"""Paths as a repository has them, for what a service shows beside its files."""

from __future__ import annotations

import os
from pathlib import Path


def file_of(where: str) -> Path | None:
    """Return the file that something is about; None where it is about none.

    Of a checkpoint's prefix it is the index, of a directory its description, of code its module.

    Args:
        where: a path as an operand or a finding has it, or code, `file.py:callable?{}`.
    """
    plain = where.partition("#")[0]
    code = plain.partition("?")[0].rpartition(":")[0]
    inside = [Path(plain) / name for name in ("manifest.json", "saved_model.pb")]
    for path in (Path(where), Path(plain), Path(f"{plain}.index"), *inside, Path(code or plain)):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name that no file can have
            continue
    return None


def in_repository(path: Path) -> str | None:
    """Return a path relative to the root of the repository, with "/"; None of what lies outside.

    The root is the checkout of a workflow, else the directory in which the command runs.
    """
    root = Path(os.environ.get("GITHUB_WORKSPACE") or ".")
    try:
        there, base = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links
        return None
    return there.relative_to(base).as_posix() if there.is_relative_to(base) else None
