"""Which object of a live model an op belongs to.  Child process alone.

A plain `tf.Module` gives the ops of its layers no scope: they are `matmul`, `matmul_1`.  Two things
tell whose they are: the call that made the op, since the innermost method on the stack is a method
of some object (`Recorder`), and the variables that the op reads.  Objects go by their attribute
path, `encoder/block/0/up` (`paths_of`), as `ckptkit ls` has it.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from ckptkit.runners.child.object_tree import is_variable
from ckptkit.runners.tensorflow.trackables import children_of

_HANDED_ON = frozenset(
    {
        *("ReadVariableOp", "Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose"),
        *("StopGradient", "Enter", "Const", "Pack", "StridedSlice"),
    }
)


def paths_of(root: Any) -> dict[int, str]:
    """Return {id of an object: its attribute path}; "" of the root, variables too.

    Private edges of a Keras layer, as `_operations/3`, are none that the author of the model wrote:
    a layer that lies behind one goes by its own name.  Where two objects had one path, each is
    called by all its edges.
    """
    number = count()
    waiting: list[tuple[int, int, int, str, str, bool, Any]] = [
        (0, 0, next(number), "", "", False, root)
    ]
    found: dict[int, tuple[str, str]] = {}
    unnamed: set[int] = set()
    while waiting:
        private, depth, _, shown, path, hidden, item = heapq.heappop(waiting)
        if id(item) in found:
            continue
        found[id(item)] = shown, path
        for edge, child in _children(item):
            if id(child) in found:
                continue
            part, inside = _part(item, edge, child, hidden)
            unnamed |= {id(child)} if not part else set()
            step = (private + edge.startswith("_"), depth + 1, next(number))
            below = _joined(shown, part), _joined(path, edge)
            heapq.heappush(waiting, (*step, *below, inside, child))
    often = Counter(shown for key, (shown, _) in found.items() if key not in unnamed)
    return {
        key: path if key in unnamed or often[shown] > 1 else shown
        for key, (shown, path) in found.items()
    }


def _part(item: Any, edge: str, child: Any, hidden: bool) -> tuple[str, bool]:
    """Return what an edge adds to a path, and whether only Keras knows what lies there."""
    if not hidden and not (edge.startswith("_") and _is_layer(item)):
        return edge, False
    if is_variable(child):
        return edge.lstrip("_"), False
    if not _is_layer(child):
        return "", True
    # a Sequential model keeps a Functional one of its own name
    return ("" if child.name == getattr(item, "name", None) else str(child.name)), False


def _is_layer(item: Any) -> bool:
    """Whether it is a layer of Keras."""
    return hasattr(item, "_flatten_layers")


def _joined(path: str, edge: str) -> str:
    return f"{path}/{edge}" if path and edge else path or edge


def _children(item: Any) -> Iterator[tuple[str, Any]]:
    yield from children_of(item).items()
    if _is_layer(item):  # it keeps lists of layers that TensorFlow does not see
        for layer in getattr(item, "_layers", None) or ():
            if hasattr(layer, "name"):
                yield f"_layers/{layer.name}", layer


class Recorder:
    """Notes of every op that is traced which objects' methods were at work, the innermost first."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str], tuple[Any, ...]] = {}
        self._graphs: dict[int, Any] = {}  # alive, so that no other graph gets their ids
        self.installed = False

    def install(self) -> None:
        """Note from now on; the process is a child that looks into one model."""
        if self.installed:
            return
        from tensorflow.python.framework import ops

        graph_type: Any = ops.Graph
        make = graph_type._create_op_internal

        def noting(graph: Any, *arguments: Any, **keywords: Any) -> Any:
            made = make(graph, *arguments, **keywords)
            self._graphs.setdefault(id(graph), graph)
            self._made[id(graph), made.name] = tuple(_at_work())
            return made

        graph_type._create_op_internal = noting
        self.installed = True

    def of(self, graph: Any, name: str) -> list[Any]:
        """Return the objects at work when an op of a flat graph was made, the innermost first.

        name: in the graph with its calls inlined, `StatefulPartitionedCall/matmul`.
        """
        own = self._made.get((id(graph), name))
        if own is not None:
            return list(own)
        parts = name.split("/")
        for end in range(len(parts) - 1, 0, -1):
            call = "/".join(parts[:end])
            inner = _called(graph, call)
            if inner is not None:
                outer = self._made.get((id(graph), call), ())
                return [*self.of(inner, "/".join(parts[end:])), *outer]
        return []

    def inside(self, graph: Any, name: str) -> Iterator[list[Any]]:
        """Yield the same of all ops in the bodies of a loop or a branch; nothing of other ops."""
        node = _operation(graph, name)
        if node is None:
            parts = name.split("/")
            for end in range(len(parts) - 1, 0, -1):
                inner = _called(graph, "/".join(parts[:end]))
                if inner is not None:
                    yield from self.inside(inner, "/".join(parts[end:]))
            return
        for attribute in ("body", "then_branch", "else_branch"):
            body = _function(graph, node, attribute)
            if body is not None:
                for key, objects in self._made.items():
                    if key[0] == id(body):
                        yield list(objects)


