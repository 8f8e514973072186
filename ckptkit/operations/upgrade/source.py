"""What a file of Keras 1 or 2 says of its model: config, versions, words; nothing is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.operations.upgrade.vocabularies import words_of_assets, words_of_tables
from ckptkit.stores.keras.archive import METADATA, archive_configs
from ckptkit.stores.keras.legacy_h5 import backend_of_h5, hdf5_configs
from ckptkit.stores.registry import KERAS, LEGACY_KERAS, SAVED_MODEL, format_of, model_config
from ckptkit.stores.saved_model.layers import keras_config
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.text import lazy_pattern

_VERSION = lazy_pattern(r"\d+")


@dataclass(frozen=True)
class OldModel:
    """A model of Keras 1 or 2 in a file.

    checkpoint: its weights.  config: as the file has it.  generation: 1, 2 or 3, of the Keras that
    wrote it.  writer: what the file says of that, or "".  is_compiled: whether it says how it was
    compiled.  is_theano: whether it was written on Theano.
    """

    checkpoint: Checkpoint
    config: Mapping[str, Any]
    generation: int
    writer: str
    is_compiled: bool
    vocabularies: Mapping[str, list[Any]] = field(default_factory=dict)
    is_theano: bool = False

    @property
    def is_legacy(self) -> bool:
        """Whether it is an `.h5` file."""
        return format_of(self.checkpoint.store.format).structure == LEGACY_KERAS

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.checkpoint.store.path)


def read_old_model(path: str | os.PathLike[str]) -> OldModel:
    """Return the model of a file.

    Args:
        path: an `.h5` file of a whole model, a `.keras` archive, or a SavedModel of Keras.

    Raises:
        UsageError: it holds weights alone, a part of a model, or no model of Keras.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    checkpoint = open_checkpoint(path)
    for problem in checkpoint.problems():
        raise problem
    if checkpoint.subtree is not None:
        raise UsageError("a whole model is upgraded, not a part of it", where=str(path))
    structure = format_of(checkpoint.store.format).structure
    if structure == SAVED_MODEL:
        return _of_saved_model(checkpoint)
    if structure == LEGACY_KERAS or checkpoint.store.format == "keras":
        return _of_file(checkpoint, structure)
    what = checkpoint.store.format
    hint = "give the file of the whole model: .h5, .keras or a SavedModel"
    if structure == KERAS:
        hint = f"build the model with code of Keras 3, and load these weights into it; or {hint}"
    raise UsageError(f"{what} holds weights and no model", where=str(path), hint=hint)


def _of_file(checkpoint: Checkpoint, structure: str) -> OldModel:
    path = Path(checkpoint.store.path)
    config = model_config(checkpoint.store.format, path)
    if config is None:
        raise UsageError(
            "the file holds weights and no model: there is no model_config in it",
            where=str(path),
            hint="it takes the whole model, as model.save writes it, or the code that builds it",
        )
    if structure == LEGACY_KERAS:
        compiled = hdf5_configs(path).get("training_config") is not None
        version = (checkpoint.store.producer or "").removeprefix("Keras ")
    else:
        found = archive_configs(path).get(METADATA)
        version = str(found.get("keras_version", "")) if isinstance(found, Mapping) else ""
        compiled = bool(isinstance(config, Mapping) and config.get("compile_config"))
    number = _VERSION.match(version)
    generation = int(number[0]) if number else 2
    if generation >= 3 and structure == LEGACY_KERAS:
        generation = 3
    words = words_of_assets(checkpoint.store, config) if structure == KERAS else {}
    theano = structure == LEGACY_KERAS and backend_of_h5(path) == "theano"
    return OldModel(checkpoint, config, generation, version, compiled, words, theano)


def _of_saved_model(checkpoint: Checkpoint) -> OldModel:
    store = checkpoint.store
    assert isinstance(store, SavedModel)
    found = keras_config(store.path, store._message)
    if found is None:
        raise UnsupportedError(
            "a SavedModel without the config of a Keras 2 model",
            where=str(store.path),
            hint="Keras 3 runs it as it is: keras.layers.TFSMLayer",
        )
    config = plain(found)
    words = words_of_tables(store)
    return OldModel(
        checkpoint,
        {"class_name": config["class_name"], "config": config["config"]},
        2,
        store.producer or "",
        bool(config.get("training_config")),
        words,
    )


def plain(value: Any) -> Any:
    """Return a config of a SavedModel as the config of a file has it.

    Its JSON has tuples, shapes and the like as {"class_name": "__tuple__", "items": [...]}
    (keras/saving/legacy/saved_model/json_utils.py of Keras 2.15).
    """
    if isinstance(value, Mapping):
        if value.get("class_name") in ("__tuple__", "TensorShape") and "items" in value:
            items = value["items"]
            return [plain(item) for item in items] if items is not None else None
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
