"""Which files a checkpoint of the V1 format has (`v1_reader` reads them): told by their names."""

from __future__ import annotations

from pathlib import Path

from ckptkit._io.places import can_list
from ckptkit.errors import FormatError, PathNotFoundError
from ckptkit.stores.tensor_bundle.files import MAX_SHARDS, is_table
from ckptkit.text import lazy_pattern

SHARD = lazy_pattern(r"(?s)(?P<prefix>.+)-(?P<shard>\d{5}|\?{5})-of-(?P<count>\d{5})")


def shard_files(prefix: Path) -> dict[int, list[Path]]:
    """Return the shards of a sharded checkpoint that there are, by the number that there should be.

    `model.ckpt-3` -> {2: [model.ckpt-3-00000-of-00002, model.ckpt-3-00001-of-00002]}.
    """
    by_count: dict[int, list[Path]] = {}
    is_listed = prefix.parent.is_dir() and can_list(prefix.parent)
    for path in sorted(prefix.parent.iterdir()) if is_listed else ():
        match = SHARD.fullmatch(path.name)
        is_one = match and match["prefix"] == prefix.name and "?" not in match["shard"]
        if match and is_one and path.is_file() and is_table(path):
            by_count.setdefault(int(match["count"]), []).append(path)
    return by_count


def shards_of(prefix: Path) -> tuple[Path, ...]:
    """Return all shards of a prefix, those that are missing too.

    Raises PathNotFoundError, FormatError (several sets of shards, or a number out of range).
    """
    by_count = shard_files(prefix)
    if len(by_count) != 1:
        sets = " and ".join(f"one of {count}" for count in sorted(by_count))
        raise (
            FormatError(str(prefix), f"several sets of shards: {sets}", hint="name one of them")
            if by_count
            else PathNotFoundError("no such checkpoint", where=str(prefix))
        )
    [count] = by_count
    if not 0 < count <= MAX_SHARDS:
        raise FormatError(str(prefix), "number of shards", expected="1..100000", found=count)
    return tuple(
        prefix.with_name(f"{prefix.name}-{shard:05d}-of-{count:05d}") for shard in range(count)
    )


def prefix_of(path: Path) -> Path:
    """Return the prefix that a shard's path, or the pattern in a state file, belongs to."""
    match = SHARD.fullmatch(path.name)
    return path.with_name(match["prefix"]) if match else path


def files_of_checkpoint_v1(path: Path) -> list[Path]:
    """Return the files of the checkpoint at a file or a prefix, those that are missing too."""
    return [path] if path.is_file() else list(shards_of(path))
