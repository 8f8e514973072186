"""What a model needs, in every form; lines for pip among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit.reports.annotations import annotation, file_in_repository, listed
from ckptkit.reports.documents import in_form
from ckptkit.reports.junit import JUnitCase, JUnitSuite, document
from ckptkit.reports.page.frame import Page
from ckptkit.reports.page.sections import column, facts, reported, table
from ckptkit.reports.page.sections import listed as lines_of_text
from ckptkit.reports.screen import folded
from ckptkit.reports.table import render
from ckptkit.reports.text import count_text, printable

if TYPE_CHECKING:
    from ckptkit.operations.needs.api import Needs
    from ckptkit.operations.needs.types import Need, OpeningCall

_SHOWN = 8  # needs of one call that are printed; JSON has all
_VERDICTS = {0: "opens here", 1: "does not open here", 2: "could not tell whether it opens here"}
_ANSWERS = {True: "yes", None: "not known", False: "no"}
_MARKS = {True: "ok", False: "--", None: "??"}


def lines(
    results: Sequence[Needs],
    fmt: str = "table",
    *,
    verbose: bool = False,
    refused: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the report on several models.

    fmt: "table" (for people), "json" (schema ckptkit.needs/2), "jsonl" (the calls that open such
    files), "csv", "markdown", "html" and "table:NAME" (a row per thing that a call needs),
    "junit" (a test case per model), "github" or "requirements" (what pip is to install, each line
    once).  verbose: all needs, those that are met too.  refused: why others gave nothing.
    """
    if fmt == "requirements":
        wanted = dict.fromkeys(line for result in results for line in result.packages)
        yield from (printable(line) for line in wanted)
    elif fmt == "table":
        for index, result in enumerate(results):
            yield from [""] * bool(index)
            yield from folded(_text(result, verbose))
    elif fmt == "csv":
        yield from _table(results, fmt)
    elif fmt == "junit":
        cases = [_case(result) for result in results]
        cases += [JUnitCase("ckptkit needs", text, error=text) for text in refused]
        yield from document(JUnitSuite("ckptkit needs", cases))
    elif fmt == "github":
        for result in results:
            level = {0: "notice", 1: "error", 2: "warning"}[result.exit_code]
            file = file_in_repository(str(result.path))
            text = listed([_verdict(result), *map(need_text, result.missing)])
            yield annotation(level, f"ckptkit needs {result.path}", text, file)
        yield from (annotation("error", "ckptkit needs", text) for text in refused)
    else:
        yield from in_form(
            fmt,
            results,
            lambda form: _table(results, form),
            lambda: (*map(_verdict, results), *refused),
            page=lambda: page(results, refused),
            schema=SCHEMA,
            refused=lambda: refused,
        )


def page(results: Sequence[Needs], refused: Sequence[str] = ()) -> Page:
    """Return what the page shows: by which calls models open, and what is missing for them."""
    calls = [(result, loader) for result in results for loader in result.loaders]
    opens = [_ANSWERS[loader.opens] for _result, loader in calls]
    paths = [str(result.path) for result, _loader in calls]
    lacking = ["\n".join(map(need_text, loader.missing)) or None for _result, loader in calls]
    answers = list(_ANSWERS.values())
    gives = [loader.gives or None for _result, loader in calls]
    several = {"facet": "select"} if len(results) > 1 else {"hidden": True}
    opening = [
        column("opens", "opens here", opens, "status", facet="chips", order=answers),
        column("name", "call", [_call(loader, result.path) for result, loader in calls], "name"),
        column("gives", "gives", gives, minor=True, wide=40),
        column("lacks", "lacks", [len(loader.missing) for _result, loader in calls], "count"),
        column("path", "file", paths, "mono", **several),
        column("missing", "what is missing", lacking, hidden=True, searched=True),
    ]
    told = [
        (str(result.path), _call(loader, result.path), need)
        for result, loader in calls
        for need in loader.needs
    ]
    needs = [need for _path, _call, need in told]
    needed = [
        column("here", "here", [_ANSWERS[x.met] for x in needs], "status", facet="chips"),
        column("kind", "kind", [need.kind for need in needs], facet="select", minor=True),
        column("name", "what", [f"{need.name}{need.version}" for need in needs], "name"),
        column("found", "found", [need.found or None for need in needs], "mono", minor=True),
        column("why", "why", [need.reason or None for need in needs], wide=48),
        column("call", "for", [call for _path, call, _need in told], "mono", facet="select"),
        column("pip", "pip install", [need.pip or None for need in needs], "mono", hidden=True),
        column("hint", "what to do", [need.hint or None for need in needs], hidden=True),
        column("where", "asked for at", [need.where or None for need in needs], hidden=True),
    ]
    said = [fact for result in results for fact in result.facts] if len(results) == 1 else []
    packages = dict.fromkeys(line for result in results for line in result.packages)
    sections = [
        table("calls", "Calls that open it", opening, "call", main=True),
        lines_of_text("install", "What pip is to install", list(packages)),
        table("needs", "What they need", needed, "need", headed=True),
        facts("facts", "What the file says of itself", [(x.name, x.value) for x in said]),
    ]
    verdicts = [_verdict(result) for result in results]
    if len(results) > 1:
        good = sum(result.ok for result in results)
        verdicts.append(f"{good} of {count_text(len(results), 'model')} open here")
    code = max([result.exit_code for result in results] + [2] * bool(refused), default=2)
    about = str(results[0].path) if len(results) == 1 else ""
    return reported("needs", about, [*(f"error: {x}" for x in refused), *verdicts], code, sections)


