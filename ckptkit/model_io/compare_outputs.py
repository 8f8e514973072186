"""Comparing what a model gave with what it should give: one verdict per output, with its reason.

    |new - ref| <= atol * s + rtol * |ref|      s: rms of the reference if scaled, else 1

Nothing passes for want of a comparison: an output that is missing or new, another shape or dtype,
NaN or infinity in other places, no elements at all, and a tolerance of a tenth of the largest
value or more are verdicts of their own, and none of them is `ok`.  What does not pass gets hints:
what the difference looks like (`ckptkit.model_io.hints`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.hints import hints, renamed
from ckptkit.model_io.measure import comparable_form, compare_output, noise_between
from ckptkit.model_io.results import Chooser, OutputResult
from ckptkit.model_io.sampling import Sample

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def compare_outputs(
    reference: Mapping[str, Array | Sample],
    new: Mapping[str, Array],
    tolerance: Chooser,
    *,
    noise: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[OutputResult, ...]:
    """Compare what a model gave with what it should give.

    Args:
        reference: {output: array}, or a seeded sample of a large one.
        new: {output: array}.
        tolerance: chooses the tolerance of an output, as `Tier.tolerance` does.
        noise: by output, as `noise_of` measures it; {} and None mean that none is known.
    Returns:
        A verdict per output: those of the reference in its order, then those only in `new`.
    Raises:
        UsageError: for arrays of Python objects other than text.
    """
    recorded = {name: comparable_form(value) for name, value in reference.items()}
    computed = {name: comparable_form(value) for name, value in new.items()}
    arrays = {name: value for name, value in computed.items() if not isinstance(value, Sample)}
    results = []
    for name, ref in recorded.items():
        if name not in arrays:
            results.append(_missing(name, arrays))
            continue
        result = compare_output(name, ref, arrays[name], tolerance, (noise or {}).get(name, {}))
        if not result.ok:
            result = replace(result, hints=hints(name, recorded, arrays, result))
        results.append(result)
    results += [_extra(name, recorded) for name in arrays if name not in recorded]
    # an output that is missing and one that is new may be one that was renamed
    return renamed(tuple(results), recorded, arrays)


def _missing(name: str, arrays: Mapping[str, Array]) -> OutputResult:
    names = ", ".join(arrays) or "none"
    return OutputResult(name, "missing", message=f"no output {name!r}; there are: {names}")


def _extra(name: str, recorded: Mapping[str, Any]) -> OutputResult:
    names = ", ".join(recorded) or "none"
    return OutputResult(name, "extra", message=f"output {name!r} is not recorded; those: {names}")


def noise_of(reference: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure how far repeated runs of one model are apart.

    Args:
        reference: {output: array} of one run.
        repeats: the same of further runs.
    Returns:
        {output: {"max_abs", "max_scaled", "max_ulp", "runs"}}, with max_scaled in units of the
        reference's rms; infinite where NaN comes and goes.  An output that a repeat lacks, or has
        in another shape, is left out: that is no noise.
    """
    noise: dict[str, Any] = {}
    for name, value in reference.items():
        ref = comparable_form(value)
        runs = [comparable_form(run[name]) for run in repeats if name in run]
        if len(runs) < len(repeats) or not runs or isinstance(ref, Sample):
            continue
        spread = noise_between(ref, [run for run in runs if not isinstance(run, Sample)])
        if spread is not None:
            noise[name] = spread
    return noise
