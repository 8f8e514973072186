"""OCDBT, the key-value database that TensorStore keeps arrays in: its manifest and its B+tree.

    manifest.ocdbt      the configuration, and the root of the tree of each version
    d/HEX               nodes of the tree, and the values that are too large to stand in a node

Manifest and nodes are framed alike: magic (uint32 big-endian), length of the whole (uint64
little-endian), version (0), compression (0: none, 1: zstd), the body, crc32c of all before it
(little-endian, not masked).  Numbers in bodies are varints (LEB128) unless said otherwise.

    manifest    uuid (16 bytes), kind (a byte; 0: versions follow, 1: in files of their own),
                largest inline value, largest node, log2 of the version tree's arity (a byte),
                compression (1: followed by its level, int32), data files, versions, version nodes
    data files  count; common prefix with the file before (but the first); length of the rest;
                length of the base path, which goes for what the file's nodes name; the rests
    version     columns: generation, height of the root (a byte), file, offset, length, keys, bytes
                of the tree, bytes of values, time (uint64)
    node        height (a byte), data files, entries; keys as data files are; then, above height 0,
                the length of the prefix that all keys below have, and file, offset, length, keys,
                bytes of the tree, bytes of values of each child; at height 0 the length of each
                value, its kind (a byte; 0: here, 1: in a file), file and offset, the values here

Keys are relative to the prefixes of the nodes above.  They must rise over the whole tree, a child
must be one lower than its parent, and no node may have two parents: so every walk ends.
Source: tensorstore/kvstore/ocdbt/index.rst, format/{manifest,version_tree,btree}.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ckptkit._io import crc32c
from ckptkit._io.file_states import is_file, unchanged
from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.orbax.codecs import decompress_unsized
from ckptkit.stores.orbax.layout import MANIFEST

_MANIFEST_MAGIC, _NODE_MAGIC = 0x0CDB3A2A, 0x0CDB20DE
_FRAME = 16  # bytes: magic, length, crc32c
MAX_NODE_BYTES = 1 << 28  # of a body; TensorStore cuts nodes at 8 MiB, Orbax at 100 MB
MAX_TREE_BYTES = 1 << 31  # of all bodies; ten million keys take one of them
MAX_KEYS = 20_000_000
_MAX_KEY_BYTES = 65_535
_MAX_GROWTH = 200  # bytes of names that are told by a byte of a body; long names reach 40
_MISSING = (1 << 64) - 1


class StoredValue(NamedTuple):
    """Where the value of a key lies: in a file, or (path None) in the tree itself, as `inline`."""

    path: Path | None
    offset: int
    nbytes: int
    inline: bytes = b""


class Database(NamedTuple):
    """Values by key, in the order of their keys, and the files that the tree is made of.

    files: those that nodes or values lie in, the manifest first, there or not.
    """

    values: Mapping[bytes, StoredValue]
    files: tuple[Path, ...]


class _Child(NamedTuple):
    path: Path
    base: str
    offset: int
    nbytes: int
    height: int
    prefix: bytes
    lower: bytes  # the least key that may lie below it


class _Body:
    """A cursor over the body of a manifest or node; every refusal names the place."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.at, self.where = data, 0, where

    def error(self, message: str) -> FormatError:
        return FormatError(f"{self.where}, byte {self.at} of its body", message)

    def take(self, nbytes: int) -> bytes:
        part = self.data[self.at : self.at + nbytes]
        if len(part) != nbytes:
            raise TruncatedError(self.where, "its body ends early", expected=nbytes)
        self.at += nbytes
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        return self.numbers(1)[0]

    def numbers(self, count: int) -> Sequence[int]:
        """Return `count` varints of up to 64 bits."""
        if count > len(self.data) - self.at:
            raise TruncatedError(self.where, "its body ends early", expected=f"{count} numbers")
        part = self.data[self.at : self.at + count]
        if part.isascii():  # each in one byte, as nearly always
            self.at += count
            return part
        found = []
        for _ in range(count):
            value = shift = 0
            while True:
                byte = self.byte()
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
                if shift > 63:
                    raise self.error("a number of more than 64 bits")
            if value > _MISSING:
                raise self.error("a number of more than 64 bits")
            found.append(value)
        return found

    def finish(self) -> None:
        if self.at != len(self.data):
            raise self.error(f"{len(self.data) - self.at} bytes too many")


def read_database(directory: Path) -> Database:
    """Return the keys and values of the newest version of a database.

    Args:
        directory: that its manifest lies in.

    Raises:
        FormatError: manifest or tree break the format.
        ChecksumError: their bytes are not those that were written.
        TruncatedError: they end early.
        UnsupportedError: a form of it that is not read.
        MissingDependencyError: nothing is installed that reads zstd.
    """
    tree = _Tree(directory)
    return Database(dict(tree.values()), tuple(tree.files))


