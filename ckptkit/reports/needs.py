"""What a model needs, as text, JSON or lines for pip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.screen import folded
from ckptkit.reports.table import json_documents
from ckptkit.reports.text import printable

if TYPE_CHECKING:
    from ckptkit.operations.needs.api import Needs
    from ckptkit.operations.needs.types import Need, OpeningCall

FORMATS = ("table", "json", "requirements")
_SHOWN = 8  # needs of one call that are printed; JSON has all
_VERDICTS = {0: "opens here", 1: "does not open here", 2: "could not tell whether it opens here"}
_MARKS = {True: "ok", False: "--", None: "??"}


def lines(results: Sequence[Needs], fmt: str) -> Iterator[str]:
    """Yield the report on several models.

    fmt: "table" (for people), "json" (one document per model; a list where there are several) or
    "requirements" (what pip is to install, each line once).
    """
    if fmt == "json":
        yield from json_documents([result.to_json() for result in results], "loaders")
    elif fmt == "requirements":
        wanted = dict.fromkeys(line for result in results for line in result.packages)
        yield from (printable(line) for line in wanted)
    else:
        for index, result in enumerate(results):
            yield from [""] * bool(index)
            yield from folded(_text(result))


def _text(result: Needs) -> Iterator[str]:
    by = f", written by {result.writer}" if result.writer else ""
    verdict = _VERDICTS[result.exit_code]
    yield printable(f"{result.path}: {result.format}{by}: {verdict}")
    for fact in result.facts:
        if fact.name != "written by" or fact.value != result.writer:
            yield printable(f"  {fact.name}: {fact.value}")
    for loader in result.loaders:
        yield from _loader(loader)
    if result.is_for_upgrade:
        yield "  or `ckptkit upgrade`, which makes a .keras of it that Keras 3 opens"


def _loader(loader: OpeningCall) -> Iterator[str]:
    gives = f"  # {loader.gives}" if loader.gives else ""
    yield printable(f"  {_MARKS[loader.opens]} {loader.call}{gives}")
    unmet = [need for need in loader.needs if need.met is not True]
    for need in unmet[:_SHOWN]:
        yield printable(f"       {need_text(need)}")
    if len(unmet) > _SHOWN:
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
