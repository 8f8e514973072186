"""Manifests: the SHA-256 of every file, in the form that `sha256sum -c` reads.

    1a2b...  ckpt-3.index
    #tensor 3c4d... float32 [3,3] model.safetensors: conv1/kernel

Paths are relative to the manifest's directory; where the files are in another place than it (one of
both is elsewhere), to a directory above them that the names tell.  A line that begins with `#` is a
comment to sha256sum; here a `#tensor` line holds the digest of one tensor's values (little-endian,
row-major), written for formats that keep no checksum, so that a damaged file's damaged tensors can
be named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.atomic import replacing_files
from ckptkit._io.claims import claiming
from ckptkit._io.file_states import (
    check_unchanged,
    is_file,
    is_local,
    unchanged,
)
from ckptkit._io.files import file_sha256, file_size, read_exact
from ckptkit._io.pool import batched_map, bounded_map
from ckptkit._io.progress import phase
from ckptkit._io.side_files import read_whole
from ckptkit.errors import ChangedError, CkptkitError, FormatError, OutputError, PathNotFoundError
from ckptkit.operations.findings import Check, Finding
from ckptkit.stores.base import Store
from ckptkit.stores.registry import format_of
from ckptkit.text import count_text, lazy_pattern, list_text
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

MAX_MANIFEST = 256 << 20  # bytes
_SHOWN = 80  # characters of a damaged line
_LINE = lazy_pattern(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_TENSOR = lazy_pattern(r"#tensor ([0-9a-f]{64}) (\S+) (\[[0-9,]*\]) (\".*\")")
_TENSOR_MARK = "#tensor"  # begins every such line, and no comment of a person's


class Manifest(NamedTuple):
    """Digests by path (relative, with "/"), and by JSON text of (path, tensor)."""

    files: dict[str, str]
    tensors: dict[str, str]


def files_of(path: Path, store: Store | None) -> list[Path]:
    """Return every file that belongs to a unit, sorted; links are not followed into directories."""
    if not is_local(path) and path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.is_dir():
        return sorted(
            Path(directory, name) for directory, _, names in os.walk(path) for name in names
        )
    found = set() if store is None else {shard for shard in store.shards if shard.is_file()}
    if path.is_file():
        found.add(path)
    elif store is not None:
        index = path.with_name(f"{path.name}.index")
        if index.is_file():  # the path of a checkpoint is no file
            found.add(index)
    return sorted(found)


def _file_digests(
    files: list[Path], units: list[tuple[Path, str, Store | None]], executor: Executor | None
) -> list[str]:
    """Return the SHA-256 of each file; raises ChangedError where a unit changed since it was read.

    A directory may be replaced while its files are read, none of which is.
    """
    files = [unchanged(file) for file in files]
    with phase("SHA-256", sum(file_size(file) for file in files)):
        digests = list(bounded_map(executor, file_sha256, files, str))
    for _path, _format, store in units:
        check_unchanged(getattr(store, "files", ()))
    return digests


def write_manifest(
    manifest: Path,
    place: Path,
    units: list[tuple[Path, str, Store | None]],
    executor: Executor | None,
) -> int:
    """Write the manifest of these (path, format, store) units; return the number of files.

    place: the operand that the units are of.

    Raises OutputError (also where another kind of file would be replaced, or another process writes
    it), and what reading raises.
    """
    files = _files_of_all(units, manifest)
    base = manifest.absolute().parent if is_local(place) else _directory_of(place)
    lines = []
    with claiming(manifest) as claim:
        _refuse_other_files(manifest)
        for file, digest in zip(files, _file_digests(files, units, executor), strict=True):
            lines.append(_line(digest, _relative(file, base)))
        for path, format_name, store in units:
            if store is not None and not format_of(format_name).has_checksums:
                lines.extend(_tensor_lines(path, store, base, executor))
        text = "".join(f"{line}\n" for line in lines).encode()
        with replacing_files([manifest], overwrite=True, claim=claim) as (temporary,):
            temporary.write_bytes(text)
        if read_exact(manifest, 0, file_size(manifest)) != text:
            raise OutputError(
                "is not what was written: another program wrote it too",
                where=str(manifest),
                hint="write it again",
            )
    return len(files)


def _files_of_all(units: list[tuple[Path, str, Store | None]], manifest: Path) -> list[Path]:
    """Return the files of all units, sorted, without the manifest itself."""
    files = sorted({file for path, _format, store in units for file in files_of(path, store)})
    return [file for file in files if file.absolute() != manifest.absolute()]


def _directory_of(place: Path) -> Path:
    place = place.absolute()
    return place if place.is_dir() else place.parent


def _with_all_above(path: Path) -> list[Path]:
    """Return a path and the directories above it, up to the root of what it is in.

    `Path.parents` makes paths of this machine of those of a store elsewhere.
    """
    found = [path.absolute()]
    while found[-1].parent != found[-1]:
        found.append(found[-1].parent)
    return found


def _base(manifest: Path, place: Path, files: list[Path], listed: Manifest) -> Path:
    """Return the directory that the names in a manifest are relative to.

    It is that of the manifest, unless the files are in another place: a copy of those that it was
    written for.  Then it is whichever of the directories above them makes their names those of the
    manifest; where none does, their own.  Raises FormatError where several do.
    """
    above = _with_all_above(_directory_of(place))
    if _with_all_above(manifest)[-1] == above[-1]:
        return manifest.absolute().parent
    fitting = [
        base for base in above if any(_relative(file, base) in listed.files for file in files)
    ]
    if len(fitting) > 1:
        raise FormatError(
            str(manifest),
            f"its names fit below {list_text([str(base) for base in fitting])}",
            hint="put it where its names are relative to its directory",
        )
    return fitting[0] if fitting else above[0]


def _refuse_other_files(manifest: Path) -> None:
    """Raise OutputError unless there is nothing at the path, or an older manifest."""
    if not manifest.is_file() or not file_size(manifest):
        return  # what is no file is refused when it is replaced
    try:
        read_manifest(manifest)
    except FormatError as error:
        raise OutputError(
            "is no manifest, so it is not replaced by one",
            where=str(manifest),
            hint="give a new name",
        ) from error


def _tensor_lines(path: Path, store: Store, base: Path, executor: Executor | None) -> Iterator[str]:
    for key, digest in _tensor_digests(store, executor):
        spec = store.specs[key]
        shape = ",".join(map(str, spec.shape))
        name = json.dumps([_relative(path, base), key])
        if digest is not None:
            yield f"#tensor {digest} {spec.dtype} [{shape}] {json.dumps(name)}"


def _tensor_digests(store: Store, executor: Executor | None) -> Iterator[tuple[str, str | None]]:
    items = [(store, key) for key in store.specs]
    with phase("SHA-256 of tensors", sum(spec.nbytes for spec in store.specs.values())):
        yield from batched_map(executor, _tensor_digest, items, _nbytes, lambda item: item[1])


def _nbytes(item: tuple[Store, str]) -> int:
    store, key = item
    return store.specs[key].nbytes


def _tensor_digest(item: tuple[Store, str]) -> tuple[str, str | None]:
    from ckptkit.stores.digest import digest  # takes numpy, which only some files need

    try:
        return item[1], digest(*item)
    except ChangedError:
        raise
    except CkptkitError:
        return item[1], None  # damaged or unreadable: a finding of its own


def check_manifest(
    manifest: Path,
    place: Path,
    units: list[tuple[Path, str, Store | None]],
    executor: Executor | None,
) -> tuple[Check, tuple[str, ...]]:
    """Compare every file of the units with the manifest; return also what was not compared.

    place: the operand that the units are of.

    Raises FormatError, PathNotFoundError.
    """
    listed = read_manifest(manifest)
    files = _files_of_all(units, manifest)
    base = _base(manifest, place, files, listed)
    findings: list[Finding] = []
    damaged: set[Path] = set()
    nbytes = 0
    present = {_relative(file, base): file for file in files}
    known = [file for name, file in present.items() if name in listed.files]
    for file, digest in zip(known, _file_digests(known, units, executor), strict=True):
        nbytes += file_size(file)
        expected = listed.files[_relative(file, base)]
        if digest != expected:
            damaged.add(file)
            message = f"SHA-256 is {digest}, the manifest says {expected}"
            hint = "damaged or changed since the manifest was written"
            findings.append(Finding("error", "manifest.digest", str(file), message, hint))
    for name in sorted(present.keys() - listed.files.keys()):
        message = "is not in the manifest"
        findings.append(Finding("warning", "manifest.extra", str(present[name]), message))
    others = []
    for name in sorted(listed.files.keys() - present.keys()):
        if is_file(base / name):
            others.append(name)
            continue
        message = "is in the manifest, but not here"
        findings.append(Finding("error", "manifest.missing", str(base / name), message))
    for path, _format, store in units:
        if store is not None and damaged & set(files_of(path, store)):
            findings.extend(_damaged_tensors(path, store, base, listed, executor))
    counts = (("file", len(known)), ("byte", nbytes))
    unread = f"{count_text(len(others), 'file')} of the manifest not given here: "
    not_checked = (unread + list_text(others),) if others else ()
    return Check("manifest", counts, tuple(findings)), not_checked


def _damaged_tensors(
    path: Path, store: Store, base: Path, listed: Manifest, executor: Executor | None
) -> Iterator[Finding]:
    """Yield an error per tensor whose digest the manifest holds and which differs."""
    for key, digest in _tensor_digests(store, executor):
        expected = listed.tensors.get(json.dumps([_relative(path, base), key]))
        if expected is not None and digest is not None and digest != expected:
            message = f"SHA-256 of its values is {digest}, the manifest says {expected}"
            yield Finding("error", "manifest.tensor", f"{path}: {key}", message, key=key)


def read_manifest(manifest: Path) -> Manifest:
    """Return the digests in a manifest; raises FormatError, PathNotFoundError."""
    try:
        text = read_whole(manifest, MAX_MANIFEST, "a manifest").decode("utf-8")
    except PathNotFoundError:
        raise PathNotFoundError(
            "no such manifest", where=str(manifest), hint=say("‹new_manifest› makes one")
        ) from None
    except UnicodeDecodeError:
        raise FormatError(str(manifest), "not a manifest: not text") from None
    found = Manifest({}, {})
    for number, line in enumerate(text.split("\n"), 1):
        _take(found, line.rstrip("\r"), f"{manifest} line {number}")
    if not found.files:
        raise FormatError(str(manifest), "names no file", hint=say("‹new_manifest› makes one anew"))
    return found


def _take(found: Manifest, line: str, where: str) -> None:
    if line.startswith(_TENSOR_MARK):
        _take_tensor(found, line, where)
        return
    if not line.strip() or line == "#" or line.startswith(("# ", "#\t")):
        return
    match = _LINE.fullmatch(line)
    if match is None:
        raise FormatError(where, "not a line of a manifest", expected="SHA-256, two spaces, path")
    name = _unescaped(match[3]) if match[1] else match[3]
    if name in found.files and found.files[name] != match[2]:
        raise FormatError(where, f"{name!r} has two digests")
    found.files[name] = match[2]


def _take_tensor(found: Manifest, line: str, where: str) -> None:
    tensor = _TENSOR.fullmatch(line)
    label = names = None
    try:
        label = json.loads(tensor[4]) if tensor is not None else None
        names = json.loads(label) if isinstance(label, str) else None
    except ValueError:  # told below
        pass
    if tensor is None or not isinstance(label, str) or not _are_texts(names):
        raise FormatError(
            where,
            "not a line on a tensor: the manifest is damaged",
            expected=f"{_TENSOR_MARK} SHA-256 dtype [shape] and the names in JSON",
            found=line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...",
            hint=say("‹new_manifest› makes one anew"),
        )
    if found.tensors.setdefault(label, tensor[1]) != tensor[1]:
        raise FormatError(where, f"{label} has two digests")


def _are_texts(names: object) -> bool:
    """Whether these are the names of a file and of a tensor in it."""
    return isinstance(names, list) and len(names) == 2 and all(isinstance(n, str) for n in names)


def _line(digest: str, name: str) -> str:
    """Return the line of one file, escaped as sha256sum escapes."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}"


def _unescaped(name: str) -> str:
    plain = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
    return re.sub(r"\\[\\nr]", lambda match: plain[match[0]], name)


def _relative(file: Path, base: Path) -> str:
    return os.path.relpath(str(file.absolute()), str(base)).replace(os.sep, "/")
