"""After outputs differ: what one more run of the subject says of the cause.

The weights are often right, and what feeds the model is not: pixels from 0 to 255 where it was
trained on 0 to 1.  The subject is given the inputs prepared in each of the usual ways.  Or the
model was exported as it is for training: then dropout makes every run another one, and batch
normalisation makes each example depend on the others.  So it is given the same inputs twice, and
the first examples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.operations.execution.mapped import ReferenceOutputs, rows_of
from ckptkit.operations.findings import Finding

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays
    from ckptkit.operations.execution.mapped import MappedSubject
    from ckptkit.operations.execution.tolerance import TolerancePolicy
    from ckptkit.runners.spec import RunnerSpec

# What a model may do to its inputs beside what the reference does, and how to undo it.
_WAYS: Mapping[str, Callable[[Array], Array]] = {
    "divided by 255": lambda x: x / 255,
    "multiplied by 255": lambda x: x * 255,
    "mapped from 0..255 to -1..1 (x / 127.5 - 1)": lambda x: x / 127.5 - 1,
    "mapped from -1..1 to 0..255 ((x + 1) * 127.5)": lambda x: (x + 1) * 127.5,
    "mapped from 0..1 to -1..1 (2 x - 1)": lambda x: 2 * x - 1,
    "mapped from -1..1 to 0..1 ((x + 1) / 2)": lambda x: (x + 1) / 2,
}
_NOISY = 1e-2  # in units of an output's rms
_CHANNELS = "given with their channels in reverse order (RGB, BGR)"


def explain_by_inputs(
    paired: MappedSubject,
    spec: RunnerSpec,
    reference_outputs: ReferenceOutputs,
    cases: Mapping[str, Arrays],
    policy: TolerancePolicy,
) -> list[Finding]:
    """Return what is found on the first case: at most one finding, the surest cause."""
    name = next(iter(cases))
    given = paired.inputs_of(cases[name])
    cut = not any(info.part for info in paired.reference.inputs)
    ways, half = dict(_ways(given)), _part(given) if cut else None
    subject = str(paired.resolved.subject)
    run = None
    for part in (half, None) if half else (None,):  # a model may want batches of one size
        requests = [given, given, *ways.values(), *([part] if part else [])]
        run = paired.runs.execute(paired.resolved, spec, requests, paired.signature, quiet=True)
        if run is not None:
            break
    if run is None:
        return []
    environment = run.environment

    def agree(reference: Mapping[str, Any], outputs: Arrays) -> bool:
        one = reference_outputs._replace(cases={name: reference})
        rows = rows_of(one, [outputs], environment, spec.text, policy)
        return all(row.result.ok or row.result.status == "meaningless" for row in rows)

    once, again, *others = (paired.outputs_of(outputs) for outputs in run.outputs)
    if not agree(once, again):
        message = f"on {spec.text} the same inputs give other outputs each time"
        hint = "something random is active, as dropout in training mode; was training=True saved?"
        return [Finding("error", "output.random", subject, message, hint)]
    if part and not agree(*_halves(once, others.pop(), given)) and not _is_noisy(reference_outputs):
        message = f"on {spec.text} the outputs of an example depend on the others of its batch"
        hint = "as batch normalisation in training mode has it; was training=True saved?"
        return [Finding("error", "output.batch", subject, message, hint)]
    reference = reference_outputs.cases[name]
    if not _would_tell(reference, once, len(ways)):
        return []
    for text, outputs in zip(ways, others, strict=True):
        if agree(reference, outputs):
            message = f"on {spec.text} the outputs agree when the inputs are {text}"
            hint = "the weights are right; the preprocessing differs"
            return [Finding("error", "input.scaled", subject, message, hint)]
    return []


def _would_tell(reference: Mapping[str, Any], outputs: Arrays, ways: int) -> bool:
    """Whether outputs that now differ would seldom agree by chance in one of so many ways.

    Labels of two classes would, of a few examples: `ckptkit.model_io.chance` has the rule.
    """
    import numpy as np

    from ckptkit.dtypes import dtype_of_numpy, kind
    from ckptkit.model_io.chance import changed_points, kinds_of, log_of_chance, never_by_chance
    from ckptkit.model_io.formulas import CLOSE
    from ckptkit.model_io.sampling import Sample

    log_chance = 0.0
    for name, whole in reference.items():
        new: Array | None = outputs.get(name)
        known: Array = whole.values if isinstance(whole, Sample) else whole
        if new is None or tuple(whole.shape) != new.shape or not known.size:
            continue
        if isinstance(whole, Sample):
            new = new.reshape(-1)[whole.places]
        sort = kind(dtype_of_numpy(known.dtype))
        if sort in ("string", "opaque"):
            texts = len(set(known.reshape(-1).tolist()) | set(new.reshape(-1).tolist()))
            log_chance += log_of_chance(float((known != new).sum()), texts)
            continue
        ref, late = known.astype(np.float64), new.astype(np.float64)
        usual = ref[np.isfinite(ref)]
        room = CLOSE * float(np.sqrt(np.mean(usual**2))) if sort == "float" and usual.size else 0.0
        points = changed_points(ref, late, room) if sort == "float" else int((ref != late).sum())
        log_chance += log_of_chance(points, kinds_of(ref, late, room))
    return never_by_chance(ways, log_chance)


def _part(given: Arrays) -> dict[str, Array] | None:
    """Return the first half of a batch; None where there is none to be halved."""
    lengths = {array.shape[0] for array in given.values() if array.ndim}
    if len(lengths) != 1 or any(not array.ndim for array in given.values()):
        return None
    count = lengths.pop()
    return {key: array[: count // 2] for key, array in given.items()} if count > 1 else None


def _halves(whole: Arrays, half: Arrays, given: Arrays) -> tuple[dict[str, Array], ...]:
    """Return the first examples of the whole batch's outputs, and the same alone."""
    count = len(next(iter(given.values())))
    names = [
        name
        for name, array in whole.items()
        if array.ndim and len(array) == count and half[name].shape == (count // 2, *array.shape[1:])
    ]
    return {name: whole[name][: count // 2] for name in names}, {name: half[name] for name in names}


def _is_noisy(reference_outputs: ReferenceOutputs) -> bool:
    """Whether the reference itself gave other outputs for examples alone, when it was recorded."""
    return any(noise.get("max_scaled", 0.0) > _NOISY for noise in reference_outputs.noise.values())


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
