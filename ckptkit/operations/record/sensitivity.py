"""Which variables the outputs of a golden do not see.

A golden that passes proves nothing of a layer whose change no output shows: a dead unit, a branch
that these inputs do not take.  So each layer's variables are changed by a percent and the outputs
compared; what moves none of them above the tolerance is blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.tiers import tier_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, whole_file_format
from ckptkit.operations.localize.weights import weights_between
from ckptkit.runners import introspect
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

AMOUNT = 0.01  # of each element


@dataclass(frozen=True)
class OutputSensitivity:
    """seen, blind: variables by readable name.  by: "layer" or "variable", what was changed at
    once.  why_not: why nothing was measured, or "".  untried: variables that the model reads and
    that could not be changed a little (integers that are all the same).
    """

    seen: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    by: str = "layer"
    why_not: str = ""
    untried: tuple[str, ...] = ()

    @property
    def share(self) -> float | None:
        """Variables that the outputs see, as a share of all; None where that is not known."""
        count = len(self.seen) + len(self.blind)
        return len(self.seen) / count if count and not self.why_not else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        if self.why_not:
            return {"by": self.by, "why_not": self.why_not}
        found = {"by": self.by, "seen": len(self.seen), "blind": len(self.blind)}
        return {**found, "untried": len(self.untried)} if self.untried else found


def is_measured_on(spec: RunnerSpec) -> bool:
    """Whether a runner can change the variables of a model."""
    return "perturb" in RUNNERS[spec.runtime].introspection and spec.replicas == 1


def measure(
    runs: Runs,
    resolved: ResolvedSubject,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    outputs: Arrays,
    environment: Mapping[str, Any],
    signature: str,
    *,
    thorough: bool,
) -> OutputSensitivity:
    """Change the variables of each layer (thorough: each one) and look at the outputs.

    outputs: of one case, for their names and dtypes.
    """
    from ckptkit.dtypes import dtype_of_numpy

    by = "variable" if thorough else "layer"
    if not is_measured_on(spec):
        return OutputSensitivity(by=by, why_not=f"not on {spec.text}")
    tier = tier_of(environment, environment)
    tolerances = {n: tier.tolerance(n, dtype_of_numpy(v.dtype)) for n, v in outputs.items()}
    path = resolved.subject.path
    names: dict[str, str] = {}
    if path is not None and whole_file_format(Path(path)) is None:
        names = weights_between(None, Path(path)).names()
    try:
        with runs.counted(f"each {by} changed on {spec.text}"):
            rows = introspect.perturb(
                resolved.subject,
                spec,
                cases,
                runs.limits,
                signature=signature,
                tolerances=tolerances,
                amount=AMOUNT,
                thorough=thorough,
                names=names,
                options=runs.options,
            )
    except RunnerError as error:
        return OutputSensitivity(by=by, why_not=error.message)
    seen = [name for row in rows if row.seen for name in row.variables]
    blind = [name for row in rows if row.tried and not row.seen for name in row.variables]
    untried = [name for row in rows if not row.tried for name in row.variables]
    return OutputSensitivity(
        tuple(sorted(seen)), tuple(sorted(blind)), by, untried=tuple(sorted(untried))
    )
