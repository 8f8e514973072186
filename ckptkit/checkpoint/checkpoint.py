"""`ckptkit.open`: the tensors of a file as a mapping from readable names to arrays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.file_states import is_local
from ckptkit._io.files import close_handles, file_size, mapped, taking_paths
from ckptkit._io.places import path_of, remote_path
from ckptkit.checkpoint.name_patterns import shortened_matcher
from ckptkit.checkpoint.names import name_tensors
from ckptkit.checkpoint.naming import Naming
from ckptkit.errors import (
    CkptkitError,
    FormatError,
    PathNotFoundError,
    TruncatedError,
    UnknownTensorError,
    UsageError,
)
from ckptkit.stores.base import Store, Structure, TensorSpec, shaped
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import files_at, open_format
from ckptkit.text import lazy_pattern, list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

MAX_PROBLEMS = 8
MAX_COMPARED = 2000  # names that a miss is compared with
_WORD = lazy_pattern(r"[^\W_]+")


@dataclass(frozen=True, repr=False)
class Checkpoint(Mapping[str, "Array"]):
    """The tensors of one file or set of files, by readable name.

    `ck[name]` takes a display name, a checkpoint key, a full name, an object path, or a suffix that
    only one name has, and a name as a table shortens it ("encoder/…/kernel").  It returns a
    read-only view of the mapped file where the stored bytes allow (no checksum is compared then;
    `ckptkit.load` compares them), else a new array.

    All that is read is of the state in which the files were opened: once one of them is another,
    `ck[name]` raises ChangedError, and arrays that were taken before keep the old values.
    """

    store: Store
    subtree: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """What to show for the file: its path, or the prefix of a checkpoint."""
        return self.store.path

    @property
    def structure(self) -> Structure:
        """What the file says of names: an object graph, a Keras structure, or nothing."""
        return self.store.structure

    @cached_property
    def names(self) -> Mapping[str, Naming]:
        """Naming by checkpoint key, narrowed to the subtree; raises UsageError when that is empty.

        Raises ChecksumError, FormatError where the structure's bytes are damaged.
        """
        namings = name_tensors(self.store.specs, self.store.structure)
        if self.subtree is None:
            return namings
        inside = {k: n for k, n in namings.items() if _is_below(k, n, self.subtree)}
        if not inside:
            tops = sorted({path.partition("/")[0] for n in namings.values() for path in _paths(n)})
            raise UsageError(
                f"no tensor below {self.subtree!r}",
                where=str(self.path),
                hint=f"at the top are {', '.join(tops[:8])}",
            )
        return inside

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Specs by checkpoint key, narrowed to the subtree; nothing is read for them."""
        if self.subtree is None:
            return self.store.specs
        return {key: self.store.specs[key] for key in self.names}

    @cached_property
    def _keys(self) -> Mapping[str, str]:
        """Checkpoint key by display name, in the order of the file."""
        return {naming.name: key for key, naming in self.names.items()}

    def key(self, name: str) -> str:
        """Return the checkpoint key that a name stands for.

        Args:
            name: a display name, a checkpoint key, a full name, an object path, or the end of one
                (behind a "/") that only one tensor has; "…" stands for what a table left out.

        Returns:
            The key of one tensor, as the file spells it.

        Raises:
            UnknownTensorError: no tensor or several are called so; the hint lists the nearest, or
                those that a suffix fits.
        """
        keys = self._find(name)
        if len(keys) == 1:
            return keys[0]
        if keys:
            names = [self.names[key].name for key in keys]
            raise UnknownTensorError(
                f"{len(keys)} tensors are called {name!r}",
                where=str(self.path),
                hint=f"say which: {list_text(names, 5)}",
            )
        raise UnknownTensorError(
            f"no tensor {name!r}", where=str(self.path), hint=self.nearest(name)
        )

    def _find(self, name: str) -> list[str]:
        """Return the keys of all tensors that `name` may stand for."""
        if name in self._keys:
            return [self._keys[name]]
        if name in self.specs:
            return [name]
        called = [key for key, n in self.names.items() if name in (n.full_name, *n.aliases)]
        called = called or [k for k, n in self.names.items() if n.name.endswith(f"/{name}")]
        matches = shortened_matcher(name)
        if called or matches is None:
            return called
        return [key for key, n in self.names.items() if matches(n.name)]

    def nearest(self, name: str) -> str:
        """Return what to say of a name that no tensor has.

        Args:
            name: as it was asked for.

        Returns:
            A hint: "nearest: ..." with at most five names of the file.
        """
        from difflib import get_close_matches

        names: list[str] = list(self._keys)
        if len(names) > MAX_COMPARED:  # difflib takes 0.1 ms each: first those that share words
            words = set(_WORD.findall(name))
            names.sort(key=lambda other: -len(words.intersection(_WORD.findall(other))))
            names = names[:MAX_COMPARED]
        near = get_close_matches(name, names, n=5, cutoff=0.3)
        if not near:
            near = sorted(self._keys)[:5]
        return f"nearest: {', '.join(near)}" if near else "the file holds no tensors"

    def __getitem__(self, name: str) -> Array:
        key = self.key(name)
        spec = self.store.specs[key]
        view = self._view(spec) if spec.nbytes and self._is_viewed(spec) else None
        flat = self.store.read(key) if view is None else view
        return shaped(flat, spec.shape, f"{self.path}: {key}")

    def __contains__(self, name: object) -> bool:
        """Whether `self[name]` names one tensor; nothing is read."""
        return isinstance(name, str) and len(self._find(name)) == 1

    def __repr__(self) -> str:
        below = f"#{self.subtree}" if self.subtree else ""
        return f"<Checkpoint {self.path}{below}: {self.store.format}, {len(self.specs)} tensors>"

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpoint, (self.store, self.subtree, self.notes)

    @cached_property
    def _maps(self) -> dict[int, Any]:
        return {}

    def _is_viewed(self, spec: TensorSpec) -> bool:
        """Whether a tensor is handed out as a part of the mapped file."""
        if spec.shard is None or not self.store.mappable(spec.key):
            return False
        return is_local(self.store.shards[spec.shard])

    def _view(self, spec: TensorSpec) -> Array:
        """Return a 1-D read-only view of the mapped shard."""
        import mmap

        import numpy as np

        from ckptkit.dtypes import numpy_dtype

        assert spec.shard is not None and spec.offset is not None
        path = self.store.shards[spec.shard]
        if file_size(path) < spec.offset + spec.nbytes:
            raise _too_short(path, spec)
        whole = self._maps.get(spec.shard)
        if whole is None:
            whole = self._maps[spec.shard] = mapped(path, mmap.ACCESS_READ)
        return np.frombuffer(whole, numpy_dtype(spec.dtype), spec.size, spec.offset)

    def close(self) -> None:
        """Let go of the files (in this thread); arrays that were taken from them stay valid.

        Used again, the checkpoint opens them anew.  `with ckptkit.open(path) as ck:` closes at the
        end.
        """
        store = self.store
        index = store.path.parent / f"{store.path.name}.index"
        close_handles([store.path, index, *store.shards])
        maps = self._maps
        while maps:
            _shard, whole = maps.popitem()
            with suppress(BufferError):  # a view is in use: the map goes with the last of them
                whole.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def tree(self, depth: int | None = None) -> str:
        """Return the names as a tree, as `ckptkit ls --tree` prints them.

        Args:
            depth: levels to show; all by default.

        Returns:
            Text of several lines, each branch with its totals.
        """
        from importlib import import_module  # the report is above: imported when it is asked for

        return str(import_module("ckptkit.reports.presentation").tree_of(self, depth))

    def digest(self, part: str = "weights") -> str:
        """Return one digest of the file, the same in every form, version of Keras and order.

        Args:
            part: "weights", "config", "signature", "vocabulary", or "model" for all of these.

        Returns:
            "sha256:..." in hexadecimal, as `ckptkit ls --digest` prints it (docs/digests.md).

        Raises:
            UsageError: there is no such part, or the file does not hold it.
            ChecksumError, FormatError: it is damaged.
        """
        from importlib import import_module  # configurations are read above: when it is asked for

        return str(import_module("ckptkit.operations.digests").digest_of(self, part))

    def problems(self) -> list[CkptkitError]:
        """Say what can be seen to be wrong without reading data: shards missing or cut short.

        Returns:
            One error per data file, at most MAX_PROBLEMS and one that counts the others; [] where
            all are there, and long enough for the tensors that lie in them.
        """
        return shard_problems(self.store)


