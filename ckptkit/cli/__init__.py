"""The command line.

The script of another distribution called `ckptkit` looks for its `main` here when both are
installed into one directory, where this package hides its `cli.py`.  It is told what is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ckptkit.installation import DISTRIBUTION, damage


def __getattr__(name: str) -> object:
    package = sys.modules["ckptkit"]
    if name == "main" and getattr(package, "__distribution__", "") != DISTRIBUTION:
        return _refuse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _refuse() -> int:
    sys.stderr.write(f"ckptkit: {damage(Path(__file__).resolve().parents[1])}\n")
    return 2
