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
from ckptkit.model_io.measure import kept, measure
from ckptkit.model_io.measure import noise as noise_between
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
    """Return a verdict per output: those of the reference in its order, then those only in `new`.

    noise: by output, as `noise_of` measures it; {} and None mean that none is known.
    Raises UsageError for arrays of Python objects other than text.
    """
    known = {name: kept(value) for name, value in reference.items()}
    given = {name: kept(value) for name, value in new.items()}
    arrays = {name: value for name, value in given.items() if not isinstance(value, Sample)}
    results = []
    for name, ref in known.items():
        if name not in arrays:
            results.append(_missing(name, arrays))
            continue
        found = measure(name, ref, arrays[name], tolerance, (noise or {}).get(name, {}))
        if not found.ok:
            found = replace(found, hints=hints(name, known, arrays, found))
        results.append(found)
    for name in arrays:
        if name not in known:
            results.append(_extra(name, known))
    return renamed(tuple(results), known, arrays)


def _missing(name: str, arrays: Mapping[str, Array]) -> OutputResult:
    listed = ", ".join(arrays) or "none"
    return OutputResult(name, "missing", message=f"no output {name!r}; there are: {listed}")


def _extra(name: str, known: Mapping[str, Any]) -> OutputResult:
    listed = ", ".join(known) or "none"
    return OutputResult(name, "extra", message=f"output {name!r} is not recorded; those: {listed}")


def noise_of(reference: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {output: {"max_abs", "max_scaled", "max_ulp", "runs"}} over repeated runs.

    max_scaled: max_abs in units of the reference's rms.  A repeat that lacks an output, or has it
    in another shape, leaves it out: that is no noise.  Infinite where NaN comes and goes.
    """
    found: dict[str, Any] = {}
    for name, value in reference.items():
        ref = kept(value)
        runs = [kept(run[name]) for run in repeats if name in run]
        if len(runs) < len(repeats) or not runs or isinstance(ref, Sample):
            continue
        noise = noise_between(ref, [run for run in runs if not isinstance(run, Sample)])
        if noise is not None:
            found[name] = noise
    return found
