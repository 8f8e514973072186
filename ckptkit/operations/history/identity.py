"""Findings about whole checkpoints: broken, equal to the one before, an older one, counters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ckptkit.operations.history.record import MeasuredRun
from ckptkit.operations.history.types import WENT, HistoryFinding, TensorHistory


@dataclass(frozen=True)
class Repeats:
    """Which steps hold what an earlier one held; by index.

    equal: everything as at the step before.  older: all weights as at an earlier one, not as at the
    one before: {index: index of the earlier one}.
    """

    equal: frozenset[int]
    older: Mapping[int, int]

    def own(self, tensor: TensorHistory) -> list[int]:
        """Return the steps of a tensor, in order, without those of an older checkpoint."""
        return [at for at in sorted(tensor.measured) if at not in self.older]


def repeats_of(run: MeasuredRun) -> Repeats:
    """Return which steps repeat others."""
    equal: set[int] = set()
    older: dict[int, int] = {}
    first_with: dict[tuple[tuple[str, str], ...], int] = {}
    last: int | None = None
    for at in run.measured:
        weights = _contents(run.weights, at)
        if last is not None and weights:
            if weights == _contents(run.weights, last):
                is_all = _contents(run.tensors, at) == _contents(run.tensors, last)
                if is_all and run.steps[at].counters == run.steps[last].counters:
                    equal.add(at)
            elif first_with.get(weights, at) < last:
                older[at] = first_with[weights]
        first_with.setdefault(weights, at)
        last = at
    return Repeats(frozenset(equal), older)


def _contents(tensors: Sequence[TensorHistory], at: int) -> tuple[tuple[str, str], ...]:
    return tuple((t.name, t.measured[at].content) for t in tensors if at in t.measured)


def repeat_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield a finding for each run of equal checkpoints, and each older one."""
    order = list(run.measured)
    for first, last in _stretches(order, repeats.equal):
        before = order[order.index(first) - 1]
        until = f"to {run.number(last)} are" if last != first else "is"
        yield run.finding(
            "warning",
            "checkpoint.equal",
            first,
            f"step {run.number(first)} {until} equal to step {run.number(before)} in all values",
            until=last,
        )
        count = order.index(last) - order.index(first) + 1
        if last == order[-1] and count >= run.thresholds.still and not run.steps[last].counters:
            # nothing counts steps here: these may be saves of a run that goes on
            yield run.finding(
                "warning",
                "weights.stopped",
                first,
                f"no layer changes after step {run.number(before)}, to the end: "
                "a learning rate of 0, no gradient, or the same save again and again",
                run.weights,
                until=last,
            )
    for at, earlier in repeats.older.items():
        before = order[order.index(at) - 1]
        yield run.finding(
            "warning",
            "checkpoint.older",
            at,
            f"step {run.number(at)} holds the weights of step {run.number(earlier)}, not what "
            f"follows step {run.number(before)}: an older checkpoint in its place",
            value=float(run.steps[earlier].number),
        )


def _stretches(order: Sequence[int], chosen: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run of neighbours that are chosen."""
    first: int | None = None
    last = -1
    for at in order:
        if at in chosen:
            first = at if first is None else first
            last = at
        elif first is not None:
            yield first, last
            first = None
    if first is not None:
        yield first, last


def optimizer_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield what tells that an optimizer, or the count of steps, did not go on where it was."""
    found: set[int] = set()
    order = list(run.measured)
    for name in dict.fromkeys(name for at in order for name in run.steps[at].counters):
        if not _is_count_of_steps(run, name):
            continue
        values = [(at, run.steps[at].counters[name]) for at in order if _has(run, at, name)]
        longest = max((b - a for (_, a), (_, b) in _pairs(values)), default=0)
        for (_, before), (at, value) in _pairs(values):
            if value >= before or at in repeats.older:
                continue
            found.add(at)
            is_new = value <= 1.5 * longest
            yield run.finding(
                "warning",
                "optimizer.reset" if is_new else "counter.fell",
                at,
                f"{name} falls from {before:,} to {value:,} at step {run.number(at)}: "
                + ("it was not restored" if is_new else "training went on from an earlier step"),
                value=float(value),
            )
    first_with: dict[tuple[tuple[str, str], ...], int] = {}
    lost = _first_without_state(run, order)
    for place, at in enumerate(order):
        slots = _contents([s for s in run.slots if s.size > 1], at)
        earlier = first_with.setdefault(slots, at)
        if not slots or not place or at in found or at in repeats.older or at in repeats.equal:
            continue
        before = order[place - 1]
        if at == lost:
            yield run.finding(
                "warning",
                "optimizer.reset",
                at,
                f"all state of the optimizer is zero at step {run.number(at)}: it was not restored",
                run.slots,
            )
        elif _are_zero(run, at):
            continue
        elif earlier < before and slots != _contents([s for s in run.slots if s.size > 1], before):
            yield run.finding(
                "warning",
                "optimizer.older",
                at,
                f"the optimizer's state at step {run.number(at)} is that of step "
                f"{run.number(earlier)}, the weights are not",
                run.slots,
            )


def _has(run: MeasuredRun, at: int, name: str) -> bool:
    return name in run.steps[at].counters


def _pairs(values: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    return itertools.pairwise(values)


def _is_count_of_steps(run: MeasuredRun, name: str) -> bool:
    """Whether a counter counts what is done, and starts anew only by a fault.

    One that belongs to an optimizer which has a larger one beside it counts something else: how
    long a loss scale has held.
    """
    owner = name.rpartition("/")[0]
    peaks: dict[str, int] = {}
    for at in run.measured:
        for other, value in run.steps[at].counters.items():
            peaks[other] = max(value, peaks.get(other, value))
    beside = [other for other in peaks if other.startswith(f"{owner}/")] if owner else []
    return all(peaks[other] <= peaks[name] for other in beside)


def _first_without_state(run: MeasuredRun, order: Sequence[int]) -> int | None:
    """Return where all state becomes zero after there was some; None where that comes and goes.

    Sums of gradients, which some optimizers keep between two updates, are zero every other time.
    """
    zero = [_are_zero(run, at) for at in order]
    falls = [at for at, was, here in zip(order[1:], zero, zero[1:], strict=False) if here > was]
    return falls[0] if len(falls) == 1 else None


def _are_zero(run: MeasuredRun, at: int) -> bool:
    slots = [s for s in run.slots if at in s.measured and s.size > 1]
    return bool(slots) and all(s.measured[at].statistics.norm == 0.0 for s in slots)


def broken_findings(run: MeasuredRun) -> Iterator[HistoryFinding]:
    """Yield a finding for each checkpoint that is damaged, or not all there."""
    for at, step in enumerate(run.steps):
        if step.problem == WENT:
            yield run.finding("note", "checkpoint.gone", at, f"{step.path}: {WENT}")
        elif step.problem:
            is_missing = "missing" in step.problem or "no such" in step.problem
            yield run.finding(
                "error",
                "checkpoint.incomplete" if is_missing else "checkpoint.damaged",
                at,
                f"{step.path}: {step.problem}",
            )
