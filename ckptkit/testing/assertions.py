"""For tests of your own: assert what files hold, what restores, and what models compute.

    assert_same_weights(old, new)                        tensors against tensors
    assert_restores("run/ckpt-3", model="app.net:build") every variable comes back, bit for bit
    assert_same_outputs("export-2", against="export-1")  outputs against outputs

Models run in processes of their own; TensorFlow is not imported here.  The defaults of `check` are
repeated, not imported: a test that is not run costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit._io.progress import Progress
    from ckptkit.align.rules import Rule
    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.execution.types import Path_
    from ckptkit.operations.tolerance_rules import ToleranceRule
    from ckptkit.runners.spec import RunnerSpec


def assert_same_weights(
    old: str | os.PathLike[str] | Checkpoint,
    new: str | os.PathLike[str] | Checkpoint,
    *,
    mode: str = "values",
    rtol: float = 0.0,
    atol: float = 0.0,
    tolerances: str | os.PathLike[str] | Sequence[ToleranceRule] = (),
    bitwise: bool = False,
    cast_ok: bool = False,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    rules: Sequence[str | Rule] = (),
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> None:
    """Raise AssertionError, with the table that `ckptkit diff` prints, unless the weights agree.

    Args:
        old: the reference: a path, or what `ckptkit.open` returned.
        new: what is compared with it.
        mode: "values", "quick" (stored checksums) or "structure" (names, dtypes and shapes).
        rtol: an element passes when `|new - old| <= atol + rtol * |old|`.
        atol: see rtol.
        tolerances: rules by name pattern, or a file of them; the last that fits wins.
        bitwise: equal means equal bits.
        cast_ok: a change of dtype that loses nothing (or stays within the tolerance) passes.
        roles: which to compare; by default all that both sides have of weights and training state.
        names: globs of the names to compare; "!GLOB" leaves out.
        rules: `RE=>REPL`, from names of OLD to names of NEW.
        executor: where to do the work; None does it here.
        progress: called with ("compared", bytes of OLD, bytes in all).

    Raises:
        AssertionError: the weights differ.
        UsageError: nothing would be compared, or a keyword would do nothing.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
        ChecksumError: stored bytes are not those that were written.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    from ckptkit.operations.diff.api import diff
    from ckptkit.reports.diff.text import lines

    result = diff(
        old,
        new,
        mode=mode,
        rtol=rtol,
        atol=atol,
        tolerances=tolerances,
        bitwise=bitwise,
        cast_ok=cast_ok,
        roles=roles,
        names=names,
        rules=rules,
        executor=executor,
        progress=progress,
    )
    if not result.same:
        raise AssertionError("the weights differ\n" + "\n".join(lines(result)))


def assert_restores(
    checkpoint: Path_,
    *,
    model: str | None = None,
    like: Path_ | None = None,
    rules: Sequence[str] = (),
    imports: Sequence[str] = (),
    strict: bool = False,
    timeout_s: float = 600.0,
    max_rss_bytes: int | None = None,
) -> None:
    """Raise AssertionError, with what `ckptkit check` prints, unless all of a model is restored.

    Args:
        checkpoint: the file, or the prefix of the set of files.
        model: `package.module:callable` or `file.py:callable`, which returns the built model.
        like: a SavedModel or `.keras` file to restore into instead.
        rules: `RE=>REPL` from names of the checkpoint to those of `like`.
        imports: modules or files that define custom classes.
        strict: notes count as findings.
        timeout_s: seconds that each child may take.
        max_rss_bytes: memory that each child may hold; None sets no limit.

    Raises:
        AssertionError: a variable gets no value or another one, or that could not be told.
        UsageError: there is nothing to restore into.
        RunnerError: TensorFlow, or what else runs the model, is not here.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    __tracebackhide__ = True
    from ckptkit.operations.check.api import check

    report = check(
        checkpoint,
        model=model,
        like=like,
        rules=rules,
        imports=imports,
        strict=strict,
        timeout_s=timeout_s,
        max_rss_bytes=max_rss_bytes,
    )
    _assert_ok(report)


def assert_same_outputs(
    subject: Path_,
    *,
    against: Path_ | None = None,
    golden: Path_ | None = None,
    on: Sequence[str | RunnerSpec] = ("CPU:0",),
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = 20,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    signature: str | None = None,
    model: str | None = None,
    like: Path_ | None = None,
    tolerance: Path_ = "auto",
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
    timeout_s: float = 600.0,
    max_rss_bytes: int | None = None,
) -> None:
    """Raise AssertionError, with what `ckptkit check` prints, unless a model computes the same.

    Without `against` and `golden`, every runner of `on` is held against the first.

    Args:
        subject: a model, or a checkpoint with `model` or `like`, as `ckptkit.check` takes it.
        against: another model, whose outputs are the reference.
        golden: a directory that `ckptkit.record` wrote, whose outputs are the reference.
        on: where the subject is run, such as "CPU:0"; one runner, or several.
        inputs: npz files, one case each; else 8 examples are drawn.
        seed: of the examples that are drawn.
        ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
        signature: the one to call, where the model has several.
        model: code that builds what a checkpoint is restored into.
        like: a model file whose structure a checkpoint goes into instead.
        tolerance: "auto" (by tier), "strict" (every bit) or a file of `GLOB rtol=R atol=A` lines.
        rtol: relative tolerance of all outputs.
        atol: absolute tolerance of all outputs.
        rename: `OLD=NEW`, names of inputs and outputs of the reference and of the subject.
        rules: `RE=>REPL` from names of the checkpoint to those of `like`.
        imports: modules or files that define custom classes.
        strict: notes count as findings.
        outputs_only: weights, files and settings may be others than the golden's.
        float64: outputs near the tolerance pass where the reference's model in float64 allows it.
        localize: say which layer or switch makes outputs differ.
        layers: globs of the values that are looked at for `localize`.
        timeout_s: seconds that each child may take.
        max_rss_bytes: memory that each child may hold; None sets no limit.

    Raises:
        AssertionError: outputs differ, or nothing (or nothing meaningful) was compared.
        UsageError: nothing would be compared, or the keywords contradict each other.
        RunnerError: a device or package is not here.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    __tracebackhide__ = True
    from ckptkit.operations.check.api import check

    report = check(
        subject,
        on=on,
        against=against,
        golden=golden,
        inputs=inputs,
        seed=seed,
        ranges=ranges,
        signature=signature,
        model=model,
        like=like,
        tolerance=tolerance,
        rtol=rtol,
        atol=atol,
        rename=rename,
        rules=rules,
        imports=imports,
        strict=strict,
        outputs_only=outputs_only,
        float64=float64,
        localize=localize,
        layers=layers,
        timeout_s=timeout_s,
        max_rss_bytes=max_rss_bytes,
    )
    _assert_ok(report)


def _assert_ok(report: Report) -> None:
    """Raise AssertionError with the report, unless it is fine; "could not tell" is not fine."""
    __tracebackhide__ = True
    if not report.ok:
        from ckptkit.reports.check.lines import lines

        *told, verdict = lines(report)
        raise AssertionError("\n".join((verdict, *told)))
