"""Whether a file is a checkpoint of the V1 format, by its content."""

from __future__ import annotations

from ckptkit.stores.registry import Head
from ckptkit.stores.tensor_bundle.files import is_table


def is_checkpoint_v1(head: Head) -> bool:
    """Say whether a file is a table whose first entry is that of a V1 checkpoint."""
    if head.is_directory or not is_table(head.path):
        return False
    from ckptkit.stores.tensor_bundle.v1_reader import begins_as_v1  # here, since few are tables

    return begins_as_v1(head.path)
