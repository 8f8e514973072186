"""Would the tolerance of a check see a broken layer?

A check that passes says no more than its tolerance can see.  So faults are put into the model one
at a time, and each is held against the same reference, by the same rule.  Beside the tolerance in
use stands the tightest one above the model's noise: the same inputs again, with other threads,
under XLA, and on the runners of the check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ckptkit.dtypes import dtype_of_numpy, kind
from ckptkit.model_io.results import number
from ckptkit.model_io.tiers import NOISE_MARGIN, OutputTolerance, above_noise
from ckptkit.operations.execution.compared import ComparedRun
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.tolerance import TolerancePolicy
from ckptkit.operations.findings import Finding
from ckptkit.operations.localize.weights import readable_names
from ckptkit.results import Document, Result
from ckptkit.runners import introspect
from ckptkit.runners.child.faults import EPSILON, KINDS, MOST_PASSING
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.introspect import AuditedTolerances, FaultTrial
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec
from ckptkit.text import count_text, json_number
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

REPEATS = 3  # runs of each case on the runner itself
TOO_NOISY = 0.02  # noise from which on no tolerance says anything
TIME_SHARE = 0.8  # of the time limit of a run, for faults; the rest is for loading the model


class SuggestedTolerance(NamedTuple):
    """The tightest tolerance of an output: relative, and absolute; noise: what was measured."""

    output: str
    rtol: float
    atol: float
    noise: float

    @property
    def line(self) -> str:
        """The line of a file of tolerances."""
        return f"{_pattern(self.output)} rtol={self.rtol:.2g} atol={self.atol:.3g}"


@dataclass(frozen=True, slots=True)
class AuditedFault(Result):
    """One fault, and whether the outputs show it.

    kind: of `ckptkit.runners.child.faults.KINDS`; text: what was done.  layer, variables: where.
    verdict: "seen", "passes" (the suggested tolerance would see it), "blind" (nothing on these
    inputs does), "same" (the model computes the same with it: no fault).
    needed: the least tolerance that lets it pass.
    """

    kind: str
    text: str
    layer: str
    variables: tuple[str, ...]
    verdict: str
    needed: float

    @property
    def ok(self) -> bool:
        """Whether the tolerance in use sees it, where there is something to be seen."""
        return self.verdict in ("seen", "same")

    @property
    def where(self) -> str:
        """The variable, where it is one, else the layer."""
        return self.variables[0] if len(self.variables) == 1 else self.layer

    def to_json(self) -> dict[str, Any]:
        """Return the fault as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "kind": self.kind,
            "text": self.text,
            "layer": self.layer,
            "variables": list(self.variables),
            "verdict": self.verdict,
            "needed": json_number(self.needed),
        }


