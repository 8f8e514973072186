"""`verify`: bytes against themselves. Every finding, not the first, and what was not checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ckptkit._io.file_states import (
    FileState,
    file_state,
    is_file,
    is_local,
    os_error,
)
from ckptkit._io.files import file_size, taking_paths
from ckptkit._io.places import begin_to_fetch, is_there, path_of, text_of
from ckptkit._io.progress import Progress, ProgressMeter, numbered
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    FormatError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.operations.findings import SEVERITIES, Check, Finding, Unit, of_error
from ckptkit.operations.input_files import DIRECTORY, UNKNOWN, files_read
from ckptkit.operations.verify.directory import verify_directory
from ckptkit.operations.verify.in_use import Look, look_twice
from ckptkit.operations.verify.sampling import TensorSample, checked_sample
from ckptkit.results import Document
from ckptkit.stores.base import Store
from ckptkit.stores.directories import (
    contents_of,
    directories_below,
    format_of_directory,
    is_model_directory,
)
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import (
    KERAS,
    LEGACY_KERAS,
    SAVED_MODEL,
    TENSOR_BUNDLE,
    format_of,
    function_of,
)
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.state_file import STATE_FILE, is_v1
from ckptkit.stores.text_damage import explained, hint_of_text_damage
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["SEVERITIES", "Check", "Finding", "Unit", "Verification", "verify"]

SCHEMA = "ckptkit.verify/2"
# Findings about files that are not there: a program may be about to write or remove the others.
_OF_FILES = ("index.missing", "data.missing", "data.unreadable")
_SAMPLED = (TENSOR_BUNDLE, SAVED_MODEL)  # of formats with a function of their own to verify
# Ends of codes of findings that a file gives which is written in place, or a set in part.
_OF_WRITING = (".missing", ".unreadable", ".extra", ".truncated", ".malformed")


@dataclass(frozen=True, slots=True, repr=False)
class Verification(Document):
    """What a verification of one operand found.  strict: notes count as findings."""

    ROWS: ClassVar[str] = "units"

    path: Path
    units: tuple[Unit, ...]
    strict: bool = False
    ASK: ClassVar[str] = ".ok, or .sound"

    def __repr__(self) -> str:
        verdict = ("sound", "findings", "could not tell")[self.exit_code]
        counts = Counter(finding.severity for finding in self.findings)
        parts = [f"{counts[severity]} {severity}" for severity in SEVERITIES if counts[severity]]
        of = f": {', '.join(parts)}" if parts else ""
        return f"<{type(self).__name__} {verdict}{of}; {self.path}>"

    @property
    def ok(self) -> bool:
        """Whether all was checked and nothing found, `sound` by another name."""
        return self.sound

    @property
    def sound(self) -> bool:
        """Whether all was checked and nothing found."""
        return self.exit_code == 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order in which the checks were made."""
        return tuple(finding for unit in self.units for finding in unit.findings)

    @property
    def refusals(self) -> tuple[CkptkitError, ...]:
        """Why parts could not be checked at all."""
        return tuple(unit.refusal for unit in self.units if unit.refusal is not None)

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was left out, each sentence once."""
        return tuple(dict.fromkeys(text for unit in self.units for text in unit.not_checked))

    @property
    def exit_code(self) -> int:
        """0 sound, 1 findings, 2 could not tell (nothing was checked, or a part could not be)."""
        failing_findings = SEVERITIES if self.strict else SEVERITIES[:2]
        if any(finding.severity in failing_findings for finding in self.findings):
            return 1
        if self.refusals or not any(unit.format != DIRECTORY for unit in self.units):
            return 2
        return 0

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.verify/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        findings = self.findings
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "exit_code": self.exit_code,
            "strict": self.strict,
            "tensors": sum(unit.tensors for unit in self.units),
            "bytes": sum(unit.nbytes for unit in self.units),
            "counts": {
                severity: sum(finding.severity == severity for finding in findings)
                for severity in SEVERITIES
            },
            "not_checked": list(self.not_checked),
            "units": [unit.to_json() for unit in self.units],
        }


class _VerifyTarget(NamedTuple):
    """One thing to verify: its format ("" where opening it is already a finding) and path."""

    format: str
    path: Path
    unit: Unit | None = None


@taking_paths
def verify(
    path: str | os.PathLike[str],
    *,
    values: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    new_manifest: str | os.PathLike[str] | None = None,
    strict: bool = False,
    recursive: bool = False,
    sample: int | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check the bytes of a checkpoint, SavedModel, training directory or weights file.

    Reads every byte, in blocks.  Damage is a finding, never an exception; what cannot be read here,
    or changes meanwhile, is a unit with a refusal.

    Args:
        path: a file, the prefix of a checkpoint, or a directory, which stands for all in it.
        values: also look for NaN, infinities, constants and denormals.
        manifest: a file of SHA-256 digests to compare with, here or elsewhere.
        new_manifest: a file to write the digests to.
        strict: notes count as findings.
        recursive: of a directory, also all that lies below it; links are not followed.
        sample: how many tensors of each file are read, where not all; indexes, sizes and
            structure are checked all the same, and what was not read is said.
        seed: of the draw of these; another one draws others.
        executor: where files are read; the caller's, neither made nor shut here; None reads here.
        progress: called with (phase, bytes done, bytes in all) as bytes are read; each pass is a
            phase: "read", then "values".

    Returns:
        All findings, by unit (a file, or files that belong together), and what was not checked.

    Raises:
        PathNotFoundError: nothing lies there (or nothing to verify), or at `manifest`.
        UsageError: a part of a file (`PATH#SUBTREE`) is asked for, or a sample beside what reads
            everything.
        FormatError: `manifest` is no manifest.
        OutputError: `new_manifest` cannot be written, or would replace what is no manifest.
    """
    text = text_of(path)
    place = path_of(path)
    reads_all = values or manifest is not None or new_manifest is not None
    drawn = checked_sample(sample, seed, reads_all=reads_all)

    def look(earlier: Sequence[Look]) -> list[Look]:
        return _look(place, text, recursive, values, drawn, executor, progress, earlier)

    stands_for_all = place.is_dir() and not is_model_directory(place)
    if is_local(place):
        looks = look_twice(
            look,
            place if stands_for_all else place.parent,
            _may_pass_in_a_directory if stands_for_all else _may_pass,
            is_whole=stands_for_all,
        )
    else:  # a save of one object is seen whole or not at all
        looks = look(())
    looks = [_of_changed(one) if one.changed else one for one in looks]
    done = [(one.unit, one.store) for one in looks]
    units = [unit for unit, _store in done]
    listed = [(unit.path, unit.format, store) for unit, store in done]
    if manifest is not None and units:
        from ckptkit.operations.verify.manifest import check_manifest  # here, since most have none

        check, others = check_manifest(path_of(manifest), place, listed, executor)
        unit = _with(units[-1], check)
        units[-1] = replace(unit, not_checked=(*unit.not_checked, *others))
    if new_manifest is not None:
        from ckptkit.operations.verify.manifest import write_manifest

        write_manifest(Path(new_manifest), place, listed, executor)
    named = (_named(unit, store) for unit, (_unit, store) in zip(units, done, strict=True))
    return Verification(place, tuple(named), strict)


