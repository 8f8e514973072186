"""`ckptkit sample`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli.report_options import put_report, report_options

# What to type next, in the directory.
TRIALS = (
    ("ls run", "the latest checkpoint of a training run"),
    ("ls -r .", "everything here, a row each"),
    ("diff before.keras after.keras --role weight", "one layer was trained, and no other"),
    ("diff run/ckpt-2 export", "the export holds the weights of the checkpoint"),
    ("verify .", "every byte"),
    ("convert after.keras after.safetensors --weights-only", "another form, proven"),
)


@click.command("sample")
@click.argument("directory", metavar="[DIR]", default="sample")
@report_options("sample")
def command(directory: str, **options: Any) -> None:
    """Write small files to try the tool on: checkpoints, an export, .keras files.

    DIR (by default `sample`) must be new or empty.  The files were made by TensorFlow and Keras;
    neither is needed.

    \b
    Examples:
      ckptkit sample
      ckptkit diff sample/before.keras sample/after.keras --role weight
    """
    from ckptkit.fixtures.sample import write_sample
    from ckptkit.reports.text import bytes_text, count_text, printable

    paths = write_sample(directory)
    size = bytes_text(sum(path.stat().st_size for path in paths))
    width = max(len(line) for line, _ in TRIALS)
    lines = [
        printable(f"{directory}: {count_text(len(paths), 'file')}, {size}.  Try in it:"),
        *(f"  ckptkit {line:{width}}  # {remark}" for line, remark in TRIALS),
    ]
    put_report(lines, options)
