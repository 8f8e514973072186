"""Holding the outputs of one run against a reference: one row per case and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.operations.check.report import Row
from ckptkit.operations.execution.tolerance import Policy

if TYPE_CHECKING:
    import numpy as np

    from ckptkit.model_io.sampling import Sample

    Arrays = Mapping[str, np.ndarray[Any, Any]]


class Reference(NamedTuple):
    """What outputs are held against.

    name: to say it.  cases: outputs by case, in order.  environment: of what computed them.
    noise: by output, as recorded; {} where none is known.
    """

    name: str
    cases: Mapping[str, Mapping[str, Any | Sample]]
    environment: Mapping[str, Any]
    noise: Mapping[str, Mapping[str, Any]]


def rows_of(
    held: Reference,
    outputs: Sequence[Arrays],
    environment: Mapping[str, Any],
    runner: str,
    policy: Policy,
) -> list[Row]:
    """Return a row per case and output; outputs: by the names of the reference."""
    from ckptkit.model_io.compare_outputs import compare_outputs

    chosen = policy.choose(held.environment, environment)
    noise = held.noise if chosen.takes_noise else None
    return [
        Row(name, runner, held.name, result, chosen.tier)
        for (name, reference), given in zip(held.cases.items(), outputs, strict=True)
        for result in compare_outputs(reference, given, chosen.tolerance, noise=noise)
    ]
