"""Verifying a training directory: every checkpoint in it, the state file, what crashes left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ckptkit._io.atomic import is_temporary
from ckptkit._io.claims import names_in_use
from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding, Unit, of_error
from ckptkit.operations.verify.in_use import is_in_use, is_quiet, is_young
from ckptkit.stores.orbax.layout import is_unfinished
from ckptkit.stores.tensor_bundle.state_file import (
    STATE_FILE,
    incomplete,
    modified_ns,
    prefixes,
    read_state,
)
from ckptkit.stores.tensor_bundle.v1_files import prefix_of
from ckptkit.text import count_text, lazy_pattern, list_text
from ckptkit.wording import say

_UNFINISHED = lazy_pattern(r"(_temp\b|\.tempstate\d*|\.tmp[0-9a-f]{32})")
_DATA_FILE = lazy_pattern(r"(.*)\.data-\d{5}-of-\d{5}")
_MEMBER = lazy_pattern(r".*\.(index|data-\d{5}-of-\d{5})")


def verify_directory(directory: Path, known: set[str]) -> Unit:
    """Return what is found in the directory itself, beside the files that are units of their own.

    known: names of entries that are verified as units (SavedModels, Keras files).
    """
    names = sorted(entry.name for entry in directory.iterdir())
    found = prefixes(directory)
    checks = []
    if STATE_FILE in names:
        findings = tuple(_state(directory, found))
        checks.append(Check("state file", (("checkpoint", len(found)),), findings))
    leftovers = tuple(_leftovers(directory, names, {prefix.name for prefix in found}))
    checks.append(Check("leftovers", (("entry", len(names)),), leftovers))
    flagged = {Path(finding.where).name for finding in leftovers}
    others = [
        name
        for name in names
        if name not in known
        and name not in flagged
        and name != STATE_FILE
        and not _MEMBER.fullmatch(name)
    ]
    not_checked: list[str] = []
    below = [name for name in others if (directory / name).is_dir()]
    if below:
        what = count_text(len(below), "directory")
        place = f"{what} in {directory}"
        not_checked.append(say(f"{place} (‹verify.recursive› looks there): {list_text(below)}"))
    others = [name for name in others if name not in below]
    if others:
        what = count_text(len(others), "other entry")
        not_checked.append(f"{what}, in a format that ckptkit does not read: {list_text(others)}")
    return Unit(directory, "directory", tuple(checks), tuple(not_checked))


def _state(directory: Path, checkpoints: list[Path]) -> Iterator[Finding]:
    """Yield what is wrong with the `checkpoint` state file."""
    path = directory / STATE_FILE
    try:
        latest, kept = read_state(path)
    except CkptkitError as error:
        yield of_error(error, "state")
        return
    if latest is None:
        yield Finding(
            "error",
            "state.empty",
            str(path),
            "names no checkpoint: tf.train.latest_checkpoint returns None",
            _newest(checkpoints),
        )
        return
    names = {prefix.name for prefix in checkpoints}
    for severity, named in [("error", latest), *(("warning", k) for k in kept if k != latest)]:
        target = prefix_of(Path(named.replace("\\", "/")))
        if "\0" in named or ".." in target.parts:
            message = f"names {named!r}, which leads out of the directory"
            yield Finding("error", "state.outside", str(path), message, "it is never followed")
        elif target.name not in names and severity != "error" and is_in_use(directory):
            message = f"names {named} as kept checkpoint, which may just have been removed"
            yield Finding("note", "state.kept", str(path), message)
        elif target.name not in names:
            what = "latest" if severity == "error" else "kept"
            yield Finding(
                severity,
                "state.stale",
                str(path),
                f"names {named} as {what} checkpoint, which is not there",
                _newest(checkpoints),
            )
        elif target.is_absolute() and target.parent != directory.absolute():
            message = f"points at {named}, another directory; TensorFlow would look there"
            yield Finding("note", "state.moved", str(path), message)


def _newest(checkpoints: list[Path]) -> str:
    """Return a hint that names the newest checkpoint whose files are all there."""
    whole = [prefix for prefix in checkpoints if incomplete(prefix) is None]
    if not whole:
        return "no complete checkpoint lies here"
    newest = max(whole, key=modified_ns)
    return f"the newest complete one here is {newest.name}"


def _leftovers(directory: Path, names: list[str], found: set[str]) -> Iterator[Finding]:
    """Yield a warning per entry that a save left when it was killed, a note where it may go on."""
    now_s = time.time()
    writers = names_in_use(directory) if any(map(is_temporary, names)) else {}

    def leftover(kind: str, name: str, message: str, going_on: str) -> Finding:
        where, code = str(directory / name), f"leftover.{kind}"
        if is_young(directory / name, now_s):
            return Finding("note", code, where, f"{going_on}, and was changed within the last hour")
        hint = "it may be deleted" if is_quiet(directory, now_s) else ""
        return Finding("warning", code, where, message, hint)

    for name in names:
        where = str(directory / name)
        if (owner := writers.get(name)) is not None:
            yield Finding("note", "leftover.ckptkit", where, f"{owner} is writing it")
        elif _UNFINISHED.search(name):
            message = "was left by a save that TensorFlow did not finish"
            going_on = "belongs to a save that is not finished"
            yield leftover("tensorflow", name, message, going_on)
        elif is_unfinished(name):
            message = "was left by a save that Orbax did not finish"
            yield leftover("jax", name, message, "belongs to a save that is not finished")
        elif is_temporary(name):
            message = "was left by a ckptkit that was killed"
            yield leftover("ckptkit", name, message, "belongs to an output that is not finished")
        elif (match := _DATA_FILE.fullmatch(name)) and match[1] not in found:
            message = f"is a data file without its index {match[1]}.index"
            finding = leftover("data", name, message, message)
            hint = "the save was not finished, or not all files were copied"
            yield replace(finding, hint=hint if finding.severity == "warning" else "")
