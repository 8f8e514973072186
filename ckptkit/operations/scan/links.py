"""Links and special files in a model's directory: a loader follows them wherever they lead."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.file_states import is_local
from ckptkit._io.places import can_list
from ckptkit.operations.findings import Check, Finding

MAX_FILES = 100_000  # in one directory of a model; more are not looked at


def directory_check(directory: Path) -> Check:
    """Return what there is to say of the files in a model's directory, at any depth."""
    findings: list[Finding] = []
    count = 0
    if not can_list(directory):
        message = "what else lies in it was not looked at: the server lists no directories"
        unseen = Finding("note", "file.unlisted", directory.name, message)
        return Check("files", (), (unseen,))
    for path in _entries(directory):
        count += 1
        if count > MAX_FILES:
            message = f"more than {MAX_FILES} files, not all of which were looked at"
            findings.append(Finding("warning", "file.many", directory.name, message))
            break
        findings.extend(link_findings(path, directory))
    return Check("files", (("file", count),), tuple(findings))


def _entries(directory: Path) -> Iterator[Path]:
    """Yield the files in a directory, and all links in it, which are not followed."""
    if not is_local(directory):
        yield from (path for path in directory.rglob("*") if path.is_file())
        return
    for at, names, files in os.walk(directory):
        links = [name for name in names if Path(at, name).is_symlink()]
        yield from (Path(at, name) for name in (*links, *sorted(files)))


def link_findings(path: Path, directory: Path) -> Iterator[Finding]:
    """Yield a finding if a file of a model's directory is a link that leads out of it, or special.

    A link out of a hub's cache into its own blobs is none.
    """
    if not is_local(path):
        return  # stores elsewhere have neither links nor devices
    where = f"{directory.name}/{path.relative_to(directory).as_posix()}"
    if path.is_symlink():
        target = os.readlink(path)  # noqa: PTH115 (a text for a message)
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            real = None
        if real is None or not real.exists():
            message = f"a link to {target!r}, where nothing lies"
            yield Finding("warning", "file.link", where, message)
        elif not real.is_relative_to(directory.resolve()) and not _is_of_cache(real, directory):
            message = f"a link that leads out of the model's directory, to {target!r}"
            yield Finding("error", "file.link", where, message)
        return
    mode = path.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        message = "neither a file nor a directory: a loader may wait for it for ever"
        yield Finding("error", "file.special", where, message)


def _is_of_cache(real: Path, directory: Path) -> bool:
    """Whether a link is one of a hub's cache, snapshots/REVISION/NAME -> blobs/DIGEST."""
    blobs = real.parent
    return blobs.name == "blobs" and directory.resolve().is_relative_to(blobs.parent / "snapshots")
