"""What feeds a layer of a functional model: its calls in one form, of either way to write them.

Keras 2: `[["dense", 0, 0, {"y": 2.0}]]`; Keras 3: `{"args": […], "kwargs": {…}}` with
`{"class_name": "__keras_tensor__", "config": {"keras_history": ["dense", 0, 0]}}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ckptkit.operations.configuration.values import canonical

_NEVER = object()
_MASK = re.compile(r"(^|[._])mask\b")  # an argument: mask, attention_mask, initial_mask[0]


class TensorOf(NamedTuple):
    """An output of a layer: of which layer, of which of its calls, which of its outputs."""

    layer: str
    call: int
    output: int

    def renamed(self, names: Mapping[str, str]) -> TensorOf:
        """Return it with the layer called as `names` has it."""
        return self._replace(layer=names.get(self.layer, self.layer))

    def __str__(self) -> str:
        more = f":{self.call}" if self.call else ""
        return self.layer + more + (f"[{self.output}]" if self.output else "")


class Calls(NamedTuple):
    """How a layer is called.

    feeds: the tensors that go in, in order.  constants: other arguments by their path.
    masks: tensors that say which of its inputs count.
    """

    feeds: tuple[TensorOf, ...]
    constants: Mapping[str, Any]
    masks: tuple[TensorOf, ...] = ()


def calls_of(nodes: Any, defaults: Mapping[str, Any]) -> Calls:
    """Return the calls of a layer.

    Args:
        nodes: its `inbound_nodes`.
        defaults: of arguments by name, which some versions write and others leave out.
    """
    tensors: list[tuple[str, TensorOf]] = []
    found: dict[str, Any] = {}
    _walk(nodes, "", tensors, found)
    constants = {
        path: value
        for path, value in found.items()
        if value is not defaults.get(path.rpartition(".")[2], _NEVER)
    }
    feeds = tuple(tensor for path, tensor in tensors if not _MASK.search(path))
    masks = tuple(tensor for path, tensor in tensors if _MASK.search(path))
    return Calls(feeds, constants, masks)


def _walk(
    value: Any, path: str, tensors: list[tuple[str, TensorOf]], constants: dict[str, Any]
) -> None:
    """Collect tensors and other arguments from either way of writing a call."""
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history and isinstance(history[0], str):
            tensors.append((path, _tensor(history)))
            return
        if value.get("class_name") == "__keras_tensor__":
            value = {"config": value.get("config")}
        elif "class_name" in value and "config" in value:
            constants[_shown(path)] = canonical(dict(value))
            return
        for key, item in value.items():
            _walk(item, f"{path}.{key}" if path else str(key), tensors, constants)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            tensors.append((path, _tensor(value)))
            value = value[3:]
        for at, item in enumerate(value):
            _walk(item, f"{path}[{at}]", tensors, constants)
    elif path and value is not None:
        constants[_shown(path)] = canonical(value)


def _shown(path: str) -> str:
    """Return the path of an argument without the first call and without what holds it."""
    return path.removeprefix("[0].").replace("kwargs.", "")


def _tensor(history: list[Any]) -> TensorOf:
    numbers = [value if type(value) is int else 0 for value in (*history[1:3], 0, 0)]
    return TensorOf(history[0], numbers[0], numbers[1])


def ends_of(value: Any) -> Iterator[TensorOf]:
    """Yield the tensors in `["out", 0, 0]`, `[["out", 0, 0], …]` or a dictionary of such."""
    if isinstance(value, Mapping):
        for _key, item in sorted(value.items()):
            yield from ends_of(item)
    elif isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str):
            yield _tensor(value)
            return
        for item in value:
            yield from ends_of(item)
