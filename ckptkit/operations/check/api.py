"""`check`: outputs against outputs; a check that compared nothing never passes.

    check(checkpoint, model=...)            does every variable come back, bit for bit?
    check(model, on=["CPU:0", "xla:CPU:0"]) does it compute the same there?
    check(new, against=old)                 do two models compute the same?
    check(model, golden="golden/")          does it compute what was recorded?
    check(ckpt, resume=..., steps=10, against=later)    does training go on as if it never stopped?

Every run is a child process.  Its crash, its end by a time or memory limit and kernels that ran on
another device than was asked for are findings; a device or package that is not here is an error,
never a check that passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptkit._io.files import taking_paths
from ckptkit.errors import UsageError
from ckptkit.operations.check.pipeline import run_check
from ckptkit.operations.check.report import Report
from ckptkit.operations.check.request import CheckRequest, when_to_localize
from ckptkit.operations.check.resume import resume_request, run_resume
from ckptkit.operations.execution.input_names import parse_renames
from ckptkit.operations.execution.inputs import SEED, InputOptions, ranges_of
from ckptkit.operations.execution.subjects import ModelSource
from ckptkit.operations.execution.tolerance import AUTO, TolerancePolicy
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.localize.find import ALWAYS
from ckptkit.operations.localize.values import Localization
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.types import Limits

__all__ = ["check", "localize"]


@taking_paths
def check(
    subject: Path_,
    *,
    on: Sequence[str | RunnerSpec] = ("CPU:0",),
    against: Path_ | None = None,
    golden: Path_ | None = None,
    resume: str | None = None,
    steps: int | None = None,
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = SEED,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    signature: str | None = None,
    tags: Sequence[str] = (),
    model: str | None = None,
    like: Path_ | None = None,
    tolerance: Path_ = AUTO,
    rtol: float | None = None,
    atol: float | None = None,
    rename: Sequence[str] = (),
    rules: Sequence[str] = (),
    imports: Sequence[str] = (),
    trust: bool = False,
    strict: bool = False,
    outputs_only: bool = False,
    float64: bool = False,
    localize: bool | str = False,
    layers: str | Sequence[str] = (),
    audit_tolerance: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_rss_bytes: int | None = None,
) -> Report:
    """Run a model and say whether it computes what it should; whether a checkpoint restores.

    Without `against` and `golden`, every runner is held against the first; a checkpoint with one
    runner is restored, and not run.

    Args:
        subject: a SavedModel, a `.keras`, LiteRT or ONNX file, code
            (`package.module:callable` or `file.py:callable`, which builds a model), or a
            checkpoint with `model` or `like`.
        on: where the subject is run, such as "CPU:0" or "xla:GPU:0" (`ckptkit.runners.spec`).
        against: another subject, whose outputs are the reference; run on the first of `on`.
        golden: a directory that `ckptkit.record` wrote, whose outputs are the reference.
        resume: `package.module:callable` or `file.py:callable`, which returns (what the run saves,
            a function that takes one training step); training then goes on from the checkpoint
            `subject`, and what it leaves is compared with the checkpoint `against`, bit for bit
            unless `tolerance`, `rtol` or `atol` say otherwise (docs/resume.md).
        steps: with `resume`: how many lie between the two checkpoints.
        inputs: npz files, one case each; else 8 examples are drawn.
        seed: of the examples that are drawn.
        ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
        signature: the one to call, where the model has several.
        tags: of the graph to run, where a SavedModel has several; by default that of `serve`.
        model: `package.module:callable` or `file.py:callable`, which builds what a checkpoint is
            restored into.
        like: a SavedModel or `.keras` file whose structure a checkpoint goes into instead.
        tolerance: "auto" (by tier), "strict" (every bit) or a file of `GLOB rtol=R atol=A` lines.
        rtol: relative tolerance of all outputs, in place of those that `tolerance` gives.
        atol: absolute tolerance of all outputs, likewise.
        rename: `OLD=NEW`, names of inputs and outputs of the reference and of the subject.
        rules: `RE=>REPL` from names of the checkpoint to those of `like`.
        imports: modules or files that define custom classes.
        trust: say nothing of models that `ckptkit.scan` flags; else FlaggedModelWarning does,
            before they run.
        strict: notes count as findings.
        outputs_only: weights, files and settings may be others than the golden's: names, shapes
            and values of inputs and outputs alone count.
        float64: outputs between the tolerance and that of reduced precision pass where they are as
            near to the reference's model in float64 as the reference is
            (`ckptkit.model_io.float64`).
        localize: say which layer or switch makes outputs differ
            (`ckptkit.operations.localize.find`); "always" does where they agree, too.
        layers: globs of the values that are looked at for `localize`; all by default.
        audit_tolerance: put faults into the model, one at a time, and say which of them the
            tolerance would let pass, and which one would not (docs/audit.md); without anything to
            hold it against, the model is held against itself.
        timeout_s: seconds that each child may take.
        max_rss_bytes: memory that each child may hold; None sets no limit.

    Returns:
        The verdict, with a row per compared output and the findings.  A crash, and an end by a
        limit, are findings too.

    Raises:
        UsageError: nothing can be compared, or the keywords contradict each other.
        RunnerError: a device or package is not here.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`,
            of the files that are named.
    """
    if resume is not None or steps is not None:
        idle = {
            "golden": golden,
            "inputs": listed(inputs),
            "ranges": ranges,
            "signature": signature,
            "tags": tags,
            "model": model,
            "like": like,
            "rename": rename,
            "rules": rules,
            "outputs_only": outputs_only,
            "float64": float64,
            "localize": localize,
            "layers": layers,
            "audit_tolerance": audit_tolerance,
        }
        named = [name for name, value in idle.items() if value]
        return run_resume(
            resume_request(
                subject,
                against,
                resume,
                steps,
                runners=_runners(on),
                tolerance=TolerancePolicy(tolerance, rtol, atol),
                limits=Limits(timeout_s, max_rss_bytes),
                imports=tuple(imports),
                strict=strict,
                idle=named,
            )
        )
    request = CheckRequest(
        subject=subject,
        runners=_runners(on),
        inputs=InputOptions(
            files=listed(inputs), seed=seed, ranges=ranges_of(ranges), signature=signature
        ),
        source=ModelSource(model, like, tuple(rules), tuple(tags), trust),
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
        audit=audit_tolerance,
    )
    return run_check(request)


@taking_paths
def localize(
    subject: Path_,
    *,
    on: Sequence[str | RunnerSpec] = ("CPU:0",),
    against: Path_ | None = None,
    golden: Path_ | None = None,
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = SEED,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    signature: str | None = None,
    tags: Sequence[str] = (),
    model: str | None = None,
    like: Path_ | None = None,
    tolerance: Path_ = AUTO,
    rtol: float | None = None,
    atol: float | None = None,
    rename: Sequence[str] = (),
    rules: Sequence[str] = (),
    imports: Sequence[str] = (),
    trust: bool = False,
    outputs_only: bool = False,
    float64: bool = False,
    layers: str | Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
    max_rss_bytes: int | None = None,
) -> Localization:
    """Say where the subject computes something else than the reference.

    Layers are compared even where the outputs agree.

    Args:
        subject: as `check` takes it.
        on: where it is run; two runners are compared where no other reference is given.
        against: another subject, whose values are the reference.
        golden: a directory that `ckptkit.record` wrote, with its layers.
        inputs: npz files, one case each.
        seed: of the examples that are drawn without them.
        ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
        signature: the one to call, where the model has several.
        tags: of the graph to run, where a SavedModel has several; by default that of `serve`.
        model: code that builds what a checkpoint is restored into.
        like: a model file whose structure a checkpoint goes into instead.
        tolerance: "auto", "strict" or a file, as of `check`.
        rtol: relative tolerance of all values.
        atol: absolute tolerance of all values.
        rename: `OLD=NEW`, names of inputs and outputs.
        rules: `RE=>REPL` from names of the checkpoint to those of `like`.
        imports: modules or files that define custom classes.
        trust: say nothing of models that a scan flags, as of `check`.
        outputs_only: weights, files and settings may be others than the golden's.
        float64: ties are broken by the reference's model in float64.
        layers: globs of values of the subject that are looked at; all by default.
        timeout_s: seconds that each child may take.
        max_rss_bytes: memory that each child may hold; None sets no limit.

    Returns:
        The layers and switches that add to the difference, the one to look at first first.

    Raises:
        UsageError: nothing was compared, or the keywords contradict each other.
        RunnerError: a device or package is not here.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`,
            of the files that are named.
    """
    report = check(
        subject,
        on=on,
        against=against,
        golden=golden,
        inputs=inputs,
        seed=seed,
        ranges=ranges,
        signature=signature,
        tags=tags,
        model=model,
        like=like,
        tolerance=tolerance,
        rtol=rtol,
        atol=atol,
        rename=rename,
        rules=rules,
        imports=imports,
        trust=trust,
        outputs_only=outputs_only,
        float64=float64,
        layers=layers,
        timeout_s=timeout_s,
        max_rss_bytes=max_rss_bytes,
        localize=ALWAYS,
    )
    if report.localization is None:
        raise UsageError(f"nothing to localise: {report.verdict}", where=str(subject))
    return report.localization


def _runners(on: Sequence[str | RunnerSpec]) -> tuple[RunnerSpec, ...]:
    return tuple(
        item if isinstance(item, RunnerSpec) else parse_runner(item) for item in listed(on)
    )
