"""`python -m benchmarks`: measure, print a table of ratios."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version

import click

from benchmarks.before import against, compiled
from benchmarks.harness import ROOT, Result, markdown_table, put
from ckptkit.compare import kernel
from ckptkit.reports.table import render

DOCUMENT = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
BEGIN_BEFORE, END_BEFORE = "<!-- before -->", "<!-- /before -->"
TOPICS = (
    *("listing", "loading", "diffing", "verifying", "elsewhere"),
    *("converting", "running"),
)
HEADERS = ("NAME", "WORK", "MEASURE", "CKPTKIT", "PEER", "RATIO", "GOAL", "PEER IS")
ALIGN = ("left", "left", "left", "right", "right", "right", "left", "left")


def benchmarks() -> dict[str, Callable[[], list[Result]]]:
    """Return the functions of all topics by name."""
    found: dict[str, Callable[[], list[Result]]] = {}
    for topic in TOPICS:
        found |= import_module(f"benchmarks.{topic}").BENCHMARKS
    return found


def row(result: Result) -> tuple[str, ...]:
    """Return a result as the cells of a table."""
    goal = ""
    if result.goal is not None:
        sign = "<=" if not result.goal_is_of_ratio and result.measure != "GB/s" else ">="
        bound = f"{sign} {result.goal:g}{'x' if result.goal_is_of_ratio else ''}"
        goal = f"{bound} {'met' if result.is_met else 'MISSED'}"
    return (
        result.name,
        result.work,
        result.measure,
        f"{result.ours:.3g}",
        "" if result.peer is None else f"{result.peer:.3g}",
        "" if result.ratio is None else f"{result.ratio:.3g}x",
        goal,
        result.peer_name,
    )


def machine() -> Iterator[str]:
    """Yield what the numbers depend on."""
    import os

    yield f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()}"
    packages = ("tensorflow", "keras", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    yield f"Python {platform.python_version()}, {versions}"
    yield f"differences are measured by {kernel.description()}"


def report(results: list[Result], markdown: bool) -> Iterator[str]:
    """Yield the table and what its numbers depend on."""
    rows = [row(result) for result in results]
    if markdown:
        yield from markdown_table(rows, HEADERS, ALIGN)
    else:
        yield from render(rows, HEADERS, "table", ALIGN)
    yield ""
    for line in machine():
        yield f"- {line}" if markdown else line


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Those whose name contains NAME.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("--markdown", is_flag=True, help="A Markdown table.")
@click.option("--before", metavar="COMMIT", help="Also against this project at COMMIT.")
@click.option("--write", is_flag=True, help="Put the table into docs/performance.md.")
def main(
    only: tuple[str, ...], as_json: bool, markdown: bool, before: str | None, write: bool
) -> None:
    """Measure ckptkit against its peers, side by side, and print the ratios."""
    compiled(ROOT)
    results: list[Result] = []
    for name, run in benchmarks().items():
        if not only or any(part in name for part in only):
            print(f"measuring {name} ...", file=sys.stderr)
            results += _told(run())
    earlier = list(_told(against(before))) if before else []
    if as_json:
        found = [result.to_json() for result in (*results, *earlier)]
        print(json.dumps({"machine": list(machine()), "results": found}))
        return
    if write and results:
        put(DOCUMENT, "\n".join(report(results, True)), BEGIN, END)
    if write and earlier:
        put(DOCUMENT, "\n".join(report(earlier, True)), BEGIN_BEFORE, END_BEFORE)
    print("\n".join(report([*results, *earlier], markdown)))


def _told(results: Iterable[Result]) -> Iterator[Result]:
    """Yield results, each printed to stderr at once: all of them take many minutes."""
    for result in results:
        print("  " + "  ".join(filter(None, row(result))), file=sys.stderr)
        yield result


if __name__ == "__main__":
    main()
