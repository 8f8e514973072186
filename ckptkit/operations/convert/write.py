"""Writing what a plan says: into a temporary sibling first, to be proven there, then into place.

One process at a time writes DST (`ckptkit._io.claims`).  The sibling is a directory called like
every temporary of its claim, so one that a killed process leaves is never taken for data, and the
next conversion to DST removes it.  What is proven is renamed to DST, the file that makes it whole
last, and is read there once more; what is not becomes `DST.rejected`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.atomic import replacing_directory, replacing_files
from ckptkit._io.claims import Claim, claiming
from ckptkit._io.output_paths import refusing
from ckptkit._io.read_buffer import Bytes, ReadBuffer
from ckptkit._io.small_reads import SmallReadCache
from ckptkit.errors import CkptkitError
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.second_look import DiskReading, compare_with_proven, files_below
from ckptkit.operations.convert.value_stores import (
    BLOCK_BYTES,
    ValueSource,
    stored_bytes,
)
from ckptkit.stores.archive_checksums import ArchiveChecksums
from ckptkit.stores.registry import KERAS, OBJECT_GRAPH, SAVED_MODEL, function_of
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.writing import TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

Writer = Callable[..., Any]
REJECTED = ".rejected"


class StagingArea(NamedTuple):
    """Where the output lies until it is proven: `path`, called as DST, in `directory`."""

    directory: Path
    path: Path
    claim: Claim


@contextmanager
def claimed(target: Target) -> Iterator[Claim]:
    """Hold the claim to DST; raises OutputError where another process may write it."""
    with claiming(target.commit_path) as claim:
        yield claim


@contextmanager
def staging(target: Target, claim: Claim) -> Iterator[StagingArea]:
    """Yield a temporary directory beside DST; it is gone afterwards.  Raises OutputError."""
    directory = claim.temporary(Path(os.path.realpath(target.path)))
    try:  # around making it too: Ctrl-C in between would leave it there
        with refusing(target.path):
            directory.mkdir()
        yield StagingArea(directory, directory / target.path.name, claim)
    except CkptkitError as error:
        _call_as_target(error, directory, target.path)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _call_as_target(error: CkptkitError, directory: Path, target: Path) -> None:
    """Have an error name DST: nobody knows the temporary names, and they are gone afterwards."""
    name = error.where.removeprefix(f"{directory}{os.sep}")
    if name != error.where:
        rest = name.removeprefix(target.name)
        error.where = f"{target}{rest}" if rest != name else str(target)


def write(plan: Plan, path: Path, executor: Executor | None = None) -> None:
    """Write the output that a plan describes.

    Args:
        plan: one without problems.
        path: where the output lies until it is proven, under the name that it will have.
        executor: where the files of an output of several are written; None writes them here.

    Raises:
        OutputError: it cannot be written.
        UsageError: more shards are asked for than there are tensors.
        WorkerLostError: as `ckptkit._io.pool.bounded_map`.
        FormatError, ChecksumError and others: as reading the sources raises them.
    """
    archives = ArchiveChecksums()
    for tensor in plan.tensors:
        archives.compare(tensor.values.store, (tensor.values.key,))
    writer = partial(function_of(plan.target.format.writer), path)
    _WRITERS[plan.target.format.structure](plan, writer, executor)


def _write_names_and_values(plan: Plan, writer: Writer, executor: Executor | None) -> None:
    """Write a format of names and values alone; only one of several files takes their size."""
    options: dict[str, Any] = {}
    if plan.target.format.is_index or plan.options.is_cut:
        options = _of_several_files(plan, executor)
    writer(_outputs(plan), PlannedBlocks.of(plan), **options)


def _write_checkpoint(plan: Plan, writer: Writer, executor: Executor | None) -> None:
    writer(
        _outputs(plan),
        PlannedBlocks.of(plan),
        object_graph=plan.graph,
        **_of_several_files(plan, executor),
    )


def _of_several_files(plan: Plan, executor: Executor | None) -> dict[str, Any]:
    """Return the keywords of writers that cut their output."""
    return {
        "shard_size": plan.options.shard_size,
        "shards": plan.options.shards,
        "destined": plan.target.path,
        "executor": executor,
    }


def _write_keras(plan: Plan, writer: Writer, _executor: Executor | None) -> None:
    assert plan.template is not None
    writer(plan.template.store, PlannedBlocks.of(plan))


def _write_saved_model(plan: Plan, writer: Writer, _executor: Executor | None) -> None:
    assert plan.template is not None
    writer(
        _outputs(plan),
        PlannedBlocks.of(plan),
        template=plan.template.path,
        object_graph=plan.graph,
    )


def _outputs(plan: Plan) -> list[TensorToWrite]:
    return [tensor.output for tensor in plan.tensors]


class PlannedBlocks:
    """Where a writer gets the values of a key, or their bytes as they lie in a file.

    It can be sent to a worker, as far as its sources can.
    """

    def __init__(self, sources: Mapping[str, ValueSource]) -> None:
        self._sources = sources
        self._small_reads = SmallReadCache()

    @classmethod
    def of(cls, plan: Plan) -> PlannedBlocks:
        """Return the values of all tensors of a plan."""
        return cls({tensor.key: tensor.values for tensor in plan.tensors})

    def __call__(self, key: str) -> Iterator[tuple[int, Array]]:
        return self._sources[key].blocks()

    def stored_bytes(self, key: str, dtype: str) -> Iterator[Bytes] | None:
        """Return the bytes of a key, one piece at a time; see `ckptkit.stores.writing`."""
        source = self._sources[key]
        if source.spec.dtype != dtype:
            return None
        return stored_bytes(source, self._small_reads, self._buffer)

    @cached_property
    def _buffer(self) -> ReadBuffer:
        return ReadBuffer(BLOCK_BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlannedBlocks, (self._sources,)

    def only(self, keys: Iterable[str]) -> PlannedBlocks:
        """Return the values of these keys alone, with a cache of their own."""
        return PlannedBlocks({key: self._sources[key] for key in keys})


# By what a format's files hold beside names and values.
_WRITERS: Mapping[str, Callable[[Plan, Writer, Executor | None], None]] = {
    "": _write_names_and_values,
    OBJECT_GRAPH: _write_checkpoint,
    SAVED_MODEL: _write_saved_model,
    KERAS: _write_keras,
}


# -- into place ------------------------------------------------------------------------------------


def files_of(area: StagingArea, target: Target) -> dict[str, Path]:
    """Return the files of the output that lies in an area, by their names at DST."""
    return files_below(area.path if target.format.is_directory else area.directory)


def commit(
    area: StagingArea,
    target: Target,
    *,
    overwrite: bool,
    disk: DiskReading | None,
    executor: Executor | None = None,
) -> tuple[Path, ...]:
    """Move the output to DST in one step, or in an order in which the last makes it whole.

    Args:
        area: where the proven output lies.
        target: where it goes.
        overwrite: whether what lies there is replaced.
        disk: what reads the output from the disk; DST is read again afterwards, and set against
            that.  None where nothing was proven.
        executor: where that is done; None does it here.

    Returns:
        The files; of a SavedModel its directory.

    Raises:
        OutputError: it cannot be put there, or what lies there then is not what was proven.
    """
    proven = disk.checksums() if disk is not None else None
    if target.format.is_directory:
        with replacing_directory(
            target.path, overwrite=overwrite, marker=MODEL_FILE, claim=area.claim
        ) as directory:
            for entry in area.path.iterdir():
                entry.replace(directory / entry.name)
        if proven is not None:
            compare_with_proven(proven, target.path, files_below(target.path), executor)
        return (target.path,)
    files = _in_order(area.directory, target)
    targets = [target.path.parent / file.name for file in files]
    old = target.existing() if overwrite else []
    with replacing_files(
        targets, overwrite=overwrite, obsolete=old, claim=area.claim
    ) as temporaries:
        for file, temporary in zip(files, temporaries, strict=True):
            file.replace(temporary)
    if proven is not None:
        compare_with_proven(proven, target.path, {path.name: path for path in targets}, executor)
    return tuple(targets)


def _in_order(directory: Path, target: Target) -> list[Path]:
    """Return the files of the output, the index last."""
    last = (target.index_file.name, target.path.name)
    return sorted(directory.iterdir(), key=lambda file: (file.name in last, file.name))


def reject(area: StagingArea, target: Target) -> Path:
    """Put what failed its proof at DST.rejected, in place of an older one; return that path.

    A SavedModel and several safetensors files become a directory of that name.
    """
    rejected = target.path.with_name(target.path.name + REJECTED)
    gone = Target(target.format, rejected)
    for old in (rejected, *(gone.existing() if target.is_bundle else ())):
        _remove(old)
    if target.format.is_directory:
        area.path.rename(rejected)
    elif target.is_bundle:
        for file in _in_order(area.directory, target):
            suffix = file.name.removeprefix(target.path.name)
            file.rename(rejected.with_name(rejected.name + suffix))
    elif len(files := _in_order(area.directory, target)) > 1:
        rejected.mkdir()
        for file in files:
            file.rename(rejected / file.name)
    else:
        files[0].rename(rejected)
    return rejected


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
