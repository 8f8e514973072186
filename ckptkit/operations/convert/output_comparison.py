"""Whether what was written computes what the source computes, where both run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit.operations.convert.plan import Plan
from ckptkit.results import Result
from ckptkit.wording import say

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


def compare_files(plan: Plan, output: Path, timeout_s: float) -> OutputComparison | None:
    """Run SRC and the output on the same inputs, and compare what they compute.

    Args:
        plan: what was done.
        output: the model that was written.
        timeout_s: for the run.

    Returns:
        The comparison, or why there is none; None where SRC or the output is no model.
    """
    source = plan.source
    if (
        not plan.target.format.holds_model
        or source.store.format != plan.target.format.name
        or source.subtree is not None
    ):
        return None
    changed = _value_change(plan)
    if changed:
        return OutputComparison(why_not=f"{changed}: other values compute something else")
    if importlib.util.find_spec("tensorflow") is None:
        return OutputComparison(why_not="TensorFlow is not installed")
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.process import run

    request = {"action": "outputs", "old": str(source.path), "new": str(output)}
    try:
        result = run("tensorflow", request, timeout_s=timeout_s, environment=CPU)
    except RunnerError as error:
        return OutputComparison(why_not=str(error))
    return outputs_of(result)


def _value_change(plan: Plan) -> str:
    """Return why SRC and the output are not meant to compute the same; "" where they are."""
    if len(plan.sources) > 1:
        return "an average of several"
    for applies, why in (
        (plan.options.casts, "‹casts›"),
        (plan.options.ema, "‹ema›"),
        (any(tensor.parts for tensor in plan.tensors), "values moved by ‹rules›"),
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
