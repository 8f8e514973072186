"""The proof of a conversion: what was written, read again and set against the source, bit for bit.

The output is opened afresh by the same readers that any file is given to; its keys, dtypes, shapes
and names come from its own bytes.  Then every tensor is compared by value with where it came from,
bits and all (`ckptkit.compare.tensors`), which also verifies the stored checksums of either side,
so that a damaged source proves nothing.  Last, the two files are aligned by what each says of
itself: a tensor that the output calls by the name of another one is found here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit._io.progress import ProgressMeter
from ckptkit.align.transforms import Transform
from ckptkit.align.types import basis
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.compare.tensors import Delta, Pair, TensorComparison, compare_all
from ckptkit.dtypes import kind
from ckptkit.operations.convert.output_comparison import OutputComparison
from ckptkit.operations.convert.plan import Plan, PlannedTensor
from ckptkit.operations.convert.value_stores import ValueSource, cast_source, transform_source
from ckptkit.results import Result
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, graph_bytes
from ckptkit.text import json_number

_BASES_OF_NAMES = ("key", "structure", "name")


@dataclass(frozen=True)
class Proof(Result):
    """What the proof found.

    tensors, nbytes: compared bit for bit.  failures: one sentence each.  losses: by key of the
    output, what a cast changed.  outputs: the comparison of what the models compute, or why none.
    """

    tensors: int = 0
    nbytes: int = 0
    failures: tuple[str, ...] = ()
    losses: Mapping[str, Delta] = field(default_factory=dict)
    outputs: OutputComparison | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the output."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the proof as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "failures": list(self.failures),
            "worst_loss": worst_loss(self.losses),
            "outputs": self.outputs.to_json() if self.outputs is not None else None,
        }


def prove(
    plan: Plan,
    path: Path,
    executor: Executor | None = None,
    meter: ProgressMeter | None = None,
) -> Proof:
    """Read the output and compare it with what the plan says.

    Args:
        plan: what was to be written.
        path: where it was written.
        executor: where values are compared; None does it here.
        meter: counts the bytes compared.

    Returns:
        The proof; damage to the output is a failure in it.

    Raises:
        What reading a source raises: its damage proves nothing about the output.
    """
    # Keys, dtypes, shapes and graph: where these are wrong, no values are compared.
    output = open_checkpoint(path)
    failures = list(_structure_failures(plan, output))
    if failures:
        return Proof(failures=tuple(failures))
    # Every tensor of numbers or strings, bit for bit.
    tensors = [tensor for tensor in plan.tensors if kind(tensor.output.dtype) != "opaque"]
    pairs = [(tensor, pair) for tensor in tensors for pair in _pairs(tensor, output)]
    comparisons = compare_all([pair for _, pair in pairs], executor, meter=meter)
    crcs: dict[str, int] = {}
    for (tensor, _), comparison in zip(pairs, comparisons, strict=True):
        crcs[tensor.key] = comparison.new_crc
        failures += _value_failures(tensor, comparison)
    # The names that the output gives its tensors, and what casts did to the values.
    failures += _name_failures(plan, output, crcs)
    losses = _losses(plan, output, executor)
    failures += _cast_failures(plan, losses)
    nbytes = sum(output.specs[tensor.key].nbytes for tensor in tensors)
    return Proof(len(tensors), nbytes, tuple(failures), losses)


def _pairs(tensor: PlannedTensor, output: Checkpoint) -> Iterator[Pair]:
    """Yield what is compared: the values of SRC, and what the output makes of them.

    Where values were transformed, those of the output are transformed back, and compared in SRC's
    own order.
    """
    is_sum = any(part.transform.term is not None for part in tensor.parts)
    if not tensor.parts or is_sum:  # of a sum no term can be had back: it is made once more
        values = tensor.values
        yield Pair(values.store, values.key, output.store, tensor.key, bitwise=True)
    for source_part in () if is_sum else tensor.parts:
        # Of SRC the part that a rule takes; of the output the part that it became.
        part, old = source_part.transform.part, source_part.values
        if part is not None:
            old = transform_source([(old, Transform((part,)))])
        if not source_part.transform.is_invertible:  # the other way round: SRC is transformed
            old = transform_source([(old, source_part.transform.without_part)])
            if tensor.cast:
                old = cast_source(old, tensor.output.dtype)
            yield Pair(old.store, old.key, output.store, tensor.key, bitwise=True)
            continue
        inverse = source_part.transform.without_part.inverse(old.spec.shape)
        if tensor.cast:
            old = cast_source(old, tensor.output.dtype)
        new = transform_source([(ValueSource(output.store, tensor.key), inverse)])
        yield Pair(old.store, old.key, new.store, new.key, bitwise=True)


def _structure_failures(plan: Plan, output: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with the keys, dtypes and shapes of the output."""
    planned = {tensor.key: tensor.output for tensor in plan.tensors}
    written = set(output.specs) - ({OBJECT_GRAPH_KEY} if plan.graph is not None else set())
    for key in sorted(planned.keys() - written):
        yield f"{planned[key].name or key} was not written"
    for key in sorted(written - planned.keys()):
        yield f"{output.names[key].name} was written and was not asked for"
    for key in sorted(planned.keys() & written):
        expected, spec = planned[key], output.specs[key]
        if (spec.dtype, spec.shape) != (expected.dtype, expected.shape):
            name = expected.name or key
            yield f"{name} is {spec.dtype} {spec.shape}, not {expected.dtype} {expected.shape}"
    if plan.graph is not None and graph_bytes(output.store) != plan.graph:
        yield "the object graph is not the one that was written"
    for problem in output.problems():
        yield str(problem)


