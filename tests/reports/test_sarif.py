"""`scan --format sarif`: what the standard and GitHub's code scanning ask of it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from ckptkit.operations.scan.api import scan
from ckptkit.reports import sarif
from support.command_line import ckptkit
from support.holes import HOLES

# What the schema of 2.1.0 allows in the objects that are written, and what it requires.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "": ({"$schema", "version", "runs"}, {"version", "runs"}),
    "runs": ({"tool", "invocations", "results"}, {"tool"}),
    "tool": ({"driver"}, {"driver"}),
    "driver": ({"name", "semanticVersion", "rules"}, {"name"}),
    "rules": (
        {"id", "shortDescription", "fullDescription", "defaultConfiguration", "properties"},
        {"id"},
    ),
    "invocations": (
        {"executionSuccessful", "toolExecutionNotifications"},
        {"executionSuccessful"},
    ),
    "toolExecutionNotifications": ({"level", "message"}, {"message"}),
    "results": (
        {"ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"},
        {"message"},
    ),
    "message": ({"text"}, {"text"}),
    "locations": ({"physicalLocation"}, set()),
    "physicalLocation": ({"artifactLocation", "region"}, set()),
    "artifactLocation": ({"uri", "uriBaseId"}, set()),
    "region": ({"startLine"}, set()),
}


def check_shape(value: Any, kind: str = "") -> None:
    """Check a value, and all in it, against ALLOWED."""
    if isinstance(value, list):
        for item in value:
            check_shape(item, kind)
    if not isinstance(value, dict):
        return
    allowed, required = ALLOWED.get(kind, (set(value), set()))
    assert required <= set(value) <= allowed, (kind, set(value))
    for key, item in value.items():
        check_shape(item, key)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of what loaders were made to do, in directories with odd names."""
    root = tmp_path_factory.mktemp("repository") / "mo dels,ü:%"
    for number, hole in enumerate(HOLES):
        directory = root / f"{number}"
        directory.mkdir(parents=True)
        hole.make(directory)
    return root


def document(directory: Path, *arguments: str) -> tuple[dict[str, Any], int]:
    """Return what the command writes in a directory, and its exit code."""
    with pytest.MonkeyPatch.context() as there:
        there.chdir(directory)
        there.delenv("GITHUB_WORKSPACE", raising=False)
        done = ckptkit("scan", *arguments, "--format", "sarif")
    found: dict[str, Any] = json.loads(done.out)
    return found, done.code


def test_findings_are_results_with_rules_and_places(models: Path) -> None:
    root = models.parent
    found, code = document(root, "-r", models.name)
    assert code == 1
    check_shape(found)
    assert found["version"] == "2.1.0"
    (run,) = found["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == sorted(set(rules)) and {hole.code for hole in HOLES} <= set(rules)
    known = scan(models, recursive=True).findings
    assert len(run["results"]) == len(known) > 30
    for result, finding in zip(run["results"], known, strict=True):
        assert rules[result["ruleIndex"]] == result["ruleId"] == finding.code
        assert result["level"] == finding.severity in ("error", "warning", "note")
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["region"] == {"startLine": 1}
        assert place["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        uri = place["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", uri)  # nothing that a URI has to escape
        assert os.path.lexists(root / os.fsdecode(unquote_to_bytes(uri)))
    prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    assert document(root, "-r", models.name)[0] == found  # the same problems, the same alerts


def test_paths_are_the_repositorys(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [scan(models / "0")]
    monkeypatch.setenv("GITHUB_WORKSPACE", str(models))
    (first, *_) = json.loads("\n".join(sarif.lines(results)))["runs"][0]["results"]
    place = first["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "0/m.keras", "uriBaseId": "%SRCROOT%"}
    monkeypatch.setenv("GITHUB_WORKSPACE", str(models / "1"))
    (first, *_) = json.loads("\n".join(sarif.lines(results)))["runs"][0]["results"]
    place = first["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": (models / "0" / "m.keras").as_uri()}


def test_what_could_not_be_told_is_no_silence(tmp_path: Path) -> None:
    (tmp_path / "short.keras").write_bytes(b"PK\3\4")
    found, code = document(tmp_path, "nowhere", "short.keras")
    check_shape(found)
    (run,) = found["runs"]
    (invocation,) = run["invocations"]
    assert code == 2 and not invocation["executionSuccessful"]
    told = [item["message"]["text"] for item in invocation["toolExecutionNotifications"]]
    assert any("nowhere" in text for text in told) and any("short.keras" in text for text in told)


def test_nothing_found_is_a_run_without_results(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "w.npz", a=np.zeros(2))
    found, code = document(tmp_path, "w.npz")
    check_shape(found)
    assert code == 0 and found["runs"][0]["results"] == []
    assert found["runs"][0]["invocations"][0]["executionSuccessful"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.keras")
    HOLES[0].make(tmp_path).rename(tmp_path / name)
    found, code = document(tmp_path, name)
    (result, *_) = found["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert code == 1 and place["uri"] == "caf%E9.keras"
