"""The layers of a Keras model inside a SavedModel.

Keras 2.5 to 2.15 writes `keras_metadata.pb`, earlier Keras 2 the same JSON into the user objects of
`saved_model.pb`: class, name and config per layer.  Keras 3 writes neither; there the full names
of the variables (`conv1/kernel`) tell the layers' names, and nothing tells their classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptkit._io.files import file_size, read_exact
from ckptkit.stores.base import ModelLayer, ObjectGraph, Structure, TensorSpec
from ckptkit.stores.containers.strict_json import loads
from ckptkit.stores.keras.config import LayerConfig, as_layer, flag, layer_rows
from ckptkit.stores.proto.messages import parse

METADATA_FILE = "keras_metadata.pb"
_IDENTIFIERS = ("_tf_keras_layer", "_tf_keras_model", "_tf_keras_network", "_tf_keras_sequential")
_KERAS3_EDGES = frozenset({"_operations", "_inbound_nodes", "_all_variables"})


def layers(
    path: Path, saved_model: Any, structure: Structure, specs: Mapping[str, TensorSpec]
) -> tuple[ModelLayer, ...]:
    """Return the layers of the SavedModel at `path`; none where it is not Keras's.

    Raises FormatError for metadata that does not parse.
    """
    if not isinstance(structure, ObjectGraph):
        return ()
    params = _params(structure, specs)
    configs = list(_metadata(path, saved_model))
    if configs:
        root, *others = configs
        if root.kind in ("functional", "sequential"):
            return layer_rows(root, params)
        return tuple(
            ModelLayer(layer.name, layer.class_name, None, params.get((layer.name,)), flag(layer))
            for layer in others
        )
    edges = {edge for node in structure.nodes for edge, _child in node.children}
    if not edges & _KERAS3_EDGES:
        return ()
    owners = {name[:-1] for name in _full_names(structure, specs) if len(name) > 1}
    return tuple(ModelLayer("/".join(owner), "", None, params[owner]) for owner in sorted(owners))


def keras_config(path: Path, saved_model: Any) -> Mapping[str, Any] | None:
    """Return the config of the Keras 2 model in the SavedModel at `path`, None where it has none.

    Raises FormatError for metadata that does not parse.
    """
    root = next(_metadata(path, saved_model), None)
    return root.node if root is not None else None


def _metadata(path: Path, saved_model: Any) -> Iterator[LayerConfig]:
    """Yield the serialized layers, the model itself first."""
    file = path / METADATA_FILE
    if file.is_file():
        data = read_exact(file, 0, file_size(file))
        for node in parse("SavedMetadata", data, str(file)).nodes:
            yield from _layer(node.identifier, node.metadata, f"{file}: {node.node_path}")
        return
    for graph in saved_model.meta_graphs:
        for index, node in enumerate(graph.object_graph_def.nodes):
            user = node.user_object
            if user.metadata:
                yield from _layer(user.identifier, user.metadata, f"{path}: object {index}")


def metadata_of_nodes(path: Path, saved_model: Any) -> dict[int, str]:
    """Return the JSON of each layer by its node in the object graph; {} where there is none.

    Args:
        path: of the SavedModel.
        saved_model: its parsed message.

    Raises:
        FormatError: its metadata does not parse.
    """
    file = path / METADATA_FILE
    if file.is_file():
        data = read_exact(file, 0, file_size(file))
        nodes = parse("SavedMetadata", data, str(file)).nodes
        return {node.node_id: node.metadata for node in nodes if node.identifier in _IDENTIFIERS}
    return {
        index: node.user_object.metadata
        for graph in saved_model.meta_graphs
        for index, node in enumerate(graph.object_graph_def.nodes)
        if node.user_object.metadata and node.user_object.identifier in _IDENTIFIERS
    }


def _layer(identifier: str, metadata: str, where: str) -> Iterator[LayerConfig]:
    if identifier in _IDENTIFIERS:
        layer = as_layer(loads(metadata.encode(), where))
        if layer is not None:
            yield layer


def _full_names(
    graph: ObjectGraph, specs: Mapping[str, TensorSpec]
) -> dict[tuple[str, ...], TensorSpec]:
    """Return the spec of each variable by its full name, in parts; a repeated one counts once."""
    state = _optimizer_state(graph)
    return {
        tuple(full_name.split("/")): specs[key]
        for index, node in enumerate(graph.nodes)
        if index not in state
        for _attribute, full_name, key in node.attributes
        if key in specs and full_name
    }


def _optimizer_state(graph: ObjectGraph) -> set[int]:
    """Return the nodes of optimizers' own variables (`_variables/N`, or slot variables)."""
    state: set[int] = set()
    for node in graph.nodes:
        edges = dict(node.children)
        state.update(slot for _original, _name, slot in node.slots)
        if "_variables" in edges and "_iterations" in edges:
            state.update(child for _edge, child in graph.nodes[edges["_variables"]].children)
    return state


def _params(graph: ObjectGraph, specs: Mapping[str, TensorSpec]) -> Counter[tuple[str, ...]]:
    """Return elements at or below each prefix of the variables' full names."""
    params: Counter[tuple[str, ...]] = Counter()
    for parts, spec in _full_names(graph, specs).items():
        for depth in range(1, len(parts)):
            params[parts[:depth]] += spec.size
    return params
