"""Findings about what does not move: layers, units, the whole model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from ckptkit.operations.history.identity import Repeats
from ckptkit.operations.history.record import MeasuredRun, has_no_numbers, layers_text, names_text
from ckptkit.operations.history.types import HistoryFinding, TensorHistory
from ckptkit.text import count_text

_NEGLIGIBLE = 1e-6  # of a weight's norm: about the last digit of a float32
_COLLAPSED = 1e-3  # of the usual update
_MOST_OF_A_LAYER = 0.5  # of its elements; a bias alone that gets no gradient is no frozen layer


def movement_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield what stopped moving, and what never moved."""
    streaks = {t.name: _streak(t, repeats) for t in run.weights}
    still = run.thresholds.still
    stopped: dict[int, list[TensorHistory]] = {}
    never: list[TensorHistory] = []
    for tensor in run.trained:
        first, length, has_moved = streaks[tensor.name]
        if length >= still and has_moved:
            stopped.setdefault(first, []).append(tensor)
        elif length >= still:
            never.append(tensor)
    for first, tensors in sorted(_joined(run, stopped, never).items()):
        yield from _stopped(run, first, tensors, never, stopped)
    yield from _never(run, never, stopped)
    if run.tells_training:
        frozen = [
            t
            for t in run.weights
            if t.is_trained is False
            and streaks[t.name][1] >= still
            and not streaks[t.name][2]
            and len(t.shape) > 1
        ]
        if frozen:
            yield run.finding(
                "note",
                "layer.not-trained",
                min(frozen[0].measured),
                f"never moved, and no optimizer trains it: {layers_text(frozen)}",
                frozen,
            )


def _streak(tensor: TensorHistory, repeats: Repeats) -> tuple[int, int, bool]:
    """Return where the last stretch without any change begins, its length, whether it moved before.

    The length is in updates; steps that repeat the one before in everything are none.  What is left
    of a momentum after its cause is gone moves weights for some steps, ever less: such a stretch
    begins where the updates collapse.
    """
    order = repeats.own(tensor)
    steps = [
        (at, _ratio(tensor, before, at))
        for before, at in itertools.pairwise(order)
        if at not in repeats.equal and not has_no_numbers(tensor, at)
    ]
    moved = [ratio for _, ratio in steps if ratio > _NEGLIGIBLE]
    usual = median(moved) if moved else 0.0
    length = 0
    for _, ratio in reversed(steps):
        if ratio and not (ratio <= _NEGLIGIBLE and ratio <= _COLLAPSED * usual):
            break
        length += 1
    start = len(steps) - length
    if length and 0 < start < len(steps) and 0 < steps[start - 1][1] < usual / 20:
        while start > 1 and steps[start - 1][1] < 0.3 * steps[start - 2][1]:
            start -= 1
    first = steps[start][0] if length else (order[0] if order else 0)
    return first, len(steps) - start if length else 0, start > 0


def _ratio(tensor: TensorHistory, before: int, at: int) -> float:
    """Return |update| / |weight| at a step; 0 where nothing changed, infinite where not known."""
    here = tensor.measured[at]
    if here.content == tensor.measured[before].content:
        return 0.0
    ratio = tensor.ratio(at)
    return ratio if ratio is not None and ratio > 0 else math.inf


def _joined(
    run: MeasuredRun, stopped: dict[int, list[TensorHistory]], never: Sequence[TensorHistory]
) -> dict[int, list[TensorHistory]]:
    """Return what stopped by step; where all did within a few steps, as one.

    A learning rate that fades reaches the last digit of one layer before that of another.
    """
    still = [tensor for tensors in stopped.values() for tensor in tensors]
    kernels = _kernels(run, never)
    if len(stopped) < 2 or not all(tensor in still for tensor in kernels):
        return stopped
    order = list(run.measured)
    last = order.index(max(stopped))
    near = [at for at in stopped if order.index(at) > last - run.thresholds.still]
    together = [tensor for at in sorted(near) for tensor in stopped[at]]
    return {at: t for at, t in stopped.items() if at not in near} | {min(near): together}


def _kernels(run: MeasuredRun, never: Sequence[TensorHistory]) -> list[TensorHistory]:
    """Return the trained matrices that ever moved; of a model without any, all that is trained."""
    matrices = [t for t in run.trained if len(t.shape) > 1 and t not in never]
    return matrices or [t for t in run.trained if t not in never]


def _stopped(
    run: MeasuredRun,
    first: int,
    tensors: Sequence[TensorHistory],
    never: Sequence[TensorHistory],
    stopped: Mapping[int, Sequence[TensorHistory]],
) -> Iterator[HistoryFinding]:
    """Yield what stopped at one step: the whole model, or layers."""
    last = run.measured[-1]
    before = max(at for at in run.measured if at < first)
    since = f"does not change after step {run.number(before)}"
    kernels = _kernels(run, never)
    earlier = [t for at, those in stopped.items() if at < first for t in those]
    is_last = all(t in tensors or t in earlier for t in kernels)
    if len(kernels) > 1 and is_last and sum(t in tensors for t in kernels) > len(kernels) / 2:
        yield run.finding(
            "warning",
            "weights.stopped",
            first,
            f"no layer {since.replace('does not change', 'changes')}, to the end: "
            "a learning rate of 0, or no gradient",
            tensors,
            until=last,
        )
        return
    whole, parts = _layers_of(run, tensors)
    if whole:
        yield run.finding(
            "warning",
            "layer.stopped",
            first,
            f"{layers_text(whole)} {since}",
            whole,
            until=last,
        )
    if parts:
        yield run.finding(
            "note", "tensor.stopped", first, f"{names_text(parts)} {since}", parts, until=last
        )


