"""Every row of the fault catalogue, made to happen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import faults_bundle, faults_files, faults_writing
from support.catalogue import COUNT, FAULTS
from support.places import DOCS

assert faults_bundle
assert faults_files
assert faults_writing

DOCUMENT = DOCS / "reliability.md"
_TABLE = re.compile(r"(?s)(<!-- catalogue -->\n).*?(<!-- /catalogue -->)")


def name_of(number: int) -> str:
    """Return the id of a row's test: "07-data-cut-short-at-any-length"."""
    words = re.findall(r"[a-z0-9]+", FAULTS[number].name.lower())
    return f"{number:02}-{'-'.join(words)}"


def test_no_row_is_missing() -> None:
    assert sorted(FAULTS) == list(range(1, COUNT + 1))


@pytest.mark.parametrize("number", sorted(FAULTS), ids=name_of)
def test_fault(number: int, tmp_path: Path) -> None:
    FAULTS[number].happens(tmp_path)


def test_the_document_lists_every_row(request: pytest.FixtureRequest) -> None:
    rows = ["| | what goes wrong | what is done |", "|---:|---|---|"]
    rows += [f"| {n} | {row.name} | {row.behaviour} |" for n, row in sorted(FAULTS.items())]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert _TABLE.search(text)
    expected = _TABLE.sub(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], text)
    if request.config.getoption("--regen"):
        DOCUMENT.write_text(expected, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == expected, "run: make docs"
