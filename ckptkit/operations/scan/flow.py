"""Where a tensor of a graph comes from, and from where an op can be reached.

Whether reading a file is harmless depends on which file: a vocabulary among the model's own assets
is, a path written into the graph is not.  So the file name of such an op is followed back through
identities, variables and function calls.  And saving and restoring belong to every SavedModel: the
ops that do it are in order where only the saver reaches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ckptkit.stores.saved_model.graph import Function, MetaGraph, Op

MAIN = ""  # the scope of the graph itself; the others are functions, by name
MAX_STEPS = 10_000

# op -> inputs that a value may come through (None: all)
_THROUGH: dict[str, tuple[int, ...] | None] = {
    "Identity": (0,),
    "IdentityN": None,
    "StopGradient": (0,),
    "Reshape": (0,),
    "ExpandDims": (0,),
    "Squeeze": (0,),
    "PlaceholderWithDefault": (0,),
    "Pack": None,
    "ShardedFilename": (0,),
    "StringJoin": (0,),  # what comes after the first part is below it
    "Select": (1, 2),
    "SelectV2": (1, 2),
    "GuaranteeConst": (0,),
    "Switch": (0,),
    "Merge": None,
}


class Origin(NamedTuple):
    """Where a value comes from: kind "asset", "saver", "literal", "caller", "fed" or "unknown".

    "fed": a caller may put another value in place of the one that stands in the graph.
    """

    kind: str
    text: str = ""


class Flow:
    """The ops of one graph by scope and name, and who calls what."""

    def __init__(self, graph: MetaGraph) -> None:
        self.graph = graph
        self.scopes: dict[str, dict[str, Op]] = {MAIN: {op.name: op for op in graph.ops}}
        self.functions: dict[str, Function] = {}
        for function in graph.functions:
            self.scopes.setdefault(function.name, {}).update({op.name: op for op in function.ops})
            self.functions[function.name] = function
        self.assets = {node_of(asset.tensor): asset.filename for asset in graph.assets}
        self.callers: dict[str, list[tuple[str, Op]]] = {}
        self.assigned: dict[str, list[tuple[str, Op]]] = {}
        for scope, ops in self.scopes.items():
            for op in ops.values():
                for call in op.calls:
                    self.callers.setdefault(call, []).append((scope, op))
                if op.op in ("AssignVariableOp", "Assign") and len(op.inputs) > 1:
                    handle = self._variable(scope, op.inputs[0])
                    self.assigned.setdefault(handle, []).append((scope, op))

    def _variable(self, scope: str, tensor: str) -> str:
        """Return what stands for a variable: its op in the main graph, else its tensor."""
        op = self.scopes[scope].get(node_of(tensor))
        if scope == MAIN and op is not None:
            return op.name
        return f"{scope}\0{node_of(tensor)}"

    def origins(self, scope: str, tensor: str) -> set[Origin]:
        """Return every place that the value of a tensor can come from."""
        found: set[Origin] = set()
        seen: set[tuple[str, str]] = set()
        pending = [(scope, tensor)]
        while pending:
            item = pending.pop()
            if item in seen:
                continue
            seen.add(item)
            if len(seen) > MAX_STEPS:
                return {Origin("unknown")}
            for step in self._step(*item):
                if isinstance(step, Origin):
                    found.add(step)
                else:
                    pending.append(step)
        return found or {Origin("unknown")}

    def _step(self, scope: str, tensor: str) -> Iterator[Origin | tuple[str, str]]:
        name = node_of(tensor)
        op = self.scopes[scope].get(name)
        if scope == MAIN:
            if name in self.assets:
                yield Origin("asset", self.assets[name])
                return
            if name == node_of(self.graph.saver[0]):
                yield Origin("saver")
                return
        if op is None:
            yield from self._argument(scope, name)
        elif op.op == "Const":
            yield from (Origin("literal", text_of(value)) for value in op.strings)
        elif op.op in ("ReadVariableOp", "Identity") and self._assignments(scope, op):
            for where, assignment in self._assignments(scope, op):
                yield where, assignment.inputs[1]
        elif op.op in _THROUGH:
            if op.op == "PlaceholderWithDefault":
                yield Origin("fed")
            inputs = [value for value in op.inputs if not value.startswith("^")]
            wanted = _THROUGH[op.op]
            for index, value in enumerate(inputs):
                if wanted is None or index in wanted:
                    yield scope, value
        elif op.op == "Placeholder":
            yield Origin("caller")
        else:
            yield Origin("unknown")

    def _assignments(self, scope: str, op: Op) -> list[tuple[str, Op]]:
        return self.assigned.get(self._variable(scope, op.inputs[0]), []) if op.inputs else []

    def _argument(self, scope: str, name: str) -> Iterator[Origin | tuple[str, str]]:
        """Yield what a function's argument is at every call, and what it captures."""
        function = self.functions.get(scope)
        if function is None or name not in function.args:
            yield Origin("unknown")
            return
        position = function.args.index(name)
        from_end = len(function.args) - position
        for caller, op in self.callers.get(scope, ()):
            inputs = [value for value in op.inputs if not value.startswith("^")]
            if from_end > len(inputs):
                yield Origin("unknown")
            else:
                yield caller, inputs[-from_end]
        if scope in self.graph.object_functions:
            captured = self.graph.captures.get(scope, ())
            if from_end <= len(captured):
                yield Origin(*captured[-from_end])
            elif scope not in self.graph.saveable_functions:
                yield Origin("caller")

    # -- who reaches what

    def reached(self, nodes: list[str], functions: list[str]) -> dict[str, set[str]]:
        """Return the ops that running these needs, by scope; a called function counts whole."""
        found: dict[str, set[str]] = {MAIN: set()}
        pending = [node_of(name) for name in nodes if name]
        calls = list(functions)
        while pending or calls:
            if calls:
                name = calls.pop()
                if name in found or name not in self.functions:
                    continue
                found[name] = set(self.scopes[name])
                calls.extend(self.functions[name].calls)
                for op in self.scopes[name].values():
                    calls.extend(op.calls)
                continue
            node = pending.pop()
            if node in found[MAIN] or node not in self.scopes[MAIN]:
                continue
            found[MAIN].add(node)
            op = self.scopes[MAIN][node]
            calls.extend(op.calls)
            pending.extend(node_of(value) for value in op.inputs)
        return found


def node_of(tensor: str) -> str:
    """Return the name of the op behind a tensor name ("conv:0", "conv:out:0", "^init")."""
    return tensor.removeprefix("^").partition(":")[0]


def text_of(value: bytes) -> str:
    """Return bytes as text for a message."""
    return value.decode("utf-8", "backslashreplace")
