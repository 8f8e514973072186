"""Whether the new model computes what the old one did: both run on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError, MissingDependencyError, UnsupportedError, UsageError
from ckptkit.operations.execution.inputs import InputOptions, prepare, with_outputs
from ckptkit.operations.execution.mapped import MappedSubject, ReferenceOutputs, rows_of
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.execution.tolerance import TolerancePolicy
from ckptkit.operations.execution.types import Row
from ckptkit.results import Result
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.registry import RUNNERS, installed_keras
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits, ModelSpec
from ckptkit.stores.registry import SAVED_MODEL, format_of
from ckptkit.wording import say

_OLD_KERAS = RunnerSpec("tf-keras")
_NEW_KERAS = ("tensorflow", "keras-jax", "keras-torch")


@dataclass(frozen=True)
class OutputsCompared(Result):
    """The comparison of the old model's outputs with those of the new one.

    rows: one per case and output.  why_not: why none were compared, or "".  failure: why the new
    model gave no outputs, or "".  inputs: where they are from.  runners: of the old model and the
    new one.
    """

    rows: tuple[Row, ...] = ()
    why_not: str = ""
    failure: str = ""
    inputs: str = ""
    runners: tuple[str, str] = ("", "")

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the new model; see `why_not` of what was not compared."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per output that differs, and why the new model gave none."""
        bad = [f"output {row.result.name}: {_why(row)}" for row in self.rows if not row.ok]
        return (*([self.failure] if self.failure else []), *bad)

    def __str__(self) -> str:
        if self.why_not:
            return f"not compared: {self.why_not}"
        if self.failure:
            return f"none: {self.failure}"
        same = sum(row.result.status == "equal" for row in self.rows)
        worst = max((row.result.max_abs for row in self.rows), default=0.0)
        count = len(self.rows)
        text = f"{count} compared on {self.inputs}, {self.runners[0]} and {self.runners[1]}"
        if same == count:
            return f"{text}: every value the same"
        tiers = ", ".join(dict.fromkeys(row.tier for row in self.rows if row.tier))
        return f"{text}: largest difference {worst:.3g}" + (f" (tier {tiers})" if tiers else "")

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "ok": self.ok,
            "why_not": self.why_not,
            "failure": self.failure,
            "inputs": self.inputs,
            "runners": list(self.runners),
            "rows": [row.to_json() for row in self.rows],
        }


def _why(row: Row) -> str:
    result = row.result
    return result.message or f"{result.status}, largest difference {result.max_abs:.3g}"


def new_runner() -> RunnerSpec:
    """Return what runs a model of Keras 3 here.

    Raises:
        MissingDependencyError: nothing does.
    """
    hint = "pip install 'ckptkit-tf[tensorflow]'"
    found = installed_keras()
    if not found:
        raise MissingDependencyError("this needs Keras 3, which is not installed", hint=hint)
    if found.startswith("2."):
        raise MissingDependencyError(
            f"this needs Keras 3, and Keras {found} is installed", hint=hint
        )
    for name in _NEW_KERAS:
        if find_spec(RUNNERS[name].package) is not None:
            return RunnerSpec(name)
    raise MissingDependencyError(
        "Keras 3 needs TensorFlow, JAX or PyTorch; none is here", hint=hint
    )


def old_runner(kind: str) -> tuple[RunnerSpec | None, str]:
    """Return what runs a model of Keras 2 here, or None and why nothing does.

    Args:
        kind: of the model, as `Format.model_kind` has it.
    """
    if find_spec("tensorflow") is None:
        return None, "TensorFlow, which runs the old model, is not installed"
    if kind == format_of(SAVED_MODEL).model_kind:
        return RunnerSpec(), ""
    if find_spec("tf_keras") is None:
        return (
            None,
            "tf_keras, which runs models of Keras 2, is not installed (pip install tf_keras)",
        )
    return _OLD_KERAS, ""


@dataclass(frozen=True)
class Comparing:
    """How outputs are compared: inputs, modules that define custom classes, limits.

    trust: whether Python code that the models hold is run.  why_not: why outputs are not to be
    compared, or "".
    """

    inputs: InputOptions
    imports: tuple[str, ...] = ()
    trust: bool = False
    timeout_s: float = 600.0
    why_not: str = ""

    def compare(
        self, old: ModelSpec, new: ModelSpec, runner: RunnerSpec, scratch: Path
    ) -> OutputsCompared:
        """Run both models and compare what they give.

        Args:
            old, new: the models.
            runner: of the new one.
            scratch: a directory.

        Raises:
            UsageError: inputs of files do not fit the old model.
            RunnerError: the new model cannot be loaded.
        """
        options: dict[str, Any] = {"imports": list(self.imports), "trust": self.trust}
        spec, why = old_runner(old.kind)
        if spec is None or self.why_not:
            return self._loaded(new, runner, self.why_not or why, options)
        old_runs = Runs(Limits(self.timeout_s), scratch, options)
        try:
            prepared = prepare(old_runs, ResolvedSubject(old), spec, self.inputs)
        except (RunnerError, CkptkitError) as error:
            if isinstance(error, UsageError) and self.inputs.files:
                raise
            return self._loaded(new, runner, f"{spec.text}: {error}", options)
        if prepared is None:
            found = "; ".join(finding.message for finding in old_runs.findings)
            return self._loaded(new, runner, found or "the old model gave nothing", options)
        name = f"{old} on {spec.text}"
        reference = ReferenceOutputs(
            name,
            dict(zip(prepared.cases, prepared.run.outputs, strict=True)),
            prepared.run.environment,
            {},
        )
        runs = Runs(Limits(self.timeout_s), scratch, options)
        mapped = MappedSubject(
            runs,
            ResolvedSubject(new),
            with_outputs(prepared.model_signature, prepared.run.outputs[0]),
            {},
            None,
            same_contract=old.kind == new.kind,
        )
        run = mapped.run(runner, list(prepared.cases.values()))
        runners = (spec.text, runner.text)
        if run is None:
            found = "; ".join(finding.message for finding in runs.findings)
            return OutputsCompared(
                (), "", found or "the new model gave nothing", prepared.text, runners
            )
        outputs = [mapped.outputs_of(case) for case in run.outputs]
        rows = rows_of(reference, outputs, run.environment, runner.text, TolerancePolicy())
        failure = "" if rows else say("there were no outputs to compare")
        return OutputsCompared(tuple(rows), "", failure, prepared.text, runners)

    def _loaded(
        self, new: ModelSpec, runner: RunnerSpec, why: str, options: Mapping[str, Any]
    ) -> OutputsCompared:
        """Load the new model in a fresh process all the same, and say why that was all."""
        from ckptkit.runners.client import describe

        try:
            describe(new, runner, Limits(self.timeout_s), options=options)
        except RunnerError as error:
            # a model is loaded first; inputs of a kind that is not run here are no fault of it
            if error.kind != UnsupportedError.__name__:
                raise
        return OutputsCompared(why_not=why, runners=("", runner.text))
