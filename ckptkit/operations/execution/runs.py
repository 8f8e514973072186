"""Running the subjects of a check: what a child's end means, and where its kernels ran."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ckptkit.errors as errors
from ckptkit._io.progress import phase
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import CkptkitError
from ckptkit.operations.execution.coverage import coverage
from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.types import RunRecord
from ckptkit.operations.findings import Finding
from ckptkit.operations.needs.api import needs
from ckptkit.runners.client import describe, execute, restore, resume
from ckptkit.runners.errors import NO_VERDICTS, RunnerError
from ckptkit.runners.marks import is_marked
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import (
    Description,
    ExecutionResult,
    Limits,
    ModelSpec,
    RestoreResult,
    ResumeResult,
)
from ckptkit.stores.registry import CODE
from ckptkit.text import count_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

_CAUSES = {"died": "run.died", "timeout": "run.timeout", "memory": "run.memory"}


@dataclass
class RunCount:
    """expected: how many runs there are going to be, as far as is known before.  begun: so far."""

    expected: int = 0
    begun: int = 0

    def next_run(self) -> str:
        """Return `run 2 of 5`; without a total where what was found calls for more."""
        self.begun += 1
        of = f" of {self.expected}" if self.begun <= self.expected else ""
        return f"run {self.begun}{of}"


@dataclass
class Runs:
    """The children of one check, in order: what each gave, and what there is to say of it.

    options: as `execute` takes them.  scratch: a directory for bundles of restored values.
    count: of the children, for whoever waits for them.
    """

    limits: Limits
    scratch: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    ran: list[RunRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    coverage: RestoreCoverage | None = None
    count: RunCount = field(default_factory=RunCount)

    @contextmanager
    def counted(self, text: str) -> Iterator[None]:
        """Say inside the block which run of how many goes on; text: where, or what for."""
        with phase(f"{self.count.next_run()}: {text}"):
            yield

    def execute(
        self,
        resolved: ResolvedSubject,
        spec: RunnerSpec,
        cases: Sequence[Arrays],
        signature: str | None,
        *,
        layers: Sequence[str] = (),
        quiet: bool = False,
    ) -> ExecutionResult | None:
        """Return the run; None where the child gave nothing, which is then a finding.

        quiet: an extra run, which is no part of the report.
        Raises RunnerError for a device or package that is not here, CkptkitError for a request
        that makes no sense.
        """
        out = self.scratch / f"restored-{len(self.ran)}"
        began = time.monotonic()
        try:
            with self.counted(spec.text):
                run = execute(
                    resolved.subject,
                    spec,
                    cases,
                    self.limits,
                    signature=signature,
                    layers=tuple(layers),
                    options=self.options,
                    out=out if resolved.is_checkpoint and resolved.subject.kind == "code" else None,
                )
        except RunnerError as error:
            if quiet:
                return None
            error = explained(error, resolved.subject)
            self._refuse(error)
            self._failed(resolved.subject, spec, error, began)
            return None
        if quiet:
            return run
        took = time.monotonic() - began
        text = str(resolved.subject)
        self.ran.append(RunRecord(text, spec.text, run.environment, run.devices, took, run.skipped))
        if run.restored is not None:
            self._cover(resolved, spec, run.restored)
        if run.skipped:
            return None
        self.findings += placement(text, spec, run.devices)
        return run

    def describe(self, subject: ModelSpec, spec: RunnerSpec) -> Description:
        """Return what the subject takes; raises RunnerError."""
        try:
            with phase("asking what it takes"):
                return describe(subject, spec, self.limits, options=self.options)
        except RunnerError as error:
            raise explained(error, subject) from error

    def restore(self, resolved: ResolvedSubject, spec: RunnerSpec) -> None:
        """Restore the checkpoint without running the model; `coverage` has the result."""
        began = time.monotonic()
        try:
            with self.counted(f"restored on {spec.text}"):
                done = restore(
                    resolved.subject,
                    spec,
                    self.limits,
                    self.scratch / "restored",
                    options=self.options,
                )
        except RunnerError as error:
            self._refuse(error)
            self._failed(resolved.subject, spec, error, began)
            return
        took = time.monotonic() - began
        self.ran.append(RunRecord(str(resolved.subject), spec.text, done.environment, {}, took))
        self._cover(resolved, spec, done)

    def resume(
        self, model: ModelSpec, spec: RunnerSpec, steps: int, saves: Sequence[int]
    ) -> ResumeResult | None:
        """Go on from a checkpoint; None where the child gave nothing, which is then a finding.

        steps, saves: see `ckptkit.runners.client.resume`.
        Raises RunnerError for a device or package that is not here, CkptkitError for a request
        that makes no sense.
        """
        out = self.scratch / "resumed"
        out.mkdir()
        began = time.monotonic()
        try:
            with self.counted(f"training on, on {spec.text}"):
                done = resume(
                    model, spec, self.limits, out, steps=steps, saves=saves, options=self.options
                )
        except RunnerError as error:
            self._refuse(error)
            self._failed(model, spec, error, began)
            return None
        took = time.monotonic() - began
        self.ran.append(RunRecord(str(model), spec.text, done.environment, {}, took, done.error))
        return done

    def _cover(self, resolved: ResolvedSubject, spec: RunnerSpec, done: RestoreResult) -> None:
        assert resolved.file is not None
        if done.path is None:
            error = done.error or "the restored values could not be written"
            self.findings.append(
                Finding("error", "restore.raised", str(resolved.subject), f"{spec.text}: {error}")
            )
            return
        restored = open_checkpoint(done.path)
        found = coverage(
            resolved.file,
            restored,
            is_marked,
            error=done.error,
            asserts=done.verdicts,
            places=done.root_children,
            by=done.by,
            pairs=done.pairs,
            left_out=done.left_out,
        )
        if self.coverage is None:
            self.coverage = found
        elif found.counts != self.coverage.counts:
            text = f"on {spec.text} another restore: {found.verdict}"
            self.findings.append(Finding("error", "restore.differs", str(resolved.subject), text))

    @staticmethod
    def _refuse(error: RunnerError) -> None:
        """Raise again what is no verdict: something is missing here, or was asked wrongly."""
        kind = getattr(errors, error.kind, None)
        ours = isinstance(kind, type) and issubclass(kind, CkptkitError)
        if error.kind in NO_VERDICTS or ours:
            raise error

    def _failed(
        self, subject: ModelSpec, spec: RunnerSpec, error: RunnerError, began: float
    ) -> None:
        code = _CAUSES.get(error.kind, "run.failed")
        text = f"on {spec.text}: {error.message}"
        self.findings.append(Finding("error", code, str(subject), text, error.hint))
        took = time.monotonic() - began
        self.ran.append(RunRecord(str(subject), spec.text, seconds=took, error=error.message))


def explained(error: RunnerError, subject: ModelSpec) -> RunnerError:
    """Return the error of a child, with what the model's file needs where that is not here.

    Args:
        error: as the child gave it.
        subject: what it was to load.

    Returns:
        The same error, or one with a hint on who wrote the file, and what opens it.
    """
    if subject.path is None or subject.kind == CODE or error.kind == "MissingDependencyError":
        return error
    try:
        brief = needs(subject.path).in_brief
    except CkptkitError:  # what cannot be read is told of by whoever reads it
        return error
    if not brief:
        return error
    told = copy(error)
    told.hint = f"{error.hint}; {brief}" if error.hint else brief
    return told


def placement(
    subject: str, spec: RunnerSpec, devices: Mapping[str, Mapping[str, int]]
) -> Iterator[Finding]:
    """Yield findings where kernels that count did not run on the device that was asked for.

    Light kernels (string lookups, shapes) belong on the CPU and are not counted.
    """
    heavy = {device: counts.get("heavy", 0) for device, counts in devices.items()}
    wanted = {f"{spec.device}:{spec.index}"}
    if spec.replicas > 1:
        wanted = {f"{spec.device}:{number}" for number in range(spec.replicas)}
    ops = {device: counts.get("ops", 0) for device, counts in devices.items()}
    elsewhere = {device: n for device, n in heavy.items() if n and device not in wanted}
    if elsewhere:
        where = ", ".join(f"{count_text(n, 'op')} on {device}" for device, n in elsewhere.items())
        yield Finding(
            "error",
            "run.device",
            subject,
            f"{spec.text} was asked for, and matrix products ran elsewhere: {where}",
        )
    elif spec.device != "CPU" and ops and not any(ops.get(device) for device in wanted):
        names = ", ".join(ops)
        yield Finding(
            "error", "run.device", subject, f"nothing ran on {spec.text}; all of it ran on {names}"
        )
