"""The one writer of JUnit XML: counts that agree with the cases, and text that any parser takes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from ckptkit.reports.junit import JUnitCase, JUnitSuite, document, document_of_suites

HOSTILE = '<a & "b"> \x1b[31m \0 ]]>'
SUITE = JUnitSuite(
    "suite",
    [
        JUnitCase("class", "passes"),
        JUnitCase("class", "fails", [("one", HOSTILE), ("two", "more")]),
        JUnitCase("class", "refused", error=HOSTILE),
    ],
    [("mode", HOSTILE)],
    HOSTILE,
)


def test_counts_are_those_of_the_cases() -> None:
    root = ElementTree.fromstring("\n".join(document(SUITE)))
    (suite,) = root
    counts = {"tests": "3", "failures": "1", "errors": "1"}
    assert root.attrib == counts
    assert suite.attrib == {"name": "suite", **counts}
    cases = suite.findall("testcase")
    assert [case.attrib["name"] for case in cases] == ["passes", "fails", "refused"]
    assert [len(list(case)) for case in cases] == [0, 2, 1]
    assert [node.attrib["type"] for node in cases[1]] == ["one", "two"]


def test_text_from_files_is_escaped_everywhere() -> None:
    (suite,) = ElementTree.fromstring("\n".join(document(SUITE)))
    shown = '<a & "b"> \\x1b[31m \\x00 ]]>'
    assert suite.findtext("system-out") == shown
    assert [node.attrib["value"] for node in suite.iter("property")] == [shown]
    assert next(suite.iter("failure")).attrib["message"] == shown
    assert next(suite.iter("error")).attrib["message"] == shown


def test_a_document_of_suites_is_written_as_they_come() -> None:
    asked: list[int] = []

    def suites() -> Iterator[JUnitSuite]:
        for number in range(3):
            asked.append(number)
            yield JUnitSuite(f"{number}", [])

    lines = document_of_suites(HOSTILE, suites())
    head = [next(lines) for _ in range(3)]
    assert asked == [0]
    root = ElementTree.fromstring("\n".join([*head, *lines]))
    assert [suite.attrib["name"] for suite in root] == ["0", "1", "2"]
    assert "properties" not in {node.tag for node in root.iter()}
