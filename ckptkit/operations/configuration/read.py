"""The configuration of the Keras model in a file, of whichever form."""

from __future__ import annotations

from typing import Any, NamedTuple

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.configuration.node import ConfigNode
from ckptkit.operations.configuration.tree import tree_of
from ckptkit.stores.base import Store
from ckptkit.stores.keras.legacy_h5 import hdf5_configs
from ckptkit.stores.registry import LEGACY_KERAS, format_of, model_config
from ckptkit.stores.saved_model.layers import keras_config
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.text import lazy_pattern

_KERAS = lazy_pattern(r"Keras (\d+)")


class KerasConfig(NamedTuple):
    """What a file says of its Keras model.

    config: as JSON has it.  compiled: how the model was compiled, where that stands elsewhere.
    generation: of the Keras that wrote it; None where the file does not say.
    """

    config: Any
    compiled: Any
    generation: int | None

    def tree(self) -> ConfigNode | None:
        """Return it in the form that all versions are brought to; None where it is no model."""
        return tree_of(self.config, self.compiled, generation=self.generation)


def read_config(store: Store) -> KerasConfig | None:
    """Return the config of a file's Keras model; None where it has none.

    Raises FormatError.
    """
    if isinstance(store, SavedModel):
        found = keras_config(store.path, store._message)
        return KerasConfig(found, None, 2) if found is not None else None
    found = model_config(store.format, store.path)
    if found is None:
        return None
    compiled = None
    if format_of(store.format).structure == LEGACY_KERAS:
        compiled = hdf5_configs(store.path).get("training_config")
    writer = _KERAS.match(store.producer or "")
    return KerasConfig(found, compiled, int(writer[1]) if writer else None)


def config_tree(checkpoint: Checkpoint) -> ConfigNode | None:
    """Return the configuration of a file's Keras model; None where it has none.

    Raises FormatError.
    """
    found = read_config(checkpoint.store)
    return found.tree() if found is not None else None
