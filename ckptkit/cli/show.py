"""`ckptkit show`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.files import FileToWrite
from ckptkit.cli.options import echo_note, operands
from ckptkit.cli.report_options import put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.errors import CkptkitError
from ckptkit.text import list_text


@click.command("show")
@click.argument("path", shell_complete=candidates.paths)
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    shell_complete=candidates.names_of_tensors,
)
@click.option("--slice", "slice_", metavar="SLICE", help="Values to print, as in numpy: 0:2,:,3")
@click.option(
    "--npy",
    type=FileToWrite(),
    metavar="FILE",
    help="Write the slice (without --slice the whole tensor) to a .npy file.",
)
@click.option(
    "--stored", is_flag=True, help="The integers of a quantised tensor, not what they stand for."
)
@click.option("--overwrite", is_flag=True, help="Let --npy replace an existing file.")
@report_options("show")
@store_options
def command(
    path: str,
    names: tuple[str, ...],
    slice_: str | None,
    npy: str | None,
    stored: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Show the tensor NAME of PATH: where it is stored, its statistics and its values.

    NAME is a readable name, a checkpoint key, a full name, an object path, or an ending that
    only one tensor has.  Several can be given.

    \b
    Examples:
      ckptkit show run/ckpt-3 conv1/kernel
      ckptkit show run/ckpt-3 conv1/kernel conv1/bias
      ckptkit show run/ckpt-3 conv1/kernel --slice 0:2,:,3
      ckptkit show run/ckpt-3 conv1/kernel --npy kernel.npy
    """
    from ckptkit.operations.show import show
    from ckptkit.reports import tensor

    path, names = _parted(path, names)
    if npy is not None:
        from ckptkit.operations.input_files import refuse_inputs

        if len(names) > 1:
            raise click.UsageError(
                f"--npy goes with one tensor; these are {len(names)}: {list_text([*names], 4)}."
            )
        refuse_inputs([npy, options["output"]], [path])
    results = [show(path, name, slice=slice_, stored=stored) for name in names]
    if npy is not None:
        from ckptkit.operations.show import write_npy

        stored_as = write_npy(results[0], Path(npy), whole=slice_ is None, overwrite=overwrite)
        if stored_as:
            echo_note(f"note: {npy} holds the bits of {results[0].spec.dtype} as {stored_as}")
    if options["fmt"] == "html":
        from ckptkit.reports import tensor_html

        lines = tensor_html.lines(results)
    else:
        lines = tensor.several(results, options["fmt"])
    put_report(lines, options, [path])


def _parted(path: str, words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the one PATH and the names: a shell makes several words of `run/ckpt-1*`."""
    from ckptkit.stores.locate import locate

    given = operands([path])
    for count, word in enumerate(words[:-1]):
        if len(operands([*given, word])) == 1:
            continue
        with suppress(CkptkitError):
            locate(word)
            raise click.UsageError(
                f"one file and names of its tensors, please: {given[0]} and {word} are two files."
            )
        return given[0], words[count:]
    return given[0], words[-1:]
