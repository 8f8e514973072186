"""Recurrent layers of Keras 2 that run on CuDNN alone, and what LSTM and GRU make of their weights.

`CuDNNLSTM` and `CuDNNGRU` store three tensors as `LSTM` and `GRU` do, of the same names, and two of
them of the same shapes, but in CuDNN's own order.  With u units and g gates (4 or 3):

    kernel            in, g*u   each gate is the transpose of what its shape says, laid out anew
    recurrent_kernel  u, g*u    each gate is transposed
    bias              2*g*u     the input's and the recurrent one; LSTM has one, which is their sum

The bias tells them apart: `LSTM` has 4*u, `GRU(reset_after=True)` has 2,3*u and
`GRU(reset_after=False)`, which computes something else, 3*u.
Source: keras/saving/hdf5_format.py, `_convert_rnn_weights`, as Keras 2 loads such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import TensorSpec
from ckptkit.text import lazy_pattern

if TYPE_CHECKING:
    from ckptkit.align.transforms import Transform

_VARIABLES = ("kernel", "recurrent_kernel", "bias")
_GATES = {"LSTM": 4, "GRU": 3}
# `cu_dnnlstm_1` is what Keras calls the second CuDNNLSTM where it would call an LSTM `lstm_1`.
_AUTOMATIC = lazy_pattern(r"(^|(?<=_))cu_dnn(lstm|gru)(?=_\d+$|$)")


class CudnnLayer(NamedTuple):
    """One layer in CuDNN's layout.

    name: what comes before the names of its variables.  kind: "LSTM" or "GRU".
    keys: of kernel, recurrent kernel and bias.  units, inputs: sizes.
    """

    name: str
    kind: str
    keys: tuple[str, str, str]
    units: int
    inputs: int

    @property
    def class_name(self) -> str:
        """The class that stores weights so."""
        return f"CuDNN{self.kind}"

    def transforms(self) -> dict[str, Transform]:
        """Return what makes the weights of LSTM, or of GRU(reset_after=True), of each."""
        # here, since every listing asks for such layers and nearly none has them
        from ckptkit.align.transforms import Reshape, SumOfParts, Transform, Transpose

        gates, units, inputs = _GATES[self.kind], self.units, self.inputs
        kernel, recurrent_kernel, bias = self.keys
        return {
            kernel: Transform(
                (
                    Reshape((inputs, gates, units)),
                    Transpose((1, 0, 2)),
                    Reshape((gates, units, inputs)),
                    Transpose((2, 0, 1)),
                    Reshape((inputs, gates * units)),
                )
            ),
            recurrent_kernel: Transform(
                (
                    Reshape((units, gates, units)),
                    Transpose((2, 1, 0)),
                    Reshape((units, gates * units)),
                )
            ),
            bias: Transform(
                (SumOfParts(2),) if self.kind == "LSTM" else (Reshape((2, gates * units)),)
            ),
        }


def cudnn_layers(specs: Mapping[str, TensorSpec], names: Mapping[str, Naming]) -> list[CudnnLayer]:
    """Return the layers in CuDNN's layout, told by the shapes of their three weights.

    Args:
        specs: of all tensors of a file.
        names: of all of them.
    """
    if not any(naming.name.endswith(_VARIABLES[1]) for naming in names.values()):
        return []
    scopes: dict[str, dict[str, str]] = {}
    for key, naming in names.items():
        scope, _, last = naming.name.rpartition("/")
        if last in _VARIABLES and naming.role == "weight" and key in specs:
            scopes.setdefault(scope, {})[last] = key
    found = []
    for scope, keys in scopes.items():
        if len(keys) == len(_VARIABLES):
            kernel, recurrent_kernel, bias = (keys[name] for name in _VARIABLES)
            shapes = [specs[key].shape for key in (kernel, recurrent_kernel, bias)]
            kind = _kind(*shapes)
            if kind is not None:
                sizes = shapes[1][0], shapes[0][0]
                found.append(CudnnLayer(scope, kind, (kernel, recurrent_kernel, bias), *sizes))
    return found


def _kind(
    kernel: tuple[int, ...], recurrent_kernel: tuple[int, ...], bias: tuple[int, ...]
) -> str | None:
    if (len(kernel), len(recurrent_kernel), len(bias)) != (2, 2, 1):
        return None
    units, width = recurrent_kernel
    if units == 0 or kernel[1] != width or bias[0] != 2 * width:
        return None
    return next((kind for kind, gates in _GATES.items() if width == gates * units), None)


def note_on(layers: Sequence[CudnnLayer]) -> str:
    """Return a sentence that names layers in CuDNN's layout, and what that means."""
    kinds = sorted({layer.class_name for layer in layers}, reverse=True)
    others = " and ".join(kind.removeprefix("CuDNN") for kind in kinds)
    names = ", ".join(layer.name for layer in layers[:4])
    more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
    return f"{names}{more}: in CuDNN's layout ({', '.join(kinds)}), which is not that of {others}"


