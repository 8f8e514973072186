"""A machine that is made up: what `check` and `record` run, without a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.execution import runs as _check_runs
from ckptkit.operations.record import pipeline as record
from ckptkit.operations.record.sensitivity import OutputSensitivity
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Description, ExecutionResult, ModelSpec

INPUTS = (TensorInfo("features", "float32", (None, 3)),)
OUTPUTS = (TensorInfo("output_0", "float32", (None, 2)),)
ENVIRONMENT = {"runtime": "tensorflow", "versions": {"tensorflow": "2.21.0"}, "device": "CPU:0"}

Arrays = Mapping[str, Any]


class Machine:
    """Stands in for child processes: `compute(subject, spec, inputs)` gives the outputs."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.compute: Callable[[ModelSpec, RunnerSpec, Arrays], Arrays] = lambda _s, _r, x: {
            "output_0": x["features"][:, :2] * 2
        }
        self.devices: Callable[[RunnerSpec], Mapping[str, Any]] = lambda spec: {
            f"{spec.device}:{spec.index}": {"ops": 5, "heavy": 2}
        }

    def execute(
        self,
        subject: ModelSpec,
        spec: RunnerSpec,
        cases: Sequence[Arrays],
        _limits: Any,
        *,
        signature: str | None,
        **_: Any,
    ) -> ExecutionResult:
        self.asked.append((str(subject), spec.text))
        outputs = tuple(self.compute(subject, spec, case) for case in cases)
        name = signature or "serving_default"
        environment = ENVIRONMENT | {"device": f"{spec.device}:0", "xla": spec.xla}
        described = Description({name: ModelSignature(INPUTS, OUTPUTS)}, environment)
        return ExecutionResult(outputs, name, described, devices=self.devices(spec))

    @classmethod
    def replacing(cls, monkeypatch: pytest.MonkeyPatch) -> Machine:
        """Return one that `check` and `record` run everything on."""
        made = cls()
        monkeypatch.setattr(_check_runs, "execute", made.execute)
        monkeypatch.setattr(record, "measure", lambda *_, **__: OutputSensitivity(("w",)))
        return made
