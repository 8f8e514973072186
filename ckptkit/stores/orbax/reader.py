"""Orbax checkpoints as stores: the arrays of the trees that JAX programs, and Keras on JAX, save.

A checkpoint is a directory of items (`layout`); an item that is a tree has `_METADATA` with the
path of every leaf (`tree_metadata`), and its arrays are zarr arrays (`zarr`, `chunks`), either each
in a directory of its own, or all in one database (`ocdbt`).  Nothing of Orbax, JAX or TensorStore
is imported.

A tensor's key is what its array is called; where several items hold arrays, `ITEM/` stands before
it.  A directory of steps is not a store: `open_orbax` is given one checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.file_states import (
    is_file,
    is_local,
    state_of,
    unchanged,
)
from ckptkit._io.files import read_exact, taking_paths
from ckptkit._io.places import can_list, names_in
from ckptkit.dtypes import itemsize
from ckptkit.errors import CkptkitError, FormatError, PathNotFoundError, UnknownTensorError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.orbax.chunks import ZarrArray
from ckptkit.stores.orbax.layout import (
    CHECKPOINT_METADATA,
    MANIFEST,
    STRINGS,
    TREE_METADATA,
    ZARR_JSON,
    ZARRAY,
    is_checkpoint,
    items_of,
    why_unfinished,
)
from ckptkit.stores.orbax.names import NamedLeaf, name_tree
from ckptkit.stores.orbax.ocdbt import (
    StoredValue,
    is_plain_path,
    read_database,
)
from ckptkit.stores.orbax.tree_metadata import (
    SavedTree,
    TreeLeaf,
    read_texts,
    read_tree,
)
from ckptkit.stores.orbax.zarr import MAX_METADATA, ArrayMetadata, read_metadata
from ckptkit.stores.registry import Head
from ckptkit.stores.reopening import pickled
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_MAX_FILES = 2_000_000  # of an item with a directory for each array
_MAX_PARTS = 40  # of a chunk's key, one for each axis: arrays have 32

_FREE_BYTES, _FREE_OF_ONE = 1 << 26, 1 << 20  # of values that may come of nothing
_MAX_EXPANSION = 200  # sparse weights with optimizer state reach 20

_ValuesByArray = dict[str, dict[str, StoredValue]]


class _Item(NamedTuple):
    """What one item holds: arrays and texts by name, leaves in order, the files it was read from.

    missing: files without which an array cannot be listed.
    """

    arrays: Mapping[str, ZarrArray]
    texts: Mapping[str, str]
    leaves: tuple[TreeLeaf, ...]
    files: tuple[Path, ...]
    missing: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrbaxStore:
    """A checkpoint of Orbax; made by `open_orbax`."""

    path: Path
    specs: Mapping[str, TensorSpec]
    structure: StoredNames
    notes: tuple[str, ...]
    arrays: Mapping[str, ZarrArray]
    texts: Mapping[str, str]
    shards: tuple[Path, ...]
    missing_shards: tuple[Path, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_orbax, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return self.shards

    @property
    def format(self) -> str:
        return "orbax"

    @property
    def style(self) -> str:
        return ""

    @property
    def producer(self) -> str | None:
        return "Orbax"

    @property
    def model(self) -> ModelInfo | None:
        return None

    def begins_at(self, key: str) -> int:
        """See `StoreOfChunks`."""
        values = self.arrays[key].values.values() if key in self.arrays else ()
        return next((value.offset for value in values if value.path is not None), 0)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`."""
        if key in self.texts:
            yield 0, self.read(key)
        else:
            yield from self._array(key).blocks(max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        if key in self.texts:
            import numpy as np

            return np.array([self.texts[key].encode()], object)[start:stop]
        array = self._array(key)
        start, stop, _ = slice(start, stop).indices(array.metadata.size)
        return array.read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Values lie in chunks, nearly always compressed: they are never mapped."""
        return False

    def _array(self, key: str) -> ZarrArray:
        try:
            return self.arrays[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None


@taking_paths
def open_orbax(path: Path) -> OrbaxStore:
    """Return the store of one checkpoint; reads the tree of its arrays and their metadata.

    Args:
        path: its directory, or that of one item.

    Raises:
        FormatError: it is damaged.
        PathNotFoundError: the save was not finished, or nothing in it holds arrays.
        UnsupportedError: it is kept in a way that is not read.
        MissingDependencyError: what reads zstd is not installed.
    """
    why = why_unfinished(path)
    if why is not None:
        raise PathNotFoundError(why, where=str(path), hint="give a checkpoint that was finished")
    items = {item.name: _read_item(item) for item in items_of(path)}
    holding = {name: item for name, item in items.items() if item.arrays or item.missing}
    if not holding and not items:
        raise PathNotFoundError("a checkpoint of Orbax without arrays", where=str(path))
    files = tuple(dict.fromkeys(file for item in items.values() for file in item.files))
    numbers = {file: number for number, file in enumerate(files)}
    most = _most_bytes(path, items.values(), files)
    specs: dict[str, TensorSpec] = {}
    arrays: dict[str, ZarrArray] = {}
    texts: dict[str, str] = {}
    names: dict[str, tuple[str, str, str | None]] = {}
    inferred: set[str] = set()
    for name, item in holding.items():
        prefix = f"{name}/" if len(holding) > 1 else ""
        its_specs = dict(_specs(item, prefix, numbers))
        specs.update(its_specs)
        for key, array in item.arrays.items():
            arrays[prefix + key] = array._replace(most_bytes=most(array))
        texts.update((prefix + key, text) for key, text in item.texts.items())
        leaves = [NamedLeaf(leaf, its_specs.get(prefix + leaf.array_name)) for leaf in item.leaves]
        found = name_tree(leaves) if leaves else StoredNames({})
        names.update(found.names)
        inferred |= found.inferred
    missing = tuple(file for item in items.values() for file in item.missing)
    return OrbaxStore(
        path=path,
        specs=specs,
        structure=StoredNames(names, inferred=frozenset(inferred)),
        notes=tuple(note for item in items.values() for note in item.notes),
        arrays=arrays,
        texts=texts,
        shards=files,
        missing_shards=missing,
    )


def _most_bytes(
    path: Path, items: Iterable[_Item], files: Sequence[Path]
) -> Callable[[ZarrArray], int]:
    """Return how many bytes of values an array may come to.

    Zeros take next to nothing, and older versions did not store them.  But they stand beside
    weights that do, so all values together are not far more than all files; where they are, what is
    stored of an array itself decides.  Raises FormatError where values share bytes of a file.
    """
    arrays = [array for item in items for array in item.arrays.values()]
    stored = sum(state.size for state in map(state_of, files) if state is not None)
    if sum(value.nbytes for a in arrays for value in a.values.values() if value.path) > stored:
        raise FormatError(str(path), "values that overlap")
    total = sum(array.metadata.size * itemsize(array.metadata.dtype) for array in arrays)
    limit = _FREE_BYTES + _MAX_EXPANSION * stored
    if total <= limit:
        return lambda _: limit
    return lambda array: (
        _FREE_OF_ONE + _MAX_EXPANSION * sum(value.nbytes for value in array.values.values())
    )


def files_of_orbax(path: Path) -> list[Path]:
    """Return the files of a checkpoint: all that lie in its directory."""
    if not can_list(path):  # then those that the checkpoint itself names
        named = [path / name for name in (CHECKPOINT_METADATA, TREE_METADATA, MANIFEST)]
        with suppress(CkptkitError):  # whoever opens it says what is wrong
            named += open_orbax(path).files
        return [file for file in dict.fromkeys(named) if file.is_file()]
    if not is_local(path):
        return [file for file in path.rglob("*") if file.is_file()]
    return [Path(at, name) for at, _, names in os.walk(path) for name in sorted(names)]


def is_orbax(head: Head) -> bool:
    """Whether a directory is a checkpoint of Orbax."""
    return head.is_directory and is_checkpoint(head.path)


def _specs(
    item: _Item, prefix: str, numbers: Mapping[Path, int]
) -> Iterator[tuple[str, TensorSpec]]:
    """Yield key and spec of each tensor; its shard is the file of its first chunk, or its tree."""
    for name, array in item.arrays.items():
        found = array.metadata
        nbytes = found.size * itemsize(found.dtype)
        paths = (value.path for value in array.values.values() if value.path is not None)
        shard = numbers[next(paths, item.files[-1])]
        yield prefix + name, TensorSpec(prefix + name, found.dtype, found.shape, nbytes, shard)
    for name, text in item.texts.items():
        nbytes, shard = len(text.encode()), numbers[item.files[0]]
        yield prefix + name, TensorSpec(prefix + name, "string", (), nbytes, shard)


# --- one item -------------------------------------------------------------------------------------


def _read_item(directory: Path) -> _Item:
    tree = read_tree(directory)
    if (directory / MANIFEST).is_file():
        found, files = _in_database(directory)
        missing = tuple(file for file in files if state_of(file) is None)
    else:
        missing = ()
        found, files = _in_directories(directory, tree)
    beside = [directory / name for name in (TREE_METADATA, STRINGS)]
    files = (*(unchanged(path) for path in beside if is_file(path)), *files)
    if tree is None:
        arrays = _arrays(directory, found, needs_all=False)
        leaves = tuple(_leaf_of_name(name) for name in arrays)
        return _Item(arrays, {}, leaves, files, missing, ())
    arrays = _arrays(directory, found, needs_all=tree.needs_all_chunks)
    item = _with_tree(directory, tree, arrays, files)
    return item._replace(missing=(*item.missing, *missing))


def _with_tree(
    directory: Path, tree: SavedTree, arrays: Mapping[str, ZarrArray], files: tuple[Path, ...]
) -> _Item:
    """Return an item, its arrays compared with the leaves that `_METADATA` tells."""
    texts = {}
    stored_texts = read_texts(directory)
    lost: list[str] = []
    by_name: dict[str, TreeLeaf] = {}
    notes = []
    for leaf in tree.leaves:
        name = leaf.array_name
        if leaf.kind == "nothing":
            continue
        if leaf.kind == "text" and name in stored_texts:
            texts[name] = stored_texts[name]
        elif leaf.kind == "text":
            raise FormatError(
                str(directory / STRINGS),
                f"no text of a leaf that {TREE_METADATA} names: {name}",
                hint="the save was not finished or not all files were copied",
            )
        elif name not in arrays:
            lost.append(name)
        if name in by_name:
            notes.append(f"two leaves of the tree are one array: {name}")
        by_name[name] = leaf
    ordered = {name: arrays[name] for name in by_name if name in arrays}
    others = [name for name in arrays if name not in by_name]
    if others:
        notes.append(f"not in {TREE_METADATA}: {list_text(others)}")
        ordered.update((name, arrays[name]) for name in others)
    if lost and (directory / MANIFEST).is_file():
        raise FormatError(
            str(directory / MANIFEST),
            f"no array of leaves that {TREE_METADATA} names: {list_text(lost)}",
            hint="the save was not finished or not all files were copied",
        )
    missing = tuple(directory / name / ZARRAY for name in lost)
    leaves = (*tree.leaves, *(_leaf_of_name(name) for name in others))
    return _Item(ordered, texts, leaves, (*files, *missing), missing, tuple(notes))


def _leaf_of_name(name: str) -> TreeLeaf:
    """Return the leaf that an array's name alone tells of."""
    path = tuple(name.split("."))
    indices = frozenset(place for place, key in enumerate(path) if key.isdigit())
    return TreeLeaf(path, indices, "array")


def _arrays(directory: Path, found: _ValuesByArray, *, needs_all: bool) -> dict[str, ZarrArray]:
    """Return arrays by name, from the values below each name."""
    arrays = {}
    read: dict[tuple[str, bytes], ArrayMetadata] = {}  # arrays of one shape have the same
    for name, values in found.items():
        marker = ZARR_JSON if ZARR_JSON in values else ZARRAY
        value = values[marker]
        where = f"{directory}: {name}"
        data = value.inline if value.path is None else _metadata_bytes(value)
        chunks = {key: stored for key, stored in values.items() if key != marker}
        metadata = read.get((marker, data))
        if metadata is None:
            metadata = read[marker, data] = read_metadata(marker, data, where)
        arrays[name] = ZarrArray(metadata, chunks, needs_all, where)
    return arrays


def _metadata_bytes(value: StoredValue) -> bytes:
    assert value.path is not None
    if value.nbytes > MAX_METADATA:
        raise FormatError(str(value.path), f"metadata of an array of {value.nbytes:,} bytes")
    return read_exact(value.path, value.offset, value.nbytes)


def _in_database(directory: Path) -> tuple[_ValuesByArray, tuple[Path, ...]]:
    """Return what a database holds, by array and by key below it; what is of no array is left."""
    database = read_database(directory)
    found: dict[str, dict[str, StoredValue]] = {}
    rest: list[tuple[str, StoredValue]] = []
    for key, value in database.values.items():
        try:
            text = key.decode()
        except UnicodeDecodeError:
            raise FormatError(
                str(directory / MANIFEST), f"a key that is no text: {key!r}"
            ) from None
        name, _, last = text.rpartition("/")
        if last in (ZARRAY, ZARR_JSON):
            if name in found:
                raise FormatError(str(directory / MANIFEST), f"two arrays called {name!r}")
            found[name] = {last: value}
        else:
            rest.append((text, value))
    for text, value in rest:
        name = text
        for _ in range(_MAX_PARTS):
            name, slash, _ = name.rpartition("/")
            if not slash or name in found:
                break
        if name in found:
            found[name][text[len(name) + 1 :]] = value
    return found, database.files


def _in_directories(
    directory: Path, tree: SavedTree | None
) -> tuple[_ValuesByArray, tuple[Path, ...]]:
    """Return the same of arrays that lie in a directory each, and all their files."""
    if tree is None:
        names = list(_array_directories(directory))
    else:
        names = [leaf.array_name for leaf in tree.leaves if leaf.kind == "array"]
    found: dict[str, dict[str, StoredValue]] = {}
    files: list[Path] = []
    for name in dict.fromkeys(names):
        if not is_plain_path(name):
            raise FormatError(str(directory / TREE_METADATA), f"an array at {name!r}")
        values = _values_below(directory / name)
        if ZARRAY in values and ZARR_JSON in values:
            raise FormatError(str(directory / name), f"both {ZARRAY} and {ZARR_JSON}")
        if ZARRAY in values or ZARR_JSON in values:
            found[name] = values
            files += [value.path for value in values.values() if value.path is not None]
        if len(files) > _MAX_FILES:
            raise FormatError(str(directory), f"more than {_MAX_FILES:,} files")
    return found, tuple(files)


def _array_directories(directory: Path) -> Iterator[str]:
    """Yield the paths, from an item's directory, of the directories of arrays in it."""
    pending = [(directory, "", 0)]
    while pending:
        place, path, depth = pending.pop()
        names = [name for name, _ in names_in(place)]
        if path and (ZARRAY in names or ZARR_JSON in names):
            yield path
        elif depth < _MAX_PARTS:
            below = [name for name in reversed(names) if (place / name).is_dir()]
            pending += [(place / name, f"{path}/{name}".lstrip("/"), depth + 1) for name in below]


def _values_below(directory: Path) -> dict[str, StoredValue]:
    """Return the files of an array by their path in its directory."""
    found: dict[str, StoredValue] = {}
    pending = [""]
    while pending:
        inner = pending.pop()
        try:
            place = directory / inner if inner else directory
            for plain, is_directory in names_in(place, follow=True):
                name = f"{inner}/{plain}" if inner else plain
                if not is_directory:
                    path = unchanged(directory / name)
                    state = state_of(path)
                    found[name] = StoredValue(path, 0, state.size if state else 0)
                elif name.count("/") < _MAX_PARTS:
                    pending.append(name)
        except (FileNotFoundError, NotADirectoryError):  # whoever misses the array says so
            return {}
    return found
