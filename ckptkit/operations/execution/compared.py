"""One run of a subject, beside what its outputs were compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptkit.golden.golden import Golden
from ckptkit.operations.execution.mapped import MappedSubject, ReferenceOutputs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.types import Row
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import ExecutionResult

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


@dataclass(frozen=True)
class ComparedRun:
    """One run of a check, with what it was held against.

    paired: the subject.  cases: inputs by case, by the names of the reference.
    reference: the model behind the outputs, run on `reference_spec` by `signature`, or a golden.
    """

    paired: MappedSubject
    spec: RunnerSpec
    run: ExecutionResult
    rows: Sequence[Row]
    reference_outputs: ReferenceOutputs
    cases: Mapping[str, Arrays]
    reference: ResolvedSubject | Golden
    reference_spec: RunnerSpec
    signature: str

    @property
    def case(self) -> str:
        """The case that is localised: the first that fails, else the first."""
        failed = [row.case for row in self.rows if not row.result.ok]
        return failed[0] if failed else next(iter(self.cases))

    @property
    def differs(self) -> bool:
        """Whether an output does not pass."""
        return any(not row.result.ok and row.result.status != "meaningless" for row in self.rows)