SCHEMA = "ckptkit.needs/2"
_HEADERS = ("PATH", "CALL", "GIVES", "OPENS", "NEEDS", "HERE", "WHY")


def _table(results: Sequence[Needs], fmt: str) -> Iterator[str]:
    """Yield a row per need of each call, and one of a call that needs nothing."""
    rows = []
    for result in results:
        for loader in result.loaders:
            head = (
                str(result.path),
                _call(loader, result.path),
                loader.gives,
                _ANSWERS[loader.opens],
            )
            for need in loader.needs:
                what = f"{need.kind} {need.name}{need.version}"
                rows.append((*head, what, need.found or _ANSWERS[need.met], need.reason))
            if not loader.needs:
                rows.append((*head, "", "", ""))
    headers = [header.lower() for header in _HEADERS] if fmt == "csv" else _HEADERS
    yield from render(rows, headers, fmt)


def _case(result: Needs) -> JUnitCase:
    path = str(result.path)
    if result.exit_code == 2:
        return JUnitCase(path, "opens", error=_verdict(result))
    missing = [(need.kind, need_text(need)) for need in result.missing]
    return JUnitCase(path, "opens", [] if result.ok else missing or [("opens", _verdict(result))])


def _verdict(result: Needs) -> str:
    by = f", written by {result.writer}" if result.writer else ""
    return printable(f"{result.path}: {result.format}{by}: {_VERDICTS[result.exit_code]}")


def remarks(results: Sequence[Needs]) -> list[str]:
    """Return a verdict per model, for the formats that have none."""
    return [_verdict(result) for result in results]


def _text(result: Needs, verbose: bool) -> Iterator[str]:
    yield _verdict(result)
    for fact in result.facts:
        if fact.name != "written by" or fact.value != result.writer:
            yield printable(f"  {fact.name}: {fact.value}")
    for loader in result.loaders:
        yield from _loader(loader, result.path, verbose)
    if result.is_for_upgrade:
        yield "  or `ckptkit upgrade`, which makes a .keras of it that Keras 3 opens"
    if verbose:
        versions = ", ".join(f"{name} {version}" for name, version in result.environment if version)
        yield printable(f"  counted on: {versions or 'no package'}")


def _call(loader: OpeningCall, path: Path) -> str:
    """Return a call as it can be typed: with the path of the file."""
    return re.sub(r"\bPATH\b", lambda _: repr(str(path)), loader.call)


def _loader(loader: OpeningCall, path: Path, verbose: bool) -> Iterator[str]:
    call = _call(loader, path)
    gives = f"  # {loader.gives}" if loader.gives else ""
    yield printable(f"  {_MARKS[loader.opens]} {call}{gives}")
    unmet = [need for need in loader.needs if need.met is not True]
    for need in unmet[: None if verbose else _SHOWN]:
        yield printable(f"       {need_text(need)}")
    if verbose:
        for need in loader.needs:
            if need.met:
                found = f", {need.found}" if need.found else ""
                yield printable(f"       here: {need.kind} {need.name}{need.version}{found}")
    elif len(unmet) > _SHOWN:
        yield f"       ... and {len(unmet) - _SHOWN} more (--format json has all)"


def need_text(need: Need) -> str:
    """Return one line on what is not here."""
    what = f"{need.kind} {need.name}{need.version}"
    if need.met is None:
        what = f"not known: {what}"
    found = f", here is {need.found}" if need.found else ""
    where = f" at {need.where}" if need.where else ""
    hint = f" ({need.hint})" if need.hint else ""
    pip = f" [pip install '{need.pip}']" if need.pip and need.met is False else ""
    return f"{what}: {need.reason}{found}{where}{hint}{pip}"
