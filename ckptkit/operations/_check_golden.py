"""Holding a model against what was recorded of one: its weights and contract, then its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.binding import Binding, bind, compare_bindings
from ckptkit.golden import Golden, read_golden
from ckptkit.operations._check_inputs import interface_of
from ckptkit.operations._check_names import Pairing, pair
from ckptkit.operations._check_rows import Reference
from ckptkit.operations._check_runs import Runs
from ckptkit.operations._check_subjects import Resolved
from ckptkit.operations._check_values import counted, findings_of
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.subjects import Run

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]


class Held(NamedTuple):
    """The runs of a check against a golden, not yet judged.

    signature: of the golden; call: what was called.  cases: the recorded inputs by case.
    """

    runs: Sequence[tuple[RunnerSpec, Run, Pairing]]
    held: Reference
    cases: Mapping[str, Arrays]
    signature: str
    call: str | None
    text: str


def against_golden(
    runs: Runs,
    what: Resolved,
    specs: Sequence[RunnerSpec],
    directory: Path,
    signature: str | None,
    renames: Mapping[str, str],
) -> Held:
    """Compare the subject's weights, files and contract with the golden's, and run it.

    Raises FormatError and PathNotFoundError of a golden that cannot be read.
    """
    golden = read_golden(directory)
    cases = {case.name: case.inputs for case in golden.cases}
    held = Reference(
        str(directory),
        {case.name: case.outputs for case in golden.cases},
        golden.environment,
        golden.noise,
    )
    now = binding_of(what, full=False)
    runs.findings += findings_of(compare_bindings(golden.binding, now))
    call = signature or (golden.signature if _same_kind(golden, what) else None)
    text = f"{counted(len(cases), 'case')} of the golden"
    found: list[tuple[RunnerSpec, Run, Pairing]] = []
    pairing: Pairing | None = None
    for spec in dict.fromkeys(specs) if what.runs else ():
        if pairing is None:
            interface = interface_of(runs, what, call, spec)
            pairing = pair(
                golden.interface,
                interface,
                renames,
                same_contract=_same_kind(golden, what),
                where=str(what.subject),
            )
            runs.findings += pairing.findings
        inputs = [pairing.inputs_of(case) for case in cases.values()]
        run = runs.execute(what, spec, inputs, call)
        if run is not None:
            found.append((spec, run, pairing))
    return Held(found, held, cases, golden.signature, call, text)


def binding_of(what: Resolved, *, full: bool) -> Binding:
    """Return what the subject's outputs follow from: the checkpoint for code, else the model.

    full: as `bind` takes it.  Code without a checkpoint is bound to nothing.
    """
    path = what.subject.path
    return bind(path, full=full) if path is not None else Binding("code", "")


def _same_kind(golden: Golden, what: Resolved) -> bool:
    calls = ("keras", "code")
    return golden.kind == what.subject.kind or (golden.kind in calls and what.subject.kind in calls)
