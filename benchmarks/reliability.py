"""`python -m benchmarks.reliability`: how damage fares here and in TensorFlow's own reader.

Every file is made anew, damaged, and read by `ckptkit.verify` (and `ls`) in this process and by
TensorFlow's checkpoint reader in a process of its own.  With --write the table goes into
docs/reliability.md.  With --quick the numbers are smaller by far.  Exit code: 1 where a goal is
missed.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from benchmarks import _concurrent, _damage, _fuzzed, _hdf5, _hostile
from benchmarks._rows import Row
from benchmarks.harness import markdown_table, put
from support.tf_reader import Peer

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
FUZZ_BEGIN, FUZZ_END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"
HEADERS = ("what", "files or runs", "ckptkit", "TensorFlow's reader, or the bare work", "goal")
SECTIONS = (
    _damage.data_flips,
    _damage.index_flips,
    _damage.large_index_flips,
    _damage.truncations,
    _fuzzed.mutants,
    _fuzzed.other_mutants,
    _hdf5.hdf5_flips,
    _hdf5.hdf5_alarms,
    _hostile.bombs,
    _hostile.audit,
    _hostile.scanning,
    _hostile.injection,
    _concurrent.pairs,
    _concurrent.training_loops,
    _hostile.rate,
)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as the cells of the table."""
    goal = {True: "met", False: "**MISSED**", None: ""}[row.is_met]
    return row.what, f"{row.files:,}", row.ours, row.theirs, goal


def machine() -> str:
    """Return what the numbers depend on."""
    names = ("tensorflow", "numpy", "h5py", "google-crc32c", "protobuf")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{os.cpu_count()} processors, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, {packages}"
    )


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/reliability.md.")
@click.option("--quick", is_flag=True, help="Smaller samples.")
@click.option("--only", multiple=True, metavar="NAME", help="These sections.")
@click.option("--counts", "counts_alone", is_flag=True, help="Only what `make fuzz` has counted.")
@click.pass_context
def main(
    ctx: click.Context, write: bool, quick: bool, only: tuple[str, ...], counts_alone: bool
) -> None:
    """Damage files, and see who notices."""
    if counts_alone:
        counts = "\n".join(_fuzzed.counts_table())
        click.echo(counts)
        if write:
            put(DOCUMENT, counts, FUZZ_BEGIN, FUZZ_END)
        return
    if write and (quick or only):
        raise click.UsageError("--write takes the whole table.")
    peer = Peer()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="reliability-") as scratch:
        for section in SECTIONS:
            if only and section.__name__ not in only:
                continue
            start = time.monotonic()
            place = Path(scratch, section.__name__)
            place.mkdir()
            rows += section(place, peer, quick)
            click.echo(f"{section.__name__}: {time.monotonic() - start:.0f} s", err=True)
    align = ("left", "right", "left", "left", "left")
    lines = list(markdown_table([cells(row) for row in rows], HEADERS, align))
    lines += ["", machine()]
    counts = "\n".join(_fuzzed.counts_table())
    click.echo("\n".join([*lines, "", counts]))
    if write:
        put(DOCUMENT, "\n".join(lines), BEGIN, END)
        put(DOCUMENT, counts, FUZZ_BEGIN, FUZZ_END)
    ctx.exit(any(row.is_met is False for row in rows))


if __name__ == "__main__":
    main()
