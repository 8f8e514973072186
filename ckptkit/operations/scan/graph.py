"""What running a graph could do beyond computing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ckptkit.operations.findings import Finding
from ckptkit.operations.scan.flow import MAIN, UNKNOWN_PART, Flow, Origin, data_inputs
from ckptkit.operations.scan.rule import WRITES, effect_of, harmless_ops, path_inputs
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.saved_model.graph import INIT_SIGNATURE, MetaGraph, Op
from ckptkit.stores.tensor_bundle.state_file import STATE_FILE
from ckptkit.text import list_text

# ops of which every SavedModel's saver is made
_SAVER = frozenset(
    ("SaveV2", "Save", "SaveSlices", "RestoreV2", "Restore", "RestoreSlice", "MergeV2Checkpoints")
)
_MAX_EXAMPLES = 3
_WHEN_LOADED = "when the model is loaded"
_Scopes = dict[str, set[str]]  # names of ops by the function that holds them


class _Reach(NamedTuple):
    """Who reaches which ops.  restore, init: what a loader runs by itself; save, call: others."""

    restore: _Scopes
    init: _Scopes
    save: _Scopes
    call: _Scopes

    def is_restored(self, scope: str, name: str) -> bool:
        """Whether an op runs when a checkpoint is restored into the graph, or by a signature."""
        return name in self.restore.get(scope, ()) or name in self.call.get(scope, ())

    def runs_when(self, scope: str, name: str) -> str:
        """Return when an op runs, as far as it is known, in a few words."""
        if name in self.init.get(scope, ()) or name in self.restore.get(scope, ()):
            return _WHEN_LOADED
        return "when it is called" if name in self.call.get(scope, ()) else ""


def graph_findings(graph: MetaGraph, path: Path) -> Iterator[Finding]:
    """Yield one finding per op and place that is not known to be harmless."""
    flow = Flow(graph)
    reach = _reach(flow, graph)
    is_training = _is_of_training(path)
    yield from _twins(graph, path)
    for scope, ops in [(MAIN, graph.ops), *((f.name, f.ops) for f in graph.functions)]:
        for op in ops:
            if op.op in harmless_ops() or op.op in flow.functions:
                continue
            finding = _judged(flow, reach, scope, op, path)
            if finding is not None and is_training and not reach.is_restored(scope, op.name):
                finding = _of_training(finding, op)
            if finding is not None:
                yield finding


def _reach(flow: Flow, graph: MetaGraph) -> _Reach:
    _filename, save, restore = graph.saver
    saving = [f for f in graph.saveable_functions if f not in graph.restore_functions]
    by_loaders = {*graph.saveable_functions, *graph.creator_functions}
    signatures = [s for s in graph.signatures if s.key != INIT_SIGNATURE]
    return _Reach(
        restore=flow.reached([restore], list(graph.restore_functions)),
        init=flow.reached([*graph.init_ops, *graph.initializers], list(graph.creator_functions)),
        save=flow.reached([save], saving),
        call=flow.reached(
            [name for s in signatures for name in (*s.inputs, *s.outputs)],
            [*(f for f in graph.object_functions if f not in by_loaders), *graph.gradients],
        ),
    )


def _is_of_training(path: Path) -> bool:
    """Whether a graph is one to train on, as TensorFlow 1 writes it beside its checkpoints.

    Who imports it runs no initializer by that; `graph.pbtxt` is for looking at alone.
    """
    return path.name.endswith(".meta") or (
        path.name == "graph.pbtxt" and path.with_name(STATE_FILE).exists()
    )


def _of_training(finding: Finding, op: Op) -> Finding:
    """Return the finding on an op that only who trains on runs: reading the data is no secret."""
    if effect_of(op.op) not in ("reads files", None):
        return finding
    message = finding.message.removesuffix(f", {_WHEN_LOADED}")
    return replace(finding, severity="note", message=f"{message}, to train on only")


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
    for function in graph.functions:
        if function.name in harmless_ops() or effect_of(function.name):
            message = f"a function called {function.name}, which TensorFlow takes for the op"
            yield Finding("warning", "graph.ambiguous", _place(path, function.name), message)


def _judged(flow: Flow, reach: _Reach, scope: str, op: Op, path: Path) -> Finding | None:
    where = f"{_place(path, scope)}: {op.name} ({op.op})"
    effect = effect_of(op.op)
    runs = reach.runs_when(scope, op.name)
    when = f", {runs}" if runs else ""
    if effect is None:
        message = f"an op that is not known to be harmless{when}"
        hint = "custom, newer than the list, or of a kind that is not looked into"
        return Finding("warning", "graph.unknown-op", where, message, hint)
    origins = _paths(flow, scope, op)
    if op.op in _SAVER and _is_of_saver(reach, scope, op, origins):
        return None
    if op.op in _SAVER and _is_dormant(reach, scope, op, origins):
        message = "part of a saver that only a caller who names it can run"
        return Finding("note", "graph.dormant-saver", where, message)
    if effect == "reads files" and origins:
        unfed = any(op.name in r.get(scope, ()) for r in (reach.call, reach.restore, reach.save))
        if all(_is_own_asset(o, unfed) for o in origins):
            return None  # one of the model's own files
    return Finding("error", _code(effect), where, f"{effect}{_which(origins)}{when}")


def _paths(flow: Flow, scope: str, op: Op) -> set[Origin]:
    """Return where every path that an op is given comes from; none for one without such inputs."""
    inputs = data_inputs(op)
    positions = path_inputs(op.op)
    if any(not -len(inputs) <= position < len(inputs) for position in positions):
        return {Origin("unknown")}
    return {origin for at in positions for origin in flow.origins(scope, inputs[at])}


def _is_of_saver(reach: _Reach, scope: str, op: Op, origins: set[Origin]) -> bool:
    """Whether an op saves or restores where the saver says, and only when that is asked for.

    Restoring is what a loader does, so that what writes below it would write when loaded.
    """
    if op.name in reach.call.get(scope, ()) or op.name in reach.init.get(scope, ()):
        return False
    restores = op.name in reach.restore.get(scope, ())
    if not restores and op.name not in reach.save.get(scope, ()):
        return False
    if restores and effect_of(op.op) == WRITES:
        return False
    return all(o.kind in ("saver", "fed") and not o.leads_out for o in origins)


def _is_dormant(reach: _Reach, scope: str, op: Op, origins: set[Origin]) -> bool:
    """Whether a saver's op waits for callers (TensorFlow 1): they feed the path.

    What stands for it otherwise is a plain name.
    """
    reached = any(op.name in scopes.get(scope, ()) for scopes in reach)
    if scope != MAIN or reached or not any(o.kind in ("fed", "saver") for o in origins):
        return False
    return all(
        not o.leads_out
        and (o.kind in ("fed", "saver") or (o.kind == "literal" and is_plain_name(o.text + o.tail)))
        for o in origins
    )


def _is_own_asset(origin: Origin, unfed: bool) -> bool:
    if origin.kind == "stand-in":  # a loader feeds assets to initializers, to nothing else
        return not unfed
    return origin.kind == "asset" and not origin.tail and is_plain_name(origin.text)


def _code(effect: str) -> str:
    return "graph." + "-".join(effect.replace(",", "").split()[:2])


def _which(origins: set[Origin]) -> str:
    """Return what is known of the files in question."""
    literals = sorted(o.text + o.tail for o in origins if o.kind in ("literal", "stand-in"))
    tails = sorted(f"{o.text or 'its path'} + {o.tail!r}" for o in origins if o.leads_out)
    shown = [repr(text[:80]) for text in literals if UNKNOWN_PART not in text]
    shown += [text[:120] for text in tails if UNKNOWN_PART not in text and repr("\0") not in text]
    if shown:
        return f": {list_text(shown, _MAX_EXAMPLES)}"
    if any(origin.kind == "caller" for origin in origins):
        return ", whichever the caller names"
    return ""


def _place(path: Path, scope: str) -> str:
    name = PurePosixPath(path.parent.name, path.name) if path.parent.name else path.name
    return f"{name}: function {scope}" if scope else f"{name}: graph"
