"""After outputs differ: would they agree if the inputs were prepared in another way?

The weights are often right, and what feeds the model is not: pixels from 0 to 255 where it was
trained on 0 to 1.  The subject is run once more on inputs prepared in each of the usual ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.operations._check_rows import Reference, rows_of
from ckptkit.operations._verify_findings import Finding

if TYPE_CHECKING:
    import numpy as np

    from ckptkit.operations._check_paired import Paired
    from ckptkit.operations._check_tolerance import Policy
    from ckptkit.runners.spec import RunnerSpec

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]

# What a model may do to its inputs beside what the reference does, and how to undo it.
_WAYS: Mapping[str, Callable[[Array], Array]] = {
    "divided by 255": lambda x: x / 255,
    "multiplied by 255": lambda x: x * 255,
    "mapped from 0..255 to -1..1 (x / 127.5 - 1)": lambda x: x / 127.5 - 1,
    "mapped from -1..1 to 0..255 ((x + 1) * 127.5)": lambda x: (x + 1) * 127.5,
    "mapped from 0..1 to -1..1 (2 x - 1)": lambda x: 2 * x - 1,
    "mapped from -1..1 to 0..1 ((x + 1) / 2)": lambda x: (x + 1) / 2,
}
_CHANNELS = "given with their channels in reverse order (RGB, BGR)"


def explain_by_inputs(
    paired: Paired,
    spec: RunnerSpec,
    held: Reference,
    cases: Mapping[str, Arrays],
    policy: Policy,
) -> list[Finding]:
    """Return a finding if the outputs agree once the inputs are prepared in another way."""
    name = next(iter(cases))
    given = paired.inputs_of(cases[name])
    ways = dict(_ways(given))
    if not ways:
        return []
    what = paired.what
    run = paired.runs.execute(what, spec, list(ways.values()), paired.signature, quiet=True)
    if run is None:
        return []
    one = held._replace(cases={name: held.cases[name]})
    for text, outputs in zip(ways, run.outputs, strict=True):
        mapped = paired.outputs_of(outputs)
        if all(row.result.ok for row in rows_of(one, [mapped], run.environment, spec.text, policy)):
            message = f"on {spec.text} the outputs agree when the inputs are {text}"
            hint = "the weights are right; the preprocessing differs"
            return [Finding("error", "input.scaled", str(what.subject), message, hint)]
    return []


def _ways(given: Arrays) -> Iterator[tuple[str, dict[str, Array]]]:
    for text, way in _WAYS.items():
        prepared = _prepared(given, way)
        if prepared is not None:
            yield text, prepared
    if any(_has_channels(array) for array in given.values()):
        yield (
            _CHANNELS,
            {k: a[..., ::-1].copy() if _has_channels(a) else a for k, a in given.items()},
        )


def _prepared(given: Arrays, way: Callable[[Array], Array]) -> dict[str, Array] | None:
    """Return the inputs with their floats prepared; None where there are none."""
    floats = {key for key, array in given.items() if array.dtype.kind == "f" and array.size}
    if not floats:
        return None
    return {
        key: way(array).astype(array.dtype) if key in floats else array
        for key, array in given.items()
    }


def _has_channels(array: Array) -> bool:
    return array.ndim == 4 and array.shape[-1] == 3 and array.dtype.kind in "fiu"
