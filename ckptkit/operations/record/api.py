"""`record`: what a model computes, kept so that `check` can hold a later model against it.

A golden is a directory that version control likes: `manifest.json` and npz files without pickle.
It holds inputs and outputs, the signature, where it ran and with what, hashes of every weight and
file, and the measured noise, below which a difference says nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError, OutputError, UsageError
from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.golden import Case, Golden, is_golden, sampled, write_golden
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.signature import compare_signatures
from ckptkit.model_io.tiers import tier_of
from ckptkit.operations.execution.inputs import (
    BATCH,
    SEED,
    InputOptions,
    Prepared,
    prepare,
    ranges_of,
    with_outputs,
)
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, binding_of, resolve
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.record.noise import REPEATS, Noise, other_runs
from ckptkit.operations.record.sensitivity import OutputSensitivity, measure
from ckptkit.runners.introspect import float64_outputs
from ckptkit.runners.spec import RunnerSpec, parse_runner, runner_for
from ckptkit.runners.types import Limits
from ckptkit.text import list_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

__all__ = ["Golden", "RecordError", "changes", "record"]


class RecordError(CkptkitError):
    """The model did not do what could be recorded: it died, or was not wholly restored."""

    exit_code = 1


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
    spec = on if isinstance(on, RunnerSpec) else parse_runner(on)
    if cases < 1 or batch < 1:
        raise UsageError("a golden needs at least one case of one example")
    input_options = InputOptions(listed(inputs), seed, batch, cases, ranges_of(ranges), signature)
    with tempfile.TemporaryDirectory(prefix="ckptkit-record-") as scratch:
        runs = Runs(Limits(timeout_s, max_rss_bytes), Path(scratch), {"imports": list(imports)})
        resolved = resolve(
            subject,
            Path(scratch),
            model=model,
            like=like,
            rules=rules,
            timeout_s=timeout_s,
            runtimes={spec.runtime},
        )
        spec = runner_for(spec, resolved.subject.kind)
        extras = Extras(noise, blind, thorough, min_coverage, float64)
        golden = _Recording(runs, resolved, spec, input_options, tuple(layers), extras).golden()
    write_golden(directory, golden, overwrite=overwrite)
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


@dataclass(frozen=True)
class Extras:
    """What is measured beside the outputs; see `record`."""

    noise: bool = True
    blind: bool = True
    thorough: bool = False
    min_coverage: float | None = None
    float64: bool = False


@dataclass
class _Recording:
    runs: Runs
    resolved: ResolvedSubject
    spec: RunnerSpec
    input_options: InputOptions
    layers: tuple[str, ...]
    extras: Extras

    def golden(self) -> Golden:
        """Run the model and return what is to be kept."""
        self.runs.coverage = self.resolved.coverage
        self._refuse_findings()
        prepared = prepare(
            self.runs,
            self.resolved,
            self.spec,
            self.input_options,
            REPEATS if self.extras.noise else 1,
        )
        self._refuse_findings()
        assert prepared is not None
        cases = list(prepared.cases.values())
        outputs = prepared.run.outputs[: len(cases)]
        if not any(array.size for case in outputs for array in case.values()):
            raise RecordError("it gives no elements at all", where=str(self.resolved.subject))
        noise = Noise()
        if self.extras.noise:
            count = len(cases)
            again = prepared.run.outputs[count:]
            repeats = [again[n * count : (n + 1) * count] for n in range(REPEATS - 1)]
            noise.add("repeats", outputs, repeats)
            other_runs(self.runs, self.resolved, self.spec, cases, prepared, noise)
        covered = self._coverage(prepared, cases)
        doubled = self._doubled(cases)
        kept = self._layers(prepared, cases)
        return Golden(
            subject=Path(str(self.resolved.subject)).name,
            kind=self.resolved.subject.kind,
            signature=prepared.signature,
            model_signature=with_outputs(prepared.model_signature, outputs[0]),
            binding=binding_of(self.resolved, full=True),
            environment=dict(prepared.run.environment),
            runner=self.spec.text,
            cases=tuple(
                Case(name, given, *(sampled(part, self.input_options.seed) for part in parts))
                for (name, given), *parts in zip(
                    prepared.cases.items(), outputs, kept, doubled, strict=True
                )
            ),
            noise=noise.by_output,
            blind=covered.blind,
            options={
                "inputs": prepared.text,
                "model": self.resolved.subject.code,
                "noise_sources": noise.sources,
                **({"coverage": covered.to_json()} if self.extras.blind else {}),
            },
        )

    def _coverage(self, prepared: Prepared, cases: Sequence[Arrays]) -> OutputSensitivity:
        """Return which variables the outputs see; raises RecordError where they are too few."""
        least = self.extras.min_coverage
        if not self.extras.blind:
            return OutputSensitivity()
        run = prepared.run
        found = measure(
            self.runs,
            self.resolved,
            self.spec,
            cases,
            run.outputs[0],
            run.environment,
            prepared.signature,
            thorough=self.extras.thorough,
        )
        if least is None:
            return found
        if found.share is None:
            raise RecordError(f"not recorded: what the outputs see is not known: {found.why_not}")
        if found.share < least:
            raise RecordError(
                f"not recorded: the outputs see {found.share:.1%} of the variables, "
                f"not {least:.1%}; blind to {list_text(found.blind, 5)}",
                where=str(self.resolved.subject),
                hint=say(
                    "‹inputs› with examples that reach them, or more of them: ‹batch›, ‹cases›"
                ),
            )
        return found

    def _doubled(self, cases: Sequence[Arrays]) -> Sequence[Arrays]:
        """Return the outputs in float64, per case, where they were asked for."""
        if not self.extras.float64:
            return [{} for _ in cases]
        return float64_outputs(
            self.resolved.subject, cases, self.runs.limits, options=self.runs.options
        )

    def _layers(self, prepared: Prepared, cases: Sequence[Arrays]) -> Sequence[Arrays]:
        """Return what was asked for of the inside of the model, per case."""
        if not self.layers:
            return [{} for _ in cases]
        run = self.runs.execute(
            self.resolved, self.spec, cases, prepared.signature, layers=self.layers, quiet=True
        )
        if run is None:
            raise RecordError("its layers cannot be looked at", where=str(self.resolved.subject))
        if not any(run.layers):
            raise UsageError(f"no layer is called {' or '.join(self.layers)}")
        return [dict(layers) for layers in run.layers]

    def _refuse_findings(self) -> None:
        """Raise RecordError where the run is nothing to hold others against."""
        found = [f for f in self.runs.findings if f.severity == "error"]
        if self.runs.coverage is not None and not self.runs.coverage.ok:
            found = [f for f in self.runs.coverage.findings if f.severity == "error"]
        if found:
            raise RecordError(
                f"not recorded: {found[0].message}", where=found[0].where, hint=found[0].hint
            )


def changes(old: Golden, new: Golden) -> list[str]:
    """Return how a new golden differs from the one that it replaces, one line each."""
    lines = [_line(change) for change in compare_bindings(old.binding, new.binding)]
    lines += [
        _line(change) for change in compare_signatures(old.model_signature, new.model_signature)
    ]
    for key in sorted(set(old.environment) | set(new.environment)):
        one, two = old.environment.get(key), new.environment.get(key)
        if one != two:
            lines.append(f"environment: {key} was {one} and is {two}")
    tier = tier_of(old.environment, new.environment)
    before = {case.name: case for case in old.cases}
    for case in new.cases:
        known = before.pop(case.name, None)
        if known is None:
            lines.append(f"case {case.name}: new")
            continue
        if not _same_inputs(known, case):
            lines.append(f"case {case.name}: other inputs")
            continue
        for result in compare_outputs(_plain(known), _plain(case), tier.tolerance):
            if result.status != "equal":
                text = result.message or f"largest difference {result.max_abs:.3g}"
                lines.append(f"case {case.name}: {result.name}: {result.status}: {text}")
    lines += [f"case {name}: gone" for name in before]
    return lines


def _plain(case: Case) -> dict[str, Any]:
    """Return the outputs, of large ones the elements that are kept: the same ones in both."""
    return {
        name: value.values if isinstance(value, Sample) else value
        for name, value in case.outputs.items()
    }


def _line(change: Any) -> str:
    return f"{change.where}: {change.message}" if change.where else str(change.message)


def _same_inputs(one: Case, two: Case) -> bool:
    import numpy as np

    return one.inputs.keys() == two.inputs.keys() and all(
        array.dtype == two.inputs[name].dtype
        and np.array_equal(array, two.inputs[name], equal_nan=array.dtype.kind == "f")
        for name, array in one.inputs.items()
    )
