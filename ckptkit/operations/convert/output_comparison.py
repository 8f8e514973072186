"""Whether what was written computes what the source computes, where both run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit.operations.convert.plan import Plan
from ckptkit.results import Result
from ckptkit.stores.registry import LEGACY_KERAS, format_of, format_of_name
from ckptkit.wording import operand, say

# Conversions are done on the CPU: what a device would change is another question.
CPU = {"CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class OutputComparison(Result):
    """The comparison of outputs on seeded inputs; `why_not` says why there was none.

    rows: one per output: `output`, `ok`, `n`, `max_abs`, `rms`, `bits` (whether every bit agrees),
    `message`.  versions: of what ran them.
    """

    rows: tuple[Mapping[str, Any], ...] = ()
    why_not: str = ""
    seed: int = 0
    versions: Mapping[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether outputs were compared and none differs."""
        return not self.why_not and not self.failures

    @property
    def failures(self) -> list[str]:
        """One sentence per output that differs."""
        return [f"output {row['output']}: {row['message']}" for row in self.rows if not row["ok"]]

    def __str__(self) -> str:
        if self.why_not:
            return f"not compared: {self.why_not}"
        same = sum(bool(row.get("bits")) for row in self.rows)
        worst = max((row.get("max_abs", 0.0) for row in self.rows), default=0.0)
        text = f"{len(self.rows)} compared on seeded inputs, {same} equal to the bit"
        return text if same == len(self.rows) else f"{text}, largest difference {worst:.3g}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {"why_not": self.why_not, "seed": self.seed, "rows": [dict(r) for r in self.rows]}


def compare_files(
    plan: Plan, output: Path, timeout_s: float, *, is_wanted: bool = False, trust: bool = False
) -> OutputComparison | None:
    """Run SRC and the output on the same inputs, and compare what they compute.

    Nothing of the plan is taken for granted: either side runs by itself, or TensorFlow and Keras
    restore its weights into the model that the plan was made with.

    Args:
        plan: what was done.
        output: the file that was written.
        timeout_s: for the run.
        is_wanted: whether to run all that can be run, not only two models of one form.
        trust: whether to say nothing of a SRC that a scan flags.

    Returns:
        The comparison, or why there is none; None where it is not wanted, and one of the two is no
        model, or of another form.
    """
    source = plan.source
    code = plan.build.spec if plan.build is not None else None
    if code is not None and not _is_code(code):
        code = None
    if not is_wanted and (
        not plan.target.format.holds_model
        or source.store.format != plan.target.format.name
        or source.subtree is not None
    ):
        return None
    if is_wanted:
        cannot = _why_not_run(plan, code)
        if cannot:
            return OutputComparison(why_not=cannot)
    changed = _value_change(plan)
    if changed:
        return OutputComparison(why_not=f"{changed}: other values compute something else")
    if importlib.util.find_spec("tensorflow") is None:
        return OutputComparison(why_not="TensorFlow is not installed")
    from ckptkit.operations.scan.before_running import warn_of_model
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.process import run

    if not trust and format_of(source.store.format).holds_model:
        warn_of_model(source.path)
    chosen, source_model = plan.options.chosen, source.store.model
    several = source_model is not None and len(source_model.tags) > 1
    request = {
        "action": "outputs",
        "old": str(source.path),
        "new": str(output),
        "model": code,
        "tags": list(chosen.tags) if chosen is not None and several else [],
    }
    try:
        result = run("tensorflow", request, timeout_s=timeout_s, environment=CPU)
    except RunnerError as error:
        return OutputComparison(why_not=str(error))
    return outputs_of(result)


def _is_code(spec: str) -> bool:
    """Whether a model is named by code that builds it, not by a file."""
    return format_of_name(spec) is None


def _why_not_run(plan: Plan, code: str | None) -> str:
    """Return why SRC or the output does not run; "" where both do."""
    source = plan.source
    if source.subtree is not None:
        return f"{operand('SRC')} is a part of a file"
    sides = ((operand("SRC"), format_of(source.store.format)), ("the output", plan.target.format))
    for who, row in sides:
        # a legacy file may hold weights alone
        may_lack_one = row.structure == LEGACY_KERAS
        holds = (
            row.holds_model
            and not row.is_converted
            and not (may_lack_one and source.store.model is None)
        )
        if not holds and (code is None or not row.structure):
            hint = "" if not row.structure else say("; ‹model=package.module:function› builds one")
            return f"{who} holds no model to run ({row.name}){hint}"
    return ""


def _value_change(plan: Plan) -> str:
    """Return why SRC and the output are not meant to compute the same; "" where they are."""
    if len(plan.sources) > 1:
        return "an average of several"
    for applies, why in (
        (plan.options.casts, "‹casts›"),
        (plan.options.ema, "‹ema›"),
        (
            plan.options.rules and any(tensor.parts for tensor in plan.tensors),
            "values moved by ‹rules›",
        ),
        (plan.options.allow_renamed, "‹allow_renamed›"),
    ):
        if applies:
            return say(why)
    from_template = sorted(
        tensor.name
        for tensor in plan.tensors
        if tensor.evidence == "template" and tensor.output.role == "weight"
    )
    if from_template:
        return f"{from_template[0]} has the value of {plan.template_name}"
    return ""


def outputs_of(result: Mapping[str, Any]) -> OutputComparison | None:
    """Return the comparison that a runner made."""
    outputs = result.get("outputs")
    if outputs is None:
        return None
    return OutputComparison(
        tuple(outputs.get("rows", ())),
        outputs["why_not"],
        outputs.get("seed", 0),
        result["versions"],
    )
