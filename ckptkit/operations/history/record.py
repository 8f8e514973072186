"""What a run is to those who look for findings: its steps, tensors, and questions both answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ckptkit.dtypes import kind
from ckptkit.operations.history.types import (
    HistoryFinding,
    HistoryThresholds,
    RunStep,
    TensorHistory,
)
from ckptkit.text import list_text

MOST_NAMED = 4  # layers or tensors in a message; all are in the finding


@dataclass(frozen=True)
class MeasuredRun:
    """A run that was measured.  steps: in order; what is said by index is of these."""

    steps: tuple[RunStep, ...]
    tensors: tuple[TensorHistory, ...]
    thresholds: HistoryThresholds

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """Indices of the steps of which something was measured."""
        return tuple(sorted({at for tensor in self.tensors for at in tensor.measured}))

    @cached_property
    def weights(self) -> tuple[TensorHistory, ...]:
        """The weights."""
        return tuple(t for t in self.tensors if t.role == "weight")

    @cached_property
    def slots(self) -> tuple[TensorHistory, ...]:
        """What optimizers keep of the weights."""
        return tuple(t for t in self.tensors if t.role == "slot")

    @cached_property
    def trained(self) -> tuple[TensorHistory, ...]:
        """Weights that an optimizer updates; all of them, where no file tells."""
        is_told = any(t.is_trained is not None for t in self.weights)
        return tuple(t for t in self.weights if t.is_trained or not is_told)

    @cached_property
    def tells_training(self) -> bool:
        """Whether any file tells which weights are trained."""
        return any(t.is_trained is not None for t in self.weights)

    @cached_property
    def matrices(self) -> tuple[TensorHistory, ...]:
        """Weights in floating point that are large enough to have a direction."""
        return tuple(
            t
            for t in self.weights
            if len(t.shape) > 1 and t.size >= 8 and kind(t.dtype) in ("float", "complex")
        )

    def finding(
        self,
        severity: str,
        code: str,
        at: int | None,
        message: str,
        tensors: Iterable[TensorHistory] = (),
        *,
        until: int | None = None,
        value: float | None = None,
    ) -> HistoryFinding:
        """Return a finding at the step with an index."""
        step = None if at is None else self.steps[at]
        found = list(tensors)
        return HistoryFinding(
            severity,
            code,
            message,
            step.number if step and step.number >= 0 else None,
            str(step.path) if step else "",
            self.steps[until].number if until is not None else None,
            tuple(dict.fromkeys(t.layer for t in found)),
            tuple(t.name for t in found),
            value,
        )

    def number(self, at: int) -> str:
        """Return what a step is called, as text."""
        return f"{self.steps[at].number:,}"


def layers_text(tensors: Sequence[TensorHistory]) -> str:
    """Return the names of the layers of tensors, not all of many."""
    return list_text(list(dict.fromkeys(t.layer for t in tensors)), MOST_NAMED)


def names_text(tensors: Sequence[TensorHistory]) -> str:
    """Return the names of tensors, not all of many."""
    return list_text([t.name for t in tensors], MOST_NAMED)


def has_no_numbers(tensor: TensorHistory, at: int) -> bool:
    """Whether NaN or infinities are among the values at a step."""
    statistics = tensor.measured[at].statistics
    return bool(statistics.n_nan or statistics.n_inf)
