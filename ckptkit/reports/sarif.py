"""Findings as SARIF 2.1.0, the form in which code scanning takes results of other tools.

Static Analysis Results Interchange Format, OASIS standard:
https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.  What GitHub asks of it beyond the
schema (https://docs.github.com/code-security/reference/code-scanning/sarif-support-for-code-scanning):
every result has a location with a file and a line, paths are relative to the repository, and a
fingerprint keeps one alert for one problem.  Model files have no lines, so the line is always 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ckptkit._version import __version__
from ckptkit.reports.explanations import explanation_of
from ckptkit.reports.repository import file_of, in_repository
from ckptkit.text import printable

if TYPE_CHECKING:
    from ckptkit.operations.findings import Finding
    from ckptkit.operations.verify.api import Verification

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
LEVELS = ("note", "warning", "error")  # SARIF's levels, which are our severities, rising
_ROOT = "%SRCROOT%"  # the usual name of the repository's root
_SEVERE = {"error": "8.0", "warning": "5.0", "note": "1.0"}  # of 10; GitHub sorts alerts by it


def lines(
    results: Sequence[Verification], refused: Sequence[str] = (), *, is_about_safety: bool = True
) -> Iterator[str]:
    """Yield the lines of one document with one run.

    Args:
        results: what was found, operand by operand.
        refused: why other operands could not be looked at, one line each.
        is_about_safety: whether the findings say what a model could do, as those of `scan`.
    """
    found = [(u.path, f) for result in results for u in result.units for f in u.findings]
    refusals = [
        *(str(unit.refusal) for result in results for unit in result.units if unit.refusal),
        *refused,
    ]
    yield from lines_of(found, refusals, is_about_safety=is_about_safety)


def lines_of(
    found: Sequence[tuple[Path, Finding]], refusals: Sequence[str], *, is_about_safety: bool = False
) -> Iterator[str]:
    """Yield the lines of one document with one run.

    Args:
        found: each finding, and the file that it is about where it names none itself.
        refusals: what could not be told, one line each.
        is_about_safety: as for `lines`.
    """
    rules = _rules((finding for _, finding in found), is_about_safety)
    places = {rule["id"]: number for number, rule in enumerate(rules)}
    document = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": _driver(rules)},
                "invocations": [_invocation(refusals)],
                "results": list(_results(found, places)),
            }
        ],
    }
    yield from json.dumps(document, indent=1).split("\n")


def _driver(rules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "ckptkit", "semanticVersion": __version__, "rules": list(rules)}


def _invocation(refusals: Sequence[str]) -> dict[str, Any]:
    """Return how the run went: what could not be told is no result, and no silence either."""
    told = [{"level": "error", "message": _message(text)} for text in refusals]
    return {"executionSuccessful": not told, "toolExecutionNotifications": told}


def _rules(findings: Iterable[Finding], is_about_safety: bool) -> list[dict[str, Any]]:
    """Return a rule for each code, in alphabetical order, with the worst level that it has."""
    worst: dict[str, str] = {}
    for finding in findings:
        known = worst.get(finding.code, LEVELS[0])
        worst[finding.code] = max(known, finding.severity, key=LEVELS.index)
    return [
        {
            "id": code,
            "shortDescription": _message(_words(code)),
            **_meaning(code),
            "defaultConfiguration": {"level": level},
            "properties": (
                {"tags": ["security"], "security-severity": _SEVERE[level]}
                if is_about_safety
                else {"tags": ["correctness"]}
            ),
        }
        for code, level in sorted(worst.items())
    ]


def _meaning(code: str) -> dict[str, Any]:
    """Return what a rule says of itself beside a result; nothing for the code of a plugin."""
    known = explanation_of(code)
    return {"fullDescription": _message(known.text)} if known else {}


def _words(code: str) -> str:
    """Return a code in words: `graph.writes-files` is "graph: writes files"."""
    family, _, rest = code.partition(".")
    return f"{family}: {rest.replace('-', ' ').replace('.', ' ')}" if rest else family


def _results(
    found: Iterable[tuple[Path, Finding]], places: dict[str, int]
) -> Iterator[dict[str, Any]]:
    times: Counter[str] = Counter()
    for about, finding in found:
        path = file_of(finding.where) or file_of(str(about)) or about
        location = _location(path)
        text = f"{finding.message} ({finding.hint})" if finding.hint else finding.message
        told = [location["uri"], finding.code, finding.where, finding.name, finding.message]
        digest = hashlib.sha256("\0".join(told).encode("utf-8", "surrogateescape")).hexdigest()
        times[digest] += 1
        yield {
            "ruleId": finding.code,
            "ruleIndex": places[finding.code],
            "level": finding.severity,
            "message": _message(f"{finding.where}: {text}" if finding.where else text),
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": location,
                        "region": {"startLine": 1},
                    }
                }
            ],
            "partialFingerprints": {"primaryLocationLineHash": f"{digest[:32]}:{times[digest]}"},
        }


def _location(path: Path) -> dict[str, str]:
    """Return where a file lies: in the repository, relative to its root, else as a whole URI."""
    inside = in_repository(path)
    if inside is not None:
        return {"uri": quote(os.fsencode(inside)), "uriBaseId": _ROOT}
    return {"uri": path.absolute().as_uri()}


def _message(text: str) -> dict[str, str]:
    return {"text": printable(text)}
