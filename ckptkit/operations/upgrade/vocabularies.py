"""The words of lookup layers that a file keeps beside its config.

Keras 2.12 to 2.15 write them into a `.keras` archive, `assets/layers/string_lookup/vocabulary.txt`,
a word a line with the tokens for what is missing or unknown; a SavedModel has them as a constant
that its table is filled with.  An `.h5` file has no place for them
(keras/src/layers/preprocessing/index_lookup.py of Keras 2.15).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ckptkit.errors import FormatError
from ckptkit.stores.assets import assets, small_asset
from ckptkit.stores.base import Store
from ckptkit.stores.containers.strict_json import loads
from ckptkit.stores.keras.config import LayerConfig, as_layer, layers_of
from ckptkit.stores.keras.layer_variables import snake_case
from ckptkit.stores.saved_model.constants import filling_constants
from ckptkit.stores.saved_model.layers import metadata_of_nodes
from ckptkit.stores.saved_model.reader import SavedModel

LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
_FILE = "vocabulary.txt"


def is_vocabulary(name: str) -> bool:
    """Whether an asset of a `.keras` archive holds the words of a lookup layer."""
    return PurePosixPath(name).name == _FILE


def words_of_assets(store: Store, config: Any) -> dict[str, list[Any]]:
    """Return the words in the files of a `.keras` archive, by the path of their layer.

    Args:
        store: the archive.
        config: of its model.
    """
    root = as_layer(config)
    names = [name for name in assets(store) if is_vocabulary(name)]
    if root is None or not names:
        return {}
    folders = {str(PurePosixPath(name).parent.relative_to("assets")): name for name in names}
    found: dict[str, list[Any]] = {}
    for path, layer, folder in _places(root, (), "", list(folders)):
        text = small_asset(store, folders[folder])
        if text is not None:
            words = text.decode("utf-8").rstrip("\n").split("\n")
            found["/".join(path)] = _typed(layer.class_name, words)
    return found


def _places(
    model: LayerConfig, path: tuple[str, ...], folder: str, folders: list[str]
) -> Iterator[tuple[tuple[str, ...], LayerConfig, str]]:
    """Yield (path, layer, its folder) of every lookup layer whose words lie in a file.

    Layers of one class are numbered in the order of the config, whichever numbers they get.
    """
    base = f"{folder}/layers" if folder else "layers"
    by_class: dict[str, list[LayerConfig]] = {}
    for layer in layers_of(model):
        by_class.setdefault(snake_case(layer.class_name), []).append(layer)
    for stem, layers in by_class.items():
        pattern = re.compile(rf"{re.escape(base)}/{re.escape(stem)}(?:_(\d+))?(?=/|$)")
        matches = [match for name in folders if (match := pattern.match(name)) is not None]
        heads = sorted({match[0]: int(match[1] or 0) for match in matches}.items(), key=_number)
        inside = [layer for layer in layers if _holds_words(layer)]
        for layer, (head, _) in zip(inside, heads, strict=False):
            here = (*path, layer.name)
            if layer.kind != "layer":
                yield from _places(layer, here, head, folders)
            elif head in folders:
                yield here, layer, head


def _number(item: tuple[str, int]) -> int:
    return item[1]


def _holds_words(layer: LayerConfig) -> bool:
    """Whether a file beside the config is needed for the words of a layer, or of one inside."""
    if layer.kind != "layer":
        return any(_holds_words(inner) for inner in layers_of(layer))
    return layer.class_name in LOOKUPS and layer.config.get("vocabulary") is None


def _typed(class_name: str, words: list[str]) -> list[Any]:
    return [int(word) for word in words] if class_name == "IntegerLookup" else list(words)


def words_of_tables(store: SavedModel) -> dict[str, list[Any]]:
    """Return the words that the tables of a SavedModel are filled with, by the name of their layer.

    A name that two lookup layers have is left out.

    Args:
        store: the SavedModel.
    """
    tables = filling_constants(store)
    found: dict[str, list[Any]] = {}
    twice: set[str] = set()
    for layer, node in _lookup_layers(store):
        words = tables.get(node)
        if words is None:
            continue
        if layer.name in found:
            twice.add(layer.name)
        found[layer.name] = _typed(layer.class_name, [word.decode("utf-8") for word in words])
    return {name: words for name, words in found.items() if name not in twice}


def _lookup_layers(store: SavedModel) -> Iterator[tuple[LayerConfig, int]]:
    """Yield each lookup layer with the node of its table in the object graph."""
    metadata = metadata_of_nodes(store.path, store._message)
    for meta in store._message.meta_graphs:
        objects = meta.object_graph_def.nodes
        edges = [{child.local_name: child.node_id for child in node.children} for node in objects]
        for index, text in metadata.items():
            try:
                layer = as_layer(loads(text.encode(), str(store.path)))
            except FormatError:
                continue
            if layer is None or layer.class_name not in LOOKUPS or index >= len(edges):
                continue
            holder = edges[index].get("_lookup_layer", index)
            table = edges[holder].get("lookup_table")
            if table is not None:
                yield layer, table
