"""What hangs below a live object, as tf.train.Checkpoint sees it.  Child process alone.

A trackable tells its children by name (`_trackable_children`), which is what a checkpoint is
written from; `variables` of a tf.Module knows less: a layer of Keras 3 is no tf.Module any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptkit.runners.child.object_tree import ObjectTree


def children_of(item: Any) -> Mapping[str, Any]:
    """Return {edge: child} of a trackable; {} of anything else."""
    children = getattr(item, "_trackable_children", None)
    return dict(children()) if callable(children) else {}


TRACKABLES = ObjectTree(children_of)
is_optimizer = TRACKABLES.is_optimizer
below = TRACKABLES.below
variables_below = TRACKABLES.variables_below