def _look(
    place: Path,
    text: str,
    recursive: bool,
    values: bool,
    sample: TensorSample | None,
    executor: Executor | None,
    progress: Progress | None,
    earlier: Sequence[Look],
) -> list[Look]:
    """Look at all that an operand stands for; what an earlier look saw is taken over if it is so
    still."""
    kept = {(one.unit.path, one.unit.format): one for one in earlier if one.states}
    looks = []
    try:
        targets = list(_targets(place, text, recursive))
    except OSError as error:
        raise os_error(place, error) from error
    for target in numbered(targets, lambda target: target.path):
        before = _states(target)
        same = kept.get((target.path, target.format))
        if same is not None and same.states == before:
            looks.append(same)
            continue
        unit, store = _verified(target, executor, progress, sample)
        if values:
            unit = _with_values(unit, store, executor, progress)
        looks.append(Look(unit, store, before, changed=_states(target) != before))
    return looks


def _may_pass(look: Look) -> bool:
    """Whether what was found in one file or checkpoint may be of a save, or a removal, going on."""
    codes = {finding.code for finding in look.unit.findings}
    is_partial = "index.truncated" in codes and _is_being_written(index_path(look.unit.path))
    return not look.changed and (is_partial or any(code in _OF_FILES for code in codes))


def _is_being_written(index: Path) -> bool:
    """Whether an index is as long as one that TensorFlow has written in part.

    It writes an index under its final name, by way of stdio, whose buffers are of 4096 bytes.
    """
    return is_file(index) and file_size(index) % 4096 == 0


