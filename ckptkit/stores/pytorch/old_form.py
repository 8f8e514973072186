"""PyTorch files of before 1.6: a row of pickles, then the bytes of the storages, one after another.

    pickle   a magic number
    pickle   1001, the version of the form
    pickle   {"protocol_version", "little_endian", "type_sizes"} of the machine that wrote it
    pickle   what was saved, each storage named by an id (`tensors`)
    pickle   a list of the storages' keys
    i64      elements of the first storage, and its elements; then those of the second, ...

All is little-endian, whatever wrote it; there are no checksums.  `torch.save` still writes it with
`_use_new_zipfile_serialization=False`.  Source: torch/serialization.py (`_legacy_save`,
`_legacy_load`), torch/csrc/serialization.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers.zip_archive import STORED, Member
from ckptkit.stores.pytorch.pickle_machine import Global, Pickle, read_as_far, read_pickle
from ckptkit.stores.pytorch.tensors import Storage, storage_of, storage_width

_VERSION = 1001
_FIRST_READ = 1 << 16  # bytes; four times as many where the pickles are longer
MAX_PICKLES = 1 << 30  # bytes of all of them; a million tensors take 200 MB
_NAMES = ("magic number", "version", "machine", "what was saved", "storages")
_COUNT = 8  # bytes in front of each storage


class OldForm(NamedTuple):
    """What was saved, and where the bytes of each storage lie, by its key.

    pickle: of what was saved; it names and calls what any pickle of the file does, since torch.load
    runs them all.
    """

    pickle: Pickle
    storages: dict[str, Member]


def read_old_form(path: Path) -> OldForm:
    """Return what a file of before 1.6 is made of; the bytes of its storages are not read.

    Args:
        path: of the file, for which `is_old_form` holds.

    Raises:
        TruncatedError: it ends early.
        FormatError: it is no such file, or one that is damaged.
    """
    size = file_size(path)
    length = min(size, _FIRST_READ)
    while True:
        data = read_exact(path, 0, length)
        try:
            pickles = list(_pickles(data, str(path)))
            break
        except TruncatedError:
            if length >= min(size, MAX_PICKLES):
                raise
            length = min(size, 4 * length, MAX_PICKLES)
    version, saved, keys = pickles[1].value, pickles[3], pickles[4].value
    if version != _VERSION:
        where = f"{path}: version of the form"
        raise FormatError(where, "a PyTorch file", expected=_VERSION, found=repr(version)[:40])
    if not isinstance(keys, list):
        raise FormatError(str(path), "a PyTorch file without a list of its storages")
    storages = dict(_storages(path, saved, keys, sum(part.end for part in pickles), size))
    named = dict.fromkeys(name for part in pickles for name in part.globals)
    called = frozenset().union(*(part.called for part in pickles))
    return OldForm(saved._replace(globals=tuple(named), called=called), storages)


def read_old_names(data: bytes, where: str) -> Pickle:
    """Return what the pickles of a file of before 1.6 name and call, up to one that is broken.

    Args:
        data: the file's start.
        where: the file, for messages.
    """
    named: dict[Global, None] = {}
    called: set[Global] = set()
    at = 0
    for _ in _NAMES:
        pickle, error = read_as_far(data[at:], where)
        named.update(dict.fromkeys(pickle.globals))
        called |= pickle.called
        at += pickle.end
        if error is not None:
            break
    return Pickle(None, tuple(named), frozenset(called), (), at)


def _pickles(data: bytes, where: str) -> Iterator[Pickle]:
    at = 0
    for name in _NAMES:
        pickle = read_pickle(data[at:], f"{where}: {name}")
        at += pickle.end
        yield pickle


def _storages(
    path: Path, saved: Pickle, keys: list[object], at: int, size: int
) -> Iterator[tuple[str, Member]]:
    """Yield (key, where its bytes lie), each behind the number of its elements."""
    known: dict[str, Storage] = {}
    refused: dict[str, str] = {}
    for outside in saved.persistent:
        try:
            storage = storage_of(outside)
            known.setdefault(storage.key, storage)
        except ValueError as error:  # of a kind that is not read
            if isinstance(outside.id, tuple):
                refused.update(dict.fromkeys(map(str, outside.id[2:3]), str(error)))
    for key in map(str, keys):
        where = f"{path}: storage {key}"
        if key not in known:
            raise FormatError(where, refused.get(key, "a storage that nothing names"))
        if at + _COUNT > size:
            raise TruncatedError(where, "the file ends before it", expected=at + _COUNT, found=size)
        count = int.from_bytes(read_exact(path, at, _COUNT), "little", signed=True)
        storage = known[key]
        if count != storage.length:
            raise FormatError(where, "elements", expected=storage.length, found=count)
        nbytes = count * storage_width(storage)
        at += _COUNT
        if at + nbytes > size:
            raise TruncatedError(where, "the file ends within it", expected=at + nbytes, found=size)
        yield key, Member(key, STORED, 0, nbytes, nbytes, at)
        at += nbytes
