"""Options of the commands that run models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ckptkit.cli import candidates
from ckptkit.cli.files import CodeToRead, FileToRead
from ckptkit.cli.options import CommaList, flat, timeout_option, trust_option
from ckptkit.text import parse_size

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Bytes, as 500MB or 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


def model_options(function: F) -> F:
    """Add what says how a subject is built and run."""
    for option in (
        trust_option,
        click.option(
            "--max-memory",
            "max_rss_bytes",
            type=Size(),
            metavar="SIZE",
            help="Stop a run that takes more resident memory than this: 4GB, ...",
        ),
        timeout_option,
        click.option(
            "--import",
            "imports",
            type=CodeToRead(),
            multiple=True,
            metavar="MODULE",
            help="Import this module or file.py first: it defines custom classes.",
        ),
        click.option(
            "--signature",
            metavar="NAME",
            shell_complete=candidates.signatures,
            help="Signature of a SavedModel to run.",
        ),
        click.option(
            "--tags",
            type=CommaList(),
            multiple=True,
            metavar="TAG,...",
            callback=lambda _ctx, _param, lists: flat(lists),
            help="Graph to run, of a SavedModel that has several.  [default: serve]",
        ),
        click.option(
            "--map",
            "rules",
            multiple=True,
            metavar="RE=>REPL",
            help="Rename tensors of a checkpoint before they go into --like.",
        ),
        click.option(
            "--like",
            shell_complete=candidates.paths,
            metavar="PATH",
            help="Put the checkpoint into the structure of this SavedModel or .keras file.",
        ),
        click.option(
            "--model",
            type=CodeToRead(is_callable=True),
            metavar="MODULE:CALLABLE[?JSON]",
            help="Restore the checkpoint into the model that this code builds.  "
            "Also FILE.py:CALLABLE.",
        ),
    ):
        function = option(function)
    return function


def input_options(function: F) -> F:
    """Add what says what a model is given."""
    for option in (
        click.option(
            "--range",
            "ranges",
            multiple=True,
            metavar="NAME=LOW:HIGH",
            help="Draw this input uniformly from this range: image=0:255.",
        ),
        click.option(
            "--seed",
            type=int,
            default=20,
            help="Seed for the randomly drawn inputs.  [default: 20]",
        ),
        click.option(
            "--inputs",
            type=FileToRead(),
            multiple=True,
            metavar="FILE",
            help="Inputs by name (.npz; .npy for a model with one); each file is a case.",
        ),
    ):
        function = option(function)
    return function
