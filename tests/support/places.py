"""Where the folders of this checkout (or unpacked sdist) are, and how helpers run as programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
DOCS = ROOT / "docs"


def environment(**more: str) -> dict[str, str]:
    """Return variables for a child in which `python -m support.NAME` finds what is found here."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    return {**os.environ, "PYTHONPATH": path} | more