@taking_paths
def open(
    path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    fs: Any = None,
) -> Checkpoint:
    """Open a checkpoint, a SavedModel, or a Keras, safetensors or npz file.  Reads headers only.

    Args:
        path: a file, a directory, or the prefix of a checkpoint; `PATH#SUBTREE` narrows it to the
            tensors below one object or name.  A URL (`s3://bucket/run/ckpt-3`) is read by ranges.
        storage_options: of the store of a URL: `anonymous`, `endpoint`, and what the store takes.
        fs: an fsspec file system or a store of obstore that reads `path`.

    Returns:
        A mapping from readable names to arrays, each read when it is asked for.

    Raises:
        PathNotFoundError: nothing lies there.
        UnsupportedError: a format that is recognised, and not read.
        FormatError: the bytes are of no known format, or break theirs.
        TruncatedError, ChecksumError: the headers are cut short, or are not what was written.
        MissingDependencyError: the format or the store needs a package that is not installed.
        UsageError: `storage_options` without a URL, or not of that store.
        ChangedError: the files are replaced or written to all the time.
    """
    located = None
    if storage_options or fs is not None:
        path = remote_path(path, storage_options=storage_options, fs=fs)
    try:
        located = locate(path)
        store = open_format(located.format, located.path)
    except FormatError as error:
        from ckptkit.stores.text_damage import explained  # here, since most files are sound

        files = files_at(located.format, located.path) if located else [path_of(path)]
        raise explained(error, files) from error.__cause__
    return Checkpoint(store, located.subtree, (*located.notes, *store.notes))


