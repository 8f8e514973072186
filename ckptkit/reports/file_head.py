"""What the head of a page says of a file."""

from __future__ import annotations

from ckptkit.checkpoint.checkpoint import Checkpoint


def file_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Return {path, about} of a checkpoint: where it is, its form, who wrote it."""
    store = checkpoint.store
    about = [store.format, store.style, f"written by {store.producer}" if store.producer else ""]
    subtree = f"#{checkpoint.subtree}" if checkpoint.subtree else ""
    return {
        "path": f"{store.path}{subtree}",
        "about": " · ".join([*filter(None, about), *checkpoint.notes]),
    }
