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
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.operations.check.check_run import CheckRun
from ckptkit.operations.check.report import Report
from ckptkit.operations.execution.input_names import parse_renames
from ckptkit.operations.execution.inputs import SEED, InputOptions, ranges_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import BY_SUFFIX, ResolvedSubject, resolve
from ckptkit.operations.execution.tolerance import AUTO, TolerancePolicy
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.localize.find import ALWAYS, command, find
from ckptkit.operations.localize.values import Localization
from ckptkit.runners.spec import RunnerSpec, parse_runner, runner_for
from ckptkit.runners.types import Limits

__all__ = ["check", "localize"]


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
    to the reference's model in float64 as the reference is (`ckptkit.model_io.float64`).
    localize: say which layer or switch makes outputs differ (`ckptkit.operations.localize.find`);
    layers: globs of the values that are looked at for it.
    timeout_s, max_rss_bytes: of each child.

    Raises UsageError where nothing can be compared, RunnerError where a device or package is not
    here, and what reading the files raises.
    """
    specs = _runners(on)
    _refuse_contradictions(against, golden, outputs_only)
    if layers and not localize:
        raise UsageError("--layer is for --localize", hint="add it")
    input_options = InputOptions(
        files=listed(inputs), seed=seed, ranges=ranges_of(ranges), signature=signature
    )
    policy = TolerancePolicy(tolerance, rtol, atol)
    _ = policy.rules  # a file that cannot be read is said before anything runs
    into = _ModelSource(model, like, rules, timeout_s, {spec.runtime for spec in specs})
    with tempfile.TemporaryDirectory(prefix="ckptkit-check-") as directory:
        scratch = Path(directory)
        runs = Runs(Limits(timeout_s, max_rss_bytes), scratch, {"imports": list(imports)})
        resolved = into.resolve(subject, scratch)
        specs = [runner_for(spec, resolved.subject.kind) for spec in specs]
        runs.coverage = resolved.coverage
        checking = CheckRun(
            runs,
            resolved,
            specs,
            input_options,
            policy,
            parse_renames(rename),
            strict,
            float64=float64,
        )
        if golden is not None:
            checking.golden(Path(golden), bound=not outputs_only)
        elif against is not None:
            checking.against(into.resolve_other(against, scratch))
        else:
            checking.among_runners()
        report = checking.report()
        if localize:
            near = [Path(), Path(golden or "").parent, Path(subject).parent]
            globs = listed(layers) or ["*"]
            found = find(runs, checking.judged, policy, globs, str(localize), near)
            report = replace(report, localization=found)
    if report.localization is None:
        return report
    again = {
        "on": [spec.text for spec in specs],
        "against": against,
        "golden": golden,
        **_options(input_options, into),
        "rename": list(rename),
        "import": list(imports),
        "tolerance": tolerance if tolerance != AUTO else None,
        "rtol": rtol,
        "atol": atol,
    }
    return report.with_command(command(subject, report.localization.point, again))


def _runners(on: Sequence[str | RunnerSpec]) -> list[RunnerSpec]:
    specs = [item if isinstance(item, RunnerSpec) else parse_runner(item) for item in listed(on)]
    if not specs:
        raise UsageError("no runner", hint="--on CPU:0")
    return specs


def _refuse_contradictions(against: Path_ | None, golden: Path_ | None, outputs_only: bool) -> None:
    if against is not None and golden is not None:
        raise UsageError("--against and --golden exclude each other")
    if outputs_only and golden is None:
        raise UsageError("--outputs-only is for --golden", hint="--against compares no weights")


@dataclass(frozen=True)
class _ModelSource:
    """What a checkpoint is put into, so that there is a model to run; see `check`."""

    model: str | None
    like: Path_ | None
    rules: Sequence[str]
    timeout_s: float
    runtimes: Set[str]

    def resolve(self, subject: Path_, scratch: Path) -> ResolvedSubject:
        """Return what the subject means."""
        return resolve(
            subject,
            scratch,
            model=self.model,
            like=self.like,
            rules=self.rules,
            timeout_s=self.timeout_s,
            runtimes=self.runtimes,
        )

    def resolve_other(self, against: Path_, scratch: Path) -> ResolvedSubject:
        """Return what --against means; --model and --like are for it too if it is weights."""
        other = self if _needs_model(against) else replace(self, model=None, like=None)
        place = scratch / "against"
        place.mkdir()
        return other.resolve(against, place)


def _needs_model(path: Path_) -> bool:
    """Whether a subject is a file of weights, so that --model or --like is meant for it too."""
    from ckptkit.stores.locate import locate

    if Path(path).suffix in BY_SUFFIX and Path(path).is_file():
        return False
    return os.path.lexists(path) is False or locate(path).format not in ("saved-model", "keras")


def _options(input_options: InputOptions, into: _ModelSource) -> dict[str, Any]:
    """Return the command's options for inputs and model; None for one that was not given."""
    return {
        "inputs": input_options.files,
        "seed": input_options.seed if input_options.seed != SEED else None,
        "range": [f"{name}={low:g}:{high:g}" for name, (low, high) in input_options.ranges.items()],
        "signature": input_options.signature,
        "model": into.model,
        "like": into.like,
        "map": list(into.rules),
    }


def localize(subject: str | os.PathLike[str], **options: Any) -> Localization:
    """Say where the subject computes something else than the reference.

    options: those of `check`, with on (two runners), against or golden; layers: globs of values of
    the subject.  Layers are compared even where the outputs agree.
    Raises UsageError where nothing was compared, and what `check` raises.
    """
    report = check(subject, **{**options, "localize": ALWAYS})
    if report.localization is None:
        raise UsageError(f"nothing to localise: {report.verdict}", where=str(subject))
    return report.localization
