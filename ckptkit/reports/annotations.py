"""Annotations of a GitHub workflow: workflow commands on standard output.

They are lines `::error title=T::MESSAGE`; in the message `%`, CR and LF are written `%25`, `%0D`,
`%0A`, in a property `:` and `,` as `%3A` and `%2C` too.  `file=` is a path in the repository.  A
workflow shows ten annotations of a level a step, those that are printed first: so the verdict comes
first, then what it rests on, things of one kind together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptkit.reports.repository import file_of, in_repository
from ckptkit.reports.text import finding_text, printable
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.findings import Finding
    from ckptkit.operations.verify.api import Verification

LEVELS = {"error": "error", "warning": "warning", "note": "notice"}  # by severity
MOST = 10  # annotations of a level that a step shows
_LINES = 20  # of one annotation


def annotation(level: str, title: str, message: str, file: str = "") -> str:
    """Return one annotation.

    level: "error", "warning" or "notice".  message: lines; file: as `file_in_repository` gives it.
    """
    properties = [f"file={_property(file)}"] if file else []
    properties.append(f"title={_property(title)}")
    return f"::{level} {','.join(properties)}::{_escaped(message)}"


def of_findings(
    title: str, verdicts: Sequence[str], results: Sequence[Verification], is_refused: bool = False
) -> Iterator[str]:
    """Yield the verdict on several operands, then their findings.

    verdicts: a line each.  is_refused: whether one of those says that something was not looked at.
    """
    refusals = [str(unit.refusal) for result in results for unit in result.units if unit.refusal]
    is_good = not is_refused and all(result.ok for result in results)
    file = file_in_repository(str(results[0].path)) if len(results) == 1 else ""
    verdict = annotation(
        "notice" if is_good else "error", title, listed([*verdicts, *refusals]), file
    )
    yield verdict
    found = [finding for result in results for finding in result.findings]
    yield from annotations_of(found, [verdict])


def annotations_of(findings: Sequence[Finding], told: Sequence[str]) -> Iterator[str]:
    """Yield findings, the most severe first, as many as a step still shows.

    told: the annotations before them.
    """
    for severity, level in LEVELS.items():
        left = MOST - sum(line.startswith(f"::{level} ") for line in told)
        yield from _of_level([f for f in findings if f.severity == severity], level, left)


def _of_level(findings: Sequence[Finding], level: str, most: int) -> Iterator[str]:
    """Yield an annotation for the findings of each code, at most `most`."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    several = list(groups.values())
    if len(several) > most:
        rest = [finding for group in several[most - 1 :] for finding in group]
        several = [*several[: most - 1], rest]
    for group in several:
        codes = list(dict.fromkeys(finding.code for finding in group))
        title = codes[0] if len(group) == 1 else f"{list_text(codes)} ({len(group):,})"
        files = {file_in_repository(finding.where) for finding in group}
        text = listed([finding_text(finding) for finding in group])
        yield annotation(level, title, text, files.pop() if len(files) == 1 else "")


def listed(texts: Sequence[str]) -> str:
    """Return lines of text as one message, not too many of them."""
    more = [f"and {len(texts) - _LINES:,} more"] if len(texts) > _LINES else []
    return "\n".join([*map(printable, texts[:_LINES]), *more])


def file_in_repository(where: str) -> str:
    """Return the path of the file that something is about, as the repository has it; "" of none."""
    path = file_of(where)
    return (in_repository(path) or "") if path is not None else ""


def _property(text: str) -> str:
    return _escaped(printable(text)).replace(":", "%3A").replace(",", "%2C")


def _escaped(text: str) -> str:
    lines = (printable(line) for line in text.split("\n"))
    return "%0A".join(line.replace("%", "%25").replace("\r", "%0D") for line in lines)
