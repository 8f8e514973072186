"""A comparison as annotations of a GitHub workflow: the verdict, then tensors that differ."""

from __future__ import annotations

from collections.abc import Iterator

from ckptkit.operations.diff.result import DiffResult
from ckptkit.reports.annotations import MOST, annotation, file_in_repository, listed
from ckptkit.reports.diff.junit import failure_text, names_of_sides
from ckptkit.reports.diff.text import beside_lines, verdict
from ckptkit.text import count_text


def lines(result: DiffResult) -> Iterator[str]:
    """Yield the verdict with what else to know, then a line for each of the first differences."""
    file = file_in_repository(str(result.new.path))
    title = f"ckptkit diff {result.old.path} {result.new.path}"
    said = listed([verdict(result), *beside_lines(result), *result.warnings])
    yield annotation("notice" if result.same else "error", title, said, file)
    different, names = result.differences, names_of_sides(result)
    own = different if len(different) < MOST else different[: MOST - 2]
    for change in own:
        yield annotation(
            "error", f"{change.status}: {change.name}", failure_text(change, names), file
        )
    rest = different[len(own) :]
    if rest:
        texts = [
            f"{change.status}: {change.name}: {failure_text(change, names)}" for change in rest
        ]
        yield annotation("error", count_text(len(rest), "more tensor"), listed(texts), file)
