"""`ckptkit fixtures`."""

from __future__ import annotations

import click

from ckptkit.cli.groups import NearGroup


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
def list_() -> None:
    """List the reference models.  No TensorFlow is needed."""
    from ckptkit.fixtures import list_fixtures

    rows = list_fixtures()
    width = max(map(len, rows))
    for name, description in rows.items():
        click.echo(f"{name:{width}}  {description}")


@command.command("make")
@click.argument("name")
@click.argument("directory", metavar="DIR")
def make(name: str, directory: str) -> None:
    """Train the reference model NAME a little and write its files into DIR.

    DIR must be new or empty.  Needs TensorFlow 2.16 or newer.

    \b
    Examples:
      ckptkit fixtures make functional_cnn run
      ckptkit ls run/ckpt
    """
    from ckptkit.fixtures import make as make_fixture

    for path in make_fixture(name, directory):
        click.echo(path)
