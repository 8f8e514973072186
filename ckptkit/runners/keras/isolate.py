"""Each layer of a Keras model, called on what a reference's layers gave.  Child process alone.

While the model is called, what a layer gives is noted and the reference's value goes on in its
place.  Layers are called one by one, on JAX too, which compiles nothing then but a layer's loops.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ckptkit.runners.child.isolate import Keep, ReferenceValues, point_row
from ckptkit.runners.child.session import Result
from ckptkit.runners.keras.layers import LayerCall, names_of, watching
from ckptkit.runners.keras.model import CallableModel, layers_of
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import OUTPUT

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


class Values(Protocol):
    """What of a backend this needs; `ckptkit.runners.keras.session.Backend` has more."""

    def scope(self, keras: Any, spec: RunnerSpec) -> AbstractContextManager[Any]:
        """Return the scope in which a model is made and called on the device of the spec.

        Args:
            keras: the imported package.
            spec: of the runner.

        Returns:
            A context manager.
        """

    def is_value(self, item: Any) -> bool:
        """Say whether a layer's output is a tensor that has values, or will have.

        Args:
            item: a leaf of what a layer returned.

        Returns:
            Whether it is.
        """

    def array(self, tensor: Any) -> Array:
        """Return a tensor's values.

        Args:
            tensor: the backend's.

        Returns:
            An array of its dtype and shape.
        """


def values_of(backend: Values, keras: Any, called: LayerCall) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of what a layer gave."""
    found = [item for item in keras.tree.flatten(called.output) if backend.is_value(item)]
    yield from zip(names_of(called.path, len(found)), found, strict=True)


def tensors_of(inputs: Arrays) -> dict[str, Any]:
    """Return inputs as the backend's tensors."""
    import keras

    return {name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}


@dataclass
class KerasParts:
    """See `ckptkit.runners.child.isolate.Parts`."""

    backend: Values
    keras: Any
    spec: RunnerSpec
    built: CallableModel
    inputs: Arrays
    reference: ReferenceValues

    def rows(self) -> list[Result]:
        return self._rows

    @cached_property
    def _rows(self) -> list[Result]:
        found: list[Result] = []
        self._run(lambda row, _tensor: found.append(row))
        return found

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        wanted = set(names)

        def note(row: Result, tensor: Any) -> None:
            if row["name"] in wanted:
                keep(row["name"], self.backend.array(tensor))

        self._run(note)

    def _run(self, note: Callable[[Result, Any], None]) -> None:
        """Call the model; `note` is given each point and its value, the outputs last."""
        names = _Names()
        inside: dict[int, Any] = {}  # layers that gave a point, whose variables are its own

        def replaced(called: LayerCall) -> Any:
            """Note what a layer gave; return what goes on in its place."""
            flat = self.keras.tree.flatten(called.output)
            places = [place for place, item in enumerate(flat) if self.backend.is_value(item)]
            for name, place in zip(names_of(called.path, len(places)), places, strict=True):
                if names.of(flat[place]) is None:  # dropout, say, gives what it was given
                    note(self._row(name, called, flat[place], names, inside), flat[place])
                    inside[id(called.layer)] = called.layer
                    flat[place] = self._instead(name, flat[place])
                    names.add(name, flat[place])
            return self.keras.tree.pack_sequence_as(called.output, flat)

        with self.backend.scope(self.keras, self.spec):
            tensors = tensors_of(self.inputs)
            for name, tensor in tensors.items():
                names.add(name, tensor)
            with watching(self.keras, self.built.model, replaced):
                outputs = self.built.call(tensors)
            for name, tensor in outputs.items():
                if names.of(tensor) is None:
                    dtype = self._dtype(tensor)
                    note(point_row(f"{OUTPUT}{name}", "output", dtype, fed=False), tensor)

    def _instead(self, name: str, tensor: Any) -> Any:
        """Return the reference's value of a point, or what the layer gave where there is none."""
        if name not in self.reference:
            return tensor
        value = self.reference.load([name])[name]
        return self.keras.ops.convert_to_tensor(value, dtype=self._dtype(tensor))

    def _row(
        self, name: str, called: LayerCall, tensor: Any, names: _Names, inside: Mapping[int, Any]
    ) -> Result:
        layer = called.layer
        arguments = map(names.of, self.keras.tree.flatten(called.arguments))
        inner = [item for item in layers_of(layer) if id(item) in inside]
        taken = {id(variable) for item in inner for variable in item.weights}
        return point_row(
            name,
            type(layer).__name__,
            self._dtype(tensor),
            policy=str(getattr(getattr(layer, "dtype_policy", None), "name", "")),
            variables=[self._variable(v) for v in layer.weights if id(v) not in taken],
            inputs=dict.fromkeys(filter(None, arguments)),
            fed=name in self.reference,
        )

    def _variable(self, variable: Any) -> Result:
        return {
            "names": [str(variable.path)],
            "shape": list(variable.shape),
            "dtype": self.keras.backend.standardize_dtype(variable.dtype),
        }

    def _dtype(self, tensor: Any) -> str:
        return str(self.keras.backend.standardize_dtype(tensor.dtype))


@dataclass
class _Names:
    """Which tensor is which value; none is kept alive by it."""

    _names: dict[int, tuple[weakref.ref[Any], str]] = field(default_factory=dict)

    def add(self, name: str, tensor: Any) -> None:
        self._names[id(tensor)] = weakref.ref(tensor), name

    def of(self, item: Any) -> str | None:
        reference, name = self._names.get(id(item), (None, None))
        # the id of a tensor that is gone may be another one's now
        return name if reference is not None and reference() is item else None
