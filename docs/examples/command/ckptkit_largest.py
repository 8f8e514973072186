"""`ckptkit largest`: the tensors that take most of a file."""

from __future__ import annotations

import click

import ckptkit


@click.command("largest")
@click.argument("path")
@click.option("-n", "count", type=click.IntRange(1), default=3, help="How many.  [default: 3]")
def command(path: str, count: int) -> None:
    """Print the largest tensors of PATH, the largest first, with their share of all bytes."""
    tensors = ckptkit.ls(path).tensors
    total = sum(tensor.spec.nbytes for tensor in tensors)
    for tensor in sorted(tensors, key=lambda t: (-t.spec.nbytes, t.naming.name))[:count]:
        share = tensor.spec.nbytes / total if total else 0.0
        click.echo(f"{tensor.spec.nbytes:>12,} B  {share:6.1%}  {tensor.naming.name}")
