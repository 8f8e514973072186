"""Recurrent weights in CuDNN's layout on their way to a template that has LSTM and GRU layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckptkit.align.cudnn_layouts import (
    CudnnLayer,
    carrying_transforms,
    cudnn_layers,
    kernels_of_other_grus,
    standard_names,
)
from ckptkit.align.matching import Match, TensorSet, align
from ckptkit.align.transforms import Transform
from ckptkit.operations.convert.problems import Problem
from ckptkit.operations.convert.sources import Sources, TensorTransform
from ckptkit.wording import operand

_RULE = "CuDNN layout"


def layers_to_carry(
    src: Sources, template: TensorSet, by_rule: Mapping[str, TensorTransform]
) -> list[CudnnLayer]:
    """Return the layers of SRC in CuDNN's layout for which the template has another.

    Args:
        src: the tensors of SRC.
        template: those of the template.
        by_rule: what map rules transform; a layer of which they transform anything is theirs.
    """
    source = src.tensor_set
    layers = cudnn_layers(source.specs, source.names)
    if not layers:
        return []
    kept_biases = {layer.keys[2] for layer in cudnn_layers(template.specs, template.names)}
    partners = {}
    if kept_biases:
        partners = {match.old: match.new for match in align(source, template).pairs}
    taken = {key for transform in by_rule.values() for key, _ in transform.parts}
    return [
        layer
        for layer in layers
        if partners.get(layer.keys[2]) not in kept_biases and taken.isdisjoint(layer.keys)
    ]


def transforms_of(src: Sources, layers: list[CudnnLayer]) -> dict[str, TensorTransform]:
    """Return what layers in CuDNN's layout become, under the names that they get; slots follow."""
    source = src.tensor_set
    renamed = standard_names(layers, source.names)
    steps = carrying_transforms(layers, source.specs, source.owners)
    return {
        key: TensorTransform(((key, steps.get(key, Transform())),), _RULE, renamed.get(key))
        for key in source.keys
        if key in steps or key in renamed
    }


def layout_problems(
    matches: Mapping[str, Match], src: Sources, template: TensorSet, layers: list[CudnnLayer]
) -> Iterator[Problem]:
    """Yield a problem per recurrent layer whose weights would mean something else in the template.

    Args:
        matches: by key of the template.
        src: the tensors of SRC, those of `layers` transformed.
        template: the tensors of the template.
        layers: those of SRC that were in CuDNN's layout.
    """
    kinds = {layer.keys[0]: layer.kind for layer in layers}
    other_grus = kernels_of_other_grus(template.specs, template.names)
    for key, match in matches.items():
        if kinds.get(match.old) == "GRU" and key in other_grus:
            name = template.names[key].name.rpartition("/")[0]
            text = (
                f"{name} of {operand('LIKE')} is a GRU(reset_after=False), which computes "
                "something else than CuDNNGRU: the weights of that are those of "
                "GRU(reset_after=True)"
            )
            yield Problem("layout", name, text)
    source = src.tensor_set
    in_cudnn = {layer.keys[0] for layer in cudnn_layers(source.specs, source.names)}
    for layer in cudnn_layers(template.specs, template.names):
        kernel = matches.get(layer.keys[0])
        if kernel is not None and kernel.old not in in_cudnn:
            text = (
                f"{layer.name} of {operand('LIKE')} is {layer.class_name}, whose weights are laid "
                f"out in another way; those of {layer.kind} are not carried there"
            )
            yield Problem("layout", layer.name, text)
