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

from collections.abc import Mapping, Sequence
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.operations.check.pipeline import run_check
from ckptkit.operations.check.report import Report
from ckptkit.operations.check.request import CheckRequest, ModelSource, when_to_localize
from ckptkit.operations.execution.input_names import parse_renames
from ckptkit.operations.execution.inputs import SEED, InputOptions, ranges_of
from ckptkit.operations.execution.tolerance import AUTO, TolerancePolicy
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.localize.find import ALWAYS
from ckptkit.operations.localize.values import Localization
from ckptkit.runners.spec import RunnerSpec, parse_runner
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
    request = CheckRequest(
        subject=subject,
        runners=_runners(on),
        inputs=InputOptions(
            files=listed(inputs), seed=seed, ranges=ranges_of(ranges), signature=signature
        ),
        source=ModelSource(model, like, tuple(rules)),
        tolerance=TolerancePolicy(tolerance, rtol, atol),
        limits=Limits(timeout_s, max_rss_bytes),
        against=against,
        golden=golden,
        renames=parse_renames(rename),
        imports=tuple(imports),
        strict=strict,
        outputs_only=outputs_only,
        float64=float64,
        localize=when_to_localize(localize),
        layers=tuple(listed(layers)),
    )
    return run_check(request)


def localize(subject: Path_, **options: Any) -> Localization:
    """Say where the subject computes something else than the reference.

    options: those of `check`, with on (two runners), against or golden; layers: globs of values of
    the subject.  Layers are compared even where the outputs agree.
    Raises UsageError where nothing was compared, and what `check` raises.
    """
    report = check(subject, **{**options, "localize": ALWAYS})
    if report.localization is None:
        raise UsageError(f"nothing to localise: {report.verdict}", where=str(subject))
    return report.localization


def _runners(on: Sequence[str | RunnerSpec]) -> tuple[RunnerSpec, ...]:
    return tuple(
        item if isinstance(item, RunnerSpec) else parse_runner(item) for item in listed(on)
    )
