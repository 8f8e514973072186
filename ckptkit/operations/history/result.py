"""What `history` returns: steps, tensors over them, and findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ckptkit.operations.history.types import (
    HistoryFinding,
    HistoryThresholds,
    RunStep,
    TensorHistory,
    TensorMeasurement,
)
from ckptkit.results import Document
from ckptkit.text import json_number

SCHEMA = "ckptkit.history/1"


@dataclass(frozen=True, slots=True)
class LayerHistory:
    """The weights of one layer together.

    norms, updates: Euclidean, of all its weights, by index of the step; ratios: |update| / |weights
    before|.  All None where nothing was measured.
    """

    name: str
    tensors: tuple[TensorHistory, ...]
    norms: tuple[float | None, ...]
    updates: tuple[float | None, ...]
    ratios: tuple[float | None, ...]

    @property
    def params(self) -> int:
        """Elements of its weights."""
        return sum(tensor.size for tensor in self.tensors)


@dataclass(frozen=True, repr=False)
class History(Document):
    """A run: its steps in order, every tensor over them, and what was found.

    how: what the order rests on.  notes: what is worth knowing of how the run was read.
    """

    ROWS: ClassVar[str] = "tensors"

    paths: tuple[Path, ...]
    steps: tuple[RunStep, ...]
    tensors: tuple[TensorHistory, ...]
    findings: tuple[HistoryFinding, ...]
    how: str = ""
    notes: tuple[str, ...] = ()
    thresholds: HistoryThresholds = field(default_factory=HistoryThresholds)

    @property
    def ok(self) -> bool:
        """Whether nothing but notes was found."""
        return all(finding.severity == "note" for finding in self.findings)

    def __repr__(self) -> str:
        counted = sum(finding.severity != "note" for finding in self.findings)
        return (
            f"<History of {len(self.tensors)} tensors over {len(self.steps)} steps: "
            f"{counted} findings>"
        )

    @cached_property
    def layers(self) -> tuple[LayerHistory, ...]:
        """The weights by layer, in the order of the file; of a filter without weights, all."""
        chosen = [t for t in self.tensors if t.role == "weight"] or list(self.tensors)
        layers: dict[str, list[TensorHistory]] = {}
        for tensor in chosen:
            layers.setdefault(tensor.layer, []).append(tensor)
        return tuple(self._layer(name, tuple(tensors)) for name, tensors in layers.items())

    def _layer(self, name: str, tensors: tuple[TensorHistory, ...]) -> LayerHistory:
        count = len(self.steps)
        norms: list[float | None] = [None] * count
        updates: list[float | None] = [None] * count
        ratios: list[float | None] = [None] * count
        before = dict.fromkeys(range(len(tensors)), 0.0)
        for at in range(count):
            rows = [(i, t.measured[at]) for i, t in enumerate(tensors) if at in t.measured]
            if not rows:
                continue
            norms[at] = _root(row.statistics.norm for _, row in rows)
            moved = [(i, row.update.norm) for i, row in rows if row.update is not None]
            if moved:
                updates[at] = _root(norm for _, norm in moved)
                old = _root(before[i] for i, _ in moved)
                ratios[at] = (updates[at] or 0.0) / old if old else None
            for i, row in rows:
                before[i] = row.statistics.norm
        return LayerHistory(name, tensors, tuple(norms), tuple(updates), tuple(ratios))

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.history/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold; lists of numbers have an item for each step.
        """
        return {**self.heading(), "tensors": [self._tensor_json(t) for t in self.tensors]}

    def heading(self) -> dict[str, Any]:
        """Return the document without its `tensors`.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "paths": [str(path) for path in self.paths],
            "order": self.how,
            "ok": self.ok,
            "thresholds": self.thresholds.to_json(),
            "notes": list(self.notes),
            "findings": [finding.to_json() for finding in self.findings],
            "steps": [step.to_json() for step in self.steps],
            "layers": [
                {
                    "name": layer.name,
                    "params": layer.params,
                    "tensors": [tensor.name for tensor in layer.tensors],
                    "norm": list(map(json_number, layer.norms)),
                    "update": list(map(json_number, layer.updates)),
                    "ratio": list(map(json_number, layer.ratios)),
                }
                for layer in self.layers
            ],
        }

    def streamed(self) -> Mapping[str, Any]:
        """Return the document, whose `tensors` come one at a time.

        Returns:
            As `to_json`; what is under `tensors` is gone over once.
        """
        return {**self.heading(), "tensors": map(self._tensor_json, self.tensors)}

    def _tensor_json(self, tensor: TensorHistory) -> dict[str, Any]:
        steps = range(len(self.steps))
        row: dict[str, Any] = {
            "name": tensor.name,
            "layer": tensor.layer,
            "role": tensor.role,
            "slot_of": tensor.slot_of,
            "slot": tensor.slot,
            "is_trained": tensor.is_trained,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "params": tensor.size,
            "units": tensor.units,
        }
        for name, value in MEASURES.items():
            row[name] = [
                json_number(value(tensor, at)) if at in tensor.measured else None for at in steps
            ]
        return row

    def records(self) -> list[dict[str, Any]]:
        """Return one row per tensor and step in which it was measured.

        Returns:
            Dictionaries with "step", "path", "name", "layer", "role" and all measures.
        """
        return [
            {
                "step": self.steps[at].number,
                "path": str(self.steps[at].path),
                "name": tensor.name,
                "layer": tensor.layer,
                "role": tensor.role,
                "slot_of": tensor.slot_of,
                "dtype": tensor.dtypes[at],
                "shape": list(tensor.shapes[at]),
                **{name: value(tensor, at) for name, value in MEASURES.items()},
            }
            for tensor in self.tensors
            for at in sorted(tensor.measured)
        ]


def _root(norms: Iterator[float]) -> float:
    return math.hypot(*norms)


def _of(read: Callable[[TensorMeasurement], Any]) -> Callable[[TensorHistory, int], Any]:
    return lambda tensor, at: read(tensor.measured[at])


# What is told of a tensor at a step, by the name of its column.
MEASURES: Mapping[str, Callable[[TensorHistory, int], Any]] = {
    "norm": _of(lambda m: m.statistics.norm),
    "update": _of(lambda m: m.update.norm if m.update else None),
    "ratio": lambda tensor, at: tensor.ratio(at),
    "turn": _of(lambda m: m.update.turn if m.update else None),
    "mean": _of(lambda m: m.statistics.mean),
    "std": _of(lambda m: m.statistics.std),
    "min": _of(lambda m: m.statistics.minimum),
    "max": _of(lambda m: m.statistics.maximum),
    "n": _of(lambda m: m.statistics.n),
    "zeros": _of(lambda m: m.statistics.n_zero),
    "nan": _of(lambda m: m.statistics.n_nan),
    "inf": _of(lambda m: m.statistics.n_inf),
    "dead_units": _of(lambda m: m.zero_units.bit_count()),
    "still_units": _of(lambda m: m.update.still_units.bit_count() if m.update else None),
    "saturated_units": _of(lambda m: m.saturated_units),
    "content": _of(lambda m: m.content),
}
