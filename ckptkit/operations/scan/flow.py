"""Where a tensor of a graph comes from, and from where an op can be reached.

Whether reading a file is harmless depends on which file: a vocabulary among the model's own assets
is, a path written into the graph is not, and neither is what is made of the asset's path by joining
something to it.  So the file names of such an op are followed back through identities, variables,
joins and function calls.  And saving and restoring belong to every SavedModel: the ops that do it
are in order where only the saver reaches them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from ckptkit.stores.saved_model.graph import Function, MetaGraph, Op

MAIN = ""  # the scope of the graph itself; the others are functions, by name
MAX_STEPS = 10_000
_MAX_JOINED = 64  # ways to put one joined string together that are followed
_MAX_DEPTH = 4  # joins whose parts are joined in turn

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
    "ShardedFilename": (0,),  # which adds a number and a count
    "Select": (1, 2),
    "SelectV2": (1, 2),
    "GuaranteeConst": (0,),
    "Switch": (0,),
    "Merge": None,
}
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
# ops that a variable's handle may go to and be followed
_OF_VARIABLES = frozenset(
    ("ReadVariableOp", "VarIsInitializedOp", "VariableShape", "DestroyResourceOp", "Identity")
)
# Ops whose last inputs are the last arguments of the function that they call, and how many of the
# first are not handed over as they are: a condition, the elements of a data set.
_HANDED_OVER = {
    "PartitionedCall": 0,
    "StatefulPartitionedCall": 0,
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), 1),
    **dict.fromkeys(("MapDataset", "FlatMapDataset", "FilterDataset", "TakeWhileDataset"), 1),
}
# The first time a body is given the op's inputs, then what it gave itself.
_LOOPS = frozenset({"While", "StatelessWhile"})
UNKNOWN_PART = "\0"  # stands in a tail for what is not known before the graph runs


class Origin(NamedTuple):
    """Where a value comes from, and what is joined to it on the way (`tail`).

    kind: "asset", "saver", "literal", "stand-in", "caller", "fed" or "unknown".  "fed": a caller
    may put another value in place of the one that stands in the graph.  "stand-in": the text that
    stands for an asset where nobody feeds it.
    """

    kind: str
    text: str = ""
    tail: str = ""

    @property
    def leads_out(self) -> bool:
        """Whether what is joined to it can lead out of its directory."""
        return UNKNOWN_PART in self.tail or ".." in re.split(r"[/\\]", self.tail)


_Place = tuple[str, str, str]  # scope, tensor, tail


class Flow:
    """The ops of one graph by scope and name, and who calls what."""

    def __init__(self, graph: MetaGraph) -> None:
        self.graph = graph
        self.scopes: dict[str, dict[str, Op]] = {MAIN: {op.name: op for op in graph.ops}}
        self.functions: dict[str, Function] = {}
        for function in graph.functions:
            self.scopes.setdefault(function.name, {}).update({op.name: op for op in function.ops})
            self.functions[function.name] = function
        self.assets = {_exact(asset.tensor): asset.filename for asset in graph.assets}
        self.filename = _exact(graph.saver[0]) if graph.saver[0] else ""
        self.callers: dict[str, list[tuple[str, Op]]] = {}
        self.assigned: dict[str, list[tuple[str, Op]]] = {}
        self.shared: set[str] = set()  # variables whose handles go where they are not followed
        for scope, ops in self.scopes.items():
            for op in ops.values():
                for call in self.calls(op):
                    self.callers.setdefault(call, []).append((scope, op))
                if op.op in ("AssignVariableOp", "Assign") and len(op.inputs) > 1:
                    handle = self._variable(scope, op.inputs[0])
                    self.assigned.setdefault(handle, []).append((scope, op))
                elif op.op not in _OF_VARIABLES:
                    self.shared.update(self._variable(scope, value) for value in data_inputs(op))

    def calls(self, op: Op) -> tuple[str, ...]:
        """Return the functions that an op calls: by its attributes, or by its own name."""
        return (*op.calls, op.op) if op.op in self.functions else op.calls

    def _variable(self, scope: str, tensor: str) -> str:
        """Return what stands for a variable: the name that it is shared by, else its tensor."""
        op = self._made_by(scope, tensor)
        if op is not None and op.op in _VARIABLES:
            return op.texts.get("shared_name") or op.name
        return f"{scope}\0{op.name if op is not None else node_of(tensor)}"

    def _made_by(self, scope: str, tensor: str) -> Op | None:
        """Return the op that makes a tensor, behind identities; None for an argument."""
        op = self.scopes[scope].get(node_of(tensor))
        for _step in range(MAX_STEPS):
            if op is None or op.op != "Identity" or not op.inputs:
                return op
            before = self.scopes[scope].get(node_of(op.inputs[0]))
            if before is None:
                return op
            op = before
        return None

    def origins(self, scope: str, tensor: str, depth: int = 0) -> set[Origin]:
        """Return every place that the value of a tensor can come from."""
        found: set[Origin] = set()
        seen: set[_Place] = set()
        pending: list[_Place] = [(scope, tensor, "")]
        while pending:
            item = pending.pop()
            if item in seen:
                continue
            seen.add(item)
            if len(seen) > MAX_STEPS:
                return {Origin("unknown")}
            for step in self._step(*item, depth):
                if isinstance(step, Origin):
                    found.add(step)
                else:
                    pending.append(step)
        return found or {Origin("unknown")}

    def _step(self, scope: str, tensor: str, tail: str, depth: int) -> Iterator[Origin | _Place]:
        name = node_of(tensor)
        op = self.scopes[scope].get(name)
        if scope == MAIN and _exact(tensor) in self.assets:
            yield Origin("asset", self.assets[_exact(tensor)], tail)
            if op is not None and op.op != "Placeholder":
                texts = _texts(op) if op.op == "Const" else [UNKNOWN_PART]
                yield from (Origin("stand-in", text, tail) for text in texts)
            return
        if scope == MAIN and _exact(tensor) == self.filename:
            yield Origin("saver", "", tail)
        elif op is None:
            yield from self._argument(scope, name, tail)
        elif op.op in self.functions:  # whatever its name promises
            yield Origin("unknown")
        elif op.op == "Const":
            yield from (Origin("literal", text, tail) for text in _texts(op))
        elif op.op in ("ReadVariableOp", "Identity") and self._assignments(scope, op):
            made_by = self._made_by(scope, op.inputs[0])
            if made_by is None or made_by.op not in _VARIABLES:
                yield Origin("unknown")  # an argument: who gave it may have filled it
            if self._variable(scope, op.inputs[0]) in self.shared:
                yield Origin("unknown")
            for where, assignment in self._assignments(scope, op):
                yield where, assignment.inputs[1], tail
        elif op.op == "StringJoin":
            yield from self._joined(scope, op, tail, depth)
        elif op.op in _THROUGH:
            if op.op == "PlaceholderWithDefault":
                yield Origin("fed", "", tail)
            inputs = data_inputs(op)
            wanted = _THROUGH[op.op]
            for index, value in enumerate(inputs):
                if wanted is None or index in wanted:
                    yield scope, value, tail
        elif op.op == "Placeholder":
            yield Origin("caller", "", tail)
        else:
            yield Origin("unknown")

    def _joined(self, scope: str, op: Op, tail: str, depth: int) -> Iterator[Origin | _Place]:
        """Yield the first part of a join, with every text that may be joined to it."""
        first, *others = data_inputs(op) or [""]
        if not first or depth >= _MAX_DEPTH:
            yield Origin("unknown")
            return
        texts: list[set[str]] = []
        for part in others:
            origins = self.origins(scope, part, depth + 1)
            known = all(o.kind == "literal" for o in origins)
            texts.append({o.text + o.tail for o in origins} if known else {UNKNOWN_PART})
        separator = op.texts.get("separator", "")
        for count, parts in enumerate(product(*texts)):
            if count >= _MAX_JOINED:
                yield Origin("unknown")
                return
            yield scope, first, "".join(separator + part for part in parts) + tail

    def _assignments(self, scope: str, op: Op) -> list[tuple[str, Op]]:
        return self.assigned.get(self._variable(scope, op.inputs[0]), []) if op.inputs else []

    def _argument(self, scope: str, name: str, tail: str) -> Iterator[Origin | _Place]:
        """Yield what a function's argument is at every call, and what it captures."""
        function = self.functions.get(scope)
        if function is None or name not in function.args:
            yield Origin("unknown")
            return
        if not function.is_plain or scope in self.graph.gradients:
            yield Origin("unknown")
            return
        from_end = len(function.args) - function.args.index(name)
        for caller, op in self.callers.get(scope, ()):
            yield from self._handed(caller, op, from_end, tail)
        if scope in self.graph.object_functions:
            captured = self.graph.captures.get(scope, ())
            if from_end <= len(captured):
                yield Origin(*captured[-from_end], tail)
            elif scope not in self.graph.saveable_functions:
                yield Origin("caller", "", tail)

    def _handed(self, scope: str, op: Op, from_end: int, tail: str) -> Iterator[Origin | _Place]:
        """Yield what an op hands to the functions that it calls, told from the last argument."""
        inputs = data_inputs(op)
        before = 0 if op.op in _LOOPS or op.op in self.functions else _HANDED_OVER.get(op.op)
        if before is None or from_end > len(inputs) - before:
            yield Origin("unknown")
            return
        yield scope, inputs[-from_end], tail
        if op.op in _LOOPS:
            called = [self.functions[name] for name in op.calls if name in self.functions]
            bodies = [body for body in called if len(body.ret) == len(inputs)]
            if not bodies or not all(body.is_plain for body in bodies):
                yield Origin("unknown")
            yield from ((body.name, body.ret[-from_end], tail) for body in bodies)

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
                    calls.extend(self.calls(op))
                continue
            node = pending.pop()
            if node in found[MAIN] or node not in self.scopes[MAIN]:
                continue
            found[MAIN].add(node)
            op = self.scopes[MAIN][node]
            calls.extend(self.calls(op))
            pending.extend(node_of(value) for value in op.inputs)
        return found


def _exact(tensor: str) -> str:
    """Return the name of a tensor of the main graph with its number, which may be left out."""
    name = tensor.removeprefix("^")
    return name if ":" in name else f"{name}:0"


def node_of(tensor: str) -> str:
    """Return the name of the op behind a tensor name ("conv:0", "conv:out:0", "^init")."""
    return tensor.removeprefix("^").partition(":")[0]


def data_inputs(op: Op) -> list[str]:
    """Return an op's inputs that carry data: control inputs only order."""
    return [value for value in op.inputs if not value.startswith("^")]


def _texts(op: Op) -> Iterator[str]:
    """Yield the strings of a constant; UNKNOWN_PART where it keeps them in another way."""
    if not op.strings:
        yield UNKNOWN_PART
    for value in op.strings:
        yield text_of(value)


def text_of(value: bytes) -> str:
    """Return bytes as text for a message."""
    return value.decode("utf-8", "backslashreplace")
