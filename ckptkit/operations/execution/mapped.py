"""Running a subject on the inputs of a reference whose names may not be its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.model_io.signature import ModelSignature
from ckptkit.operations.execution.input_names import Pairing, pair
from ckptkit.operations.execution.inputs import model_signature_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, signatures_of_file
from ckptkit.operations.execution.tolerance import TolerancePolicy
from ckptkit.operations.execution.types import Row
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import ExecutionResult

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays
    from ckptkit.model_io.sampling import Sample


@dataclass
class MappedSubject:
    """A subject beside a reference: the first run finds out which name is which.

    reference: what the inputs and outputs are called there.  signature: what to call, None for the
    subject's own choice.  same_contract: see `pair`.
    """

    runs: Runs
    resolved: ResolvedSubject
    reference: ModelSignature
    renames: Mapping[str, str]
    signature: str | None
    same_contract: bool
    pairing: Pairing | None = field(default=None, init=False)

    def run(self, spec: RunnerSpec, cases: Sequence[Arrays]) -> ExecutionResult | None:
        """Run the subject on cases by the reference's names; None where it gave nothing.

        Raises UsageError for a rename that fits nothing, and what `Runs.execute` raises.
        """
        if self.pairing is None and len(self.reference.inputs) == 1 and not self._known:
            return self._run_the_only_input(spec, cases)
        if self.pairing is None:
            self._pair(model_signature_of(self.runs, self.resolved, self.signature, spec))
        return self._execute(spec, [self.inputs_of(case) for case in cases])

    @property
    def _known(self) -> bool:
        """Whether the subject's file tells its names."""
        return bool(signatures_of_file(self.resolved.subject))

    def _run_the_only_input(
        self, spec: RunnerSpec, cases: Sequence[Arrays]
    ) -> ExecutionResult | None:
        """Run it without knowing what its input is called, which saves a process that only asks."""
        run = self._execute(spec, [{"": array} for case in cases for array in case.values()])
        if run is not None:
            self._pair(run.description.signatures.get(run.signature))
        return run

    def _execute(self, spec: RunnerSpec, cases: Sequence[Arrays]) -> ExecutionResult | None:
        return self.runs.execute(self.resolved, spec, cases, self.signature)

    def _pair(self, subject: ModelSignature | None) -> None:
        self.pairing = pair(
            self.reference,
            subject or ModelSignature(self.reference.inputs, ()),  # what takes anything
            self.renames,
            same_contract=self.same_contract,
            where=str(self.resolved.subject),
        )
        self.runs.findings += self.pairing.findings

    def inputs_of(self, case: Arrays) -> dict[str, Any]:
        """Return a case of the reference under the subject's names."""
        return self.pairing.inputs_of(case) if self.pairing is not None else dict(case)

    def outputs_of(self, outputs: Arrays) -> dict[str, Any]:
        """Return outputs of the subject under the reference's names."""
        return self.pairing.outputs_of(outputs) if self.pairing is not None else dict(outputs)


class ReferenceOutputs(NamedTuple):
    """What outputs are held against.

    name: to say it.  cases: outputs by case, in order.  environment: of what computed them.
    noise: by output, as recorded; {} where none is known.
    """

    name: str
    cases: Mapping[str, Mapping[str, Any | Sample]]
    environment: Mapping[str, Any]
    noise: Mapping[str, Mapping[str, Any]]


def rows_of(
    reference_outputs: ReferenceOutputs,
    outputs: Sequence[Arrays],
    environment: Mapping[str, Any],
    runner: str,
    policy: TolerancePolicy,
) -> list[Row]:
    """Return a row per case and output; outputs: by the names of the reference."""
    from ckptkit.model_io.compare_outputs import compare_outputs

    chosen = policy.choose(reference_outputs.environment, environment)
    noise = reference_outputs.noise if chosen.takes_noise else None
    return [
        Row(name, runner, reference_outputs.name, result, chosen.tier)
        for (name, expected), found in zip(reference_outputs.cases.items(), outputs, strict=True)
        for result in compare_outputs(expected, found, chosen.tolerance, noise=noise)
    ]
