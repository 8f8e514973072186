"""What two models differ by beside their weights, said in one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ckptkit._io.files import file_sha256
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import ChangedError, CkptkitError
from ckptkit.operations.diff.beside.configuration import configuration_differences
from ckptkit.operations.diff.beside.graph_ops import op_differences
from ckptkit.operations.diff.beside.signatures import signature_differences
from ckptkit.operations.diff.beside.vocabularies import vocabulary_differences
from ckptkit.stores.base import Store
from ckptkit.stores.registry import model_config
from ckptkit.stores.saved_model.layers import keras_config
from ckptkit.stores.saved_model.reader import MODEL_FILE, SavedModel

_FEW = 3  # differences that a line names


class ModelDifference(NamedTuple):
    """One thing beside the weights that differs.

    what: "vocabularies", "signatures", "configuration" or "graphs".  items: a sentence each.
    """

    what: str
    items: tuple[str, ...]

    def __str__(self) -> str:
        verb = "differs" if self.what == "configuration" else "differ"
        more = f"; and {len(self.items) - _FEW:,} more" if len(self.items) > _FEW else ""
        return f"{self.what} {verb}: {'; '.join(self.items[:_FEW])}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"what": self.what, "differences": list(self.items)}


def model_differences(
    old: Checkpoint, new: Checkpoint
) -> tuple[tuple[ModelDifference, ...], tuple[str, ...]]:
    """Compare what two files hold beside their tensors, as far as both hold it.

    Args:
        old: the reference; a part of a file (`PATH#SUBTREE`) is compared by its tensors alone.
        new: what is compared with it.

    Returns:
        (a row per thing that differs, a sentence per thing that could not be read).
    """
    if old.subtree or new.subtree:
        return (), ()
    try:
        if _is_one_graph(old.store, new.store) and not any(map(_has_tables, (old, new))):
            return (), ()
    except CkptkitError as error:
        return (), (f"compared by weights alone: {error}",)
    found: list[ModelDifference] = []
    warnings: list[str] = []

    def ask(what: str, question: Callable[[], list[str]]) -> None:
        try:
            items = question()
        except ChangedError:
            raise
        except CkptkitError as error:
            warnings.append(f"{what} not compared: {error}")
            return
        if items:
            found.append(ModelDifference(what, tuple(items)))

    configs = _config(old.store, warnings), _config(new.store, warnings)
    ask("vocabularies", lambda: vocabulary_differences(old, new, configs))
    ask("configuration", lambda: configuration_differences(*configs))
    if isinstance(old.store, SavedModel) and isinstance(new.store, SavedModel):
        models = old.store, new.store
        ask("signatures", lambda: signature_differences(*models))
        if configs == (None, None):  # nothing else tells what is computed
            ask("graphs", lambda: op_differences(*models))
    return tuple(found), tuple(dict.fromkeys(warnings))


def _is_one_graph(old: Store, new: Store) -> bool:
    """Whether both are one SavedModel but for values and assets: the same bytes of graph."""
    if not isinstance(old, SavedModel) or not isinstance(new, SavedModel):
        return False
    if old.model.assets or new.model.assets:
        return False
    return file_sha256(old.path / MODEL_FILE) == file_sha256(new.path / MODEL_FILE)


def _has_tables(checkpoint: Checkpoint) -> bool:
    return any(naming.role == "table" for naming in checkpoint.names.values())


def _config(store: Store, warnings: list[str]) -> object:
    """Return the config of a file's Keras model, as JSON has it; None where it has none."""
    try:
        if isinstance(store, SavedModel):
            return keras_config(store.path, store._message)
        return model_config(store.format, store.path)
    except ChangedError:
        raise
    except CkptkitError as error:
        warnings.append(f"configuration not compared: {error}")
        return None
