"""`ckptkit show`."""

from __future__ import annotations

from pathlib import Path

import click

from ckptkit.cli import candidates
from ckptkit.cli.options import echo_lines, echo_note, operands, screen_options


@click.command("show")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH", shell_complete=candidates.paths_then_names
)
@click.argument("name", shell_complete=candidates.names_of_tensors)
@click.option("--slice", "slice_", metavar="SLICE", help="Values to print, as in numpy: 0:2,:,3")
@click.option(
    "--npy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the slice (without --slice the whole tensor) to a .npy file.",
)
@click.option("--overwrite", is_flag=True, help="Let --npy replace an existing file.")
@click.option(
    "-f",
    "--format",
    "fmt",
    type=click.Choice(("table", "json")),
    default="table",
    help="Output format.",
)
@screen_options
def command(
    paths: tuple[str, ...],
    name: str,
    slice_: str | None,
    npy: Path | None,
    overwrite: bool,
    fmt: str,
) -> None:
    """Show the tensor NAME of PATH: where it lies, its statistics, its values.

    NAME is a readable name, a checkpoint key, a full name, an object path, or an ending that only
    one tensor has.

    \b
    Examples:
      ckptkit show run/ckpt-3 conv1/kernel
      ckptkit show run/ckpt-3 conv1/kernel --slice 0:2,:,3
      ckptkit show run/ckpt-3 conv1/kernel --npy kernel.npy
    """
    from ckptkit.operations.show import show
    from ckptkit.reports import tensor

    chosen = operands(paths)
    if len(chosen) > 1:
        raise click.UsageError(f"one PATH and one NAME, please; these are {len(chosen)} files.")
    if npy is not None:
        from ckptkit.operations.input_files import refuse_inputs

        refuse_inputs([npy], chosen)
    result = show(chosen[0], name, slice=slice_)
    if npy is not None:
        from ckptkit.operations.show import write_npy

        stored_as = write_npy(result, npy, whole=slice_ is None, overwrite=overwrite)
        if stored_as:
            echo_note(f"note: {npy} holds the bits of {result.spec.dtype} as {stored_as}")
    echo_lines(tensor.json_text(result) if fmt == "json" else tensor.lines(result))
