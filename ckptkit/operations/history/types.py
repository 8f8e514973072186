"""The values of a history: steps of a run, tensors over these steps, findings, thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.operations.statistics import Statistics
from ckptkit.text import json_number

WENT = "went, or changed, while it was read"  # no fault: the program that trains cleans up


@dataclass(frozen=True, slots=True)
class RunStep:
    """One checkpoint or model of a run, in its place.

    number: what it is called in the history, rising along it; -1 where nothing tells.
    training_step: what all counters of optimizers and programs say, None where they differ or there
    is none.  save_counter: TensorFlow's count of saves.  name_number: the number in the name.
    counters: all counters by name.
    problem: why nothing of it, or not all, was measured; "" for a checkpoint that is whole.
    """

    number: int
    path: Path
    format: str
    training_step: int | None = None
    save_counter: int | None = None
    name_number: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold.

        Returns:
            The fields by name, the number as "step".
        """
        return {
            "step": self.number if self.number >= 0 else None,
            "path": str(self.path),
            "format": self.format,
            "training_step": self.training_step,
            "save_counter": self.save_counter,
            "name_number": self.name_number,
            "counters": dict(self.counters),
            "problem": self.problem or None,
        }


class TensorUpdate(NamedTuple):
    """What became of a tensor since the step before in which it was measured.

    norm: Euclidean, of new - old, over elements that are finite in both.  turn: cosine of the angle
    to the update before; None where either is zero, or there was none.  still_units: a bit for each
    column (unit) of a matrix none of whose elements changed; 0 where all or none stood still.
    """

    norm: float
    turn: float | None = None
    still_units: int = 0


class TensorMeasurement(NamedTuple):
    """One tensor at one step.

    content: what equal values of this tensor share (their checksum).  zero_units: a bit for each
    column of a matrix that is all zeros; 0 where all or none are.  saturated_units: columns whose
    norm is far above the median of the columns.  update: None where there is nothing to compare
    with.
    """

    content: str
    statistics: Statistics
    zero_units: int = 0
    saturated_units: int = 0
    update: TensorUpdate | None = None


@dataclass(frozen=True, slots=True)
class TensorHistory:
    """One tensor over a run.

    name, role, slot_of, slot: as in the first checkpoint that has it.  layer: the name of the
    weight without its last part; of optimizer state, that of its weight.
    is_trained: whether an optimizer updates it; None where no file tells.
    shapes, dtypes: by index of the step, where the step has the tensor.  units: columns of a matrix
    (its last axis), 0 of anything else.
    measured: by index of the step.
    """

    name: str
    role: str
    layer: str
    slot_of: str | None
    slot: str | None
    is_trained: bool | None
    shapes: Mapping[int, tuple[int, ...]]
    dtypes: Mapping[int, str]
    measured: Mapping[int, TensorMeasurement]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape at the first step that has the tensor."""
        return next(iter(self.shapes.values()))

    @property
    def dtype(self) -> str:
        """The dtype at the first step that has the tensor."""
        return next(iter(self.dtypes.values()))

    @property
    def size(self) -> int:
        """Number of elements at the first step that has the tensor."""
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        """Columns of a matrix, of a kernel the outputs; 0 of anything with fewer than two axes."""
        return units_of(self.shape)

    def ratio(self, at: int) -> float | None:
        """Return |update| / |weight before| at a step; None where either is not known, or is 0.

        Args:
            at: index of the step.
        """
        here = self.measured.get(at)
        before = self.before(at)
        if here is None or here.update is None or before is None or not before.statistics.norm:
            return None
        return here.update.norm / before.statistics.norm

    def before(self, at: int) -> TensorMeasurement | None:
        """Return what was measured last before a step.

        Args:
            at: index of the step.
        """
        earlier = [index for index in self.measured if index < at]
        return self.measured[max(earlier)] if earlier else None


def units_of(shape: tuple[int, ...]) -> int:
    """Return the columns of a matrix, 0 of what has fewer than two axes, or one column."""
    return shape[-1] if len(shape) > 1 and shape[-1] > 1 and math.prod(shape[:-1]) > 1 else 0


@dataclass(frozen=True, slots=True)
class HistoryFinding:
    """One thing that happened in a run.

    severity: "error", "warning", or "note" (worth knowing, and by design as often as not; it does
    not count).  code: stable, dotted.  step: number of the first step that it is seen at;
    last_step: of the last one, where it lasts.  path: of the checkpoint at `step`.
    tensors, layers: that it is about.  value: the number that was compared with a threshold.
    """

    severity: str
    code: str
    message: str
    step: int | None = None
    path: str = ""
    last_step: int | None = None
    layers: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold.

        Returns:
            The fields by name.
        """
        row = {name: getattr(self, name) for name in self.__slots__}
        row["layers"], row["tensors"] = list(self.layers), list(self.tensors)
        row["value"] = json_number(self.value)
        return row


@dataclass(frozen=True, slots=True)
class HistoryThresholds:
    """From where on something in a run is a finding.

    growth: times the median norm of the ten steps before, from which a norm has exploded.
    decay: times the norm that is left, relative to that median, below which it has vanished.
    still: updates in a row without any change, after which a layer has stopped.
    jump: 1 - cosine between a kernel and itself a step before, from which it was made anew, if all
    its other updates turn it by a tenth of that at most.
    dead: share of a kernel's units that stopped moving, from which this is no mere note.
    saturated: times the median norm of a kernel's columns, from which a unit counts as saturated.
    """

    growth: float = 10.0
    decay: float = 0.1
    still: float = 3
    jump: float = 0.5
    dead: float = 0.1
    saturated: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UsageError(f"the threshold {name} is a number above 0, not {value!r}")

    def to_json(self) -> dict[str, float]:
        """Return plain values that JSON can hold.

        Returns:
            The fields by name.
        """
        return {name: getattr(self, name) for name in self.__slots__}


def thresholds_of(values: Mapping[str, float]) -> HistoryThresholds:
    """Return thresholds, those by name changed; raises UsageError for a name that is none."""
    known = HistoryThresholds.__slots__
    unknown = [name for name in values if name not in known]
    if unknown:
        raise UsageError(f"no threshold {unknown[0]!r}", hint=f"one of {', '.join(known)}")
    return HistoryThresholds(**values)
