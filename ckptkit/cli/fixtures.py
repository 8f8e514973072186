"""`ckptkit fixtures`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli.groups import NearGroup
from ckptkit.cli.report_options import put_report, report_options


class _Fixtures(NearGroup):
    def hint(self, name: str) -> str:
        from ckptkit.fixtures import NAMES, nearest

        if name in NAMES:
            return f"did you mean `ckptkit fixtures make {name} DIR`?"
        return nearest(name, cutoff=0.75)


@click.group("fixtures", cls=_Fixtures)
def command() -> None:
    """Make real checkpoints and model files from small reference models."""


@command.command("list")
@report_options("fixtures list")
def list_(**options: Any) -> None:
    """List the reference models.  No TensorFlow is needed."""
    from ckptkit.fixtures import list_fixtures

    rows = list_fixtures()
    width = max(map(len, rows))
    lines = (f"{name:{width}}  {description}" for name, description in rows.items())
    put_report(lines, options)


@command.command("make")
@click.argument("name")
@click.argument("directory", metavar="DIR")
@report_options("fixtures make")
def make(name: str, directory: str, **options: Any) -> None:
    """Train the reference model NAME a little and write its files into DIR.

    DIR must be new or empty.  Needs TensorFlow 2.16 or newer.

    \b
    Examples:
      ckptkit fixtures make functional_cnn run
      ckptkit ls run/ckpt
    """
    from ckptkit.fixtures import make as make_fixture

    put_report(map(str, make_fixture(name, directory)), options)
