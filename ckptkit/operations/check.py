"""`check`: outputs against outputs; a check that compared nothing never passes.

    check(checkpoint, model=...)            does every variable come back, bit for bit?
    check(model, on=["CPU:0", "xla:CPU:0"]) does it compute the same there?
    check(new, against=old)                 do two models compute the same?
    check(model, golden="golden/")          does it compute what was recorded?

Every run is a child process.  Its crash, its end by a time or memory limit and kernels that ran on
another device than was asked for are findings; a device or package that is not here is an error,
never a check that passes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UsageError
from ckptkit.golden import Golden
from ckptkit.interface import Interface, TensorInfo
from ckptkit.operations._check_float64 import broken_ties, exact_outputs
from ckptkit.operations._check_inputs import (
    SEED,
    Asked,
    parse_ranges,
    prepare,
)
from ckptkit.operations._check_names import Pairing, parse_renames
from ckptkit.operations._check_paired import Paired
from ckptkit.operations._check_rows import Reference, rows_of
from ckptkit.operations._check_runs import Runs
from ckptkit.operations._check_scaled import explain_by_inputs
from ckptkit.operations._check_subjects import Resolved, resolve
from ckptkit.operations._check_tolerance import AUTO, Policy
from ckptkit.operations._check_values import Ran, Report, Row
from ckptkit.operations._coverage_values import Coverage, Variable
from ckptkit.operations._verify_findings import Finding
from ckptkit.operations.localize import Judged, command, find
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.subjects import Limits

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

__all__ = ["Coverage", "Finding", "Ran", "Report", "Row", "Variable", "check"]

TIMEOUT_S = 600.0  # of one child
Path_ = str | os.PathLike[str]


def check(
    subject: Path_,
    *,
    on: Sequence[str | RunnerSpec] = ("CPU:0",),
    against: Path_ | None = None,
    golden: Path_ | None = None,
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = SEED,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    signature: str | None = None,
    model: str | None = None,
    like: Path_ | None = None,
    tolerance: Path_ = AUTO,
    rtol: float | None = None,
    atol: float | None = None,
    rename: Sequence[str] = (),
    rules: Sequence[str] = (),
    imports: Sequence[str] = (),
    strict: bool = False,
    outputs_only: bool = False,
    float64: bool = False,
    localize: bool | str = False,
    layers: str | Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
    max_rss_bytes: int | None = None,
) -> Report:
    """Run a model and say whether it computes what it should; whether a checkpoint restores.

    subject: a SavedModel, a `.keras` file, or a checkpoint with model (`package.module:callable` or
    `file.py:callable`, which builds it) or like (a SavedModel or `.keras` file whose structure it
    goes into; rules: `RE=>REPL` from its names to those of like).
    on: runners, see `ckptkit.runners.spec`.  against: another subject (of code too), run on the
    first of `on`.  golden: a directory that `record` wrote.  Without either, every runner is
    held against the first; a checkpoint with one runner is restored, and not run.
    inputs: npz files, one case each; else 8 examples drawn from `seed`, numbers within ranges
    ({input: (low, high)} or `NAME=LOW:HIGH`).  signature: of several.
    tolerance: "auto" (by tier), "strict" (every bit) or a file of `GLOB rtol=R atol=A` lines; rtol,
    atol: of all outputs.  rename: `OLD=NEW`, names of the reference and of the subject.
    imports: modules or files that define custom classes.  strict: notes count as findings.
    outputs_only: weights, files and settings may be others than the golden's: names, shapes and
    values of inputs and outputs alone count.
    float64: outputs between the tolerance and that of reduced precision pass where they are as near
    to the reference's model in float64 as the reference is (`ckptkit._tie_break`).
    localize: say which layer or switch makes outputs differ (`ckptkit.operations.localize`);
    layers: globs of the values that are looked at for it.
    timeout_s, max_rss_bytes: of each child.

    Raises UsageError where nothing can be compared, RunnerError where a device or package is not
    here, and what reading the files raises.
    """
    specs = [item if isinstance(item, RunnerSpec) else parse_runner(item) for item in _list(on)]
    if not specs:
        raise UsageError("no runner", hint="--on CPU:0")
    if against is not None and golden is not None:
        raise UsageError("--against and --golden exclude each other")
    if outputs_only and golden is None:
        raise UsageError("--outputs-only is for --golden", hint="--against compares no weights")
    asked = Asked(
        files=_list(inputs),
        seed=seed,
        ranges=ranges if isinstance(ranges, Mapping) else parse_ranges(ranges),
        signature=signature,
    )
    policy = Policy(tolerance, rtol, atol)
    _ = policy.rules  # a file that cannot be read is said before anything runs
    with tempfile.TemporaryDirectory(prefix="ckptkit-check-") as directory:
        scratch = Path(directory)
        runs = Runs(Limits(timeout_s, max_rss_bytes), scratch, {"imports": list(imports)})
        what = resolve(subject, scratch, model=model, like=like, rules=rules, timeout_s=timeout_s)
        checking = _Checking(
            runs, what, specs, asked, policy, parse_renames(rename), strict, float64=float64
        )
        checking.runs.coverage = what.coverage
        if golden is not None:
            checking.golden(Path(golden), bound=not outputs_only)
        elif against is not None:
            (scratch / "against").mkdir()
            other = resolve(
                against,
                scratch / "against",
                model=model if _needs_model(against) else None,
                like=like if _needs_model(against) else None,
                rules=rules,
                timeout_s=timeout_s,
            )
            checking.against(other)
        else:
            checking.among_runners()
        report = checking.report()
        if localize:
            found = find(runs, checking.judged, policy, _list(layers) or ["*"], str(localize))
            report = replace(report, localization=found)
        if report.localization is not None:
            again = {
                "on": [spec.text for spec in specs],
                "against": against,
                "golden": golden,
                "inputs": asked.files,
                "seed": seed if seed != SEED else None,
                "range": [f"{name}={low:g}:{high:g}" for name, (low, high) in asked.ranges.items()],
                "signature": signature,
                "model": model,
                "like": like,
                "map": list(rules),
                "rename": list(rename),
                "import": list(imports),
                "tolerance": tolerance if tolerance != AUTO else None,
                "rtol": rtol,
                "atol": atol,
            }
            report = report.told(command(subject, report.localization.point, again))
        return report


def _list(value: Any) -> list[Any]:
    if isinstance(value, str | os.PathLike | RunnerSpec):
        return [value]
    return list(value)


def _needs_model(path: Path_) -> bool:
    """Whether a subject is a file of weights, so that --model or --like is meant for it too."""
    from ckptkit.stores.locate import locate

    return os.path.lexists(path) is False or locate(path).format not in ("saved-model", "keras")


@dataclass
class _Checking:
    """One check under way."""

    runs: Runs
    what: Resolved
    specs: Sequence[RunnerSpec]
    asked: Asked
    policy: Policy
    renames: Mapping[str, str]
    strict: bool
    mode: str = ""
    reference: str = ""
    signature: str = ""
    inputs: str = ""
    float64: bool = False
    explained: bool = False
    rows: list[Row] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    source: Resolved | Golden | None = None  # of the reference's outputs
    exact: dict[str, Mapping[str, Any]] | None = None  # those in float64, by case

    def report(self) -> Report:
        return Report(
            str(self.what.subject),
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
        if not others and not self.what.is_checkpoint:
            raise UsageError(
                "nothing to compare: one model, one runner",
                where=str(self.what.subject),
                hint="--on twice, --against MODEL, or --golden DIR (`ckptkit record` makes one)",
            )
        if not others:
            self.mode, self.inputs = "coverage", f"restored into {self.what.place}"
            if self.what.subject.kind == "code":
                self.runs.restore(self.what, self.specs[0])
            return
        self.mode, self.reference = "runners", f"{self.what.subject} on {self.specs[0].text}"
        if self.what.runs:
            self._compare_with(self.what, others)

    def against(self, other: Resolved) -> None:
        """Hold the subject, on every runner, against another one on the first runner."""
        self.mode, self.reference = "against", f"{other.subject} on {self.specs[0].text}"
        if other.coverage is not None and not other.coverage.ok:
            self.runs.findings += other.coverage.findings
            return
        if self.what.runs:
            self._compare_with(other, list(dict.fromkeys(self.specs)))

    def _compare_with(self, reference: Resolved, specs: Sequence[RunnerSpec]) -> None:
        covered = self.runs.coverage
        prepared = prepare(self.runs, reference, self.specs[0], self.asked)
        if reference is not self.what:
            self.runs.coverage = _told_apart(self.runs, covered)
        if prepared is None:
            return
        self.signature, self.inputs, self.source = prepared.signature, prepared.text, reference
        held = Reference(
            self.reference,
            dict(zip(prepared.cases, prepared.run.outputs, strict=True)),
            prepared.run.environment,
            {},
        )
        interface = with_outputs(prepared.interface, prepared.run.outputs[0])
        same = reference.subject.kind == self.what.subject.kind
        call = self._signature(prepared.signature)
        paired = Paired(self.runs, self.what, interface, self.renames, call, same)
        if reference is self.what:  # one model, one set of names
            paired.pairing = Pairing({}, {})
        for spec in specs:
            self._run(spec, paired, held, prepared.cases)

    def _signature(self, signature: str) -> str | None:
        """Return the signature to call: that of the reference, if both are of one kind."""
        if self.asked.signature is not None:
            return self.asked.signature
        called = signature != "call" and self.what.subject.kind == "saved_model"
        return signature if called else None

    def _run(
        self, spec: RunnerSpec, paired: Paired, held: Reference, cases: Mapping[str, Arrays]
    ) -> None:
        """Run the subject on one runner and judge what it gave."""
        run = paired.run(spec, list(cases.values()))
        if run is None:
            return
        outputs = [paired.outputs_of(case) for case in run.outputs]
        rows = rows_of(held, outputs, run.environment, spec.text, self.policy)
        assert self.source is not None
        differs = any(row.result.status == "differs" for row in rows)
        if differs and self.float64 and self.policy.asked == AUTO:
            if self.exact is None:
                self.exact = exact_outputs(self.runs, self.source, cases)
            rows = broken_ties(rows, held, dict(zip(cases, outputs, strict=True)), self.exact)
        self.rows += rows
        self.judged.append(
            Judged(paired, spec, run, rows, held, cases, self.source, self.specs[0], self.signature)
        )
        differs = any(row.result.status == "differs" for row in rows)
        if differs and self.mode != "runners" and not self.explained:
            self.explained = True  # once: what holds on one runner holds on the others
            self.runs.findings += explain_by_inputs(paired, spec, held, cases, self.policy)

    # --- with --golden ------------------------------------------------------------------------

    def golden(self, directory: Path, bound: bool) -> None:
        """Hold the subject, on every runner, against what was recorded; bound: weights too."""
        from ckptkit.operations._check_golden import against_golden

        self.mode, self.reference = "golden", str(directory)
        if self.asked.files or self.asked.ranges:
            raise UsageError("a golden has its own inputs", hint="leave out --inputs and --range")
        found = against_golden(
            self.runs, self.what, directory, self.asked.signature, self.renames, bound
        )
        self.signature, self.inputs, self.explained = found.signature, found.text, found.changed
        self.source = found.golden
        for spec in dict.fromkeys(self.specs) if self.what.runs else ():
            self._run(spec, found.paired, found.reference, found.cases)


def _told_apart(runs: Runs, covered: Coverage | None) -> Coverage | None:
    """Return the subject's coverage; that of the reference becomes findings, if it is not fine."""
    if runs.coverage is not covered and runs.coverage is not None:
        runs.findings += [f for f in runs.coverage.findings if f.severity == "error"]
    return covered


def with_outputs(interface: Interface, outputs: Mapping[str, Any]) -> Interface:
    """Return the interface with the outputs that were given, where it does not tell them."""
    if interface.outputs:
        return interface
    return Interface(
        interface.inputs,
        tuple(
            TensorInfo(name, _dtype(array), (None, *array.shape[1:]) if array.ndim else ())
            for name, array in outputs.items()
        ),
    )


def _dtype(array: Any) -> str:
    return "string" if array.dtype.hasobject else str(array.dtype.name)
