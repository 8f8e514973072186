"""`python -m benchmarks.hint_nulls`: how often hints on outputs fit damage that is random.

Every case of `_random_damage` is drawn so many times, compared at the widest tolerance there is,
and the hints on what does not pass are counted, by kind.  With --write the table goes into
docs/mutations.md.  Exit code: 1 where one kind of hint fits more often than 1 in 100 of a case.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks._random_damage import Draw, cases, more_cases
from benchmarks.harness import markdown_table, put
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.tiers import tier_named

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "mutations.md"
BEGIN, END = "<!-- hints: begin -->", "<!-- hints: end -->"
DRAWS = 2000
GOAL = 0.01
_NUMBER = re.compile(r"[-+]?\d[\d.e+-]*")
_LIST = re.compile(r"N(?:, (?:N|\.\.\.))+")
_QUOTED = re.compile(r"'[^']*'")


class CaseCount(NamedTuple):
    """How often damage of one case got a hint: any, and of each kind."""

    case: str
    draws: int
    failing: int  # that did not pass: what passes gets no hint
    any_hint: int
    kinds: Counter[str]


def kind_of(hint: str) -> str:
    """Return a hint without its numbers and names."""
    text = _QUOTED.sub("NAME", _NUMBER.sub("N", hint.partition(": now")[0]))
    return _LIST.sub("N", text).replace("output minus N", "output plus N")


def counted(case: str, draw: Draw, draws: int) -> CaseCount:
    """Draw one case so many times, seeded by its name."""
    limit = tier_named("T3", "").tolerance  # the widest of numbers: most fits within it
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    kinds: Counter[str] = Counter()
    failing = any_hint = 0
    for _ in range(draws):
        ref, new = draw(rng)
        results = [r for r in compare_outputs(ref, new, limit) if not r.ok]
        found = {kind_of(hint) for result in results for hint in result.hints}
        failing += bool(results)
        any_hint += bool(found)
        kinds.update(found)
    return CaseCount(case, draws, failing, any_hint, kinds)


def lines(counts: Iterable[CaseCount]) -> Iterator[str]:
    """Yield the table: kinds of hints, in how many draws they fit, and most often in which case."""
    counts = list(counts)
    draws = sum(count.draws for count in counts)
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count.kinds)
    rows = []
    for kind, times in total.most_common():
        worst = max(counts, key=lambda count: count.kinds[kind] / count.draws)
        share = worst.kinds[kind] / worst.draws
        rows.append((kind, times, f"{share:.2%}", worst.case))
    worst = max(counts, key=lambda count: count.any_hint / count.draws)
    rows.append(("**any**", sum(c.any_hint for c in counts),
                 f"{worst.any_hint / worst.draws:.2%}", worst.case))  # fmt: skip
    headers = ("hint", f"of {draws:,} draws", "most often", "of")
    yield from markdown_table(rows, headers, ("left", "right", "right", "left"))
    yield ""
    yield f"{len(counts)} cases, each drawn {counts[0].draws:,} times."


def _job(at: int, draws: int) -> CaseCount:
    case, draw = everything()[at]
    return counted(case, draw, draws)


def everything() -> list[tuple[str, Draw]]:
    """Return all cases."""
    return [*cases(), *more_cases()]


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/mutations.md.")
@click.option("--draws", default=DRAWS, show_default=True, help="Of each case.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.pass_context
def main(ctx: click.Context, write: bool, draws: int, jobs: int) -> None:
    """Count hints that fit random damage."""
    number = len(everything())
    with ProcessPoolExecutor(jobs) as pool:
        counts = list(pool.map(_job, range(number), [draws] * number))
    for count in counts:
        if count.any_hint > GOAL * count.draws:
            most = dict(count.kinds.most_common(2))
            click.echo(f"{count.any_hint}/{count.draws} {count.case}: {most}", err=True)
    table = "\n".join(lines(counts))
    click.echo(table)
    if write:
        put(DOCUMENT, table, BEGIN, END)
    ctx.exit(any(max(c.kinds.values(), default=0) > GOAL * c.draws for c in counts))


if __name__ == "__main__":
    sys.exit(main())
