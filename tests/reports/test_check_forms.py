"""A check in every form that the command offers, from one report that has something of all."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import pytest

from ckptkit.cli.report_options import OFFERS
from ckptkit.model_io.results import OutputResult
from ckptkit.operations.check.report import Report
from ckptkit.operations.execution.types import Row
from ckptkit.operations.findings import Finding
from ckptkit.reports.check.lines import lines

GOOD = OutputResult("probabilities", "equal", "float32", (2, 3), n=6)
BAD = OutputResult("logits", "differs", "float32", (2, 3), n=6, n_bad=2, max_abs=0.5)
REPORT = Report(
    "export",
    "runners",
    reference="CPU:0",
    rows=tuple(Row("case0", "xla:CPU:0", "CPU:0", each, "xla") for each in (GOOD, BAD)),
    run_findings=(Finding("note", "tensor.checksum", "export", "<b>a | note</b>"),),
)


@pytest.mark.parametrize("fmt", OFFERS["check"].formats)
def test_every_form_tells_which_output_differs(fmt: str) -> None:
    text = "\n".join(lines(REPORT, "table" if fmt == "text" else fmt))
    assert "logits" in text and "\x1b" not in text
    if fmt == "html":
        assert "<b>a" not in text and text.startswith("<!doctype html>")
    elif fmt == "junit":
        assert len(ElementTree.fromstring(text).findall(".//failure")) == 1
    elif fmt == "github":
        assert text.startswith("::error ")


def test_an_undefined_relative_change_in_rows() -> None:
    rows = [json.loads(line) for line in lines(REPORT, "jsonl")]
    assert [row["max_rel"] for row in rows] == [0.0, None]
    cells = list(csv.DictReader(io.StringIO("\n".join(lines(REPORT, "csv")))))
    assert [cell["max_rel"] for cell in cells] == ["0.0", ""]
    assert [cell["shape"] for cell in cells] == ["2,3", "2,3"]
    assert [line.split()[4] for line in lines(REPORT, "table:plain")][1:] == ["0", "0.5"]


def test_outputs_and_findings_in_sarif() -> None:
    [found] = json.loads("\n".join(lines(REPORT, "sarif")))["runs"]
    results = {result["ruleId"]: result["level"] for result in found["results"]}
    assert results == {"tensor.checksum": "note", "outputs.differs": "error"}
    assert {
        tag for rule in found["tool"]["driver"]["rules"] for tag in rule["properties"]["tags"]
    } == {"correctness"}
    assert found["invocations"][0]["executionSuccessful"]