@dataclass(frozen=True)
class ToleranceAudit(Document):
    """Which faults in a model a tolerance would let pass.

    runner: where they were tried.  tolerance: in use, in words.  faults: all that were tried.
    untried: (kind, layer, why) of others.  noise: by where it came from.  suggested: per output.
    why_not: why no fault was tried, or "".
    """

    ROWS: ClassVar[str] = "faults"

    runner: str = ""
    tolerance: str = ""
    faults: tuple[AuditedFault, ...] = ()
    untried: tuple[tuple[str, str, str], ...] = ()
    noise: Mapping[str, str] = field(default_factory=dict)
    suggested: tuple[SuggestedTolerance, ...] = ()
    why_not: str = ""

    @property
    def tried(self) -> tuple[AuditedFault, ...]:
        """The faults that count: not those with which the model computes the same."""
        return tuple(fault for fault in self.faults if fault.verdict != "same")

    @property
    def passing(self) -> tuple[AuditedFault, ...]:
        """The faults that the tolerance in use lets pass."""
        return tuple(fault for fault in self.faults if not fault.ok)

    @property
    def blind(self) -> tuple[AuditedFault, ...]:
        """Those of them that no tolerance above the noise sees, on these inputs."""
        return tuple(fault for fault in self.faults if fault.verdict == "blind")

    @property
    def share(self) -> float:
        """The share that passes, of those that count."""
        return len(self.passing) / len(self.tried) if self.tried else 0.0

    @property
    def ok(self) -> bool:
        """Whether faults were tried, and at most a twentieth of them passes."""
        return bool(self.tried) and self.share <= MOST_PASSING

    @property
    def exit_code(self) -> int:
        """0 at most a twentieth passes, 1 more does, 2 no fault was tried."""
        return 0 if self.ok else 1 if self.tried else 2

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.tried:
            return f"no fault was tried: {self.why_not or 'there is none to try'}"
        share = f"{100 * self.share:.1f}%"
        faults = count_text(len(self.tried), "fault")
        return f"{len(self.passing)} of {faults} would pass ({share})"

    @property
    def file_lines(self) -> list[str]:
        """The suggested tolerances as a file that `ckptkit.check` takes; [] where there are none.

        Returns:
            Its lines.
        """
        if not self.suggested:
            return []
        noise = ", ".join(f"{source} {text}" for source, text in self.noise.items())
        head = [f"# {NOISE_MARGIN:g} times the noise measured: {noise}"]
        return [*head, *(item.line for item in self.suggested)]

    def to_json(self) -> dict[str, Any]:
        """Return the part of a document of schema ckptkit.check/1 that is the audit.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "runner": self.runner,
            "tolerance": self.tolerance,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "tried": len(self.tried),
            "passing": len(self.passing),
            "blind": len(self.blind),
            "share": round(self.share, 4),
            "why_not": self.why_not,
            "noise": dict(self.noise),
            "suggested": [
                {"output": s.output, "rtol": s.rtol, "atol": json_number(s.atol), "line": s.line}
                for s in self.suggested
            ],
            "untried": [{"kind": k, "layer": layer, "why": w} for k, layer, w in self.untried],
            "faults": [fault.to_json() for fault in self.faults],
        }


def findings_of_audit(audit: ToleranceAudit, where: str) -> Iterator[Finding]:
    """Yield what there is to say of it: a warning where too many faults pass, else a note."""
    if not audit.passing:
        return
    text = f"{audit.verdict} with {audit.tolerance}"
    wide = len(audit.passing) - len(audit.blind)
    hint: str = say("other ‹inputs›: nothing on these shows them")
    if wide:
        hint = say(f"‹tolerance=FILE› of the lines suggested would see {wide} of them")
    severity = "note" if audit.ok else "warning"
    limit = "" if audit.ok else f"; more than {MOST_PASSING:.0%} is too many"
    yield Finding(severity, "audit.tolerance", where, f"{text}{limit}", hint)


# --- how it is done -------------------------------------------------------------------------------


class _Trial(NamedTuple):
    """The model that faults are put into; outputs: {its own name: the reference's}."""

    model: ResolvedSubject
    spec: RunnerSpec
    cases: Sequence[Arrays]
    signature: str | None
    outputs: Mapping[str, str]


def audit_tolerance(
    runs: Runs, compared: Sequence[ComparedRun], policy: TolerancePolicy
) -> ToleranceAudit:
    """Try the faults of the model that a check has run.

    Args:
        runs: for further runs.
        compared: the runs of the check, of which the first says what the tolerance in use is.
        policy: that the check went by.
    """
    if not compared:
        return ToleranceAudit(why_not="nothing was compared")
    if any(
        not row.ok for run in compared for row in run.rows if row.result.status != "meaningless"
    ):
        return ToleranceAudit(why_not="the outputs differ without any fault")
    first = compared[0]
    trial = _trial_of(first)
    if trial is None:
        return ToleranceAudit(why_not=f"no model here can be changed on {first.spec.text}")
    reference = first.reference_outputs
    noise = _OutputNoise(reference.cases)
    for run in compared:
        noise.add(run.spec.text, [run.paired.outputs_of(case) for case in run.run.outputs])
    _measure(runs, trial, noise)
    suggested = tuple(noise.suggested())
    chosen = policy.choose(reference.environment, first.run.environment)
    used = {name: chosen.tolerance(name, dtype) for name, dtype in noise.dtypes.items()}
    tightest = used | {s.output: OutputTolerance(s.rtol, s.atol) for s in suggested}
    tolerances = AuditedTolerances(
        used,
        tightest,
        {s.output: s.rtol for s in suggested},
        reference.noise if chosen.takes_noise else {},
    )
    found = ToleranceAudit(
        trial.spec.text,
        _in_words(chosen.tier, used),
        noise=noise.sources,
        suggested=suggested,
    )
    try:
        with runs.counted(f"a fault at a time on {trial.spec.text}"):
            tried = introspect.audit(
                trial.model.subject,
                trial.spec,
                trial.cases,
                list(reference.cases.values()),
                runs.limits,
                tolerances=tolerances,
                outputs=trial.outputs,
                seconds=TIME_SHARE * runs.limits.timeout_s,
                signature=trial.signature,
                names=readable_names(trial.model.subject.path),
                options=runs.options,
            )
    except RunnerError as error:
        return replace(found, why_not=error.message)
    return replace(found, faults=tuple(map(_audited, tried.faults)), untried=tried.untried)


def _trial_of(run: ComparedRun) -> _Trial | None:
    """Return the subject of a run, or the model that it was held against, if it can be changed."""
    names: dict[str, Any] = {name: name for case in run.run.outputs for name in case}
    renamed = {own: name for name, own in run.paired.outputs_of(names).items()}
    inputs = [dict(run.paired.inputs_of(case)) for case in run.cases.values()]
    if _can_change(run.spec, run.paired.resolved):
        signature = run.paired.signature or run.run.signature or None
        return _Trial(run.paired.resolved, run.spec, inputs, signature, renamed)
    model = run.reference
    if isinstance(model, ResolvedSubject) and _can_change(run.reference_spec, model):
        cases = [dict(case) for case in run.cases.values()]
        return _Trial(model, run.reference_spec, cases, run.signature or None, {})
    return None


def _can_change(spec: RunnerSpec, model: ResolvedSubject) -> bool:
    runtime = RUNNERS[spec.runtime]
    able = "audit" in runtime.introspection and model.subject.kind in runtime.model_kinds
    return able and spec.replicas == 1


def _audited(trial: FaultTrial) -> AuditedFault:
    text = KINDS[trial.kind]
    if trial.setting is not None:
        old, new = (f"{v:g}" if trial.kind == EPSILON else str(v) for v in trial.setting)
        text = f"{trial.kind} {old} made {new}"
    return AuditedFault(trial.kind, text, trial.layer, trial.variables, trial.verdict, trial.needed)


def _in_words(tier: str, used: Mapping[str, OutputTolerance]) -> str:
    """Return the tolerance in use: its tier, and the widest of the outputs."""
    widest = max(used.values(), key=lambda t: (t.rtol, t.atol), default=OutputTolerance())
    if widest.min_cosine is not None:
        return f"{tier}, cosine {widest.min_cosine:g}"
    unit = " rms" if widest.scaled else ""
    words = f"rtol {number(widest.rtol)} atol {number(widest.atol)}{unit}"
    return f"{tier}, {words}" if tier else words


# --- noise ----------------------------------------------------------------------------------------


class _OutputNoise:
    """How far runs of the sound model are from the reference, as a tolerance, by output.

    reference: outputs by case.  dtypes: of the outputs that the reference has.
    """

    def __init__(self, reference: Mapping[str, Mapping[str, Any]]) -> None:
        from ckptkit.model_io.measure import comparable_form
        from ckptkit.model_io.sampling import Sample

        self._cases = [
            {name: comparable_form(value) for name, value in case.items()}
            for case in reference.values()
        ]
        self.dtypes = {
            name: value.dtype if isinstance(value, Sample) else dtype_of_numpy(value.dtype)
            for case in self._cases
            for name, value in case.items()
        }
        self._needed: dict[str, float] = {}
        self._rms: dict[str, float] = {}
        self.sources: dict[str, str] = {}

    def add(self, source: str, *runs: Sequence[Mapping[str, Any]]) -> None:
        """Add runs of all cases, by the names of the reference."""
        from ckptkit.model_io.array_files import as_array
        from ckptkit.model_io.measure import compare_output

        largest = 0.0
        for outputs in runs:
            for case, found in zip(self._cases, outputs, strict=True):
                for name, ref in case.items():
                    if name not in found:
                        continue
                    new = as_array(found[name])
                    result = compare_output(name, ref, new, _scaled, {})
                    self._rms[name] = max(self._rms.get(name, 0.0), result.rms)
                    needed = 0.0 if result.status == "equal" else result.needed
                    if needed is not None:
                        largest = max(largest, needed)
                        self._needed[name] = max(self._needed.get(name, 0.0), needed)
        self.sources[source] = number(largest)

    def suggested(self) -> Iterator[SuggestedTolerance]:
        """Yield a tolerance per output of floating point; none of one that is too noisy."""
        for name, needed in self._needed.items():
            dtype = self.dtypes[name]
            if kind(dtype) not in ("float", "complex") or needed > TOO_NOISY:
                continue
            bound = _rounded_up(above_noise(needed, dtype))
            atol = _rounded_up(bound * self._rms[name], digits=3)
            yield SuggestedTolerance(name, bound, atol, needed)


def _scaled(_name: str, _dtype: str) -> OutputTolerance:
    return OutputTolerance(0.0, 0.0, True)


def _rounded_up(value: float, digits: int = 2) -> float:
    """Return the number with so many digits that is no less."""
    if not value or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return float(f"{math.ceil(value / step) * step:.{digits}g}")


def _pattern(name: str) -> str:
    """Return the glob that fits an output's name alone, as a word of a file of tolerances."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in name)
    return "".join("?" if c.isspace() else c for c in escaped)


def _measure(runs: Runs, trial: _Trial, noise: _OutputNoise) -> None:
    """Run the model again on the same inputs: as it was, with other threads, under XLA."""
    spec = trial.spec
    able = RUNNERS[spec.runtime].switches
    others = {"the same again": spec}
    if "threads" in able and spec.threads is None:
        others |= {f"threads={count}": replace(spec, threads=count) for count in (1, 2)}
    if "xla" in able and not spec.xla:
        others["XLA"] = replace(spec, xla=True, eager=False)
    count = len(trial.cases)
    for source, other in others.items():
        cases = [*trial.cases] * (REPEATS if other is spec else 1)
        run = runs.execute(trial.model, other, cases, trial.signature, quiet=True)
        if run is None:
            noise.sources[source] = "does not run"
            continue
        named = [
            {trial.outputs.get(name, name): value for name, value in case.items()}
            for case in run.outputs
        ]
        noise.add(source, *(named[at : at + count] for at in range(0, len(named), count)))
