"""How the values of one layer become those of another: axes, gates, packed projections.

Each library's layout is fixed (sources: keras.layers, torch.nn; docs/pytorch.md has the table), so
which steps lead from one to the other follows from who keeps which order, not from the shapes: a
square kernel is transposed as any other.  Where names do not tell the order, all steps that fit
the shapes are given, and more than one is for a person to decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ckptkit.align.transforms import (
    AddInto,
    JoinInto,
    ReorderBlocks,
    Reshape,
    Shape,
    Step,
    TakePart,
    Transform,
    Transpose,
)
from ckptkit.operations.map.layers import (
    BIAS,
    BIAS_OF_INPUT,
    BIAS_OF_STATE,
    EMBEDDING,
    KERNEL,
    OUT_FIRST,
    RECURRENT,
    SCALE,
    VALUE,
    LayerTensor,
    LayerWeights,
)

_GRU = 3  # gates; an LSTM has four, a simple RNN one
_TO_KERAS = ReorderBlocks("rzh", "zrh")
_TO_TORCH = ReorderBlocks("zrh", "rzh")


class Move(NamedTuple):
    """One tensor that becomes (a part of) another; `options`: what may be done on the way."""

    source: LayerTensor
    target: LayerTensor
    options: tuple[Transform, ...]


class LayerMoves(NamedTuple):
    """How one layer becomes another.  kept: members of the target that stay as they are."""

    moves: tuple[Move, ...]
    kept: tuple[LayerTensor, ...] = ()


def fit(source: LayerWeights, target: LayerWeights, *, may_lack: bool = False) -> LayerMoves | None:
    """Return how the tensors of one layer become those of another; None where they cannot.

    may_lack: whether the source may lack a bias or a scale that the target has, which then has to
    be zeros or ones there: a convolution without a bias is one with a bias of zeros.
    """
    kept: tuple[LayerTensor, ...] = ()
    if may_lack:
        kept = tuple(
            member
            for role, member in target.by_role.items()
            if role in (BIAS, SCALE) and role not in source.by_role
        )
        if not kept or len(kept) == len(target.members):
            return None
        members = tuple(member for member in target.members if member not in kept)
        target = LayerWeights(target.path, members, target.place)
    found = _fit(source, target)
    return LayerMoves(found.moves, (*found.kept, *kept)) if found is not None else None


def _fit(source: LayerWeights, target: LayerWeights) -> LayerMoves | None:
    if RECURRENT in source.by_role or RECURRENT in target.by_role:
        return _recurrent(source, target)
    moves = []
    for one, other in _by_role(source, target):
        options = tuple(dict.fromkeys(_options(one, other, target)))
        if not options:
            return None
        moves.append(_move(one, other, options))
    return LayerMoves(tuple(moves)) if moves else None


def _by_role(
    source: LayerWeights, target: LayerWeights
) -> Iterator[tuple[LayerTensor, LayerTensor]]:
    """Yield the members that correspond; none where the layers are of other kinds."""
    if len(source.by_role) < len(source.members) or len(target.by_role) < len(target.members):
        return
    if source.by_role.keys() == target.by_role.keys():
        for role, member in source.by_role.items():
            yield member, target.by_role[role]
    elif len(source.members) == len(target.members) == 1:
        [one], [other] = source.members, target.members
        roles = {one.role, other.role}
        # `weight` is what torch.nn calls the values of an embedding or an activation, too.
        if VALUE in roles or roles <= {KERNEL, EMBEDDING} or (SCALE in roles and BIAS not in roles):
            yield one, other


def _options(source: LayerTensor, target: LayerTensor, layer: LayerWeights) -> Iterator[Transform]:
    """Yield what may be done to a tensor to make another of it, what is most likely first."""
    before, after = source.shape, target.shape
    roles = {source.role, target.role}
    if roles == {KERNEL} or (KERNEL in roles and VALUE in roles):
        yield from _kernel(source, target)
    elif before == after:
        yield Transform()
    elif _squeezed(before) == _squeezed(after):
        yield Transform((Reshape(after),))
    elif (
        roles == {BIAS} and math.prod(before) == math.prod(after) and 1 in map(len, (before, after))
    ):
        yield Transform((Reshape(after),))  # [heads, size] of an einsum


def _kernel(source: LayerTensor, target: LayerTensor) -> Iterator[Transform]:
    before, after = source.shape, target.shape
    if source.order and source.order == target.order:
        if before == after:
            yield Transform()
        elif before == after[::-1] and len(before) == 2:
            yield Transform((Transpose(),))
        return
    found = []
    if source.order == OUT_FIRST or not source.order:
        found += list(_to_in_first(before, after))
    if target.order == OUT_FIRST or not target.order:
        found += [steps.inverse(after) for steps in _to_in_first(after, before)]
    if before == after and not (source.order and target.order and found):
        found.append(Transform())  # names of unknown order; or a layout that no convention has
    yield from found


def _to_in_first(before: Shape, after: Shape) -> Iterator[Transform]:
    """Yield what makes [*window, in, out] of [out, in, *window]."""
    rank = len(before)
    if rank == 2:
        turned = before[::-1]
        if after == turned:
            yield Transform((Transpose(),))
        elif math.prod(after) == math.prod(before) and (
            (len(after) == 3 and (after[0] == turned[0] or after[-1] == turned[1]))
            or (after[-2:] == turned and set(after[:-2]) == {1})
        ):
            yield Transform((Transpose(), Reshape(after)))
    elif rank > 2:
        window = before[2:]
        axes = (*range(2, rank), 1, 0)
        turn = Transpose() if axes == tuple(range(rank))[::-1] else Transpose(axes)
        if after == (*window, before[1], before[0]):
            yield Transform((turn,))
        elif set(window) == {1} and after == (before[1], before[0]):
            yield Transform((turn, Reshape(after)))
        elif (
            before[1] == 1
            and len(after) == rank
            and after[:-2] == window
            and after[-2] * after[-1] == before[0]
        ):  # a depthwise convolution: a group for each channel
            groups = Reshape((after[-2], after[-1], *window))
            yield Transform((groups, Transpose((*range(2, rank), 0, 1))))


def _squeezed(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


# -- recurrent layers ------------------------------------------------------------------------------


def _recurrent(source: LayerWeights, target: LayerWeights) -> LayerMoves | None:
    if RECURRENT not in source.by_role or RECURRENT not in target.by_role:
        return None
    orders = source.by_role[RECURRENT].order, target.by_role[RECURRENT].order
    if orders[0] == orders[1]:
        return _same(source, target)
    is_from_torch = orders[0] == OUT_FIRST
    torch, keras = (source, target) if is_from_torch else (target, source)
    gates = _gates(torch, keras)
    if not gates:
        return None
    turn: tuple[Step, ...] = (Transpose(),)
    if gates == _GRU:
        turn = (_TO_KERAS, *turn) if is_from_torch else (*turn, _TO_TORCH)
    moves = [
        _move(source.by_role[role], target.by_role[role], (Transform(turn),))
        for role in (KERNEL, RECURRENT)
    ]
    biases = [
        torch.by_role[role] for role in (BIAS_OF_INPUT, BIAS_OF_STATE) if role in torch.by_role
    ]
    bias = keras.by_role.get(BIAS)
    if bias is None or len(biases) < 2:
        return LayerMoves(tuple(moves)) if bias is None and not biases else None
    found = _biases(biases, bias, gates, is_from_torch)
    return LayerMoves((*moves, *found.moves), found.kept) if found is not None else None


def _biases(
    biases: list[LayerTensor], bias: LayerTensor, gates: int, is_from_torch: bool
) -> LayerMoves | None:
    """Return how the two biases of torch.nn and the one of Keras become each other."""
    length = biases[0].shape[0]
    if gates == _GRU:
        if bias.shape != (2, length):  # reset_after=False, which torch.nn does not compute
            return None
        moves = []
        for number, one in enumerate(biases, 1):
            if is_from_torch:
                steps = (_TO_KERAS, Reshape((1, length)), JoinInto(number, 2))
                moves.append(Move(one, bias, (Transform(steps),)))
            else:
                steps_back = (TakePart(number, 2), Reshape((length,)), _TO_TORCH)
                moves.append(Move(bias, one, (Transform(steps_back),)))
        return LayerMoves(tuple(moves))
    if bias.shape != (length,):
        return None
    if is_from_torch:
        return LayerMoves(
            tuple(
                Move(one, bias, (Transform((AddInto(number, 2),)),))
                for number, one in enumerate(biases, 1)
            )
        )
    return LayerMoves((Move(bias, biases[0], (Transform(),)),), (biases[1],))


def _gates(torch: LayerWeights, keras: LayerWeights) -> int:
    """Return how many gates both layers have; 0 where they differ."""
    if not {KERNEL, RECURRENT} <= torch.by_role.keys() & keras.by_role.keys():
        return 0
    kernels = [layer.by_role[role] for layer in (torch, keras) for role in (KERNEL, RECURRENT)]
    vectors = [m for layer in (torch, keras) for m in layer.members if m not in kernels]
    if any(len(m.shape) != 2 for m in kernels) or any(len(m.shape) not in (1, 2) for m in vectors):
        return 0  # convolutions over time, which torch.nn does not have
    rows, units = torch.by_role[RECURRENT].shape
    inputs = torch.by_role[KERNEL].shape[-1]
    fits = keras.by_role[RECURRENT].shape == (units, rows) and keras.by_role[KERNEL].shape == (
        inputs,
        rows,
    )
    return rows // units if fits and units and rows % units == 0 else 0


def _same(source: LayerWeights, target: LayerWeights) -> LayerMoves | None:
    if source.by_role.keys() != target.by_role.keys():
        return None
    pairs = [(member, target.by_role[role]) for role, member in source.by_role.items()]
    if any(one.shape != other.shape for one, other in pairs):
        return None
    return LayerMoves(tuple(_move(one, other, (Transform(),)) for one, other in pairs))


def _move(source: LayerTensor, target: LayerTensor, options: tuple[Transform, ...]) -> Move:
    """Return a move, with the parts of packed tensors that its ends are."""
    before: tuple[Step, ...] = (TakePart(*source.part),) if source.part is not None else ()
    after: tuple[Step, ...] = (JoinInto(*target.part),) if target.part is not None else ()
    whole = tuple(Transform((*before, *steps.steps, *after)) for steps in options)
    return Move(source, target, whole)