def _never(
    run: MeasuredRun, never: Sequence[TensorHistory], stopped: dict[int, list[TensorHistory]]
) -> Iterator[HistoryFinding]:
    if not never:
        return
    first = min(min(t.measured) for t in never)
    last = run.measured[-1]
    if len(never) == len(run.trained) and not stopped:
        if _goes_on(run):
            yield run.finding(
                "warning",
                "weights.never-moved",
                first,
                "no weight changes from the first step to the last, though training goes on: "
                "a learning rate of 0, or no gradient",
                never,
                until=last,
            )
        return
    whole, parts = _layers_of(run, never)
    if whole:
        told = run.tells_training
        why = "" if told else "; no file tells whether it is trained"
        yield run.finding(
            "warning" if told else "note",
            "layer.never-moved",
            first,
            f"{layers_text(whole)} {'is trained, and ' if told else ''}never moved{why}",
            whole,
            until=last,
        )
    if parts:
        text = f"{names_text(parts)} never moved"
        yield run.finding("note", "tensor.never-moved", first, text, parts, until=last)


def _layers_of(
    run: MeasuredRun, still: Sequence[TensorHistory]
) -> tuple[list[TensorHistory], list[TensorHistory]]:
    """Return tensors that are most of their layer, and the others."""
    whole: list[TensorHistory] = []
    parts: list[TensorHistory] = []
    for tensor in still:
        beside = [t for t in run.trained if t.layer == tensor.layer]
        size = sum(t.size for t in still if t.layer == tensor.layer)
        is_most = size >= _MOST_OF_A_LAYER * sum(t.size for t in beside)
        (whole if is_most else parts).append(tensor)
    return whole, parts


def _goes_on(run: MeasuredRun) -> bool:
    """Whether something tells that training went on: counters, or an optimizer's state."""
    counters = {tuple(run.steps[at].counters.items()) for at in run.measured}
    if len(counters) > 1:
        return True
    return any(len({m.content for m in slot.measured.values()}) > 1 for slot in run.slots)


# --- units ----------------------------------------------------------------------------------------


def unit_findings(run: MeasuredRun, repeats: Repeats) -> Iterator[HistoryFinding]:
    """Yield columns of kernels that are zeros at the end, or stand still while others move.

    By the weights alone these are heuristics: what a unit computes is in no checkpoint.
    """
    for tensor in run.matrices:
        order = repeats.own(tensor)
        contents = {tensor.measured[at].content for at in order}
        if tensor.units and len(order) > 1 and len(contents) > 1:
            yield from _zero_units(run, tensor, order)
            yield from _still_units(run, tensor, order, repeats)
            yield from _saturated_units(run, tensor, order)


def _zero_units(
    run: MeasuredRun, tensor: TensorHistory, order: Sequence[int]
) -> Iterator[HistoryFinding]:
    dead = tensor.measured[order[-1]].zero_units
    if not dead:
        return
    first = _since(dead, [(at, tensor.measured[at].zero_units) for at in order])
    count = dead.bit_count()
    since = "from the first step on" if first == order[0] else f"from step {run.number(first)} on"
    yield run.finding(
        "warning",
        "units.dead",
        first,
        f"{count_text(count, 'unit')} of {tensor.units:,} of {tensor.name} "
        f"{'is' if count == 1 else 'are'} all zeros {since} (dead, as far as weights tell)",
        [tensor],
        until=order[-1],
        value=count / tensor.units,
    )


def _since(units: int, masks: Sequence[tuple[int, int]]) -> int:
    """Return the index from which on any of the units is set to the end."""
    first = masks[-1][0]
    for at, mask in reversed(masks):
        units &= mask
        if not units:
            break
        first = at
    return first


def _still_units(
    run: MeasuredRun, tensor: TensorHistory, order: Sequence[int], repeats: Repeats
) -> Iterator[HistoryFinding]:
    updates = [
        (at, u.still_units)
        for at in order
        for u in (tensor.measured[at].update,)
        if u and at - 1 not in repeats.older  # an update from there is of both
    ]
    # while the whole tensor stands still, nothing is said of its units
    updates = [(at, mask) for (at, mask) in updates if tensor.measured[at].update != (0.0, None, 0)]
    most = int(run.thresholds.still)
    if len(updates) < most or updates[-1][0] != order[-1]:
        return
    still = ~tensor.measured[order[-1]].zero_units
    for _at, mask in updates[-most:]:
        still &= mask
    if still <= 0:
        return
    first = _since(still, updates)
    count, share = still.bit_count(), still.bit_count() / tensor.units
    yield run.finding(
        "warning" if share >= run.thresholds.dead else "note",
        "units.still",
        first,
        f"{count_text(count, 'unit')} of {tensor.units:,} of {tensor.name} "
        f"{'does' if count == 1 else 'do'} not move from step {run.number(first)} on, while others "
        "do (dead, as far as weights tell)",
        [tensor],
        until=order[-1],
        value=share,
    )


def _saturated_units(
    run: MeasuredRun, tensor: TensorHistory, order: Sequence[int]
) -> Iterator[HistoryFinding]:
    count = tensor.measured[order[-1]].saturated_units
    if count and not tensor.measured[order[0]].saturated_units:
        first = next(at for at in order if tensor.measured[at].saturated_units)
        yield run.finding(
            "note",
            "units.saturated",
            first,
            f"{count_text(count, 'unit')} of {tensor.units:,} of {tensor.name}: a norm of more "
            f"than {run.thresholds.saturated:g} times the median of its columns (saturated, as far "
            "as weights tell)",
            [tensor],
            until=order[-1],
            value=count / tensor.units,
        )
