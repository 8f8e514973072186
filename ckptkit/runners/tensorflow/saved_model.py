"""Loading SavedModels, those that TensorFlow itself no longer loads too.  Child process alone.

A SavedModel that Keras 2 wrote of a compiled model may name optimizer slots in its object graph,
for which Keras 3 has no object: `'_UserObject' object has no attribute 'add_slot'`.  Slots are of
no use for inference: a copy of the graph without them loads.  What fails even so runs in a session
(`ckptkit.runners.tensorflow.graph_session`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError
from ckptkit.runners.child.session import MAX_WORDS
from ckptkit.runners.tensorflow.module import tensorflow

_PB = "saved_model.pb"
_UNCHANGED = ("Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch")
_VOCABULARY_BYTES = 1 << 20  # of a text file that is read for its words


def load_saved_model(path: Path, tags: Sequence[str] = ()) -> tuple[Any, str]:
    """Return the loaded object, and how it was loaded; raises what TensorFlow raised first.

    tags: of the graph that is loaded; none for the only one, or the one that is tagged `serve`.
    """
    tf = tensorflow()
    try:
        return tf.saved_model.load(str(path), tags=list(tags) or None), "as it is"
    except Exception as error:  # any of many, and the next ways tell whether it loads at all
        if not (path / _PB).is_file():
            raise
        first = error
    try:
        return _without_slots(path), "without its slots"
    except Exception:
        raise first from None


def _without_slots(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString((path / _PB).read_bytes())
    if len(message.meta_graphs) > 1:
        raise CkptkitError("several graphs")
    nodes = message.meta_graphs[0].object_graph_def.nodes
    if not any(node.slot_variables for node in nodes):
        raise CkptkitError("no slots")
    for node in nodes:
        # inference needs no slots
        del node.slot_variables[:]
    copy = Path(tempfile.mkdtemp(prefix="ckptkit-model-"))
    try:
        # links, so that variables of any size cost nothing
        for item in path.iterdir():
            if item.name not in (_PB, "fingerprint.pb"):
                (copy / item.name).symlink_to(item.resolve())
        (copy / _PB).write_bytes(message.SerializeToString(deterministic=True))
        return tensorflow().saved_model.load(str(copy))
    finally:
        shutil.rmtree(copy)


def words_of(path: Path, graphs: Iterator[Any]) -> list[bytes]:
    """Return words that the model's tables know: of its assets, then of constants in its graphs.

    graphs: GraphDefs, their function libraries included.
    """
    found: dict[bytes, None] = {}
    assets = path / "assets"
    for file in sorted(assets.rglob("*")) if assets.is_dir() else ():
        if file.is_file():
            with file.open("rb") as lines:
                text = lines.read(_VOCABULARY_BYTES)
            found |= dict.fromkeys(line.rstrip(b"\r") for line in text.split(b"\n")[:MAX_WORDS])
    for graph in graphs:
        for node in _nodes(graph):
            if node.op == "Const" and node.attr["dtype"].type == 7:  # DT_STRING
                values = node.attr["value"].tensor.string_val
                if len(values) > 1:
                    found |= dict.fromkeys(list(values)[:MAX_WORDS])
    return [word for word in found if word][:MAX_WORDS]


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def rows_looked_up(graph: Any, rows: Mapping[str, int]) -> int | None:
    """Return the rows of the smallest table that integers index, so that none points outside.

    graph: with all calls inlined.  rows: {placeholder, or node of a variable: its rows}.
    """
    nodes = {node.name: node for node in graph.node}
    sources = (
        _source(node.input[0], nodes)
        for node in graph.node
        if node.op in ("ResourceGather", "GatherV2", "Gather")
    )
    return min((rows[source] for source in sources if source in rows), default=None)


def _source(name: str, nodes: dict[str, Any]) -> str:
    """Return the node from which a value comes unchanged."""
    name = name.partition(":")[0]
    while name in nodes and nodes[name].op in _UNCHANGED:
        name = nodes[name].input[0].partition(":")[0]
    return name


def rows_of(captured: Mapping[str, Any]) -> dict[str, int]:
    """Return {placeholder: rows} of the variables that a function captured."""
    found = {name: _rows(handle) for name, handle in captured.items()}
    return {name: size for name, size in found.items() if size is not None}


def _rows(handle: Any) -> int | None:
    data = getattr(handle, "_handle_data", None)
    if data is None or not data.is_set or not data.shape_and_type:
        return None
    shape = data.shape_and_type[0].shape
    return int(shape.dim[0].size) if shape.dim and shape.dim[0].size > 0 else None
