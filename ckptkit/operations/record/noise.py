"""How noisy a model is: the same inputs again, split into single examples, and run otherwise.

What comes out is the floor below which a difference says nothing.  Repeats are part of the
recording run; one thread (with single examples) and XLA take a run of their own each, and a model
that does not run so is noted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptkit.operations.execution.inputs import Prepared, joined, split_cases
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

ONE_THREAD, SINGLE, XLA = "one thread", "one example at a time", "XLA"
DOES_NOT_RUN = "does not run"
REPEATS = 3  # runs of each case in the recording process


@dataclass
class Noise:
    """The largest noise of each output over all cases, by where it came from."""

    by_output: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(
        self, source: str, reference: Sequence[Arrays], repeats: Sequence[Sequence[Arrays]]
    ) -> None:
        """Measure repeats of all cases (each in their order) against the recorded outputs."""
        from ckptkit.model_io.compare_outputs import noise_of

        largest = 0.0
        for number, outputs in enumerate(reference):
            found = noise_of(outputs, [repeat[number] for repeat in repeats])
            for name, noise in found.items():
                self._join(name, noise)
                largest = max(largest, noise["max_scaled"])
        before = float(self.sources.get(source, 0.0))
        self.sources[source] = f"{max(before, largest):.3g}"

    def _join(self, name: str, noise: Mapping[str, Any]) -> None:
        largest = self.by_output.setdefault(name, dict(noise) | {"runs": 0})
        runs = largest["runs"] + noise["runs"]
        for key in ("max_abs", "max_scaled", "max_ulp"):
            values = [item[key] for item in (largest, noise) if item.get(key) is not None]
            largest[key] = max(values) if values else None
        largest["runs"] = runs


def other_runners(spec: RunnerSpec) -> dict[str, RunnerSpec]:
    """Return on what else a model is run, by what that tells."""
    others = {
        ONE_THREAD: replace(spec, threads=1),
        XLA: replace(spec, xla=True, eager=False),
    }
    if spec.replicas > 1:
        return {}
    return {source: other for source, other in others.items() if other != spec}


def other_runs(
    runs: Runs,
    resolved: ResolvedSubject,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    prepared: Prepared,
    noise: Noise,
) -> None:
    """Add what one thread, one example at a time, and XLA do to the outputs."""
    outputs = prepared.run.outputs[: len(cases)]
    for source, other in other_runners(spec).items():
        split = split_cases(cases, prepared.model_signature) if source == ONE_THREAD else []
        single = [example for examples in split for example in examples]
        run = runs.execute(resolved, other, [*cases, *single], prepared.signature, quiet=True)
        if run is None and single:  # a model may want more than one example
            noise.sources[SINGLE] = DOES_NOT_RUN
            split = []
            run = runs.execute(resolved, other, cases, prepared.signature, quiet=True)
        if run is None:
            noise.sources[source] = DOES_NOT_RUN
            continue
        noise.add(source, outputs, [run.outputs[: len(cases)]])
        _add_split(noise, outputs, split, run.outputs[len(cases) :])


def _add_split(
    noise: Noise,
    outputs: Sequence[Arrays],
    split: Sequence[Sequence[Any]],
    given: Sequence[Arrays],
) -> None:
    """Add what single examples, put together again, differ by; given: theirs, in order."""
    at = 0
    for whole, examples in zip(outputs, split, strict=False):
        parts = given[at : at + len(examples)]
        at += len(examples)
        together = joined(parts, whole) if parts else None
        if together is not None:
            noise.add(SINGLE, [whole], [[together]])
