"""`record`: what a model computes, kept so that `check` can hold a later model against it.

A golden is a directory that version control likes: `manifest.json` and npz files without pickle.
It holds inputs and outputs, the signature, where it ran and with what, hashes of every weight and
file, and the measured noise, below which a difference says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptkit._io.claims import claiming
from ckptkit._io.files import taking_paths
from ckptkit.errors import OutputError
from ckptkit.golden.golden import Golden, is_golden, write_golden
from ckptkit.operations.execution.inputs import BATCH, SEED, InputOptions, ranges_of
from ckptkit.operations.execution.subjects import ModelSource
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.input_files import unchanged_inputs
from ckptkit.operations.record.pipeline import run_record
from ckptkit.operations.record.request import RecordRequest
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.types import Limits
from ckptkit.wording import say

__all__ = ["record"]


@taking_paths
def record(
    subject: Path_,
    out: Path_,
    *,
    on: str | RunnerSpec = "CPU:0",
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = SEED,
    batch: int = BATCH,
    cases: int = 1,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    signature: str | None = None,
    tags: Sequence[str] = (),
    model: str | None = None,
    like: Path_ | None = None,
    rules: Sequence[str] = (),
    layers: Sequence[str] = (),
    noise: bool = True,
    blind: bool = True,
    thorough: bool = False,
    min_coverage: float | None = None,
    float64: bool = False,
    imports: Sequence[str] = (),
    trust: bool = False,
    overwrite: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_rss_bytes: int | None = None,
) -> Golden:
    """Run a model and write what it computes, for `ckptkit.check` to hold later models against.

    Args:
        subject: a model, or a checkpoint with `model` or `like`, as `ckptkit.check` takes it.
        out: the directory to write.
        on: one runner, such as "CPU:0" (`ckptkit.runners.spec`).
        inputs: npz files, one case each; else examples are drawn.
        seed: of the examples that are drawn.
        batch: how many examples a drawn case has.
        cases: how many cases are drawn.
        ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
        signature: the one to call, where the model has several.
        tags: of the graph to run, where a SavedModel has several; by default that of `serve`.
        model: `package.module:callable` or `file.py:callable`, which builds what a checkpoint is
            restored into.
        like: a SavedModel or `.keras` file whose structure a checkpoint goes into instead.
        rules: `RE=>REPL` from names of the checkpoint to those of `like`.
        layers: globs of values inside the model that are kept too; none by default.
        noise: whether to measure it: the same inputs again, one example at a time, one thread, XLA.
        blind: whether to find the variables that no output sees, by changing each layer's by a
            percent.
        thorough: change each variable, not each layer's together.
        min_coverage: the least share of variables that outputs must see, from 0 to 1; None asks for
            none.
        float64: keep the outputs of the model rebuilt in float64 too (Keras models only).
        imports: modules or files that define custom classes.
        trust: say nothing of a model that `ckptkit.scan` flags; else FlaggedModelWarning does,
            before it runs.
        overwrite: replace a golden that is there; anything else is left alone.
        timeout_s: seconds that each child may take.
        max_rss_bytes: memory that each child may hold; None sets no limit.

    Returns:
        What was written.

    Raises:
        RecordError: the model gives no outputs, was not wholly restored, or sees too few of its
            variables.
        OutputError: `out` is taken, or cannot be written.
        UsageError: the keywords make no sense together, or inputs do not fit.
        RunnerError: a device or package is not here.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`,
            of the files that are named.
    """
    directory = Path(out)
    _refuse_existing(directory, overwrite)
    request = RecordRequest(
        subject=subject,
        runner=on if isinstance(on, RunnerSpec) else parse_runner(on),
        inputs=InputOptions(listed(inputs), seed, batch, cases, ranges_of(ranges), signature),
        source=ModelSource(model, like, tuple(rules), tuple(tags), trust),
        limits=Limits(timeout_s, max_rss_bytes),
        layers=tuple(layers),
        noise=noise,
        sensitivity=blind,
        thorough=thorough,
        min_coverage=min_coverage,
        float64=float64,
        imports=tuple(imports),
    )
    with claiming(directory) as claim:  # before the model runs, which may take minutes
        _refuse_existing(directory, overwrite)
        with unchanged_inputs(subject, model, like):
            golden = run_record(request)
        write_golden(directory, golden, overwrite=overwrite, claim=claim)
    return golden


def _refuse_existing(directory: Path, overwrite: bool) -> None:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not directory.is_dir() or not is_golden(directory):
        raise OutputError("is there already, and is no golden", where=str(directory))
    if not overwrite:
        raise OutputError(
            "a golden is there already",
            where=str(directory),
            hint=say("‹check.golden› compares with it; ‹overwrite› replaces it"),
        )
