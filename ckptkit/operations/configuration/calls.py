"""What feeds a layer of a functional model: its calls in one form, of either way to write them.

Keras 2: `[["dense", 0, 0, {"y": 2.0}]]`; Keras 3: `{"args": […], "kwargs": {…}}` with
`{"class_name": "__keras_tensor__", "config": {"keras_history": ["dense", 0, 0]}}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ckptkit.operations.configuration.values import canonical
from ckptkit.text import lazy_pattern, natural

_NEVER = object()
_PLACE = lazy_pattern(
    r"\[(?P<call>\d+)\](\.kwargs\.(?P<keyword>.*)|(\.args)?[\[\]\d]*(\.(?P<key>.*))?)$"
)
_MASK = lazy_pattern(r"(^|[._])mask\b")  # an argument: mask, attention_mask, initial_mask[0]


class TensorOf(NamedTuple):
    """An output of a layer: of which layer, of which of its calls, which of its outputs.

    argument: what it is passed by, where that is a name: a keyword (`value`, `initial_state[0]`) or
    the key of a dictionary; of a call that is not the first one `1:value`.
    """

    layer: str
    call: int
    output: int
    argument: str = ""

    def renamed(self, names: Mapping[str, str]) -> TensorOf:
        """Return it with the layer called as `names` has it."""
        return self._replace(layer=names.get(self.layer, self.layer))

    def __str__(self) -> str:
        more = f":{self.call}" if self.call else ""
        name = f"{self.argument.partition(':')[2] or self.argument}=" if self.argument else ""
        return name + self.layer + more + (f"[{self.output}]" if self.output else "")


class Calls(NamedTuple):
    """How a layer is called.

    feeds: the tensors that go in, in the order of the file.  constants: other arguments, by their
    path.  masks: tensors that say which of its inputs count.
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
    feeds = tuple(
        tensor._replace(argument=_argument(path))
        for path, tensor in tensors
        if not _MASK.search(path)
    )
    masks = tuple(tensor for path, tensor in tensors if _MASK.search(path))
    return Calls(feeds, constants, masks)


def _argument(path: str) -> str:
    """Return what a tensor at this path of `inbound_nodes` is passed by; "" of a place alone.

    `[1].kwargs.value`, `[0].args[0].key` of a dictionary; of Keras 2 `[0][0][0].value`.
    """
    found = _PLACE.match(path)
    if found is None:
        return ""
    name = found["keyword"] or found["key"] or ""
    return f"{found['call']}:{name}" if name and found["call"] != "0" else name


def sorted_by_argument(tensors: Sequence[TensorOf]) -> tuple[TensorOf, ...]:
    """Return tensors with those that have a name sorted by it, in the places that these have.

    The order of what is passed by name says nothing.
    """
    named = iter(sorted((t for t in tensors if t.argument), key=lambda t: natural(t.argument)))
    return tuple(next(named) if tensor.argument else tensor for tensor in tensors)


def without_arguments(tensors: Sequence[TensorOf]) -> list[TensorOf]:
    """Return tensors without what they are passed by."""
    return [tensor._replace(argument="") for tensor in tensors]


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
            _walk(value.get("config"), path, tensors, constants)
            return
        if "class_name" in value and "config" in value:
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
    """Yield the tensors in `["out", 0, 0]`, `[["out", 0, 0], …]` or a dictionary of such.

    Those of a dictionary are called by its keys.
    """
    if isinstance(value, Mapping):
        for key, item in sorted(value.items()):
            for tensor in ends_of(item):
                below = f"/{tensor.argument}" if tensor.argument else ""
                yield tensor._replace(argument=f"{key}{below}")
    elif isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str):
            yield _tensor(value)
            return
        for item in value:
            yield from ends_of(item)
