"""Files that an index file holds together as one set."""

from __future__ import annotations

import re
from pathlib import Path

from ckptkit._io.places import can_list
from ckptkit.stores.registry import FORMATS


def is_set_member(name: str) -> bool:
    """Whether a file is called as a member of a set, which is read through the set's index."""
    return any(
        row.is_index and re.fullmatch(row.set_member, name) for row in FORMATS.built_in.values()
    )


def is_index_name(name: str) -> bool:
    """Whether a file is called as an index of a set, which its members are read through."""
    return any(name.endswith(row.suffixes) for row in FORMATS.built_in.values() if row.is_index)


def files_of_set(path: Path) -> list[Path]:
    """Return the index at `path` and the members beside it, by their names.

    They begin as their index does: m.safetensors.index.json, m-00001-of-00002.safetensors.
    """
    stem = path.name.partition(".")[0]
    beside = path.parent.iterdir() if can_list(path.parent) else ()
    return [path, *(f for f in beside if f.name.startswith(stem) and is_set_member(f.name))]
