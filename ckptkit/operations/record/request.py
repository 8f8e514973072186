"""What a recording is asked for, put together and validated once, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptkit.errors import UsageError
from ckptkit.operations.execution.inputs import InputOptions
from ckptkit.operations.execution.subjects import ModelSource
from ckptkit.operations.execution.types import Path_
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits


@dataclass(frozen=True)
class RecordRequest:
    """One recording.

    runner: where the subject is run.  layers: globs of values inside the model that are kept too.
    noise, sensitivity: whether to measure how noisy outputs are, and which variables they see.
    The rest is as in `record`.  Raises UsageError where nothing would be recorded.
    """

    subject: Path_
    runner: RunnerSpec
    inputs: InputOptions = field(default_factory=InputOptions)
    source: ModelSource = field(default_factory=ModelSource)
    limits: Limits = field(default_factory=Limits)
    layers: tuple[str, ...] = ()
    noise: bool = True
    sensitivity: bool = True
    thorough: bool = False
    min_coverage: float | None = None
    float64: bool = False
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.inputs.cases < 1 or self.inputs.batch < 1:
            raise UsageError("a golden needs at least one case of one example")