def carrying_transforms(
    layers: Sequence[CudnnLayer], specs: Mapping[str, TensorSpec], owners: Mapping[str, str]
) -> dict[str, Transform]:
    """Return what is done to the weights of layers, and to the slots that belong to them.

    Args:
        layers: in CuDNN's layout.
        specs: of all tensors of their file.
        owners: {key of a slot or average: key of its variable}.
    """
    steps = {key: step for layer in layers for key, step in layer.transforms().items()}
    followers = {
        key: steps[owner]
        for key, owner in owners.items()
        if owner in steps
        and specs[key].shape == specs[owner].shape
        # What the slot of a sum would be does not follow from those of its parts.
        and steps[owner].is_invertible
    }
    return steps | followers


def standard_names(layers: Sequence[CudnnLayer], names: Mapping[str, Naming]) -> dict[str, Naming]:
    """Return how tensors would be called in a file of LSTM and GRU layers, where that differs.

    An automatic name becomes the one that the other class gets, unless a layer has it already, and
    the variables lie in the scope of the layer's cell.  Slots and averages follow.  The name that
    the file has stays among the others.
    """
    new_names: dict[str, str] = {}
    taken = {scope for naming in names.values() for scope in _scopes(naming.name)}
    for layer in layers:
        parts = [_AUTOMATIC.sub(r"\2", part) for part in layer.name.split("/")]
        scope = "/".join(parts)
        if scope in taken and scope != layer.name:
            scope = layer.name
        cell = f"{layer.kind.lower()}_cell"
        for key in layer.keys:
            last = names[key].name.rpartition("/")[2]
            new_names[names[key].name] = "/".join(part for part in (scope, cell, last) if part)
    return {
        key: renamed
        for key, naming in names.items()
        for renamed in (_renamed(naming, new_names),)
        if renamed is not naming
    }


def _scopes(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts)))


def _renamed(naming: Naming, new_names: Mapping[str, str]) -> Naming:
    if naming.slot_of in new_names and naming.slot_of is not None:
        owner = new_names[naming.slot_of]
        name = naming.name
        if name.startswith(f"{naming.slot_of}@"):
            name = f"{owner}{name[len(naming.slot_of) :]}"
        return naming._replace(name=name, slot_of=owner)
    if naming.name not in new_names:
        return naming
    return naming._replace(
        name=new_names[naming.name], full_name=None, aliases=(*naming.aliases, naming.name)
    )


def kernels_of_other_grus(
    specs: Mapping[str, TensorSpec], names: Mapping[str, Naming]
) -> frozenset[str]:
    """Return the keys of the kernels of GRU(reset_after=False) layers, told by their biases."""
    by_name = {naming.name: key for key, naming in names.items()}
    found = set()
    for name, key in by_name.items():
        scope, slash, last = name.rpartition("/")
        others = [by_name.get(f"{scope}{slash}{other}") for other in _VARIABLES[1:]]
        if last != "kernel" or others[0] is None or others[1] is None:
            continue
        shapes = specs[others[0]].shape, specs[others[1]].shape
        if len(shapes[0]) == 2 and shapes[1] == (3 * shapes[0][0],) == shapes[0][1:]:
            found.add(key)
    return frozenset(found)
