"""Options on stores elsewhere, shared by commands that take URLs, and what they say at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from ckptkit._io.remote.access import Access, asking, traffic, traffic_text
from ckptkit.cli.options import echo_note


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --anonymous and --endpoint, and say at the end what went over the network.

    Each directory is listed once for all operands of the command.
    """

    @click.option(
        "--endpoint",
        metavar="URL",
        default="",
        help="Server to use for s3://, gs:// or az://, in place of the provider's own.",
    )
    @click.option(
        "--anonymous", is_flag=True, help="Read URLs without credentials, for what is public."
    )
    @wraps(function)
    def asked(*args: Any, anonymous: bool, endpoint: str, **options: Any) -> Any:
        before = traffic()
        with asking(Access(anonymous, endpoint)):
            try:
                return function(*args, **options)
            finally:
                text = traffic_text(before)
                if text and not options.get("quiet"):
                    echo_note(f"network: {text}")

    return asked
