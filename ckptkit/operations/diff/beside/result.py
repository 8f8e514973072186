"""What comes of comparing what two files hold beside their tensors, and whether they hold any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.stores.registry import format_of

if TYPE_CHECKING:
    from ckptkit.operations.configuration.node import ConfigNode

_FEW = 3  # differences that a line names


class ModelDifference(NamedTuple):
    """One thing beside the weights that differs.

    what: "vocabularies", "signatures", "configuration" or "graphs".  items: a sentence each.
    changes: the same as plain values for JSON, where they are more than sentences.
    """

    what: str
    items: tuple[str, ...]
    changes: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        more = f"; and {len(self.items) - _FEW:,} more" if len(self.items) > _FEW else ""
        return f"{self.heading}: {'; '.join(self.items[:_FEW])}{more}"

    @property
    def heading(self) -> str:
        """What differs, without what it is."""
        return f"{self.what} {'differs' if self.what == 'configuration' else 'differ'}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        found = {"what": self.what, "differences": list(self.items)}
        return {**found, "changes": list(self.changes)} if self.changes else found


class Beside(NamedTuple):
    """What was found beside the weights.

    differences: a row per thing that differs.  unread: a sentence per thing that could not be read.
    compared: what both files hold, so that it was compared.  tree: the configuration, where both
    compute the same by it.
    """

    differences: tuple[ModelDifference, ...] = ()
    unread: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    tree: ConfigNode | None = None


def holds_tensors_alone(checkpoint: Checkpoint) -> bool:
    """Whether a file has neither a model nor a table: nothing is beside its tensors."""
    store = checkpoint.store
    form = format_of(store.format)
    return (
        store.model is None
        and not (form.holds_model or form.model_config)
        and all(naming.role != "table" for naming in checkpoint.names.values())
    )