def _may_pass_in_a_directory(look: Look) -> bool:
    """Whether what was found in a directory may be; there, whatever is removed is looked past."""
    if look.changed or look.unit.refusal is not None:
        return True
    codes = {finding.code for finding in look.unit.findings}
    return any(code.startswith("state.") or code.endswith(_OF_WRITING) for code in codes)


def _of_changed(look: Look) -> Look:
    """Return the look at what changed while it was read: nothing is said of its content."""
    error = CkptkitError(
        "changed while it was read",
        where=str(look.unit.path),
        hint="verify again when nothing writes to it",
    )
    unit = Unit(look.unit.path, look.unit.format or UNKNOWN, refusal=error)
    return Look(unit, None, look.states, changed=True)


def _named(unit: Unit, store: Store | None) -> Unit:
    """Give the findings about tensors their readable names."""
    if store is None or not any(finding.key for finding in unit.findings):
        return unit
    from ckptkit.operations.verify.salvage import readable_names  # here, since most are sound

    names = readable_names(store)
    checks = []
    for check in unit.checks:
        found = tuple(replace(f, name=f.name or names.get(f.key, "")) for f in check.findings)
        checks.append(replace(check, findings=found))
    return replace(unit, checks=tuple(checks))


def _with_values(
    unit: Unit, store: Store | None, executor: Executor | None, progress: Progress | None
) -> Unit:
    if store is None or unit.refusal is not None:
        return unit
    if any(finding.code == "data.overlap" for finding in unit.findings):
        text = "values: tensors overlap"  # reading each could take for ever
        return replace(unit, not_checked=(*unit.not_checked, text))
    from ckptkit.operations.verify.values import values_check  # here, since few ask for it

    total = sum(spec.nbytes for spec in store.specs.values())
    meter = ProgressMeter(progress, "values", total, by_reads=True)
    return _with(unit, values_check(store, executor, meter))


def _with(unit: Unit, check: Check) -> Unit:
    return replace(unit, checks=(*unit.checks, check))


def _states(target: _VerifyTarget) -> dict[Path, FileState | None]:
    """Return the states of the files that a target is read from."""
    with suppress(OSError):
        files = files_read(target.format, target.path) if target.unit is None else ()
        return {file: file_state(file) for file in files}
    return {}


# --- what is meant --------------------------------------------------------------------------------


def _targets(path: Path, text: str, recursive: bool) -> Iterator[_VerifyTarget]:
    """Yield what an operand stands for; a directory stands for all that lies in it."""
    if path.is_dir() and not (not text.endswith("/") and index_path(path).is_file()):
        yield from _below(path) if recursive else _directory(path)
        return
    if "#" in text and not is_there(path) and not index_path(path).is_file():
        raise UsageError(
            "a whole file is verified, not a part of it",
            where=text,
            hint="leave out what follows the #",
        )
    yield _one(path)


def _directory(path: Path) -> Iterator[_VerifyTarget]:
    found_format = format_of_directory(path)
    if found_format:
        yield _VerifyTarget(found_format, path)
        return
    if _holds_bundle_without_name(path):
        yield _VerifyTarget(TENSOR_BUNDLE, path)
        return
    found = list(_entries(path))
    if found:
        yield from found
    elif not any(path.iterdir()):
        raise PathNotFoundError("an empty directory: nothing to verify", where=str(path))
    elif (path / STATE_FILE).exists():  # what was listed there went before it was looked at
        yield _VerifyTarget("", path, Unit(path, UNKNOWN, refusal=ChangedError(path)))
        return
    if not (path / STATE_FILE).exists() and all(one.format == DIRECTORY for one in found):
        yield _nothing_in(path)


def _holds_bundle_without_name(directory: Path) -> bool:
    index = index_path(directory)
    return index.parent == directory and index.is_file()


def _nothing_in(path: Path) -> _VerifyTarget:
    """Return the directory as one that is known and not read; raises PathNotFoundError else."""
    try:
        return _one(path)
    except PathNotFoundError as error:
        if not any(entry.is_dir() for entry in path.iterdir()):
            raise
        hint = say("‹recursive› also looks below it")
        raise PathNotFoundError("nothing to verify in it", where=str(path), hint=hint) from error


