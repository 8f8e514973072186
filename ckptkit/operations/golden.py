"""`golden`: recordings for other tools, and those of other tools as goldens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptkit._io.atomic import replacing_directory
from ckptkit._io.files import taking_paths
from ckptkit._io.output_paths import refuse_elsewhere
from ckptkit._io.places import local_path
from ckptkit.dtypes import dtype_of_numpy
from ckptkit.errors import OutputError, UsageError
from ckptkit.golden.binding import Binding, bind
from ckptkit.golden.exchange import FORMS, WARMUP, form_of
from ckptkit.golden.golden import Case, Golden, read_golden, sampled, write_golden
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.wording import say

__all__ = ["FORMS", "export_golden", "import_golden"]

Path_ = str | os.PathLike[str]
UNKNOWN = "unknown"  # runtime of values that another tool recorded
_SEED = 20  # of the sample of a large output


@taking_paths
def export_golden(golden: Path_, out: Path_, to: str, *, overwrite: bool = False) -> Path:
    """Write a golden in the form `to` (one of FORMS); return what was written.

    "warmup" goes into a directory that may be a SavedModel, the other forms into a new directory.
    Raises UsageError, UnsupportedError (a dtype that the form lacks), OutputError.
    """
    if to not in FORMS:
        raise UsageError(f"no form {to!r}", hint=f"one of {', '.join(FORMS)}")
    refuse_elsewhere(os.fspath(out))
    recording, target = read_golden(local_path(golden)), Path(out)
    if to != "warmup":
        with replacing_directory(target, overwrite=False) as directory:
            FORMS[to].write(recording, directory)
        return target
    file = target / WARMUP
    if file.exists() and not overwrite:
        raise OutputError("exists", where=str(file), hint=say("‹overwrite› replaces it"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(error.strerror or str(error), where=str(file.parent)) from error
    FORMS[to].write(recording, target)
    return file


@taking_paths
def import_golden(
    path: Path_,
    out: Path_,
    *,
    form: str | None = None,
    model: Path_ | None = None,
    runtime: str = UNKNOWN,
    overwrite: bool = False,
) -> Golden:
    """Make a golden of what another tool recorded; return it.

    form: one of FORMS; None looks.  model: bind it to the weights of this file, so that a later
    change of them is named.  runtime: what computed the outputs; the tolerance follows from it.
    Raises UsageError where nothing is there to compare, and FormatError, OutputError.
    """
    source = local_path(path)
    chosen = form or form_of(source)
    if chosen not in FORMS:
        raise UsageError(f"no form {chosen!r}", hint=f"one of {', '.join(FORMS)}")
    recording = FORMS[chosen].read(source)
    if not recording.cases or not all(case.inputs and case.outputs for case in recording.cases):
        raise UsageError("no case with inputs and outputs", where=str(source))
    cases = tuple(
        Case(case.name, case.inputs, sampled(case.outputs, _SEED)) for case in recording.cases
    )
    golden = Golden(
        subject=source.name,
        kind="imported",
        signature=recording.signature or "call",
        model_signature=_model_signature(recording.cases[0]),
        binding=bind(os.fspath(model)) if model is not None else Binding("imported", ""),
        environment={"runtime": runtime},
        runner="",
        cases=cases,
        options={"inputs": f"{chosen} data of {source.name}"},
    )
    write_golden(Path(out), golden, overwrite=overwrite)
    return golden


def _model_signature(case: Case) -> ModelSignature:
    return ModelSignature(_infos(case.inputs), _infos(case.outputs))


def _infos(arrays: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            name, dtype_of_numpy(array.dtype), (None, *array.shape[1:]) if array.ndim else ()
        )
        for name, array in arrays.items()
    )
