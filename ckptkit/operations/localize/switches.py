"""Which switch moves the result: each flipped alone, everything else as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.results import Chooser, OutputResult
from ckptkit.operations.execution.inputs import joined
from ckptkit.operations.execution.mapped import MappedSubject
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.localize.values import Flip, error_of
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

BATCH = "one example at a time"
MAX_SPLIT = 64  # examples of a case that are run one by one


def flips(start: RunnerSpec, other: RunnerSpec, kind: str) -> dict[str, RunnerSpec]:
    """Return {switch: the runner with it flipped}, those in which the two differ first."""
    able = RUNNERS[start.runtime].switches
    found: dict[str, RunnerSpec] = {}
    if (start.device, start.index) != (other.device, other.index):
        found[other.device] = replace(start, device=other.device, index=other.index)
    if start.replicas != other.replicas and not (start.xla or start.eager):
        found["replicas"] = replace(start, replicas=other.replicas)
    if "xla" in able and start.replicas == 1:
        found["XLA"] = replace(start, xla=not start.xla, eager=False)
    if "tf32" in able and start.device == "GPU":
        found["TensorFloat-32"] = replace(start, tf32=not start.tf32)
    if "deterministic" in able:
        found["op determinism"] = replace(start, deterministic=not start.deterministic)
    if "threads" in able:
        threads = other.threads if other.threads != start.threads else 1
        found["threads"] = replace(start, threads=None if start.threads == threads else threads)
    if "eager" in able and kind in ("keras", "code") and start.replicas == 1:
        found["eager execution"] = replace(start, eager=not start.eager, xla=False)
    return dict(sorted(found.items(), key=lambda item: not _leads(item[1], start, other)))


def _leads(flipped: RunnerSpec, start: RunnerSpec, other: RunnerSpec) -> bool:
    """Whether a flip makes the runner more like the other one."""
    names = ("device", "index", "replicas", "xla", "deterministic", "tf32", "threads", "eager")

    def apart(spec: RunnerSpec) -> int:
        return sum(getattr(spec, name) != getattr(other, name) for name in names)

    return apart(flipped) < apart(start)


def attribute(
    runs: Runs,
    paired: MappedSubject,
    start: RunnerSpec,
    other: RunnerSpec,
    case: Arrays,
    outputs: Mapping[str, Any],
    tolerance: Chooser,
    passes: bool,
) -> Iterator[Flip]:
    """Run a model with one switch flipped at a time, and hold it against `outputs`.

    start: the runner to flip from, on which the outputs pass or do not.  other: the runner that
    gives something else.  case, outputs: by the names of the reference.
    tolerance: the bar that a flip must cross to count.
    """

    def judged(given: Mapping[str, Any]) -> tuple[bool, OutputResult]:
        return _verdict(_results(outputs, paired.outputs_of(given), tolerance))

    resolved, signature, inputs = paired.resolved, paired.signature, paired.inputs_of(case)
    for switch, spec in flips(start, other, resolved.subject.kind).items():
        run = runs.execute(resolved, spec, [inputs], signature, quiet=True)
        if run is None or not run.outputs:
            yield Flip(switch, spec.text, False, 0.0, error="does not run")
            continue
        fine, worst = judged(run.outputs[0])
        yield Flip(switch, spec.text, fine is not passes, error_of(worst), worst.name)
    cut = not any(info.part for info in paired.reference.inputs)
    examples = _split(inputs) if cut else ()
    if examples:
        run = runs.execute(resolved, start, examples, signature, quiet=True)
        whole = (
            joined([paired.outputs_of(o) for o in run.outputs], outputs)
            if run is not None
            else None
        )
        if whole is None:
            yield Flip(BATCH, start.text, False, 0.0, error="does not run")
        else:
            results = _results(outputs, whole, tolerance)
            fine, worst = _verdict(results)
            yield Flip(BATCH, start.text, fine is not passes, error_of(worst), worst.name)


def _fine(result: OutputResult) -> bool:
    return result.ok or result.status == "meaningless"


def _results(
    outputs: Mapping[str, Any], mine: Mapping[str, Any], tolerance: Chooser
) -> list[OutputResult]:
    from ckptkit.model_io.array_files import as_array
    from ckptkit.model_io.measure import comparable_form, compare_output

    return [
        compare_output(name, comparable_form(ref), as_array(mine[name]), tolerance, {})
        if name in mine
        else OutputResult(name, "missing")
        for name, ref in outputs.items()
    ]


def _verdict(results: Sequence[OutputResult]) -> tuple[bool, OutputResult]:
    """Return whether all pass, and the worst."""
    worst = max(results, key=lambda result: (not _fine(result), error_of(result)))
    return all(_fine(result) for result in results), worst


def _split(inputs: Arrays) -> Sequence[dict[str, Any]]:
    """Return the examples of a case one by one; () where it has one, or more than the limit."""
    lengths = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    count = lengths.pop() if len(lengths) == 1 else 0
    if not 1 < count <= MAX_SPLIT:
        return ()
    return [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(count)]