class _Tree:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = unchanged(directory / MANIFEST)
        self.files: dict[Path, None] = {self.manifest: None}
        self._by_name: dict[str, Path] = {}
        self._seen: set[tuple[Path, int]] = set()
        self._bytes = 0
        self._key_bytes = 0

    def values(self) -> Iterator[tuple[bytes, StoredValue]]:
        root = self._root()
        pending = [root] if root is not None else []
        last: bytes | None = None
        count = 0
        while pending:
            child = pending.pop()
            body = self._node(child)
            files = self._files(body, child.base)
            keys, prefixes = _keys(body, child)
            count += len(keys)
            self._key_bytes += sum(map(len, keys))
            if count > MAX_KEYS or self._key_bytes > MAX_TREE_BYTES:
                raise body.error(f"more than {MAX_KEYS:,} keys, or of {MAX_TREE_BYTES:,} bytes")
            is_behind = last is not None and last >= child.lower
            if keys[0] < child.lower or is_behind or (last is not None and keys[0] <= last):
                raise body.error("keys do not rise")
            if child.height:
                pending += reversed(_children(body, child, files, keys, prefixes))
                continue
            yield from zip(keys, self._leaf(body, files, len(keys)), strict=True)
            last = keys[-1]

    def _root(self) -> _Child | None:
        """Return the root of the newest version; None for one without keys."""
        path = self.manifest
        body = _framed(path, 0, file_size(path), _MANIFEST_MAGIC)
        body.take(16)
        kind = body.byte()
        body.numbers(2)
        body.byte()
        if body.number():
            body.take(4)
        if kind == 1:
            raise UnsupportedError(
                "an OCDBT database whose versions lie in manifests of their own",
                where=str(path),
                hint="no version of Orbax writes that; TensorStore copies it into one that is read",
            )
        if kind:
            raise body.error(f"a manifest of kind {kind}")
        files = self._files(body, "")
        count = body.number()
        if not 0 < count <= len(body.data):
            raise body.error(f"{count} versions")
        generations = body.numbers(count)
        heights = body.take(count)
        rows = [body.numbers(count) for _ in range(6)]
        if any(b <= a for a, b in pairwise(generations)):
            raise body.error("generations do not rise")
        which, offset, nbytes = rows[0][-1], rows[1][-1], rows[2][-1]
        if offset == nbytes == _MISSING:
            return None
        file, base = _one_of(body, files, which)
        return _Child(file, base, offset, nbytes, heights[-1], b"", b"")

    def _files(self, body: _Body, base: str) -> list[tuple[Path, str]]:
        """Return (path, base path of what its nodes name) of a table of data files."""
        count = body.number()
        if not count:
            return []
        prefixes = (0, *body.numbers(count - 1))
        rests = body.numbers(count)
        bases = body.numbers(count)
        found: list[tuple[Path, str]] = []
        path = b""
        _check_growth(body, sum(prefixes) + count * len(base))
        for prefix, rest, length in zip(prefixes, rests, bases, strict=True):
            if prefix > len(path) or prefix + rest > _MAX_KEY_BYTES or length > prefix + rest:
                raise body.error("a data file's name cannot be that long")
            path = path[:prefix] + body.take(rest)
            try:
                text, inner = base + path.decode(), base + path[:length].decode()
            except UnicodeDecodeError:
                raise body.error(f"a data file called {path!r}") from None
            if not is_plain_path(text):
                raise body.error(f"a data file outside of the database: {text!r}")
            found.append((self._file(text), inner))
        return found

    def _file(self, name: str) -> Path:
        file = self._by_name.get(name)
        if file is None:
            file = self._by_name[name] = unchanged(self.directory / name)
            self.files[file] = None
        return file

    def _node(self, child: _Child) -> _Body:
        place = child.path, child.offset
        if place in self._seen:
            raise FormatError(f"{child.path} @ {child.offset}", "a node with two parents")
        self._seen.add(place)
        if not is_file(child.path):
            raise FormatError(
                str(child.path),
                "the file with the tree of keys is missing",
                hint="the save was not finished or not all files were copied",
            )
        body = _framed(child.path, child.offset, child.nbytes, _NODE_MAGIC)
        self._bytes += len(body.data)
        if self._bytes > MAX_TREE_BYTES:
            raise body.error(f"a tree of more than {MAX_TREE_BYTES:,} bytes")
        height = body.byte()
        if height != child.height:
            raise body.error(f"a node of height {height}, where one of {child.height} belongs")
        return body

    @staticmethod
    def _leaf(body: _Body, files: list[tuple[Path, str]], count: int) -> list[StoredValue]:
        lengths = body.numbers(count)
        kinds = body.take(count)
        if kinds.strip(b"\0\1"):
            raise body.error("a value of an unknown kind")
        outside = kinds.count(1)
        which = iter(body.numbers(outside))
        offsets = iter(body.numbers(outside))
        found = []
        for kind, nbytes in zip(kinds, lengths, strict=True):
            if kind:
                path, _ = _one_of(body, files, next(which))
                offset = next(offsets)
                if offset + nbytes > _MISSING:
                    raise body.error("a value at the end of all files")
                found.append(StoredValue(path, offset, nbytes))
            else:
                found.append(StoredValue(None, 0, nbytes))
        found = [
            value if value.path else value._replace(inline=body.take(value.nbytes))
            for value in found
        ]
        body.finish()
        return found


