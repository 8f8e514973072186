"""The table of formats: who opens each, and what it looks like.

Openers are named, not imported: a format's module is loaded when a file of it is opened.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from ckptkit.stores.base import Store


class Format(NamedTuple):
    """One row of the table of formats: who opens it, and what it looks like."""

    opener: str  # "module:function" of a function Path -> Store
    looks_like: str
    description: str


FORMATS = {
    "h5": Format(
        "ckptkit.stores.keras.legacy_h5:open_legacy_h5",
        "model.h5",
        "HDF5 of Keras 1 and 2, tf-keras",
    ),
    "keras": Format(
        "ckptkit.stores.keras.archive:open_keras", "model.keras", "Keras 3 archive (zip)"
    ),
    "npz": Format("ckptkit.stores.npz.reader:open_npz", "weights.npz", "numpy archive (zip)"),
    "safetensors": Format(
        "ckptkit.stores.safetensors.reader:open_safetensors", "model.safetensors", "safetensors"
    ),
    "safetensors-index": Format(
        "ckptkit.stores.safetensors.reader:open_safetensors_index",
        "model.safetensors.index.json",
        "safetensors in shards",
    ),
    "saved-model": Format(
        "ckptkit.stores.saved_model.reader:open_saved_model",
        "export/ (with saved_model.pb)",
        "TensorFlow SavedModel",
    ),
    "tensor-bundle": Format(
        "ckptkit.stores.tensor_bundle.reader:open_bundle",
        "run/ckpt-3 (.index, .data-00000-of-00001)",
        "TensorFlow checkpoint, TF2 object-based or TF1 name-based",
    ),
    "weights.h5": Format(
        "ckptkit.stores.keras.archive:open_weights_h5",
        "model.weights.h5",
        "Keras 3 weights (HDF5)",
    ),
    "weights.json": Format(
        "ckptkit.stores.keras.archive:open_weights_json",
        "model.weights.json",
        "Keras 3 weights in shards",
    ),
}


def open_format(name: str, path: Path) -> Store:
    """Return the store at `path`, read as format `name`; raises what the format's opener raises."""
    module, _, function = FORMATS[name].opener.partition(":")
    store: Store = getattr(import_module(module), function)(path)
    return store
