"""What a check is asked for, put together and validated once, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckptkit.errors import UsageError
from ckptkit.operations.execution.inputs import InputOptions
from ckptkit.operations.execution.subjects import ModelSource
from ckptkit.operations.execution.tolerance import TolerancePolicy
from ckptkit.operations.execution.types import Path_
from ckptkit.operations.localize.find import ALWAYS, FAILED
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits
from ckptkit.wording import say


@dataclass(frozen=True)
class CheckRequest:
    """One check.

    runners: where the subject is run, at least one.  against, golden: what its outputs are held
    against, at most one of them; without either, every runner is held against the first.
    renames: {name in the reference: name in the subject}.  localize: "", "failed" or "always";
    layers: globs of the values that are looked at for it.  audit: whether faults are put into the
    model, to see what the tolerance sees.  The rest is as in `check`.
    Raises UsageError where the parts contradict each other, and what reading a file of tolerances
    raises.
    """

    subject: Path_
    runners: tuple[RunnerSpec, ...]
    inputs: InputOptions = field(default_factory=InputOptions)
    source: ModelSource = field(default_factory=ModelSource)
    tolerance: TolerancePolicy = field(default_factory=TolerancePolicy)
    limits: Limits = field(default_factory=Limits)
    against: Path_ | None = None
    golden: Path_ | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    strict: bool = False
    outputs_only: bool = False
    float64: bool = False
    localize: str = ""
    layers: tuple[str, ...] = ()
    audit: bool = False

    def __post_init__(self) -> None:
        if not self.runners:
            raise UsageError("no runner", hint=say("‹on=CPU:0›"))
        if self.against is not None and self.golden is not None:
            raise UsageError(say("‹against› and ‹golden› exclude each other"))
        if self.outputs_only and self.golden is None:
            raise UsageError(
                say("‹outputs_only› is for ‹golden›"), hint=say("‹against› compares no weights")
            )
        if self.golden is not None and (self.inputs.files or self.inputs.ranges):
            raise UsageError(
                "a golden has its own inputs", hint=say("leave out ‹inputs› and ‹ranges›")
            )
        if self.layers and not self.localize:
            raise UsageError(say("‹layers› is for ‹localize›"), hint="add it")
        _ = self.tolerance.rules  # a file that cannot be read is said before anything runs

    @property
    def options(self) -> Mapping[str, Sequence[str]]:
        """What every child is told beside the model."""
        return {"imports": list(self.imports)}

    @property
    def runs_several_times(self) -> bool:
        """Whether models are run more than once, before it is known whether outputs differ."""
        return (
            len(self.runners) > 1 or self.against is not None or bool(self.localize or self.audit)
        )


def when_to_localize(localize: bool | str) -> str:
    """Return "", "failed" or "always" for the keyword of `check`."""
    return ALWAYS if localize == ALWAYS else FAILED if localize else ""
