"""What a new golden says that the one before it did not."""

from __future__ import annotations

from typing import Any

from ckptkit.golden.changes import compare_bindings
from ckptkit.golden.golden import Case, Golden
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.signature import compare_signatures
from ckptkit.model_io.tiers import tier_of


def changes(old: Golden, new: Golden) -> list[str]:
    """Return how a new golden differs from the one that it replaces, one line each."""
    lines = [_line(change) for change in compare_bindings(old.binding, new.binding)]
    lines += [
        _line(change) for change in compare_signatures(old.model_signature, new.model_signature)
    ]
    for key in sorted(set(old.environment) | set(new.environment)):
        one, two = old.environment.get(key), new.environment.get(key)
        if one != two:
            lines.append(f"environment: {key} was {one} and is {two}")
    tier = tier_of(old.environment, new.environment)
    before = {case.name: case for case in old.cases}
    for case in new.cases:
        known = before.pop(case.name, None)
        if known is None:
            lines.append(f"case {case.name}: new")
            continue
        if not _same_inputs(known, case):
            lines.append(f"case {case.name}: other inputs")
            continue
        for result in compare_outputs(_plain(known), _plain(case), tier.tolerance):
            if result.status != "equal":
                text = result.message or f"largest difference {result.max_abs:.3g}"
                lines.append(f"case {case.name}: {result.name}: {result.status}: {text}")
    lines += [f"case {name}: gone" for name in before]
    return lines


def _plain(case: Case) -> dict[str, Any]:
    """Return the outputs, of large ones the elements that are kept: the same ones in both."""
    return {
        name: value.values if isinstance(value, Sample) else value
        for name, value in case.outputs.items()
    }


def _line(change: Any) -> str:
    return f"{change.where}: {change.message}" if change.where else str(change.message)


def _same_inputs(one: Case, two: Case) -> bool:
    import numpy as np

    return one.inputs.keys() == two.inputs.keys() and all(
        array.dtype == two.inputs[name].dtype
        and np.array_equal(array, two.inputs[name], equal_nan=array.dtype.kind == "f")
        for name, array in one.inputs.items()
    )
