"""A group of commands that knows what a mistyped one may have been."""

from __future__ import annotations

import click


class NearGroup(click.Group):
    """A group whose refusal of an unknown command names those that are called nearly so."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=3, cutoff=0.5)
            hint = self.hint(args[0]) or (f"did you mean {' or '.join(near)}?" if near else "")
            raise click.UsageError(f"no command {args[0]!r}; {hint}".rstrip("; "), ctx) from None

    def hint(self, name: str) -> str:
        """Return what else to say of a name that is no command, by default nothing."""
        return ""
