"""`upgrade`: models of Keras 1 and 2 as models of Keras 3, proven."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptkit._io.atomic import replacing
from ckptkit._io.files import taking_paths
from ckptkit._io.output_paths import refuse_elsewhere
from ckptkit._io.places import local_path
from ckptkit._io.progress import bytes_read, numbered, phase
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.operations.execution.inputs import SEED, InputOptions, ranges_of
from ckptkit.operations.execution.types import TIMEOUT_S, Path_, listed
from ckptkit.operations.input_files import files_read
from ckptkit.operations.upgrade.one_model import (
    KERAS_3,
    SAVED,
    UpgradeOptions,
    suffix_of,
    upgrade_model,
)
from ckptkit.operations.upgrade.report import UpgradeRefusedError, UpgradeReport, UpgradeRow
from ckptkit.operations.upgrade.source import OldModel, read_old_model
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.fork_server import sharing_imports
from ckptkit.runners.limits import time_limit
from ckptkit.stores.directories import directories_below, is_saved_model, models_in
from ckptkit.stores.registry import FORMATS, KERAS, LEGACY_KERAS, format_of
from ckptkit.wording import say

__all__ = ["upgrade"]

RECEIPT = ".upgrade.json"  # beside each model of a folder: what was done, and of which bytes
_CHUNK = 1 << 20


@taking_paths
def upgrade(
    src: Path_ | Sequence[Path_],
    dst: Path_,
    *,
    recursive: bool = False,
    to: str = KERAS_3,
    imports: Sequence[str] = (),
    trust: bool = False,
    inputs: Path_ | Sequence[Path_] = (),
    seed: int = SEED,
    ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
    overwrite: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> UpgradeReport:
    """Write models of Keras 1 and 2 as models that the installed Keras 3 loads, and prove it.

    The configuration is translated by rules; weights are moved bit for bit and read again; both
    models are run on the same inputs where the old one can be run here.  SRC is never changed.

    Args:
        src: a whole model: an `.h5` file or `.keras` archive of Keras 1 or 2, or a SavedModel that
            Keras 2 wrote; or several; with `recursive`, directories of them.
        dst: the `.keras` file to write; of several models, and with `recursive`, a directory.
        recursive: upgrade every model below the directories of SRC, into the same places below
            DST.  What an earlier run did is kept where its source has not changed since.
        to: "keras" or "saved-model".
        imports: modules or files that define custom classes, for Keras 3.
        trust: take over Python code that the file holds (Lambda layers), and run it.
        inputs: npz files, one case each, on which outputs are compared; else 8 examples are drawn.
        seed: of the examples that are drawn.
        ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
        overwrite: replace what is at DST.
        timeout_s: seconds that each child may take.

    Returns:
        A row per model, with its receipt; one whose proof failed lies at PATH.rejected.

    Raises:
        UpgradeRefusedError: of one SRC: something in it has no counterpart in Keras 3, and nothing
            was written; `.obstacles` names each.
        UsageError: the keywords make no sense together, or SRC is no model of Keras 1 or 2.
        MismatchError: the weights of one SRC do not fit its own config.
        RunnerError: the new model of one SRC cannot be built or loaded.
        OutputError: DST exists already, or cannot be written.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    if to not in (KERAS_3, SAVED):
        hint = say(f"‹to={KERAS_3}› or ‹to={SAVED}›")
        raise UsageError(say(f"‹to={to}› is not possible"), hint=hint)
    options = UpgradeOptions(
        to,
        tuple(imports),
        trust,
        InputOptions(files=listed(inputs), seed=seed, ranges=ranges_of(ranges)),
        overwrite,
        time_limit(timeout_s),
    )
    sources = [local_path(source) for source in listed(src)]
    if not sources:
        raise UsageError("no source")
    refuse_elsewhere(os.fspath(dst))
    out = Path(dst)
    if not recursive and len(sources) == 1 and not (out.is_dir() and to == KERAS_3):
        receipt = upgrade_model(sources[0], out, options)
        status = "upgraded" if receipt.ok else "failed"
        return UpgradeReport((UpgradeRow(sources[0], receipt.path, status, receipt),))
    places = _places(sources, out, recursive, to)
    if not places:
        raise UsageError("no model there", where=", ".join(map(str, sources)))
    rows = (
        _row(source, path, options) for source, path in numbered(places, lambda place: place[0])
    )
    with sharing_imports():
        return UpgradeReport(tuple(rows))


