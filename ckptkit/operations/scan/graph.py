"""What running a graph could do beyond computing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ckptkit.operations.findings import Finding
from ckptkit.operations.scan.flow import MAIN, Flow, Origin
from ckptkit.operations.scan.rule import effect_of, harmless_ops
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.saved_model.graph import MetaGraph, Op
from ckptkit.text import list_text

# ops that read the file which an input names, and that input
_READS = {
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
    "ReadFile": 0,
    "TextLineDataset": 0,
    "TFRecordDataset": 0,
    "TFRecordDatasetV2": 0,
}
# ops of which every SavedModel's saver is made, and the input that says where
_SAVER = {
    "SaveV2": 0,
    "Save": 0,
    "SaveSlices": 0,
    "RestoreV2": 0,
    "Restore": 0,
    "RestoreSlice": 0,
    "MergeV2Checkpoints": 0,
}
_MAX_EXAMPLES = 3


def graph_findings(graph: MetaGraph, path: Path) -> Iterator[Finding]:
    """Yield one finding per op and place that is not known to be harmless."""
    flow = Flow(graph)
    saver = flow.reached([graph.saver[1], graph.saver[2]], list(graph.saveable_functions))
    others = _others(flow, graph)
    yield from _twins(graph, path)
    for scope, ops in [(MAIN, graph.ops), *((f.name, f.ops) for f in graph.functions)]:
        for op in ops:
            if op.op in harmless_ops():
                continue
            reached = op.name in others.get(scope, ()) or scope != MAIN
            only_saver = op.name in saver.get(scope, ()) and op.name not in others.get(scope, ())
            finding = _judged(flow, scope, op, only_saver, reached, path)
            if finding is not None:
                yield finding


def _others(flow: Flow, graph: MetaGraph) -> dict[str, set[str]]:
    """Return the ops that something else than the saver reaches: signatures, initializers."""
    nodes = [name for s in graph.signatures for name in (*s.inputs, *s.outputs)]
    nodes += graph.init_ops
    functions = [f for f in graph.object_functions if f not in graph.saveable_functions]
    return flow.reached(nodes, [*functions, *graph.gradients])


def _twins(graph: MetaGraph, path: Path) -> Iterator[Finding]:
    """Yield a finding where a name is given twice: who is called then is the loader's choice."""
    for what, scopes in (
        ("ops", [(MAIN, graph.ops), *((f.name, f.ops) for f in graph.functions)]),
        ("functions", [(MAIN, graph.functions)]),
    ):
        for scope, items in scopes:
            if len({item.name for item in items}) < len(items):
                message = f"several {what} have one name: which one runs is the loader's choice"
                yield Finding("warning", "graph.ambiguous", _place(path, scope), message)


def _judged(
    flow: Flow, scope: str, op: Op, only_saver: bool, reached: bool, path: Path
) -> Finding | None:
    where = f"{_place(path, scope)}: {op.name} ({op.op})"
    effect = effect_of(op.op)
    if effect is None:
        message = "an op that is not known to be harmless"
        hint = "custom, newer than the list, or of a kind that is not looked into"
        return Finding("warning", "graph.unknown-op", where, message, hint)
    origins: set[Origin] = set()
    if op.op in _SAVER or op.op in _READS:
        inputs = [value for value in op.inputs if not value.startswith("^")]
        position = _SAVER.get(op.op, _READS.get(op.op, 0))
        if position < len(inputs):
            origins = flow.origins(scope, inputs[position])
        if op.op in _SAVER and only_saver and {o.kind for o in origins} <= {"saver", "fed"}:
            return None  # saving and restoring, where the saver says
        if op.op in _SAVER and not reached and _is_for_callers(origins):
            message = "part of a saver that only a caller who names it can run"
            return Finding("note", "graph.dormant-saver", where, message)
        if op.op in _READS and origins and all(_is_own_asset(o) for o in origins):
            return None  # one of the model's own files
    return Finding("error", _code(effect), where, f"{effect}{_which(origins)}")


def _is_for_callers(origins: set[Origin]) -> bool:
    """Whether a path is what callers feed, with a plain name to stand for it (TensorFlow 1)."""
    return Origin("fed") in origins and all(
        o.kind in ("fed", "saver") or (o.kind == "literal" and is_plain_name(o.text))
        for o in origins
    )


def _is_own_asset(origin: Origin) -> bool:
    return origin.kind == "asset" and is_plain_name(origin.text)


def _code(effect: str) -> str:
    return "graph." + "-".join(effect.replace(",", "").split()[:2])


def _which(origins: set[Origin]) -> str:
    """Return what is known of the files in question."""
    literals = sorted(origin.text for origin in origins if origin.kind == "literal")
    if literals:
        return f": {list_text([repr(text[:80]) for text in literals], _MAX_EXAMPLES)}"
    if any(origin.kind == "caller" for origin in origins):
        return ", whichever the caller names"
    return ""


def _place(path: Path, scope: str) -> str:
    name = PurePosixPath(path.parent.name, path.name) if path.parent.name else path.name
    return f"{name}: function {scope}" if scope else f"{name}: graph"
