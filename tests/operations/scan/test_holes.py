"""Published holes of loaders: each has a sample that `scan` finds, and a row in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptkit.operations.scan.api import scan
from support.holes import HOLES, Hole
from support.places import DOCS

DOCUMENT = DOCS / "reliability.md"
_TABLE = re.compile(r"(?s)(<!-- holes -->\n).*?(<!-- /holes -->)")


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.name)
def test_a_sample_of_every_published_hole_is_found(hole: Hole, tmp_path: Path) -> None:
    result = scan(hole.make(tmp_path))
    assert result.exit_code == 1
    found = [f for f in result.findings if f.code == hole.code and f.severity != "note"]
    assert any(hole.where in f"{finding.where} {finding.message}" for finding in found), found


def test_the_document_lists_every_hole(request: pytest.FixtureRequest) -> None:
    rows = ["| | what a loader did | what `scan` says |", "|---|---|---|"]
    rows += [f"| {hole.name} | {hole.what} | {hole.says} |" for hole in HOLES]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert _TABLE.search(text)
    expected = _TABLE.sub(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], text)
    if request.config.getoption("--regen"):
        DOCUMENT.write_text(expected, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == expected, "run: make docs"
