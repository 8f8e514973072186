"""What is to be said of a checkpoint of Orbax: links, and whether its parts belong together.

Nothing in it runs when it is restored: trees are JSON, arrays are bytes.  A data file that lies
outside of the directory is refused wherever the checkpoint is opened.
"""

from __future__ import annotations

from pathlib import Path

from ckptkit.operations.findings import Check
from ckptkit.operations.scan.links import directory_check
from ckptkit.stores.orbax.reader import open_orbax


def scan_orbax(path: Path) -> list[Check]:
    """Scan a checkpoint; raises as `open_orbax` does where it cannot be read."""
    store = open_orbax(path)
    return [directory_check(path), Check("tree", (("tensor", len(store.specs)),), ())]
