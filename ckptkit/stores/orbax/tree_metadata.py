"""`_METADATA` of Orbax: the leaves of the tree that was saved, by typed paths.

    {"tree_metadata": {"('params', 'dense', 'kernel')": {
         "key_metadata": [{"key": "params", "key_type": 2}, ...],
         "value_metadata": {"value_type": "jax.Array", "skip_deserialize": false, ...}}, ...},
     "use_zarr3": false, "store_array_data_equal_to_fill_value": true, ...}

key_type 1 is a place in a list or tuple, 2 a key of a dict or the name of a field.  A leaf's array
is called by the keys joined with ".", which alone does not tell where a key ends.  Leaves that are
no arrays are None, empty containers, and texts, which `_strings.json` has.  Older versions lack the
flag on fill values: they left out chunks whose values all are the fill value.
Source: orbax/checkpoint/_src/metadata/{tree,value}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.file_states import is_file
from ckptkit.errors import FormatError
from ckptkit.stores.containers import strict_json
from ckptkit.stores.orbax.layout import STRINGS, TREE_METADATA

_MAX_BYTES = 1 << 30  # of JSON; a leaf takes some 200
_MAX_KEYS = 200  # of a path
_INDEX = 1  # key_type
_MODEL_CONFIG = "model_config"  # an item of keras.callbacks.OrbaxCheckpoint


class TreeLeaf(NamedTuple):
    """One leaf: its path, which of the keys are places in a list, and what it is.

    kind: "array", "text" or "nothing" (None, an empty container).
    """

    path: tuple[str, ...]
    indices: frozenset[int]
    kind: str

    @property
    def array_name(self) -> str:
        """What its array is called in the database or directory."""
        return ".".join(self.path)


class SavedTree(NamedTuple):
    """The leaves of a tree, in the order of the file; whether no chunk of an array was left out."""

    leaves: tuple[TreeLeaf, ...]
    needs_all_chunks: bool


def read_tree(directory: Path) -> SavedTree | None:
    """Return the tree whose leaves lie in a directory; None where there is no `_METADATA`.

    Raises FormatError.
    """
    path = directory / TREE_METADATA
    if not is_file(path):
        return None
    found = strict_json.load(path, max_bytes=_MAX_BYTES)
    leaves = found.get("tree_metadata") if isinstance(found, dict) else None
    if not isinstance(leaves, dict):
        raise FormatError(str(path), "no tree_metadata in it")
    stores_all = found.get("store_array_data_equal_to_fill_value") is True
    return SavedTree(tuple(_leaf(text, leaf, path) for text, leaf in leaves.items()), stores_all)


def read_texts(directory: Path) -> Mapping[str, str]:
    """Return the leaves that are texts, by what an array of their path would be called."""
    path = directory / STRINGS
    if not is_file(path):
        return {}
    found = strict_json.load(path)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise FormatError(str(path), "no JSON object of texts")
    return found


def model_config_of_orbax(path: Path) -> Any:
    """Return the config of the model that Keras's own callback saved beside its arrays, or None.

    path: of the checkpoint; the item `model_config` holds one text, which is JSON.
    Raises FormatError.
    """
    item = path / _MODEL_CONFIG
    text = read_texts(item).get("config")
    if text is None:
        return None
    return strict_json.loads(text.encode(), f"{item / STRINGS}: config")


def _leaf(text: str, leaf: Any, path: Path) -> TreeLeaf:
    where = f"{path}: {text[:80]}"
    keys = leaf.get("key_metadata") if isinstance(leaf, dict) else None
    value = leaf.get("value_metadata") if isinstance(leaf, dict) else None
    if not isinstance(keys, list) or not keys or len(keys) > _MAX_KEYS:
        raise FormatError(where, "a leaf without a path")
    names: list[str] = []
    indices: set[int] = set()
    for key in keys:
        name = key.get("key") if isinstance(key, dict) else None
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise FormatError(where, "a path of something else than names")
        if key.get("key_type") == _INDEX:
            indices.add(len(names))
        names.append(str(name))
    kind = value.get("value_type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str):
        raise FormatError(where, "a leaf of no type")
    if kind == "string":
        what = "text"
    else:
        what = "nothing" if value.get("skip_deserialize") is True else "array"
    return TreeLeaf(tuple(names), frozenset(indices), what)
