"""The proof of a conversion: what was written, read again and set against the source, bit for bit.

The output is opened afresh by the same readers that any file is given to; its keys, dtypes, shapes
and names come from its own bytes.  Then every tensor is compared by value with where it came from,
bits and all (`ckptkit.compare.tensors`), which also verifies the stored checksums of either side,
so that a damaged source proves nothing.  Last, the two files are aligned by what each says of itself: a
tensor that the output calls by the name of another one is found here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit.align.matching import TensorSet, align
from ckptkit.align.transforms import Transform
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.compare.tensors import Comparison, Delta, Pair, compare_all
from ckptkit.dtypes import kind
from ckptkit.operations.convert.output_comparison import Outputs
from ckptkit.operations.convert.plan import Fill, Plan
from ckptkit.operations.convert.value_stores import Origin, cast, moved
from ckptkit.results import Result
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY

_NAMED = ("key", "alias", "path", "full name", "name")


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
    outputs: Outputs | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the output."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return the proof as plain values."""
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
    progress: Callable[[int], None] | None = None,
) -> Proof:
    """Read the output at `path` and compare it with what the plan says.

    progress: called with the bytes done since the last call.
    Raises what reading a source raises; damage to the output is a failure.
    """
    output = open_checkpoint(path)
    failures = list(_structure(plan, output))
    if failures:
        return Proof(failures=tuple(failures))
    fills = [fill for fill in plan.fills if kind(fill.tensor.dtype) != "opaque"]
    compared = [(fill, pair) for fill in fills for pair in _pairs(fill, output)]
    crcs: dict[str, int] = {}
    done = compare_all([pair for _, pair in compared], executor, progress=progress)
    for (fill, _), comparison in zip(compared, done, strict=True):
        crcs[fill.key] = comparison.new_crc
        failures += _difference(fill, comparison)
    failures += _names(plan, output, crcs)
    losses = _losses(plan, output, executor)
    failures += _overflows(plan, losses)
    nbytes = sum(output.specs[fill.key].nbytes for fill in fills)
    return Proof(len(fills), nbytes, tuple(failures), losses)


def _pairs(fill: Fill, output: Checkpoint) -> Iterator[Pair]:
    """Yield what is compared: the values of SRC, and what the output makes of them.

    Where values were moved, those of the output are moved back, and compared in SRC's own order.
    """
    if not fill.pieces:
        yield Pair(fill.origin.store, fill.origin.key, output.store, fill.key, bitwise=True)
    for piece in fill.pieces:
        part, old = piece.transform.part, piece.origin
        if part is not None:
            old = moved([(old, Transform((part,)))])
        back = piece.transform.without_part.inverse(old.spec.shape)
        if fill.cast:
            old = cast(old, fill.tensor.dtype)
        new = moved([(Origin(output.store, fill.key), back)])
        yield Pair(old.store, old.key, new.store, new.key, bitwise=True)


def _structure(plan: Plan, output: Checkpoint) -> Iterator[str]:
    """Yield what is wrong with the keys, dtypes and shapes of the output."""
    wanted = {fill.key: fill.tensor for fill in plan.fills}
    found = set(output.specs) - ({OBJECT_GRAPH_KEY} if plan.graph is not None else set())
    for key in sorted(wanted.keys() - found):
        yield f"{wanted[key].name or key} was not written"
    for key in sorted(found - wanted.keys()):
        yield f"{output.names[key].name} was written and was not asked for"
    for key in sorted(wanted.keys() & found):
        tensor, spec = wanted[key], output.specs[key]
        if (spec.dtype, spec.shape) != (tensor.dtype, tensor.shape):
            name = tensor.name or key
            yield f"{name} is {spec.dtype} {spec.shape}, not {tensor.dtype} {tensor.shape}"
    if plan.graph is not None:
        graph = b"".join(part[0] for _, part in output.store.blocks(OBJECT_GRAPH_KEY))
        if graph != plan.graph:
            yield "the object graph is not the one that was written"
    for problem in output.problems():
        yield str(problem)


def _difference(fill: Fill, comparison: Comparison) -> Iterator[str]:
    delta = comparison.delta
    if delta.equal:
        return
    worst = f"; worst at {delta.worst.index}" if delta.worst else ""
    name = fill.source.naming.name if fill.source else fill.name
    yield f"{name}: {delta.n_diff:,} of {delta.n:,} elements are not those of the source{worst}"


def _names(plan: Plan, output: Checkpoint, crcs: Mapping[str, int]) -> Iterator[str]:
    """Yield tensors that the two files, by what they say themselves, pair in another way."""
    taken = {fill.key: fill.source.spec.key for fill in plan.fills if fill.source is not None}
    ruled = {fill.key for fill in plan.fills if fill.evidence.startswith("rule")}
    if plan.request.rules or plan.request.ema or not taken:
        return  # the user says what belongs together
    if all(output.names[key].name == plan.source.names[old].name for key, old in taken.items()):
        return  # every tensor goes by the name that its source has
    keys = {key for key in taken.values() if key in plan.source.specs}
    source = TensorSet(
        {key: plan.source.specs[key] for key in plan.source.specs if key in keys},
        {key: plan.source.names[key] for key in plan.source.specs if key in keys},
    )
    alignment = align(source, TensorSet(output.specs, output.names))
    by_source: dict[str, list[str]] = {}
    for key, old in taken.items():
        by_source.setdefault(old, []).append(key)
    for match in alignment.pairs:
        meant = by_source.get(match.old, [])
        if match.new in meant or match.new in ruled or match.evidence not in _NAMED:
            continue
        if any(crcs.get(key) == crcs.get(match.new) for key in meant):
            continue  # equal tensors: no harm in either name
        names = plan.source.names[match.old].name, output.names[match.new].name
        yield f"{names[1]}, by {match.evidence} {names[0]} of the source, holds another tensor"


def _losses(plan: Plan, output: Checkpoint, executor: Executor | None) -> dict[str, Delta]:
    """Return what each cast changed, measured between the source and the output."""
    casts = [(fill.key, fill.uncast) for fill in plan.fills if fill.uncast is not None]
    pairs = [Pair(origin.store, origin.key, output.store, key) for key, origin in casts]
    found = compare_all(pairs, executor)
    return {key: done.delta for (key, _), done in zip(casts, found, strict=True)}


def _overflows(plan: Plan, losses: Mapping[str, Delta]) -> Iterator[str]:
    """Yield casts that did more than round: to infinity, or to another integer."""
    for fill in plan.fills:
        delta = losses.get(fill.key)
        if delta is None:
            continue
        if delta.nonfinite:
            yield f"{fill.name}: {delta.nonfinite:,} finite values became infinite by the cast"
        elif delta.n_diff and kind(fill.tensor.dtype) not in ("float", "complex"):
            yield f"{fill.name}: {delta.n_diff:,} integers became others by the cast"


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

    def number(value: float) -> float | str:
        return value if math.isfinite(value) else str(value)

    return {
        "n": delta.n,
        "n_diff": delta.n_diff,
        "max_abs": number(delta.max_abs),
        "max_rel": number(delta.max_rel),
        "rmse": number(delta.rmse),
        "rel_l2": number(delta.rel_l2),
    }