def _keys(body: _Body, node: _Child) -> tuple[list[bytes], Sequence[int]]:
    """Return the keys of a node, whole, and above height 0 how much of each all below it have."""
    count = body.number()
    if not count:
        raise body.error("a node without entries")
    prefixes = (0, *body.numbers(count - 1))
    rests = body.numbers(count)
    common = body.numbers(count) if node.height else ()
    keys: list[bytes] = []
    key = b""
    outer = node.prefix
    _check_growth(body, sum(prefixes) + count * len(outer))
    for prefix, rest in zip(prefixes, rests, strict=True):
        if prefix > len(key) or prefix + rest > _MAX_KEY_BYTES:
            raise body.error("a key cannot be that long")
        suffix = body.take(rest)
        if keys and key[prefix:] >= suffix:
            raise body.error("keys do not rise")
        key = key[:prefix] + suffix
        keys.append(outer + key)
    for length, key in zip(common, keys, strict=False):
        if length > len(key) - len(outer):
            raise body.error("a prefix longer than its key")
    return keys, common


def _children(
    body: _Body,
    node: _Child,
    files: list[tuple[Path, str]],
    keys: list[bytes],
    prefixes: Sequence[int],
) -> list[_Child]:
    count = len(keys)
    rows = [body.numbers(count) for _ in range(6)]
    body.finish()
    outer = len(node.prefix)
    found = []
    for key, length, which, offset, nbytes in zip(keys, prefixes, *rows[:3], strict=True):
        path, base = _one_of(body, files, which)
        prefix = key[: outer + length]
        if len(prefix) > _MAX_KEY_BYTES:
            raise body.error("a key cannot be that long")
        found.append(_Child(path, base, offset, nbytes, node.height - 1, prefix, key))
    return found


def _one_of(body: _Body, files: list[tuple[Path, str]], which: int) -> tuple[Path, str]:
    if which >= len(files):
        raise body.error(f"data file {which} of {len(files)}")
    return files[which]


def _check_growth(body: _Body, shared: int) -> None:
    """Refuse names that share so much with the one before that they fill the memory."""
    if shared > _MAX_GROWTH * (len(body.data) + 1024):
        raise body.error(f"names that share {shared:,} bytes with those before them")


def is_plain_path(path: str) -> bool:
    """Whether a path that a file names leads nowhere but down from where it is looked up."""
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def _framed(path: Path, offset: int, nbytes: int, magic: int) -> _Body:
    """Return the body of a manifest or node; its checksum is compared first."""
    where = f"{path} @ {offset}" if offset else str(path)
    if not _FRAME + 2 <= nbytes <= MAX_NODE_BYTES:
        raise FormatError(where, f"{nbytes} bytes are no manifest or node of a tree")
    data = read_exact(path, offset, nbytes)
    if int.from_bytes(data[:4], "big") != magic:
        raise FormatError(where, "magic number", expected=f"{magic:#010x}", found=data[:4].hex())
    length = int.from_bytes(data[4:12], "little")
    if length != nbytes:
        kind = TruncatedError if length > nbytes else FormatError
        raise kind(where, "length", expected=length, found=nbytes)
    stored, found = int.from_bytes(data[-4:], "little"), crc32c.value(data[:-4])
    if stored != found:
        raise ChecksumError(
            where,
            "crc32c",
            expected=f"{stored:#010x}",
            found=f"{found:#010x}",
            hint="copy it again",
        )
    head = _Body(data[12:-4], where)
    version, compression = head.number(), head.number()
    if version or compression > 1:
        raise UnsupportedError(
            f"OCDBT of version {version}, compression {compression}", where=where
        )
    body = head.data[head.at :]
    if compression:
        body = decompress_unsized(body, MAX_NODE_BYTES, where)
    return _Body(body, where)
