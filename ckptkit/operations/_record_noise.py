"""How noisy a model is: the same inputs again, split into single examples, and run otherwise.

What comes out is the floor below which a difference says nothing.  Repeats and splits are done in
the recording run itself; one thread and XLA each take a run of their own, and a model that does not
run so is noted, for it may well be a fault of the model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptkit.interface import Interface
from ckptkit.operations._check_runs import Runs
from ckptkit.operations._check_subjects import Resolved
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray[Any, Any]]

REPEATS = 3  # runs of each case in the recording process
MAX_SPLIT = 64  # examples of a case that are run one by one


@dataclass
class Noise:
    """The largest noise of each output over all cases, by where it came from."""

    by_output: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(
        self, source: str, reference: Sequence[Arrays], repeats: Sequence[Sequence[Arrays]]
    ) -> None:
        """Measure repeats of all cases (each in their order) against the recorded outputs."""
        from ckptkit.outputs import noise_of

        largest = 0.0
        for number, outputs in enumerate(reference):
            found = noise_of(outputs, [repeat[number] for repeat in repeats])
            for name, noise in found.items():
                self._join(name, noise)
                largest = max(largest, noise["max_scaled"])
        self.sources[source] = f"{largest:.3g}"

    def _join(self, name: str, noise: Mapping[str, Any]) -> None:
        held = self.by_output.setdefault(name, dict(noise) | {"runs": 0})
        runs = held["runs"] + noise["runs"]
        for key in ("max_abs", "max_scaled", "max_ulp"):
            values = [item[key] for item in (held, noise) if item.get(key) is not None]
            held[key] = max(values) if values else None
        held["runs"] = runs


def split_cases(cases: Sequence[Arrays], interface: Interface) -> list[list[dict[str, Any]]]:
    """Return each case as cases of one example; [] for one that cannot be split.

    A case splits where the first axis of every input is free, and as long in all of them.
    """
    free = all(
        info.shape is not None and info.shape and info.shape[0] is None for info in interface.inputs
    )
    found = []
    for case in cases:
        lengths = {array.shape[0] for array in case.values() if array.ndim}
        whole = free and len(lengths) == 1 and all(array.ndim for array in case.values())
        count = lengths.pop() if whole else 0
        if not 1 < count <= MAX_SPLIT:
            found.append([])
            continue
        found.append([{k: v[i : i + 1] for k, v in case.items()} for i in range(count)])
    return found


def joined(parts: Sequence[Arrays], whole: Arrays) -> dict[str, Any] | None:
    """Return the outputs of single examples put together again; None where that is not the whole's
    shape: the model does more than treat example by example.
    """
    import numpy as np

    found: dict[str, Any] = {}
    for name, reference in whole.items():
        pieces = [part.get(name) for part in parts]
        if not reference.ndim or any(piece is None or not piece.ndim for piece in pieces):
            return None
        try:
            found[name] = np.concatenate(pieces)  # type: ignore[arg-type]
        except ValueError:
            return None
        if found[name].shape != reference.shape:
            return None
    return found


def other_runs(
    runs: Runs,
    what: Resolved,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    signature: str | None,
    outputs: Sequence[Arrays],
    noise: Noise,
) -> None:
    """Add what one thread, and XLA, do to the outputs."""
    others = {
        "one thread": replace(spec, threads=1),
        "XLA": replace(spec, xla=True, eager=False),
    }
    for source, other in others.items():
        if other == spec or spec.replicas > 1:
            continue
        run = runs.execute(what, other, cases, signature, quiet=True)
        if run is None or len(run.outputs) != len(outputs):
            noise.sources[source] = "does not run"
            continue
        noise.add(source, outputs, [run.outputs])