def shard_problems(store: Store) -> list[CkptkitError]:
    """Return one error per shard that is missing, or too short for the tensors that lie in it.

    At most MAX_PROBLEMS, and one that counts the others.
    """
    furthest: dict[int, TensorSpec] = {}
    ends: dict[int, int] = {}
    claimed: Counter[int] = Counter()  # bytes of all tensors of a shard
    for spec in store.specs.values():
        _key, _dtype, _shape, nbytes, shard, offset, _crc, slices = spec
        if not slices:  # nearly all, and a file may have a million
            if shard is not None and offset is not None:
                claimed[shard] += nbytes
                if offset + nbytes > ends.get(shard, -1):
                    ends[shard] = offset + nbytes
                    furthest[shard] = spec
            continue
        for place in slices:
            if place.shard is None or place.offset is None:
                continue
            claimed[place.shard] += place.nbytes
            end = place.offset + place.nbytes
            if end > ends.get(place.shard, -1):
                ends[place.shard] = end
                furthest[place.shard] = spec._replace(offset=place.offset, nbytes=place.nbytes)
    each_shard = (
        _shard_problem(path, furthest.get(n), claimed[n]) for n, path in enumerate(store.shards)
    )
    problems = [problem for problem in each_shard if problem is not None]
    if len(problems) > MAX_PROBLEMS:
        more = len(problems) - MAX_PROBLEMS
        problems[MAX_PROBLEMS:] = [
            CkptkitError(
                f"{more:,} more data files are missing or cut short", where=str(store.path)
            )
        ]
    return problems


def _shard_problem(path: Path, last: TensorSpec | None, claimed: int) -> CkptkitError | None:
    try:
        size = file_size(path)
    except PathNotFoundError:
        return PathNotFoundError(
            "this data file is missing",
            where=str(path),
            hint="copy all files of the checkpoint; the index alone holds no values",
        )
    except CkptkitError as error:
        return error
    if last is not None and size < (last.offset or 0) + last.nbytes:
        return _too_short(path, last)
    if claimed > size:  # a small file could stand for any amount of work
        return FormatError(
            str(path),
            f"its tensors overlap: they claim {claimed} of its {size} bytes",
            hint="no writer does that: the index is forged or damaged",
        )
    return None


def _too_short(path: Path, spec: TensorSpec) -> TruncatedError:
    end = (spec.offset or 0) + spec.nbytes
    return TruncatedError(
        str(path),
        f"cut short: {spec.key} ends at byte {end}",
        expected=f"at least {end} bytes",
        found=file_size(path),
        hint="copy it again, or go back to an earlier checkpoint",
    )


def _paths(naming: Naming) -> tuple[str, ...]:
    return (naming.name, *naming.aliases)


def _is_below(key: str, naming: Naming, subtree: str) -> bool:
    prefix = subtree.rstrip("/") + "/"
    return any(path == subtree or path.startswith(prefix) for path in (key, *_paths(naming)))
