"""What two models differ by beside their weights, said in one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ckptkit._io.files import file_sha256
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import ChangedError, CkptkitError
from ckptkit.operations.configuration.node import ConfigNode
from ckptkit.operations.configuration.read import KerasConfig, read_config
from ckptkit.operations.diff.beside.configuration import ConfigChange, configuration_changes
from ckptkit.operations.diff.beside.graph_ops import op_differences
from ckptkit.operations.diff.beside.result import Beside, ModelDifference
from ckptkit.operations.diff.beside.signatures import (
    SignatureChange,
    input_changes,
    signature_changes,
)
from ckptkit.operations.diff.beside.vocabularies import vocabularies_of, vocabulary_differences
from ckptkit.stores.base import Store
from ckptkit.stores.registry import format_of
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.wording import operand

VOCABULARIES, CONFIGURATION = "vocabularies", "configuration"
SIGNATURES, GRAPHS = "signatures", "graphs"
Trees = tuple[ConfigNode | None, ConfigNode | None]


def model_differences(
    old: Checkpoint,
    new: Checkpoint,
    layers: Mapping[str, str] | None = None,
    *,
    everything: bool = False,
) -> Beside:
    """Compare what two files hold beside their tensors, as far as both hold it.

    Args:
        old: the reference; a part of a file (`PATH#SUBTREE`) is compared by its tensors alone.
        new: what is compared with it.
        layers: which layer of OLD is which of NEW, by path, as far as tensors tell.
        everything: all of the configuration, and not only what decides what is computed.
    """
    if old.subtree or new.subtree:
        return Beside()
    try:
        if _is_one_graph(old.store, new.store) and not any(map(_has_tables, (old, new))):
            return Beside(compared=(SIGNATURES, GRAPHS))
    except CkptkitError as error:
        return Beside(unread=(f"compared by weights alone: {error}",))
    asking = _Asking()
    configs = _config(old.store, asking.warnings), _config(new.store, asking.warnings)
    trees = _tree(configs[0]), _tree(configs[1])
    asking.ask(
        VOCABULARIES,
        lambda: _of_vocabularies(old, new, configs, asking.lacking, everything=everything),
    )
    if None not in trees:
        asking.ask(CONFIGURATION, lambda: _of_configs(trees, layers or {}, everything))
    elif trees != (None, None):
        asking.lacking.append(_lacking(CONFIGURATION, trees))
    models = old.store, new.store
    asking.ask(SIGNATURES, lambda: _of_signatures(models, trees, everything))
    if trees == (None, None):  # nothing else tells what is computed
        asking.ask(GRAPHS, lambda: _of_graphs(models))
    unread = [*asking.warnings, *(asking.lacking if everything else ())]
    is_one = None not in trees and CONFIGURATION not in [found.what for found in asking.found]
    return Beside(
        tuple(asking.found),
        tuple(dict.fromkeys(unread)),
        tuple(asking.compared),
        trees[0] if is_one else None,
    )


@dataclass
class _Asking:
    """Collects the answers: what differs, what could not be read, what was compared.

    lacking: a sentence per thing that one file alone holds.
    """

    found: list[ModelDifference] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def ask(self, what: str, question: Callable[[], Answer | None]) -> None:
        """Ask one question; None: there was nothing to compare."""
        try:
            answer = question()
        except ChangedError:
            raise
        except CkptkitError as error:
            self.warnings.append(f"{what} not compared: {error}")
            return
        if answer is None:
            return
        self.compared.append(what)
        if answer:
            changes = [item.to_json() for item in answer if not isinstance(item, str)]
            self.found.append(ModelDifference(what, tuple(map(str, answer)), tuple(changes)))


Answer = Sequence[str | ConfigChange | SignatureChange]


def _lacking(what: str, sides: Sequence[object]) -> str:
    where = "NEW" if sides[0] else "OLD"
    return f"{what} not compared: {operand(where)} holds none"


def _of_vocabularies(
    old: Checkpoint,
    new: Checkpoint,
    configs: tuple[KerasConfig | None, KerasConfig | None],
    lacking: list[str],
    *,
    everything: bool,
) -> Answer | None:
    raw = [None if config is None else config.config for config in configs]
    sides = vocabularies_of(old, raw[0]), vocabularies_of(new, raw[1])
    form = old.store.format
    # two of one form hold the same kinds of words: what one lacks is gone
    is_one_form = everything and form == new.store.format and format_of(form).holds_model
    if all(sides) or (any(sides) and is_one_form):
        return vocabulary_differences(old, new, sides)
    if any(sides):
        lacking.append(_lacking(VOCABULARIES, sides))
    return None


def _of_graphs(models: tuple[Store, Store]) -> Answer | None:
    old, new = models
    if isinstance(old, SavedModel) and isinstance(new, SavedModel):
        return op_differences(old, new)
    return None


def _of_configs(trees: Trees, layers: Mapping[str, str], everything: bool) -> Answer:
    changes = configuration_changes(*trees, layers)
    if everything:
        return changes
    return [str(change) for change in changes if change.computes]


def _of_signatures(models: tuple[Store, Store], trees: Trees, everything: bool) -> Answer | None:
    """Compare what two SavedModels take and give; of one and a Keras file, what they take."""
    old, new = models
    if isinstance(old, SavedModel) and isinstance(new, SavedModel):
        changes = signature_changes(old, new)
        if everything:
            return changes
        return [change.text for change in changes if not change.is_counted]
    sides = [
        model if isinstance(model, SavedModel) else tree
        for model, tree in zip(models, trees, strict=True)
    ]
    if not everything or sides[0] is None or sides[1] is None or None not in trees:
        return None
    return input_changes(sides[0], sides[1])


def _is_one_graph(old: Store, new: Store) -> bool:
    """Whether both are one SavedModel but for values and assets: the same bytes of graph."""
    if not isinstance(old, SavedModel) or not isinstance(new, SavedModel):
        return False
    if old.model.assets or new.model.assets:
        return False
    return file_sha256(old.path / MODEL_FILE) == file_sha256(new.path / MODEL_FILE)


def _has_tables(checkpoint: Checkpoint) -> bool:
    return any(naming.role == "table" for naming in checkpoint.names.values())


def _config(store: Store, warnings: list[str]) -> KerasConfig | None:
    """Return the config of a file's Keras model; None where it has none."""
    try:
        return read_config(store)
    except ChangedError:
        raise
    except CkptkitError as error:
        warnings.append(f"configuration not compared: {error}")
        return None


def _tree(config: KerasConfig | None) -> ConfigNode | None:
    return config.tree() if config is not None else None
