"""`ckptkit.map`: which tensor of SRC is which of DST, proposed as rules for `convert`.

Names, shapes, layouts and order say it (`pairing`, `layouts`); values are not asked, since models
that are to become each other hold other ones.  Nothing is run, so a map is unproven until `check
--against` has compared what both compute.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from ckptkit._io.files import taking_paths
from ckptkit.align.transforms import Reshape, Transform, Transpose
from ckptkit.align.types import TensorSet
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.map.layers import (
    BIAS,
    IN_FIRST,
    KERNEL,
    MEAN,
    OUT_FIRST,
    RECURRENT,
    SCALE,
    VARIANCE,
    LayerTensor,
    LayerWeights,
    has_packed_attention,
    layers_of,
)
from ckptkit.operations.map.layouts import Move
from ckptkit.operations.map.pairing import LayerPair, LayerPairing, Undecided, pair_layers
from ckptkit.operations.map.result import MapRule, OpenTensor, ProposedMap
from ckptkit.stores.registry import format_of
from ckptkit.text import count_text, list_text
from ckptkit.wording import say

_CONTRADICTION = "the shapes of other kernels say both that kernels are transposed and are not"


@taking_paths
def map(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> ProposedMap:
    """Propose which tensor of SRC becomes which of DST, and how its values are moved.

    Args:
        src: the file that has the values.
        dst: a file of the structure that they are to go into; its values do not count.

    Returns:
        The rules, as `convert(src, ..., like=dst, rules=...)` takes them, and what is left open.

    Raises:
        UsageError: one of them holds no weights.
        CkptkitError: one of them cannot be read.
    """
    with open_checkpoint(src) as source, open_checkpoint(dst) as target:
        sides = _tensor_set(source), _tensor_set(target)
        packed = [has_packed_attention(side) for side in sides]
        layers = [
            layers_of(side, _keeps_order(file), taken_apart=sum(packed) == 1)
            for side, file in zip(sides, (source, target), strict=True)
        ]
        for file, found in zip((source, target), layers, strict=True):
            if not found:
                raise UsageError("holds no weights", where=str(file.path))
        pairing = pair_layers(*layers)
        return _Proposal(source, target, pairing, layers).result()


class _Proposal:
    """Makes rules of pairs of layers."""

    def __init__(
        self,
        source: Checkpoint,
        target: Checkpoint,
        pairing: LayerPairing,
        layers: Sequence[Sequence[LayerWeights]],
    ) -> None:
        self.source, self.target, self.pairing = source, target, pairing
        self.rules: list[MapRule] = []
        self.open: list[OpenTensor] = []
        self.kept: list[str] = []
        self.unplaced: list[str] = []  # of DST
        partners = {pair.target: pair.source for pair in pairing.pairs}
        self.widths = {
            layer: width
            for layer in layers[1]
            if (width := _channels(layer, partners.get(layer))) is not None
        }
        self.order = sorted(
            (layer for layer in layers[1] if layer.place is not None),
            key=lambda layer: layer.place or 0,
        )
        self.images = [shape for file in (source, target) for shape in _image_shapes(file)]
        self.votes: dict[tuple[str, str], set[bool]] = {}
        for orders, is_turned in (vote for pair in pairing.pairs for vote in _votes(pair)):
            self.votes.setdefault(orders, set()).add(is_turned)

    def result(self) -> ProposedMap:
        for pair in self.pairing.pairs:
            self._add(pair)
        for group in self.pairing.undecided:
            self.open += self._candidates(group)
        left = [[m.name for layer in side for m in layer.members] for side in self.pairing.left]
        left[1] += self.unplaced
        if not format_of(self.target.store.format).structure:  # nothing else keeps them there
            names = self.target.names.values()
            self.kept += [naming.name for naming in names if naming.role == "counter"]
        return ProposedMap(
            src=self.source.path,
            dst=self.target.path,
            rules=tuple(self.rules),
            open=tuple(self.open),
            unmatched_sources=tuple(dict.fromkeys(left[0])),
            unmatched_targets=tuple(dict.fromkeys(left[1])),
            kept=tuple(self.kept),
            notes=tuple(self._notes()),
        )

    def _add(self, pair: LayerPair) -> None:
        """Add what one pair of layers gives: rules, and tensors that are left open."""
        for member in pair.fit.kept:
            (self.kept if self._does_nothing(member) else self.unplaced).append(member.name)
        for move in pair.fit.moves:
            options, why_open = self._options(pair.target, move)
            rules = [MapRule(move.source.name, move.target.name, o, pair.why) for o in options]
            if len(rules) == 1:
                self.rules.append(rules[0])
            else:
                self.open.append(
                    OpenTensor(move.target.name, move.target.shape, tuple(rules), why_open)
                )

    def _options(self, target: LayerWeights, move: Move) -> tuple[Sequence[Transform], str]:
        """Return what may be done to a tensor, and why more than one thing may be."""
        options = list(move.options)
        if _is_dense(move) and RECURRENT not in target.by_role:
            votes = self.votes.get((move.source.order, move.target.order))
            if _is_square(move) and votes:
                turned, plain = Transform((Transpose(),)), Transform()
                if len(votes) == 2:
                    return [turned, plain], _CONTRADICTION
                options = [turned if True in votes else plain]
            if len(options) == 1:
                split = self._after_flatten(target, move)
                if split:
                    return [*options, split], (
                        "its input may be a flattened image, with the channels last or first"
                    )
        return options, "its name does not tell the order of its axes"

    def _after_flatten(self, target: LayerWeights, move: Move) -> Transform | None:
        """Return how rows move where a dense layer's input was flattened with channels first.

        torch.nn keeps channels before the window, Keras behind it, so what `flatten` gives is in
        another order, unless the module turned it before.
        """
        is_from_torch = move.source.order == OUT_FIRST
        if not self.widths or {move.source.order, move.target.order} != {IN_FIRST, OUT_FIRST}:
            return None
        kernel = move.target if is_from_torch else move.source
        rows, columns = kernel.shape
        channels = self._channels_before(target, rows)
        if channels < 2 or rows == channels or rows % channels:
            return None
        window = rows // channels
        to_keras = (
            Transpose(),
            Reshape((channels, window, columns)),
            Transpose((1, 0, 2)),
            Reshape((rows, columns)),
        )
        steps = Transform(to_keras)
        return steps if is_from_torch else steps.inverse((columns, rows))

    def _channels_before(self, target: LayerWeights, rows: int) -> int:
        """Return how many channels an image has that a dense layer may take flattened; 0 for none.

        They are those of the convolution before it; before any layer, of a norm or of the input.
        """
        of_input = next((s[-1] for s in self.images if math.prod(s) == rows), 0)
        if target not in self.order:
            fitting = [count for count in self.widths.values() if count and rows % count == 0]
            return 0 if rows in self.widths.values() else max(fitting, default=of_input)
        channels = None
        for layer in self.order[: self.order.index(target)]:
            own = self.widths.get(layer)
            if own is None and channels is None:
                own = _channels_of_norm(layer)
            channels = channels if own is None else own
        return of_input if channels is None else channels

    def _candidates(self, group: Undecided) -> Iterator[OpenTensor]:
        """Yield the tensors of the targets of a group, with a rule for each that may go there."""
        for target in group.targets:
            by_target: dict[tuple[str, str], list[MapRule]] = {}
            shapes: dict[str, tuple[int, ...]] = {}
            for source in group.sources:
                found = group.fits.get((source, target))
                for move in found.moves if found is not None else ():
                    shapes[move.target.name] = move.target.shape
                    for option in self._options(target, move)[0]:
                        slot = move.target.name, str(option.into or option.term or "")
                        rule = MapRule(move.source.name, move.target.name, option, "open")
                        by_target.setdefault(slot, []).append(rule)
            names = self.source.path.name, self.target.path.name
            why = (
                f"{count_text(len(group.sources), 'layer')} of {names[0]} and "
                f"{len(group.targets)} of {names[1]} fit each other"
            )
            for (name, _), rules in by_target.items():
                yield OpenTensor(name, shapes[name], tuple(rules), why)

    def _does_nothing(self, member: LayerTensor) -> bool:
        """Whether a bias of DST holds zeros alone, or a scale ones, so that it may stay."""
        neutral = 1 if member.role == SCALE else 0
        blocks = self.target.store.blocks(member.key)
        return all((values == neutral).all() for _, values in blocks)

    def _casts(self) -> set[tuple[str, str]]:
        """Return the dtypes, before and after, of tensors that have another in DST."""
        sides = [
            {naming.name: file.specs[key].dtype for key, naming in file.names.items()}
            for file in (self.source, self.target)
        ]
        dtypes = {(sides[0][rule.source], sides[1][rule.target]) for rule in self.rules}
        return {(old, new) for old, new in dtypes if old != new}

    def _notes(self) -> Iterator[str]:
        counters = [
            naming.name for naming in self.source.names.values() if naming.role == "counter"
        ]
        if counters:
            count = count_text(len(counters), "counter")
            yield f"left out of {self.source.path.name}: {count} ({list_text(counters)})"
        files = self.source.path.name, self.target.path.name
        for old, new in sorted(self._casts()):
            advice = say(f"‹convert.casts={old}={new}›")
            yield f"{files[0]} has {old} where {files[1]} has {new}: {advice}"
        if self.unplaced:
            names = list_text(self.unplaced)
            source, target = self.source.path.name, self.target.path.name
            yield (
                f"{source} has nothing for {names} of {target}, where a bias has to be 0 then, and "
                "a scale 1"
            )


def _tensor_set(file: Checkpoint) -> TensorSet:
    return TensorSet(file.specs, file.names, structure=file.structure)


def _keeps_order(file: Checkpoint) -> bool:
    """Whether the order of a file's tensors is that in which its model has them."""
    return format_of(file.store.format).keeps_order


