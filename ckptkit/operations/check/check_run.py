"""One check under way: who is run where, and what its outputs are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UsageError
from ckptkit.golden.golden import Golden
from ckptkit.operations.check.explain import explain_by_inputs
from ckptkit.operations.check.float64 import broken_ties, exact_outputs
from ckptkit.operations.check.report import Report
from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.operations.execution.input_names import Pairing
from ckptkit.operations.execution.inputs import InputOptions, prepare, with_outputs
from ckptkit.operations.execution.mapped import MappedSubject, ReferenceOutputs, rows_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.tolerance import AUTO, TolerancePolicy
from ckptkit.operations.execution.types import Row
from ckptkit.operations.localize.find import ComparedRun
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec, runner_for

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


@dataclass
class CheckRun:
    """One check under way."""

    runs: Runs
    resolved: ResolvedSubject
    specs: Sequence[RunnerSpec]
    input_options: InputOptions
    policy: TolerancePolicy
    renames: Mapping[str, str]
    strict: bool
    mode: str = ""
    reference: str = ""
    signature: str = ""
    inputs: str = ""
    float64: bool = False
    explained: bool = False
    rows: list[Row] = field(default_factory=list)
    judged: list[ComparedRun] = field(default_factory=list)
    source: ResolvedSubject | Golden | None = None  # of the reference's outputs
    exact: dict[str, Mapping[str, Any]] | None = None  # those in float64, by case

    def __post_init__(self) -> None:
        self.first = self.specs[0]  # the runner of the reference

    def report(self) -> Report:
        return Report(
            str(self.resolved.subject),
            self.mode,
            self.reference,
            self.signature,
            self.inputs,
            tuple(self.runs.ran),
            tuple(self.rows),
            self.runs.coverage,
            tuple(dict.fromkeys(self.runs.findings)),
            self.strict,
        )

    # --- without --against and --golden -------------------------------------------------------

    def among_runners(self) -> None:
        """Hold every runner against the first; restore a checkpoint that has only one."""
        others = list(dict.fromkeys(self.specs))[1:]
        if not others and not self.resolved.is_checkpoint:
            raise UsageError(
                "nothing to compare: one model, one runner",
                where=str(self.resolved.subject),
                hint="--on twice, --against MODEL, or --golden DIR (`ckptkit record` makes one)",
            )
        if not others:
            self.mode, self.inputs = "coverage", f"restored into {self.resolved.place}"
            if self.resolved.subject.kind == "code":
                self.runs.restore(self.resolved, self.specs[0])
            return
        self.mode, self.reference = "runners", f"{self.resolved.subject} on {self.specs[0].text}"
        if self.resolved.runs:
            self._compare_with(self.resolved, others)

    def against(self, other: ResolvedSubject) -> None:
        """Hold the subject, on every runner, against another one on the first runner.

        What that does not run is run by TensorFlow, or by the runtime of its kind, on the CPU.
        """
        kind, first = other.subject.kind, self.specs[0]
        runs = kind in RUNNERS[first.runtime].subjects
        self.first = first if runs else runner_for(RunnerSpec(), kind)
        self.mode, self.reference = "against", f"{other.subject} on {self.first.text}"
        if other.coverage is not None and not other.coverage.ok:
            self.runs.findings += other.coverage.findings
            return
        if self.resolved.runs:
            self._compare_with(other, list(dict.fromkeys(self.specs)))

    def _compare_with(self, reference: ResolvedSubject, specs: Sequence[RunnerSpec]) -> None:
        covered = self.runs.coverage
        prepared = prepare(self.runs, reference, self.first, self.input_options)
        if reference is not self.resolved:
            self.runs.coverage = _told_apart(self.runs, covered)
        if prepared is None:
            return
        self.signature, self.inputs, self.source = prepared.signature, prepared.text, reference
        reference_outputs = ReferenceOutputs(
            self.reference,
            dict(zip(prepared.cases, prepared.run.outputs, strict=True)),
            prepared.run.environment,
            {},
        )
        model_signature = with_outputs(prepared.model_signature, prepared.run.outputs[0])
        same = reference.subject.kind == self.resolved.subject.kind
        call = self._signature(prepared.signature)
        paired = MappedSubject(self.runs, self.resolved, model_signature, self.renames, call, same)
        if reference is self.resolved:  # one model, one set of names
            paired.pairing = Pairing({}, {})
        for spec in specs:
            self._run(spec, paired, reference_outputs, prepared.cases)

    def _signature(self, signature: str) -> str | None:
        """Return the signature to call: that of the reference, if both are of one kind."""
        if self.input_options.signature is not None:
            return self.input_options.signature
        called = signature != "call" and self.resolved.subject.kind == "saved_model"
        return signature if called else None

    def _run(
        self,
        spec: RunnerSpec,
        paired: MappedSubject,
        reference_outputs: ReferenceOutputs,
        cases: Mapping[str, Arrays],
    ) -> None:
        """Run the subject on one runner and judge what it gave."""
        run = paired.run(spec, list(cases.values()))
        if run is None:
            return
        outputs = [paired.outputs_of(case) for case in run.outputs]
        rows = rows_of(reference_outputs, outputs, run.environment, spec.text, self.policy)
        assert self.source is not None
        differs = any(row.result.status == "differs" for row in rows)
        if differs and self.float64 and self.policy.tolerance == AUTO:
            if self.exact is None:
                self.exact = exact_outputs(self.runs, self.source, cases)
            rows = broken_ties(
                rows, reference_outputs, dict(zip(cases, outputs, strict=True)), self.exact
            )
        self.rows += rows
        self.judged.append(
            ComparedRun(
                paired,
                spec,
                run,
                rows,
                reference_outputs,
                cases,
                self.source,
                self.first,
                self.signature,
            )
        )
        differs = any(row.result.status == "differs" for row in rows)
        if differs and self.mode != "runners" and not self.explained:
            self.explained = True  # once: what holds on one runner holds on the others
            self.runs.findings += explain_by_inputs(
                paired, spec, reference_outputs, cases, self.policy
            )

    # --- with --golden ------------------------------------------------------------------------

    def golden(self, directory: Path, bound: bool) -> None:
        """Hold the subject, on every runner, against what was recorded; bound: weights too."""
        from ckptkit.operations.check.against_golden import against_golden

        self.mode, self.reference = "golden", str(directory)
        if self.input_options.files or self.input_options.ranges:
            raise UsageError("a golden has its own inputs", hint="leave out --inputs and --range")
        found = against_golden(
            self.runs, self.resolved, directory, self.input_options.signature, self.renames, bound
        )
        self.signature, self.inputs, self.explained = found.signature, found.text, found.changed
        self.source = found.golden
        for spec in dict.fromkeys(self.specs) if self.resolved.runs else ():
            self._run(spec, found.paired, found.reference, found.cases)


def _told_apart(runs: Runs, covered: RestoreCoverage | None) -> RestoreCoverage | None:
    """Return the subject's coverage; that of the reference becomes findings, if it is not fine."""
    if runs.coverage is not covered and runs.coverage is not None:
        runs.findings += [f for f in runs.coverage.findings if f.severity == "error"]
    return covered