def _value_failures(tensor: PlannedTensor, comparison: TensorComparison) -> Iterator[str]:
    """Yield how the values that were written differ from those of the source."""
    delta = comparison.delta
    if delta.equal:
        return
    worst = f"; worst at {delta.worst.index}" if delta.worst else ""
    name = tensor.source.naming.name if tensor.source else tensor.name
    yield f"{name}: {delta.n_diff:,} of {delta.n:,} elements are not those of the source{worst}"


def _name_failures(plan: Plan, output: Checkpoint, crcs: Mapping[str, int]) -> Iterator[str]:
    """Yield tensors that the two files, by what they say themselves, pair in another way."""
    source_keys = {
        tensor.key: tensor.source.spec.key for tensor in plan.tensors if tensor.source is not None
    }
    by_rule = {tensor.key for tensor in plan.tensors if tensor.evidence.startswith("rule")}
    if plan.options.rules or plan.options.ema or not source_keys:
        return  # the user says what belongs together
    source_names = plan.source.names
    if all(output.names[key].name == source_names[old].name for key, old in source_keys.items()):
        return  # every tensor goes by the name that its source has
    from ckptkit.align.matching import TensorSet, align  # here, since most names stay

    keys = {key for key in source_keys.values() if key in plan.source.specs}
    source = TensorSet(
        {key: plan.source.specs[key] for key in plan.source.specs if key in keys},
        {key: source_names[key] for key in plan.source.specs if key in keys},
        structure=plan.source.structure,
    )
    alignment = align(source, TensorSet(output.specs, output.names, structure=output.structure))
    output_keys: dict[str, list[str]] = {}
    for key, old in source_keys.items():
        output_keys.setdefault(old, []).append(key)
    for match in alignment.pairs:
        planned = output_keys.get(match.old, [])
        if (
            match.new in planned
            or match.new in by_rule
            or basis(match.evidence) not in _BASES_OF_NAMES
        ):
            continue
        if any(crcs.get(key) == crcs.get(match.new) for key in planned):
            continue  # equal tensors: no harm in either name
        old_name, new_name = source_names[match.old].name, output.names[match.new].name
        yield f"{new_name}, by {match.evidence} {old_name} of the source, holds another tensor"


def _losses(plan: Plan, output: Checkpoint, executor: Executor | None) -> dict[str, Delta]:
    """Return what each cast changed, measured between the source and the output."""
    casts = [
        (tensor.key, tensor.uncast_values)
        for tensor in plan.tensors
        if tensor.uncast_values is not None
    ]
    pairs = [Pair(values.store, values.key, output.store, key) for key, values in casts]
    comparisons = compare_all(pairs, executor)
    return {key: comparison.delta for (key, _), comparison in zip(casts, comparisons, strict=True)}


def _cast_failures(plan: Plan, losses: Mapping[str, Delta]) -> Iterator[str]:
    """Yield casts that did more than round: to infinity, or to another integer."""
    for tensor in plan.tensors:
        delta = losses.get(tensor.key)
        if delta is None:
            continue
        if delta.nonfinite:
            yield f"{tensor.name}: {delta.nonfinite:,} finite values became infinite by the cast"
        elif delta.n_diff and kind(tensor.output.dtype) not in ("float", "complex"):
            yield f"{tensor.name}: {delta.n_diff:,} integers became others by the cast"


def worst_loss(losses: Mapping[str, Delta]) -> dict[str, Any] | None:
    """Return the largest loss of all casts as plain values; None where nothing was cast."""
    if not losses:
        return None
    key = max(losses, key=lambda key: (losses[key].max_rel, losses[key].max_abs))
    delta = losses[key]
    return {
        "key": key,
        "tensors": len(losses),
        "changed": sum(not item.equal for item in losses.values()),
        **loss_json(delta),
    }


def loss_json(delta: Delta) -> dict[str, Any]:
    """Return the numbers of one loss; what is not finite becomes a string, as JSON has none."""
    return {
        "n": delta.n,
        "n_diff": delta.n_diff,
        "max_abs": json_number(delta.max_abs),
        "max_rel": json_number(delta.defined_max_rel),
        "rmse": json_number(delta.rmse),
        "rel_l2": json_number(delta.rel_l2),
    }