def _votes(pair: LayerPair) -> Iterator[tuple[tuple[str, str], bool]]:
    """Yield, of kernels that are not square, their orders and whether shapes want them turned."""
    for move in () if RECURRENT in pair.target.by_role else pair.fit.moves:
        if _is_dense(move) and not _is_square(move):
            yield (move.source.order, move.target.order), bool(move.options[0])


def _is_dense(move: Move) -> bool:
    """Whether a whole kernel of two axes goes to one whose axes may lie otherwise."""
    orders = move.source.order, move.target.order
    is_whole = move.source.part is None and move.target.part is None
    is_kernel = KERNEL in (move.source.role, move.target.role)
    has_two_axes = len(move.source.shape) == len(move.target.shape) == 2
    return is_kernel and is_whole and has_two_axes and (orders[0] != orders[1] or not any(orders))


def _is_square(move: Move) -> bool:
    return len(set(move.source.shape)) == 1


def _image_shapes(file: Checkpoint) -> Iterator[tuple[int, ...]]:
    """Yield the shapes, with the channels last, of the images that a model takes, where it says."""
    model = file.store.model
    if model is None:
        return
    inputs = [layer.output_shape for layer in model.layers if layer.class_name == "InputLayer"]
    inputs += [shape for signature in model.signatures for _, _, shape in signature.inputs]
    for shape in inputs:
        sizes = [size for size in (shape or ())[1:] if size is not None]
        if len(sizes) > 2 and len(sizes) == len(shape or ()) - 1:
            yield tuple(sizes)


def _channels_of_norm(layer: LayerWeights) -> int:
    """Return how many channels a norm has that stands before all kernels; 0 for another layer."""
    sizes = {member.shape for member in layer.members}
    is_norm = layer.by_role.keys() <= {SCALE, BIAS, MEAN, VARIANCE} and len(sizes) == 1
    return math.prod(sizes.pop()) if is_norm else 0


def _channels(layer: LayerWeights, partner: LayerWeights | None) -> int | None:
    """Return how many channels a convolution gives, 0 for a dense layer; None for another layer.

    partner: the layer of the other file that is taken for the same.
    """
    kernel, bias = layer.by_role.get(KERNEL), layer.by_role.get(BIAS)
    other = partner.by_role.get(KERNEL) if partner is not None else None
    if kernel is None or RECURRENT in layer.by_role:
        return None
    if len(kernel.shape) < 3 or (other is not None and len(other.shape) < 3):
        return 0
    if bias is not None:  # of a transposed convolution, too
        return math.prod(bias.shape)
    in_torch = [k for k in (kernel, other) if k is not None and k.order == OUT_FIRST]
    return in_torch[0].shape[0] if in_torch else kernel.shape[-1]
