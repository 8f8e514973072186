"""`ckptkit.thin`: old checkpoints of a run lose their optimizer state, in place.

A checkpoint is written anew beside the old one, read again, compared bit for bit with what stays of
the old one, and only then takes its place, the index last: at any moment a reader finds the old
checkpoint or the thin one (`ckptkit._io.atomic`).  Its files keep the times of the old ones, since
these may be what tells which checkpoint is the newest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ckptkit._io.files import taking_paths
from ckptkit._io.places import local_path
from ckptkit._io.progress import phase
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    OutputError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.operations.convert import write as _write
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.second_look import DiskReading
from ckptkit.operations.thin.result import (
    GONE,
    KEPT,
    NOTHING_IN_IT,
    REFUSED,
    THINNED,
    WOULD_BE_THINNED,
    ThinnedCheckpoint,
    Thinning,
)
from ckptkit.operations.thin.run import kept_count, read_run, reason, refuse_save
from ckptkit.stores.registry import OBJECT_GRAPH, format_of
from ckptkit.stores.tensor_bundle.edit_graph import graph_without
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, graph_bytes
from ckptkit.stores.tensor_bundle.state_file import is_v1
from ckptkit.stores.tensor_bundle.writer import data_files, write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite


@taking_paths
def thin(
    run: str | os.PathLike[str], keep_slots: str = "last:1", *, dry_run: bool = False
) -> Thinning:
    """Take the optimizer state out of the old checkpoints of a run, in place.

    What stays is bit for bit what it was: weights, averages of weights, counters, learning rates,
    and the object graph without the objects that are gone, so that TensorFlow restores the model.
    A checkpoint that has no optimizer state is left as it is, so a second call does nothing.

    Args:
        run: a training directory.
        keep_slots: "last:N": the last N checkpoints keep their state, the newest always.
        dry_run: say what would be done, and change nothing.

    Returns:
        A row per checkpoint; `ok` where none was refused.  One that is refused is as it was.

    Raises:
        PathNotFoundError: no such directory, or no complete checkpoint in it.
        UsageError: no training directory, a save that is under way, no telling which is the newest,
            or no optimizer state in any checkpoint that is kept.
        UnsupportedError: a directory of Keras files.
        TruncatedError, ChecksumError, FormatError: a checkpoint that is kept is damaged.
    """
    directory = local_path(run)
    last = kept_count(keep_slots)
    found = read_run(directory, last)
    refuse_save(directory, found)
    rows: list[ThinnedCheckpoint] = []
    old, kept = found.prefixes[:-last], found.prefixes[-last:]
    planned = [_planned(prefix) for prefix in old]
    if any(row.status == WOULD_BE_THINNED for row in planned):
        _check_kept(directory, kept, whole=not dry_run)
    for row in planned:
        if row.status == WOULD_BE_THINNED and not dry_run:
            refuse_save(directory, found)
            with phase(f"thinning {row.path.name}", 2 * row.bytes_before):
                row = _thinned(row)
        rows.append(row)
    rows += [_kept(prefix) for prefix in kept]
    rows += [
        ThinnedCheckpoint(prefix, REFUSED, why=f"not complete: {why}")
        for prefix, why in found.incomplete.items()
    ]
    return Thinning(directory, keep_slots, tuple(rows), found.order, dry_run, _left_over(old))


# --- looking --------------------------------------------------------------------------------------


def _planned(prefix: Path) -> ThinnedCheckpoint:
    """Return what is to be done with an old checkpoint."""
    try:
        if is_v1(prefix):
            raise UnsupportedError("a checkpoint of the V1 format, which is not written")
        _refuse_links(prefix)
        with open_checkpoint(prefix) as checkpoint:
            slots = _slots(checkpoint)
            before = _file_bytes(checkpoint)
            removed = _removed_bytes(checkpoint, slots) if slots else 0
    except CkptkitError as error:
        return _refused_or_gone(prefix, error)
    status = WOULD_BE_THINNED if slots else NOTHING_IN_IT
    return ThinnedCheckpoint(prefix, status, len(slots), before, before - removed)


def _removed_bytes(checkpoint: Checkpoint, slots: list[str]) -> int:
    """Return how much smaller the data files get: by the tensors, and by their part of the graph.

    The index gets smaller too, by how much is known when it is written.
    """
    graph = graph_bytes(checkpoint.store)
    thinner = _thin_graph(checkpoint, slots)
    tensors = sum(checkpoint.specs[key].nbytes for key in slots)
    return tensors + len(graph) - len(thinner)


def _thin_graph(checkpoint: Checkpoint, slots: Iterable[str]) -> bytes:
    """Return the object graph without the slots."""
    keep = checkpoint.specs.keys() - {*slots}
    return graph_without(
        graph_bytes(checkpoint.store), f"{checkpoint.path}: object graph", keep=keep
    )


def _slots(checkpoint: Checkpoint) -> list[str]:
    """Return the keys of the optimizer's state that the object graph calls so.

    Raises UnsupportedError where names and shapes alone say what is a slot: that is good enough to
    leave one out of a copy, and not to delete it.
    """
    slots = [key for key, naming in checkpoint.names.items() if naming.role == "slot"]
    inferred = [key for key in slots if checkpoint.names[key].role_inferred]
    if inferred or (slots and OBJECT_GRAPH_KEY not in checkpoint.specs):
        raise UnsupportedError(
            f"that {checkpoint.names[(inferred or slots)[0]].name} is optimizer state is told by "
            "its name alone, which is not enough to delete it",
            hint="`ckptkit convert` writes a copy of the weights",
        )
    return slots


def _refuse_links(prefix: Path) -> None:
    """Refuse a checkpoint whose files lie elsewhere: data and index would be parted."""
    for file in (index_path(prefix), *data_files(os.fspath(prefix))):
        if file.is_symlink():
            raise UnsupportedError(f"{file.name} is a link to a file elsewhere")


def _check_kept(directory: Path, kept: tuple[Path, ...], *, whole: bool) -> None:
    """Make sure that training can go on from what is kept, before anything else is thinned.

    whole: read every byte of it, with its checksums.
    """
    has_state = False
    for prefix in kept:
        with open_checkpoint(prefix) as checkpoint:
            has_state = has_state or any(n.role == "slot" for n in checkpoint.names.values())
            if whole:
                with phase(f"reading {prefix.name}", _file_bytes(checkpoint)):
                    for key in checkpoint.specs:
                        for _block in checkpoint.store.blocks(key):
                            pass
    if not has_state:
        names = ", ".join(prefix.name for prefix in kept)
        raise UsageError(
            f"there is no optimizer state in {names}: training could go on from no checkpoint",
            where=str(directory),
            hint="nothing is thinned; keep more checkpoints as they are",
        )


def _kept(prefix: Path) -> ThinnedCheckpoint:
    try:
        with open_checkpoint(prefix) as checkpoint:
            slots = sum(naming.role == "slot" for naming in checkpoint.names.values())
            size = _file_bytes(checkpoint)
    except CkptkitError as error:
        return _refused_or_gone(prefix, error)
    return ThinnedCheckpoint(prefix, KEPT, slots, size, size)


def _left_over(prefixes: tuple[Path, ...]) -> tuple[str, ...]:
    """Return a sentence per data file that the index beside it does not mention.

    A writer that was killed leaves them, ours too; whether one may go is what `verify` tells.
    """
    sentences = []
    for prefix in prefixes:
        try:
            with open_checkpoint(prefix) as checkpoint:
                shards = {Path(shard).name for shard in checkpoint.store.shards}
        except CkptkitError:
            continue
        sentences += [
            f"{file.name} belongs to no checkpoint; `ckptkit verify` tells whether it may go"
            for file in data_files(os.fspath(prefix))
            if file.name not in shards
        ]
    return tuple(sentences)


def _refused_or_gone(prefix: Path, error: CkptkitError) -> ThinnedCheckpoint:
    """Return that a checkpoint is gone, where it was removed meanwhile; else why it was refused."""
    files = [index_path(prefix), *data_files(os.fspath(prefix))]
    sizes = []
    for file in files:
        with suppress(FileNotFoundError):
            sizes.append(file.stat().st_size)
    removed = isinstance(error, ChangedError | PathNotFoundError)
    if removed and not index_path(prefix).exists():
        return ThinnedCheckpoint(prefix, GONE)
    size = sum(sizes)
    return ThinnedCheckpoint(prefix, REFUSED, 0, size, size, reason(error))


@taking_paths
def _file_bytes(checkpoint: Checkpoint) -> int:
    files = (index_path(checkpoint.path), *checkpoint.store.shards)
    return sum(Path(file).stat().st_size for file in files)


# --- writing --------------------------------------------------------------------------------------


def _thinned(row: ThinnedCheckpoint) -> ThinnedCheckpoint:
    """Thin one checkpoint; return what was done."""
    prefix = row.path
    try:
        with open_checkpoint(prefix) as checkpoint:
            _write_thin(checkpoint, prefix)
        with open_checkpoint(prefix) as checkpoint:
            size = _file_bytes(checkpoint)
    except CkptkitError as error:
        return _refused_or_gone(prefix, error)
    return ThinnedCheckpoint(prefix, THINNED, row.slots, row.bytes_before, size)


@taking_paths  # one that the training run removes meanwhile is gone, wherever that shows
def _write_thin(checkpoint: Checkpoint, prefix: Path) -> None:
    """Put the checkpoint without its slots in the place of what it is."""
    target = Target(format_of(checkpoint.store.format), prefix)
    assert target.format.structure == OBJECT_GRAPH
    with (
        _write.claimed(target) as claim,
        _write.staging(target, claim) as area,
        DiskReading() as disk,
    ):
        slots = {*_slots(checkpoint)}
        keep = [key for key in checkpoint.specs if key not in slots]
        specs = [checkpoint.specs[key] for key in keep if key != OBJECT_GRAPH_KEY]
        written = write_tensor_bundle(
            area.path,
            [TensorToWrite(spec.key, spec.dtype, spec.shape) for spec in specs],
            checkpoint.store.blocks,
            object_graph=_thin_graph(checkpoint, slots),
            destined=prefix,
        )
        disk.start(_write.files_of(area, target))
        with open_checkpoint(area.path) as thin_one:
            _prove(checkpoint, thin_one, keep)
        _keep_status(checkpoint, written)
        _refuse_changed(checkpoint)
        _write.commit(area, target, overwrite=True, disk=disk)


def _prove(old: Checkpoint, new: Checkpoint, keep: list[str]) -> None:
    """Raise OutputError unless all that is kept is what it was: values, names, roles."""
    from ckptkit.stores.digest import digest  # takes numpy

    if {*new.specs} != {*keep}:
        raise OutputError("the thin checkpoint does not hold the tensors that it should")
    for key in keep:
        if key == OBJECT_GRAPH_KEY:
            continue
        was, now = old.specs[key], new.specs[key]
        if (was.dtype, was.shape) != (now.dtype, now.shape) or (
            digest(old.store, key) != digest(new.store, key)
        ):
            raise OutputError(f"the thin checkpoint does not hold {key} as it was")
        before, after = old.names[key], new.names[key]
        if (before.name, before.role) != (after.name, after.role):
            raise OutputError(
                f"without its optimizer state, {before.name} ({before.role}) would be read as "
                f"{after.name} ({after.role})"
            )


def _keep_status(checkpoint: Checkpoint, written: tuple[Path, ...]) -> None:
    """Give new files the times, modes and owners of the old ones; the index is the last of them."""
    *data, index = written
    old_data = next(iter(checkpoint.store.shards), index_path(checkpoint.path))
    for new, old in [(index, index_path(checkpoint.path)), *((file, old_data) for file in data)]:
        status = Path(old).stat()
        with suppress(PermissionError):  # only root gives files away
            os.chown(new, status.st_uid, status.st_gid)
        new.chmod(stat.S_IMODE(status.st_mode))
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _refuse_changed(checkpoint: Checkpoint) -> None:
    """Raise where the old checkpoint is no longer what was read: a removed one must not return."""
    for _block in checkpoint.store.blocks(OBJECT_GRAPH_KEY):
        pass
    if not index_path(checkpoint.path).exists():
        raise PathNotFoundError("was removed meanwhile", where=str(checkpoint.path))
