"""Every code that the tool can print is explained."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckptkit
from ckptkit import errors
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.reports.explanations import TEXTS, explain, explanation_of, explanations

PACKAGE = Path(ckptkit.__file__).parent
_CODE = re.compile(r"[a-z0-9-]+(\.[a-z0-9_-]+)+")
_MAKE = ("Finding", "Discrepancy", "Explanation", "leftover", "finding")  # what takes a code
_OF_ERRORS = ("checksum", "truncated", "unreadable", "malformed")  # what `of_error` adds


def codes_of(source: str) -> Iterator[str]:
    """Yield the codes that are written out where findings are made."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        texts = [
            t.value
            for a in node.args[:2]
            for t in ast.walk(a)
            if isinstance(t, ast.Constant) and isinstance(t.value, str)
        ]
        if name in _MAKE:
            yield from filter(_CODE.fullmatch, texts)
        elif name == "of_error":
            yield from (f"{t}.{end}" for t in texts for end in _OF_ERRORS)


def test_the_codes_in_the_source() -> None:
    found = {code for path in PACKAGE.rglob("*.py") for code in codes_of(path.read_text("utf-8"))}
    assert {"tensor.checksum", "config.malformed", "keras.lambda", "weight.gates"} <= found
    assert sorted(code for code in found if explanation_of(code) is None) == []


def test_the_codes_of_refusals() -> None:
    def below(kind: type[CkptkitError]) -> Iterator[type[CkptkitError]]:
        yield kind
        for other in kind.__subclasses__():
            yield from below(other)

    for path in PACKAGE.rglob("*.py"):
        if re.search(r"(?m)^class \w+\(\w*Error\b", path.read_text(encoding="utf-8")):
            name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
            importlib.import_module(f"ckptkit.{name}")
    of_ours = [kind for kind in below(CkptkitError) if kind.__module__.startswith("ckptkit")]
    assert errors.ChecksumError in of_ours
    assert [kind for kind in of_ours if explanation_of(kind.code) is None] == []


def test_each_code_is_explained_once_and_in_words() -> None:
    headings = re.findall(r"(?m)^## (.*)$", TEXTS.read_text(encoding="utf-8"))
    codes = [code for heading in headings for code in re.findall(r"`([^`]+)`", heading)]
    assert len(codes) == len(set(codes)) == len(explanations())
    assert all(len(row.text) > 30 and row.group for row in explanations().values())


def test_a_code_of_a_family_has_the_text_of_the_family() -> None:
    assert explain("model.signatures").codes == ("model.*",)
    assert explain("output.random").codes == ("output.random",)


def test_an_unknown_code_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no code 'tensor.checksun' \(nearest: tensor.checksum"):
        explain("tensor.checksun")
