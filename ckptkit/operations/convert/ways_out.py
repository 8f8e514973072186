"""What helps where a conversion is refused: a map that was tried out, a model, what is left out.

What keeps the values of LIKE, or loses some of SRC, is named last: the output would be of two
models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ckptkit.align.rules import exact_rule, parse_rule, suggest_rules
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert.plan import TRAINING_ROLES, ConvertOptions, Plan
from ckptkit.operations.convert.problems import HINTS, Problem
from ckptkit.stores.base import KerasStructure, ObjectGraph
from ckptkit.wording import operand

MAX_RULES = 3  # more are for a file: `ckptkit diff --write-map`
_OF_NAMES = ("missing", "unused", "ambiguous")

Replan = Callable[[ConvertOptions], Plan]


def hints_for(plan: Plan, template: Checkpoint | None, replan: Replan) -> dict[str, str]:
    """Return {kind of problem: what helps}, for `say`.

    Args:
        plan: that is refused.
        template: the structure that the output would take, None where it takes none.
        replan: makes the plan with other options.
    """
    kinds = {problem.kind for problem in plan.problems}
    if template is None or not kinds & {*_OF_NAMES}:
        return {}
    roles = {naming.name: naming.role for naming in plan.source.names.values()}
    lost = [roles.get(p.name, "weight") for p in plan.problems if p.kind == "unused"]
    ways = [_map(plan, template, replan), _model(plan, template)]
    first = "; ".join(way for way in ways if way)
    hints = {}
    for kind in kinds & {*_OF_NAMES}:
        plain = HINTS[kind].replace("‹LIKE›", plan.template_name)
        if kind == "unused" and set(lost) <= {*TRAINING_ROLES}:
            continue  # the optimizer's state: to be left behind, not to be renamed
        hints[kind] = f"{first}; {plain}" if first else plain
    return hints


def _model(plan: Plan, template: Checkpoint) -> str:
    """Return how the model's own code helps, where a model can be built and is not."""
    is_model = isinstance(template.structure, ObjectGraph | KerasStructure)
    if plan.template_name != operand("LIKE") or not is_model or not plan.target.format.structure:
        return ""
    code = "‹model=package.module:function›"
    return f"{code} in place of ‹LIKE› takes the places from the model's code"


def _map(plan: Plan, template: Checkpoint, replan: Replan) -> str:
    """Return rules with which the plan would have no such problems; "" where none are found."""
    free = _free(plan.problems, "unused", plan.source), _free(plan.problems, "missing", template)
    if not free[0] or not free[1]:
        return ""
    for rules in (_by_head(*free), _by_type(*free)):
        if rules and len(rules) <= MAX_RULES and _works(plan, rules, replan):
            said = " ".join(f"‹rules={rule}›" for rule in rules)
            return f"{said}, if {'that is' if len(rules) == 1 else 'those are'} the same"
    return ""


def _free(
    problems: Sequence[Problem], kind: str, checkpoint: Checkpoint
) -> dict[str, tuple[object, ...]]:
    """Return {name: dtype and shape} of the weights that problems of a kind are about."""
    names = {problem.name for problem in problems if problem.kind == kind}
    return {
        naming.name: (checkpoint.specs[key].dtype, checkpoint.specs[key].shape)
        for key, naming in checkpoint.names.items()
        if naming.name in names and naming.role == "weight"
    }


def _by_head(
    old: Mapping[str, tuple[object, ...]], new: Mapping[str, tuple[object, ...]]
) -> list[str]:
    return [text for text, _count in suggest_rules(old, new)]


def _by_type(
    old: Mapping[str, tuple[object, ...]], new: Mapping[str, tuple[object, ...]]
) -> list[str]:
    """Return a rule for each two tensors of which either is the only one of its type."""
    times = Counter(old.values()), Counter(new.values())
    return [
        exact_rule(name, other)
        for name, kind in old.items()
        for other, other_kind in new.items()
        if kind == other_kind and times[0][kind] == times[1][kind] == 1
    ]


def _works(plan: Plan, rules: Sequence[str], replan: Replan) -> bool:
    parsed = tuple(parse_rule(rule, transforms=True) for rule in rules)
    try:
        tried = replan(replace(plan.options, rules=(*plan.options.rules, *parsed)))
    except UsageError:
        return False
    return not any(problem.kind in (*_OF_NAMES, "renamed", "shape") for problem in tried.problems)