def _places(
    sources: Sequence[Path], out: Path, recursive: bool, to: str
) -> list[tuple[Path, Path]]:
    """Return (model, where it goes); raises UsageError where SRC is a directory of models."""
    found: list[tuple[Path, Path]] = []
    for source in sources:
        if source.is_dir() and not is_saved_model(source):
            if not recursive:
                raise UsageError(
                    "a directory, and no SavedModel",
                    where=str(source),
                    hint=say("‹recursive› upgrades every model below it"),
                )
            found += [(path, path.relative_to(source)) for path in _models_below(source, out)]
        else:
            found.append((source, Path(source.name)))
    short = [_renamed(place, to) for _, place in found]
    places = [
        (source, out / (_whole(place, to) if short.count(name) > 1 else name))
        for (source, place), name in zip(found, short, strict=True)
    ]
    owners: dict[Path, Path] = {}
    for source, path in places:
        other = owners.setdefault(path, source)
        if other is not source:
            raise UsageError(
                f"{other} and {source} would both be written there",
                where=str(path),
                hint=say("one by one; or ‹recursive› with the directory above them"),
            )
    return places


def _models_below(top: Path, out: Path) -> Iterator[Path]:
    """Yield the models below a directory that upgrade reads, but for those below `out`."""
    errors: list[OSError] = []
    inside = out.resolve()
    for place, _names in directories_below(top, is_saved_model, errors.append):
        if place.resolve() == inside or inside in place.resolve().parents:
            continue
        for path in models_in(place):
            if path.is_dir() or path.name.endswith(_suffixes()):
                yield path
    if errors:
        raise errors[0]


def _suffixes() -> tuple[str, ...]:
    """Return what the names of files of whole models end in."""
    rows = FORMATS.matching(lambda row: row.structure in (LEGACY_KERAS, KERAS) and not row.needs)
    return tuple(
        suffix
        for name in rows
        for suffix in format_of(name).suffixes
        if format_of(name).model_config
    )


def _renamed(place: Path, to: str) -> Path:
    """Return where a model goes: its name without what says its old form."""
    name = place.name
    for suffix in _suffixes():
        name = name.removesuffix(suffix)
    return place.with_name(f"{name}{suffix_of(to)}")


def _whole(place: Path, to: str) -> Path:
    """Return where a model goes whose short name another one has, too."""
    return place.with_name(f"{place.name}{suffix_of(to)}" if suffix_of(to) else place.name)


def _row(source: Path, path: Path, options: UpgradeOptions) -> UpgradeRow:
    """Upgrade one of several models; what stands in its way is in the row."""
    try:
        old = read_old_model(source)
        if old.generation >= 3:
            return UpgradeRow(source, source, "current")
        digest = _digest(old)
        if _is_done(path, digest):
            return UpgradeRow(source, path, "kept")
        with _directory_for(path):
            receipt = upgrade_model(source, path, options)
    except UpgradeRefusedError as error:
        return UpgradeRow(source, path, "refused", None, str(error), error.obstacles)
    except (CkptkitError, RunnerError) as error:
        return UpgradeRow(source, path, "refused", None, str(error))
    if not receipt.ok:
        return UpgradeRow(source, receipt.path, "failed", receipt)
    _note(path, digest, receipt.to_json())
    return UpgradeRow(source, path, "upgraded", receipt)


@contextmanager
def _directory_for(path: Path) -> Iterator[None]:
    """Make the directory of a file; what was made goes again where nothing came into it."""
    made = [place for place in path.parents if not place.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # one with something in it stays, and those above it
            for place in made:
                place.rmdir()


# -- what an earlier run did -----------------------------------------------------------------------


def _note(path: Path, digest: str, receipt: object) -> None:
    """Write beside a model what was done, so that the next run need not do it again."""
    document = {"source_sha256": digest, "sha256": _digest_of(_files(path)), "receipt": receipt}
    with replacing(_beside(path), overwrite=True) as temporary:
        temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + RECEIPT)


def _is_done(path: Path, digest: str) -> bool:
    """Whether an earlier run made the model at `path` of the same bytes, and it is as it was."""
    try:
        document = json.loads(_beside(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(document, Mapping) or document.get("source_sha256") != digest:
        return False
    files = _files(path)
    return bool(files) and document.get("sha256") == _digest_of(files)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def files_of_rows(report: UpgradeReport) -> Iterator[Path]:
    """Yield the files that were read and written, those beside the models included."""
    for row in report.rows:
        for path in (row.source, row.path, _beside(row.path)):
            yield from _files(path)


def _digest(old: OldModel) -> str:
    store = old.checkpoint.store
    files = {*files_read(store.format, store.path), *store.shards}
    return _digest_of(_files(store.path) if store.path.is_dir() else sorted(files))


def _digest_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of files' names and contents."""
    digest = hashlib.sha256()
    with phase("SHA-256", sum(file.stat().st_size for file in files)):
        for file in files:
            digest.update(os.fsencode(file.name) + b"\0")
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    bytes_read(len(chunk))
    return digest.hexdigest()
