"""Whether a file is a numpy archive, by its content."""

from __future__ import annotations

from ckptkit.stores.registry import Head


def is_npz(head: Head) -> bool:
    """Whether a file is a zip archive of numpy arrays, or an empty one that is called .npz."""
    if not head.is_zip:
        return False
    if not head.members:
        return head.path.suffix == ".npz"
    return any(name.endswith(".npy") for name in head.members)
