"""`ckptkit.gate`: whether a model may go out, by one file of rules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.files import taking_paths
from ckptkit._io.places import path_of
from ckptkit._io.progress import phase
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.operations.findings import Unit
from ckptkit.operations.gate.policy import read_policy
from ckptkit.operations.gate.rules import Gate, checks
from ckptkit.operations.verify.api import Verification
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

SCHEMA = "ckptkit.gate/2"


@dataclass(frozen=True, slots=True, repr=False)
class GateReport(Verification):
    """What the rules of a policy said of one model; the same shape as a verification.

    A unit per rule: its finding is a note where the model passes, an error where it does not, and
    it has a refusal where the rule could not be told.
    """

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.gate/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        rules = [
            {
                "rule": unit.format,
                "passed": None if unit.refusal is not None else unit.ok,
                "message": str(unit.refusal) if unit.refusal else unit.findings[0].message,
                "command": None if unit.refusal else unit.findings[0].hint.strip("`") or None,
                "code": unit.refusal.code if unit.refusal else unit.findings[0].code,
            }
            for unit in self.units
        ]
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "exit_code": self.exit_code,
            "units": rules,
        }


@taking_paths
def gate(
    path: str | os.PathLike[str],
    policy: str | os.PathLike[str],
    *,
    baseline: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
) -> GateReport:
    """Say whether a model passes every rule of a policy.

    Each rule is answered by the operation of its name, which gives the same verdict alone.

    Args:
        path: a checkpoint or model, as `ckptkit.open` takes it.
        policy: a TOML file of rules (docs/gate.md).
        baseline: the model that the table `[baseline]` compares with.
        executor: where to do the work; None does it here.

    Returns:
        A unit per rule; `ok` where every rule was told and passed.

    Raises:
        PathNotFoundError: the policy or the model is not there.
        UsageError: the policy has what no policy has, or compares with no baseline though there is
            one.
    """
    model = path_of(path)
    rules = read_policy(Path(policy))
    if baseline is not None and "baseline" not in rules.tables:
        raise UsageError(
            say("no table [baseline]: ‹baseline› would do nothing"),
            where=str(policy),
            hint='[baseline] with `weights = "same"` compares',
        )
    asked = Gate(model, rules, None if baseline is None else Path(baseline), executor)
    _ = asked.listing  # a model that is not there is no rule that could not be told
    units = []
    for name, make in checks(asked):
        try:
            with phase(name):
                units.append(Unit(model, name, (make(),)))
        except CkptkitError as error:
            units.append(Unit(model, name, refusal=error))
    return GateReport(model, tuple(units))
