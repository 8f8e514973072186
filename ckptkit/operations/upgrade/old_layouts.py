"""Weights as Keras 1, and Keras on Theano, laid them out, in the layout of Keras 2 and 3.

Keras 1 has an array per gate of a recurrent layer (LSTM i, c, f, o; GRU z, r, h, each W, U, b), the
kernels of convolutions in the order of the images (`dim_ordering="th"`: filters, channels, rows,
columns), those of one dimension with a fourth axis, and those of Deconvolution2D transposed.
Theano convolves with kernels turned around, where TensorFlow correlates.  The facts are those of
`preprocess_weights_for_loading` in keras/engine/topology.py of Keras 2.0 to 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.dtypes import itemsize, numpy_dtype
from ckptkit.errors import FormatError
from ckptkit.operations.convert.value_stores import ComputedStore, ValueSource
from ckptkit.stores.base import BLOCK_ELEMENTS, KerasStructure, KerasVariable, TensorSpec, shaped
from ckptkit.stores.keras.config import LayerConfig, as_layer, layers_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

Arrays = Sequence[Any]
Path = tuple[str, ...]
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "SeparableConv2D")
_TURNED = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D")
_WRAPPERS = ("TimeDistributed", "Bidirectional")


class Rewriting(NamedTuple):
    """A tensor in the new layout: the arrays that it is made of, and how."""

    sources: tuple[ValueSource, ...]
    make: Callable[[Arrays], Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RewrittenStore(ComputedStore):
    """Tensors of a file in another layout; each is computed as a whole when it is read."""

    rewritings: Mapping[str, Rewriting] = field(default_factory=dict)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        import numpy as np

        rewriting = self.rewritings[key]
        arrays = [_whole(source) for source in rewriting.sources]
        flat = np.ascontiguousarray(rewriting.make(arrays)).reshape(-1)
        for start in range(0, flat.size, max_elements):
            yield start, flat[start : start + max_elements]


def _whole(source: ValueSource) -> Array:
    import numpy as np

    spec = source.spec
    values = np.empty(spec.size, numpy_dtype(spec.dtype))
    for start, block in source.blocks():
        values[start : start + len(block)] = block
    return shaped(values, spec.shape, f"{source.store.path}: {source.key}")


def in_new_layout(
    checkpoint: Checkpoint, config: Any, *, is_keras1: bool, is_theano: bool
) -> Checkpoint:
    """Return the weights of a legacy `.h5` file as Keras 2 on TensorFlow would have them.

    Args:
        checkpoint: of the file.
        config: of its model, in the form of Keras 2.
        is_keras1: whether Keras 1 wrote it.
        is_theano: whether it was written on Theano.

    Raises:
        FormatError: a layer does not have the weights that its class has in Keras 1.
    """
    structure, root = checkpoint.structure, as_layer(config)
    if root is None or not isinstance(structure, KerasStructure):
        return checkpoint
    groups: dict[str, list[str]] = {}
    for key, variable in structure.variables.items():
        if variable.role == "weight" and key in checkpoint.specs:
            groups.setdefault(_group(key), []).append(key)
    found: dict[str, tuple[KerasVariable, Rewriting]] = {}
    top = {layer.name: layer for layer in layers_of(root)}
    for group, keys in groups.items():
        layer = top.get(group)
        if layer is None:
            continue
        waiting = [ValueSource(checkpoint.store, key) for key in keys]
        rows = (
            _of_keras1(layer, (group,), waiting)
            if is_keras1
            else _as_they_are(layer, keys, structure, waiting)
        )
        for place, (variable, rewriting, owner) in enumerate(rows):
            if is_theano and owner in _TURNED and str(variable.name).endswith("kernel"):
                rewriting = _turned(rewriting)
            found[f"{group}/{place}"] = variable, rewriting
        if is_keras1 and waiting:
            raise FormatError(
                str(checkpoint.path), f"{group}: {len(waiting)} weights more than its class has"
            )
    specs = {
        key: TensorSpec(
            key,
            rewriting.sources[0].spec.dtype,
            rewriting.shape,
            math.prod(rewriting.shape) * itemsize(rewriting.sources[0].spec.dtype),
        )
        for key, (_, rewriting) in found.items()
    }
    store = RewrittenStore(
        path=checkpoint.store.path,
        specs=specs,
        format=checkpoint.store.format,
        producer=checkpoint.store.producer,
        structure=KerasStructure({key: variable for key, (variable, _) in found.items()}),
        model=checkpoint.store.model,
        rewritings={key: rewriting for key, (_, rewriting) in found.items()},
    )
    return Checkpoint(store)


Row = tuple[KerasVariable, Rewriting, str]  # the variable, its values, the class of its layer


def _group(key: str) -> str:
    """Return the layer that a key of a legacy file belongs to."""
    parts = key.split("/")
    return parts[1] if parts[0] == "model_weights" and len(parts) > 1 else parts[0]


def _as_they_are(
    layer: LayerConfig, keys: Sequence[str], structure: KerasStructure, sources: list[ValueSource]
) -> Iterator[Row]:
    by_name = {inner.name: inner for inner in layers_of(layer)}
    for key, source in zip(keys, sources, strict=True):
        variable = structure.variables[key]
        owner = next((by_name[name] for name in variable.layers if name in by_name), layer)
        inner = as_layer(owner.config.get("layer")) or owner
        yield variable, Rewriting((source,), _first, source.spec.shape), inner.class_name


def _first(arrays: Arrays) -> Any:
    return arrays[0]


def _turned(rewriting: Rewriting) -> Rewriting:
    """Return a kernel turned around in all but its last two axes."""
    axes = tuple(range(len(rewriting.shape) - 2))

    def make(arrays: Arrays) -> Any:
        import numpy as np

        return np.flip(rewriting.make(arrays), axes)

    return rewriting._replace(make=make)


# -- Keras 1 ---------------------------------------------------------------------------------------


def _of_keras1(layer: LayerConfig, path: Path, waiting: list[ValueSource]) -> Iterator[Row]:
    """Yield the variables of a layer, taking its arrays from `waiting`."""
    if layer.kind != "layer":
        for inner in layers_of(layer):
            yield from _of_keras1(inner, (inner.name,), waiting)
        return
    inner_layer = as_layer(layer.config.get("layer"))
    if layer.class_name in _WRAPPERS and inner_layer is not None:
        if layer.class_name == "TimeDistributed":
            yield from _of_keras1(inner_layer, path, waiting)
            return
        for direction in ("forward", "backward"):
            name = inner_layer.name.removeprefix("forward_").removeprefix("backward_")
            yield from _of_keras1(inner_layer, (*path, f"{direction}_{name}"), waiting)
        return
    for name, rewriting in _variables(layer, waiting):
        yield KerasVariable(path, name), rewriting, layer.class_name


def _variables(layer: LayerConfig, waiting: list[ValueSource]) -> Iterator[tuple[str, Rewriting]]:
    """Yield (name, values) of the variables of one layer."""
    name = layer.class_name
    if name in _GATES:
        yield from _gated(name, layer, waiting)
    elif name in _CONVOLUTIONS:
        yield "kernel", _kernel(name, layer, _next(waiting, layer))
        if layer.config.get("use_bias", True):
            yield "bias", _same(_next(waiting, layer))
    else:
        for variable in _names_of(layer):
            yield variable, _same(_next(waiting, layer))


def _next(waiting: list[ValueSource], layer: LayerConfig) -> ValueSource:
    if not waiting:
        raise FormatError(layer.name, f"a {layer.class_name} without all of its weights")
    return waiting.pop(0)


def _same(source: ValueSource) -> Rewriting:
    return Rewriting((source,), _first, source.spec.shape)


def _names_of(layer: LayerConfig) -> tuple[str, ...]:
    """Return the variables of a layer of Keras 1, in its order."""
    bias = ("bias",) if layer.config.get("use_bias", True) else ()
    return {
        "Dense": ("kernel", *bias),
        "SimpleRNN": ("kernel", "recurrent_kernel", "bias"),
        "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
        "Embedding": ("embeddings",),
        "PReLU": ("alpha",),
    }.get(layer.class_name, ())


# Which of a layer's gates (in the order of Keras 1) stand where in the joined kernels.
_GATES = {"LSTM": (0, 2, 1, 3), "ConvLSTM2D": (0, 2, 1, 3), "GRU": (0, 1, 2)}


def _gated(
    name: str, layer: LayerConfig, waiting: list[ValueSource]
) -> Iterator[tuple[str, Rewriting]]:
    order = _GATES[name]
    arrays = [_next(waiting, layer) for _ in range(3 * len(order))]
    if arrays[0].spec.shape[-1:] != arrays[3].spec.shape[-1:]:
        raise FormatError(layer.name, f"the gates of a {name} have not one width")
    for place, variable in enumerate(("kernel", "recurrent_kernel", "bias")):
        sources = tuple(arrays[3 * gate + place] for gate in order)
        *front, width = sources[0].spec.shape
        make = _joined
        shape = (*front, width * len(order))
        if name == "ConvLSTM2D" and layer.config.get("data_format") == "channels_first" and front:
            filters, channels, rows, columns = sources[0].spec.shape
            make, shape = _joined_images, (rows, columns, channels, filters * len(order))
        yield variable, Rewriting(sources, make, shape)


def _joined(arrays: Arrays) -> Any:
    import numpy as np

    return np.concatenate(arrays, axis=-1)


def _joined_images(arrays: Arrays) -> Any:
    import numpy as np

    return np.concatenate([array.transpose(2, 3, 1, 0) for array in arrays], axis=-1)


def _kernel(name: str, layer: LayerConfig, source: ValueSource) -> Rewriting:
    """Return the kernel of a convolution: rows, columns, channels, filters."""
    shape, filters = source.spec.shape, layer.config.get("filters")
    is_first = layer.config.get("data_format") == "channels_first"
    axes: tuple[int, ...] | None = None
    squeezed = False
    if name == "Conv1D" and len(shape) == 4:
        # of the backend's order: length, 1, channels, filters, or filters, channels, length, 1
        squeezed = True
        if shape[1] != 1 or shape[3] != filters:
            axes = (2, 3, 1, 0)
    elif name == "Conv2DTranspose" and len(shape) == 4:
        axes = (2, 3, 0, 1) if is_first else (0, 1, 3, 2)
    elif is_first and len(shape) == 4:
        axes = (2, 3, 1, 0)
    elif is_first and len(shape) == 5:
        axes = (2, 3, 4, 1, 0)
    result = tuple(shape[axis] for axis in axes) if axes else shape

    def make(arrays: Arrays) -> Any:
        array = arrays[0].transpose(axes) if axes else arrays[0]
        return array[:, 0] if squeezed else array

    return Rewriting((source,), make, (result[0], *result[2:]) if squeezed else result)
