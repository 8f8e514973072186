"""`ckptkit golden`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.groups import NearGroup
from ckptkit.cli.options import Choice
from ckptkit.cli.report_options import put_report, report_options
from ckptkit.reports.text import count_text, printable

_FORMS = ("npy", "onnx", "polygraphy", "warmup")


@click.group("golden", cls=NearGroup)
def command() -> None:
    """Write goldens in the formats of other tools, and read the recordings of these.

    \b
    npy         CASE/inputs.npz and CASE/outputs/NAME.npy, as saved_model_cli takes and writes
    onnx        test_data_set_N/{input,output}_M.pb, as in ONNX's model tests
    polygraphy  inputs.json and outputs.json (RunResults)
    warmup      assets.extra/tf_serving_warmup_requests, for TensorFlow Serving
    """


@command.command("export", short_help="Write the cases of a golden for another tool.")
@click.argument("golden", shell_complete=candidates.paths)
@click.option("--to", required=True, type=Choice(_FORMS), help="Format of the output.")
@click.option("-o", "--output", "out", required=True, metavar="DIR", help="Where it goes.")
@click.option("--overwrite", is_flag=True, help="Replace warm-up requests that are there.")
@report_options("golden export")
def export(golden: str, **options: Any) -> None:
    """Write the cases of GOLDEN, which `ckptkit record` made, for another tool.

    \b
    Examples:
      ckptkit golden export golden --to onnx -o onnx-data
      ckptkit golden export golden --to warmup -o export
    """
    from ckptkit.operations.golden import export_golden

    written = export_golden(golden, options["out"], options["to"], overwrite=options["overwrite"])
    put_report([printable(str(written))], options)


@command.command("import", short_help="Make a golden of what another tool recorded.")
@click.argument("path", shell_complete=candidates.paths)
@click.option("-o", "--output", "out", required=True, metavar="DIR", help="Where the golden goes.")
@click.option("--form", type=Choice(_FORMS), help="Format of PATH.  [default: detected]")
@click.option("--model", metavar="MODEL", help="Bind it to the weights of this model.")
@click.option("--runtime", default="unknown", help="What computed the outputs: tensorflow, onnx.")
@click.option("--overwrite", is_flag=True, help="Replace a golden that is there.")
@report_options("golden import")
def import_(path: str, **options: Any) -> None:
    """Make a golden of the inputs and outputs that another tool recorded.

    \b
    Example:
      ckptkit golden import onnx-data -o golden
    """
    from ckptkit.operations.golden import import_golden

    out, shown = options.pop("out"), {"quiet": options.pop("quiet")}
    made = import_golden(path, out, **options)
    outputs = {name for case in made.cases for name in case.outputs}
    counts = f"{count_text(len(made.cases), 'case')}, {count_text(len(outputs), 'output')}"
    put_report([printable(f"{Path(out)}: {counts}")], shown)