def _entries(path: Path, below: frozenset[str] = frozenset()) -> Iterator[_VerifyTarget]:
    """Yield what lies in a directory, behind what is to be said of the directory itself.

    below: names of directories in it that are gone through as well.
    """
    contents = contents_of(path)
    targets = [
        _one(prefix) if is_v1(prefix) else _VerifyTarget(TENSOR_BUNDLE, prefix)
        for prefix in contents.checkpoints
    ]
    targets += [_entry(entry) for entry in contents.models]
    if targets or (path / STATE_FILE).exists() or any(path.glob("*.data-?????-of-?????")):
        known = {entry.name for entry in contents.models} | contents.parts | below
        unit = verify_directory(path, known)
        if targets or unit.findings:
            yield _VerifyTarget(DIRECTORY, path, unit)
    yield from targets


def _below(top: Path) -> Iterator[_VerifyTarget]:
    """Yield what lies in a directory and in those below it."""
    if is_model_directory(top) or _holds_bundle_without_name(top):
        yield from _directory(top)
        return
    failed: list[OSError] = []
    is_empty = True
    for place, names in directories_below(top, is_model_directory, failed.append):
        for target in _entries(place, frozenset(names)):
            is_empty = False
            yield target
    for error in failed:
        where = Path(error.filename or top)
        yield _VerifyTarget("", where, Unit(where, UNKNOWN, refusal=os_error(where, error)))
    if is_empty and not failed:
        raise PathNotFoundError("nothing to verify in it or below it", where=str(top))


def _entry(entry: Path) -> _VerifyTarget:
    """Return what an entry of a directory is to be verified as."""
    try:
        return _VerifyTarget(format_of_directory(entry), entry) if entry.is_dir() else _one(entry)
    except OSError as error:
        return _VerifyTarget("", entry, Unit(entry, UNKNOWN, refusal=os_error(entry, error)))
    except CkptkitError as error:
        return _VerifyTarget("", entry, Unit(entry, UNKNOWN, refusal=error))


def _one(path: Path) -> _VerifyTarget:
    """Return the target that a file or prefix stands for; damage that hides it is a finding."""
    try:
        located = locate(path)
    except UnsupportedError as error:
        return _VerifyTarget("", path, Unit(path, UNKNOWN, refusal=error))
    except FormatError as error:
        check = Check("structure", (), (of_error(explained(error, [path]), "file"),))
        return _VerifyTarget("", path, Unit(path, UNKNOWN, (check,)))
    except PathNotFoundError as error:
        if "its index" not in error.message:
            raise
        finding = Finding("error", "index.missing", error.where, error.message, error.hint)
        return _VerifyTarget("", path, Unit(path, TENSOR_BUNDLE, (Check("index", (), (finding,)),)))
    return _VerifyTarget(located.format, located.path)


def _verified(
    target: _VerifyTarget,
    executor: Executor | None,
    progress: Progress | None,
    sample: TensorSample | None,
) -> tuple[Unit, Store | None]:
    if target.unit is not None:
        return target.unit, None
    files = files_read(target.format, target.path)
    try:
        for file in files:  # one that stands for another has no content to find faults in
            file_size(file)
        row = format_of(target.format)
        is_hdf5 = row.structure in (KERAS, LEGACY_KERAS)
        if sample is None and (is_hdf5 or row.is_archive):
            if is_hdf5:
                from ckptkit.stores.hdf5 import client

                client.begin()  # it takes as long to start as much of the rest
            for file in files:  # libhdf5 opens files by itself, and members are read in many ways
                begin_to_fetch(file, must=is_hdf5)
        hook = format_of(target.format).verify
        if not hook:
            from ckptkit.operations.verify.stream import verify_stream  # of other formats

            unit, store = verify_stream(target.format, target.path, executor, progress, sample)
        elif sample is None:
            unit, store = function_of(hook)(target.path, executor, progress)
        elif target.format in _SAMPLED:
            unit, store = function_of(hook)(target.path, executor, progress, sample=sample)
        else:
            raise UsageError(
                say(f"‹sample›: {target.format} is verified whole"), where=str(target.path)
            )
    except CkptkitError as error:
        return Unit(target.path, target.format, refusal=error), None
    if any(finding.severity == "error" for finding in unit.findings):
        hint = hint_of_text_damage(files)
        if hint:
            check = Check(
                "text mode", (), (Finding("error", "file.text-mode", str(target.path), hint),)
            )
            unit = _with(unit, check)
    return unit, store
