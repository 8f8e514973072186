"""A layer or model of a config, in the form that all versions are brought to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ckptkit.operations.configuration.calls import Calls, TensorOf
from ckptkit.operations.configuration.values import Settings, is_made_up

INPUT = "InputLayer"


@dataclass(frozen=True)
class ConfigNode:
    """One layer or model.

    name: as the file calls it.  kind: "functional", "sequential", "model" (of a class of a user's
    own, with a list of layers), "layer" or "operation" (between layers, `x + 1`).
    settings: those that are not the default.  defaults: of the others.  codes: SHA-256 of Python
    code by setting.  layers: of a model, in its order.  inputs, outputs: of a functional model.
    compiled: of the root: how the model was compiled; None where the file does not say.
    input_name: of a Sequential model: what its input is called, where it is listed.
    rank: of what it is called with, where the file says it.  is_old: whether Keras 1 or 2 wrote it.
    """

    name: str
    class_name: str
    kind: str
    settings: Settings
    defaults: Settings
    calls: Calls = field(default_factory=lambda: Calls((), {}))
    codes: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[ConfigNode, ...] = ()
    inputs: tuple[TensorOf, ...] = ()
    outputs: tuple[TensorOf, ...] = ()
    compiled: Settings | None = None
    input_name: str = ""
    rank: int | None = None
    is_old: bool = False

    @property
    def is_input(self) -> bool:
        """Whether this is where a functional model is fed."""
        return self.class_name == INPUT

    @property
    def is_automatic(self) -> bool:
        """Whether Keras made up its name, so that it tells nothing."""
        return is_made_up(self.name, self.class_name)


def walk(node: ConfigNode, path: str = "") -> Iterator[tuple[str, ConfigNode]]:
    """Yield (path, layer) of all layers below a model, nested ones as `outer/inner`."""
    for layer in node.layers:
        here = f"{path}{layer.name}"
        yield here, layer
        yield from walk(layer, f"{here}/")
