"""A plan that keeps SRC's own object graph, perhaps under another root."""

from __future__ import annotations

from collections.abc import Mapping

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.errors import UsageError
from ckptkit.operations.convert.builder import PlanBuilder, is_config_text
from ckptkit.operations.convert.model_files import notes_on_lists
from ckptkit.operations.convert.plan import PlannedTensor
from ckptkit.operations.convert.sources import STORED_TWICE
from ckptkit.operations.convert.value_stores import ValueSource, constant_source
from ckptkit.stores.base import ObjectGraph
from ckptkit.stores.registry import SAVED_MODEL, format_of
from ckptkit.stores.tensor_bundle.edit_graph import check_root, edit_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, graph_bytes
from ckptkit.stores.writing import TensorToWrite
from ckptkit.wording import say


def plan_from_object_graph(builder: PlanBuilder) -> None:
    """Plan a checkpoint from a checkpoint or SavedModel with an object graph.

    Raises UsageError for rules, which have nothing to rename here, and for a root that cannot be.
    """
    if builder.options.rules:
        raise UsageError(
            say(
                "nothing is renamed by ‹rules› here: the checkpoint keeps the object graph of ‹SRC›"
            ),
            hint=say("‹root=NAME› puts it under another root; ‹like› gives another structure"),
        )
    last = builder.src.last
    root = builder.options.root
    # The root of a SavedModel is the model itself; tf.train.Checkpoint(model=...) has it below.
    if (
        root is None
        and format_of(last.store.format).structure == SAVED_MODEL
        and last.subtree is None
    ):
        root = "model"
        builder.notes.append(
            say("re-rooted for tf.train.Checkpoint(model=...); ‹root=› keeps the root as it is")
        )
    if root:
        check_root(root)
        _refuse_export(last)
    duplicates = builder.src.duplicates
    keys = _keys_to_write(builder, duplicates)
    edited = edit_graph(
        graph_bytes(last.store),
        f"{last.path}: object graph",
        keep=keys,
        below=last.subtree,
        root=root or None,
    )
    builder.graph = edited.data
    for key in keys:
        _add_tensor(builder, key, edited.keys.get(key, key), duplicates.get(key))
    # A root that tf.train.Checkpoint would have made counts how often it was saved.
    if edited.save_counter is not None:
        output = TensorToWrite(edited.save_counter, "int64", (), "save_counter", "counter")
        values = constant_source(output.key, "int64", 0)
        builder.tensors.append(PlannedTensor(output, values, None, "generated"))
    builder.notes += notes_on_lists(last, builder.src.tensors)


def _refuse_export(source: Checkpoint) -> None:
    """Refuse Keras's export(), whose variables are flat lists that no live model has."""
    graph = source.structure
    if isinstance(graph, ObjectGraph) and "_all_variables" in dict(graph.nodes[0].children):
        raise UsageError(
            "a model.export() keeps its variables as flat lists, which no live model would restore",
            where=str(source.path),
            hint=say("add ‹like=CHECKPOINT› of that model, or ‹model›; ‹root=› keeps the lists"),
        )


def _keys_to_write(builder: PlanBuilder, duplicates: Mapping[str, str]) -> list[str]:
    """Return the keys of SRC that stay: what takes part, duplicates, strings of configuration."""
    src, last = builder.src, builder.src.last
    # Here a tensor that SRC stores twice is written twice, as the object graph says.
    src.leftovers[:] = [item for item in src.leftovers if item.why != STORED_TWICE]
    keys = []
    for key in last.specs:
        if key in src.tensors:
            if builder.can_write(src.tensors[key]):
                keys.append(key)
        elif duplicates.get(key) in src.tensors or (
            key != OBJECT_GRAPH_KEY and is_config_text(last, key)
        ):
            keys.append(key)
    return keys


def _add_tensor(builder: PlanBuilder, key: str, new_key: str, original: str | None) -> None:
    """Plan one tensor under `new_key`; original: the key of the tensor that it repeats."""
    src, last = builder.src, builder.src.last
    naming, spec = last.names[key], last.specs[key]
    if key in src.tensors or original is not None:
        source = key if original is None else original
        output = TensorToWrite(new_key, src.dtype(source), spec.shape, naming.name, naming.role)
        builder.add(source, output, "source" if original is None else "duplicate")
        return
    output = TensorToWrite(new_key, spec.dtype, spec.shape, naming.name, naming.role)
    values, tensor = ValueSource(last.store, key), Tensor(spec, naming)
    builder.tensors.append(PlannedTensor(output, values, tensor, "source"))
