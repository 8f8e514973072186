"""Which variables the outputs of a golden do not see.

A golden that passes proves nothing of a layer whose change no output shows: a dead unit, a branch
that these inputs do not take.  So each layer's variables are changed by a percent and the outputs
compared; what moves none of them above the tolerance is blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import dtype_of_numpy, kind
from ckptkit.model_io.tiers import above_noise, tier_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.localize.weights import readable_names
from ckptkit.runners import introspect
from ckptkit.runners.child.faults import KINDS, LAYER
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.introspect import FaultTrial
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

AMOUNT = 0.01  # of each element
FAULTS = 2  # of each kind that are tried besides
FAULTS_S = 60.0  # for them


@dataclass(frozen=True)
class OutputSensitivity:
    """seen, blind: variables by readable name.  by: "layer" or "variable", what was changed at
    once.  why_not: why nothing was measured, or "".  untried: variables that the model reads and
    that could not be changed a little (integers that are all the same).  faults: how many were
    tried, whole layers too; passing: those that the tolerance would let pass, a text each.
    """

    seen: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    by: str = "layer"
    why_not: str = ""
    untried: tuple[str, ...] = ()
    faults: int = 0
    passing: tuple[str, ...] = ()

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
    noise: Mapping[str, Mapping[str, Any]],
    *,
    thorough: bool,
) -> OutputSensitivity:
    """Change the variables of each layer (thorough: each one) and look at the outputs.

    outputs: of one case, for their names and dtypes.  noise: as `Noise.by_output`, as far as it was
    measured.
    """
    by = "variable" if thorough else "layer"
    if not is_measured_on(spec):
        return OutputSensitivity(by=by, why_not=f"not on {spec.text}")
    tier = tier_of(environment, environment)
    dtypes = {name: dtype_of_numpy(value.dtype) for name, value in outputs.items()}
    tolerances = {name: tier.tolerance(name, dtype) for name, dtype in dtypes.items()}
    margins = {
        name: above_noise(float(noise.get(name, {}).get("max_scaled") or 0.0), dtype)
        for name, dtype in dtypes.items()
        if kind(dtype) in ("float", "complex")
    }
    try:
        with runs.counted(f"each {by} changed on {spec.text}"):
            rows, trials = introspect.perturb(
                resolved.subject,
                spec,
                cases,
                runs.limits,
                signature=signature,
                tolerances=tolerances,
                amount=AMOUNT,
                thorough=thorough,
                faults=FAULTS,
                margins=margins,
                seconds=FAULTS_S,
                names=readable_names(resolved.subject.path),
                options=runs.options,
            )
    except RunnerError as error:
        return OutputSensitivity(by=by, why_not=error.message)
    seen = [name for row in rows if row.seen for name in row.variables]
    blind = [name for row in rows if row.tried and not row.seen for name in row.variables]
    untried = [name for row in rows if not row.tried for name in row.variables]
    trials = tuple(trial for trial in trials if trial.verdict != "same")
    tried = [row for row in rows if row.tried]
    passing = [f"{row.layer}: {KINDS[LAYER]}" for row in tried if not row.seen]
    passing += [_in_words(trial) for trial in trials if trial.verdict != "seen"]
    return OutputSensitivity(
        tuple(sorted(seen)),
        tuple(sorted(blind)),
        by,
        untried=tuple(sorted(untried)),
        faults=len(tried) + len(trials),
        passing=tuple(passing),
    )


def _in_words(trial: FaultTrial) -> str:
    return f"{trial.variables[0] if trial.variables else trial.layer}: {KINDS[trial.kind]}"
