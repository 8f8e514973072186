"""Both sides of a comparison in one layout: CuDNN's recurrent weights, converted graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptkit.align.cudnn_layouts import (
    CudnnLayer,
    carrying_transforms,
    cudnn_layers,
    kernels_of_other_grus,
    note_on,
    standard_names,
)
from ckptkit.align.matching import TensorSet, align
from ckptkit.align.rules import Rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.diff.compared_sides import ComparedSides
from ckptkit.stores.constants import StoreOfConstants
from ckptkit.wording import operand

_SIDES = ("OLD", "NEW")


def in_one_layout(
    checkpoints: tuple[Checkpoint, Checkpoint], rules: Sequence[Rule], *, by_value: bool
) -> ComparedSides:
    """Return the two sides, those recurrent layers carried over that only one has as CuDNN does.

    Args:
        checkpoints: OLD and NEW.
        rules: renames from names of OLD to names of NEW.
        by_value: whether values are compared; stored checksums are those of what is stored.
    """
    sides = stored = (_as_stored(checkpoints[0]), _as_stored(checkpoints[1]))
    stores = checkpoints[0].store, checkpoints[1].store
    if any(isinstance(store, StoreOfConstants) for store in stores):
        from ckptkit.operations.diff.deployed import deployed_sides  # here, since few are graphs

        return deployed_sides(stores, sides, rules)
    layers = [cudnn_layers(side.specs, side.names) for side in sides]
    if not any(layers):
        return ComparedSides(sides, stores)
    # Layers that are laid out so on both sides stay as they are.
    alignment = align(*sides, rules)
    pairs = {(match.old, match.new) for match in alignment.pairs}
    biases = [{layer.keys[2] for layer in of_side} for of_side in layers]
    both = {key for pair in pairs if pair[0] in biases[0] and pair[1] in biases[1] for key in pair}
    layers = [[x for x in of_side if x.keys[2] not in both] for of_side in layers]
    if not any(layers):
        return ComparedSides(sides, stores)
    carried = _carried(sides, layers)
    # Of the others those count that have a partner, of a layer that computes the same.
    others = [kernels_of_other_grus(side.specs, side.names) for side in sides]
    partners: list[dict[str, str]] = [{}, {}]
    for match in align(*carried, rules).pairs:
        partners[0][match.old], partners[1][match.new] = match.new, match.old
    chosen: list[list[CudnnLayer]] = [[], []]
    unlike: list[list[CudnnLayer]] = [[], []]
    for at in (0, 1):
        for layer in layers[at]:
            partner = partners[at].get(layer.keys[0])
            if partner is not None:
                is_unlike = not by_value or partner in others[1 - at]
                (unlike if is_unlike else chosen)[at].append(layer)
    warnings = [
        f"{operand(_SIDES[at])}: {note_on(found)}; {what}"
        for what, of_sides in (
            ("compared as Keras 2 carries them over", chosen),
            ("compared as they are stored, which tells nothing", unlike),
        )
        for at, found in enumerate(of_sides)
        if found
    ]
    sides = _carried(sides, chosen)
    from ckptkit.operations.diff.carried_store import store_of  # here, since few have such layers

    stores = (
        store_of(checkpoints[0], stored[0], sides[0], chosen[0]),
        store_of(checkpoints[1], stored[1], sides[1], chosen[1]),
    )
    return ComparedSides(sides, stores, tuple(warnings))


def _as_stored(checkpoint: Checkpoint) -> TensorSet:
    return TensorSet(checkpoint.specs, checkpoint.names, structure=checkpoint.structure)


def _carried(
    sides: tuple[TensorSet, TensorSet], layers: Sequence[Sequence[CudnnLayer]]
) -> tuple[TensorSet, TensorSet]:
    """Return the sides with names and shapes as the weights of some layers have elsewhere."""
    results = []
    for side, of_side in zip(sides, layers, strict=True):
        specs, names = dict(side.specs), dict(side.names)
        for key, transform in carrying_transforms(of_side, specs, side.owners).items():
            shape = transform.shape(specs[key].shape)
            specs[key] = specs[key]._replace(
                shape=shape, crc32c=None, shard=None, offset=None, slices=()
            )
        names |= standard_names(of_side, names)
        results.append(replace(side, specs=specs, names=names) if of_side else side)
    return results[0], results[1]