RECORDER = Recorder()  # of this process, which it changes for good once it is installed


def _at_work() -> Iterator[Any]:
    """Yield what is trackable of the first arguments on the stack, innermost first."""
    seen: set[int] = set()
    frame: Any = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount:
            first = frame.f_locals.get(code.co_varnames[0])
            if id(first) not in seen and hasattr(type(first), "_trackable_children"):
                seen.add(id(first))
                yield first
        frame = frame.f_back


def _operation(graph: Any, name: str) -> Any:
    try:
        return graph.get_operation_by_name(name)
    except (KeyError, ValueError):
        return None


def _called(graph: Any, name: str) -> Any:
    node = _operation(graph, name)
    return None if node is None else _function(graph, node, "f")


def _function(graph: Any, node: Any, attribute: str) -> Any:
    """Return the graph of the function that an op calls; None of an op that calls none."""
    try:
        called = node.get_attr(attribute).name
    except ValueError:
        return None
    known: Any = graph._get_function(called) if hasattr(graph, "_get_function") else None
    return getattr(known, "graph", None)


class Owners:
    """Tells the object of each op of a flat graph (`ckptkit.runners.tensorflow.graphs`)."""

    def __init__(self, root: Any, recorder: Recorder) -> None:
        self._paths = paths_of(root)
        self._objects = {key for key, item in _all_below(root) if not is_variable(item)}
        self._recorder = recorder
        self._layers = {id(h): path for h, path in _handles(root, self._paths)}

    def layer_of(self, handle: Any) -> str | None:
        """Return the path of the object that has a variable; of the root's own, the variable's."""
        return self._layers.get(id(handle))

    def owner_of(self, flat: Any, nodes: Mapping[str, Any], name: str) -> str:
        """Return the path of the object that an op belongs to; "" of the root, or of none.

        Args:
            flat: the graph with its calls inlined.
            nodes: its nodes, by name.
            name: of the op.
        """
        graph = flat.function.graph
        method = self._innermost(self._recorder.of(graph, name))
        inside = [self._innermost(objects) for objects in self._recorder.inside(graph, name)]
        deeper = _common([path for path in inside if path != ""])
        if deeper:
            return deeper
        read = {self.layer_of(flat.captured[h]) for h in _handles_read(flat, nodes, name)} - {None}
        if len(read) == 1:
            (layer,) = read
            # a layer within the object whose method it is; another's, as tied weights, is not its
            if layer is not None and (not method or f"{layer}/".startswith(f"{method}/")):
                return layer
        return method

    def _innermost(self, objects: list[Any]) -> str:
        known = (self._paths[id(item)] for item in objects if id(item) in self._objects)
        return next(known, "")


def _common(paths: list[str]) -> str:
    parts = [path.split("/") for path in paths]
    end = 0
    while parts and all(len(p) > end and p[end] == parts[0][end] for p in parts):
        end += 1
    return "/".join(parts[0][:end]) if parts else ""


def _all_below(root: Any) -> Iterator[tuple[int, Any]]:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) not in seen:
            seen.add(id(item))
            yield id(item), item
            waiting += [child for _, child in _children(item)]


def _handles(root: Any, paths: Mapping[int, str]) -> Iterator[tuple[Any, str]]:
    """Yield (handle of a variable, path of the object that has it)."""
    layers: dict[int, str] = {}
    variables: dict[int, Any] = {}
    for _, item in _all_below(root):
        for edge, child in _children(item):
            if is_variable(child) and paths.get(id(child)) is not None:
                path = paths[id(child)]
                variables[id(child)] = child
                owner = paths[id(item)]
                own = path.rpartition("/")[0] == owner or edge.startswith("_")
                if own or id(child) not in layers:
                    layers[id(child)] = _named_owner(owner, path, item)
    for key, variable in variables.items():
        inner = getattr(variable, "value", None)
        holder = inner if hasattr(inner, "handle") else variable
        handle = getattr(holder, "handle", None)
        if handle is not None:
            yield handle, layers[key]


def _named_owner(owner: str, path: str, item: Any) -> str:
    """Return the layer of a variable; lists of variables, and the root, are no layers."""
    from tensorflow.python.trackable.data_structures import List

    return path if not owner or isinstance(item, (List, list)) else owner


def _handles_read(flat: Any, nodes: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the captured placeholders that an op reads, but for what moves or casts a value."""
    waiting, seen = [name], {name}
    while waiting:
        node = nodes[waiting.pop()]
        for source in node.input:
            plain = source.lstrip("^").partition(":")[0]
            if plain in seen or source.startswith("^"):
                continue
            seen.add(plain)
            if plain in flat.captured:
                yield plain
            elif nodes[plain].op in _HANDED_ON:
                waiting.append(plain)
