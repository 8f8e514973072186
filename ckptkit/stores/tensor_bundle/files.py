"""Which files a checkpoint has, told by its prefix, and what an index ends in."""

from __future__ import annotations

from pathlib import Path

from ckptkit._io.files import file_size, read_exact

INDEX_SUFFIX = ".index"
MAX_SHARDS = 100_000
MAGIC = 0xDB4775248B80FB57  # of a table, its last eight bytes
FOOTER_BYTES = 48  # of a table, the magic number too


def index_path(prefix: Path) -> Path:
    """Return PREFIX.index; a prefix that ends in "/" is a directory holding a file `.index`."""
    return _member(prefix, INDEX_SUFFIX)


def shard_path(prefix: Path, shard: int, num_shards: int) -> Path:
    """Return the path of one data file."""
    return _member(prefix, f".data-{shard:05d}-of-{num_shards:05d}")


def shard_paths(prefix: Path, num_shards: int) -> tuple[Path, ...]:
    """Return the paths of all data files; looks at the disk once."""
    first = shard_path(prefix, 0, num_shards)
    stem = first.name.removesuffix(f"00000-of-{num_shards:05d}")
    return tuple(
        first.with_name(f"{stem}{shard:05d}-of-{num_shards:05d}") for shard in range(num_shards)
    )


def _member(prefix: Path, suffix: str) -> Path:
    is_directory = not prefix.name or (prefix / INDEX_SUFFIX).is_file()
    return prefix / suffix if is_directory else prefix.parent / (prefix.name + suffix)


def is_table(path: Path) -> bool:
    """Whether the file ends in a table's magic number; raises PathNotFoundError."""
    size = file_size(path)
    return size >= FOOTER_BYTES and read_exact(path, size - 8, 8) == MAGIC.to_bytes(8, "little")
