"""A plan that keeps SRC's own object graph, perhaps under another root."""

from __future__ import annotations

from collections.abc import Mapping

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.errors import UsageError
from ckptkit.operations.convert import model_files as _files
from ckptkit.operations.convert.builder import Draft, graph_bytes
from ckptkit.operations.convert.plan import Fill
from ckptkit.operations.convert.value_stores import Origin, made
from ckptkit.stores.base import ObjectGraph
from ckptkit.stores.tensor_bundle.edit_graph import check_root, edit_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.stores.writing import TensorToWrite

_TWICE = "stored twice in SRC"


def by_own_graph(draft: Draft) -> None:
    """Fill the draft of a checkpoint from a checkpoint or SavedModel with an object graph."""
    if draft.request.rules:
        raise UsageError(
            "--map renames nothing here: the checkpoint keeps the object graph of SRC",
            hint="--root NAME puts it under another root; --like gives another structure",
        )
    last = draft.src.last
    root = draft.request.root
    if root is None and last.store.format == "saved-model" and last.subtree is None:
        root = "model"
        draft.notes.append(
            "re-rooted for tf.train.Checkpoint(model=...); --root '' keeps the root as it is"
        )
    if root:
        check_root(root)
        _refuse_export(last)
    duplicates = draft.src.duplicates
    keys = _keys(draft, duplicates)
    edited = edit_graph(
        graph_bytes(last),
        f"{last.path}: object graph",
        keep=keys,
        below=last.subtree,
        root=root or None,
    )
    draft.graph = edited.data
    for key in keys:
        _fill(draft, key, edited.keys.get(key, key), duplicates.get(key))
    if edited.save_counter is not None:
        out = TensorToWrite(edited.save_counter, "int64", (), "save_counter", "counter")
        draft.fills.append(Fill(out, made(out.key, "int64", 0), None, "made"))
    draft.notes += _files.notes_on_lists(last, draft.src.tensors)


def _refuse_export(source: Checkpoint) -> None:
    """Refuse Keras's export(), whose variables are flat lists that no live model has."""
    graph = source.structure
    if isinstance(graph, ObjectGraph) and "_all_variables" in dict(graph.nodes[0].children):
        raise UsageError(
            "a model.export() keeps its variables as flat lists, which no live model would restore",
            where=str(source.path),
            hint="add --like CHECKPOINT of that model, or --model; --root '' keeps the lists",
        )


def _keys(draft: Draft, duplicates: Mapping[str, str]) -> list[str]:
    """Return the keys of SRC that stay: what takes part, twins, strings of configuration."""
    src, last = draft.src, draft.src.last
    src.skipped[:] = [item for item in src.skipped if item.why != _TWICE]
    kept = []
    for key in last.specs:
        if key in src.tensors:
            if draft.writable(src.tensors[key]):
                kept.append(key)
        elif duplicates.get(key) in src.tensors or (
            key != OBJECT_GRAPH_KEY
            and last.names[key].role == "config"
            and last.specs[key].dtype == "string"
        ):
            kept.append(key)
    return kept


def _fill(draft: Draft, key: str, new_key: str, original: str | None) -> None:
    src, last = draft.src, draft.src.last
    naming, spec = last.names[key], last.specs[key]
    if key in src.tensors or original is not None:
        source = key if original is None else original
        out = TensorToWrite(new_key, src.dtype(source), spec.shape, naming.name, naming.role)
        draft.fill(source, out, "own" if original is None else "twin")
        return
    out = TensorToWrite(new_key, spec.dtype, spec.shape, naming.name, naming.role)
    draft.fills.append(Fill(out, Origin(last.store, key), Tensor(spec, naming), "own"))
