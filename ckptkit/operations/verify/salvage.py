"""`salvage`: what of a damaged file is still as it was written, and what is lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.places import path_of
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import Progress
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import ChecksumError, CkptkitError, UnsupportedError, UsageError
from ckptkit.operations.verify.data import (
    ShardPlan,
    plan_shard,
    range_checksums,
    ranges_by_shard,
)
from ckptkit.operations.verify.ranges import ChecksummedRange
from ckptkit.results import Result
from ckptkit.stores.base import Store
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import OBJECT_GRAPH, format_of
from ckptkit.stores.saved_model.files import VARIABLES
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import TensorBundle
from ckptkit.stores.tensor_bundle.recovery import survey

if TYPE_CHECKING:
    from concurrent.futures import Executor

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # what object-based checkpoints add to a path


class LostTensor(NamedTuple):
    """One tensor that cannot be trusted: its key, and why.  key "": a part of the index.

    name: its readable name, where the names can still be read and it is another than the key.
    """

    key: str
    reason: str
    name: str = ""


@dataclass(frozen=True)
class SalvagedCheckpoint(Checkpoint):
    """A checkpoint narrowed to the tensors whose checksums hold."""

    def problems(self) -> list[CkptkitError]:
        """Return nothing: missing and short data files are why there is something to rescue."""
        return []


@dataclass(frozen=True)
class Salvage(Result):
    """checkpoint: the tensors that are sound.  lost: what is not; entries of the index too."""

    checkpoint: SalvagedCheckpoint
    lost: tuple[LostTensor, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost


def salvage(
    path: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Salvage:
    """Read a damaged tensor bundle or SavedModel and keep every tensor whose checksum still holds.

    Blocks of the index are independent, so one that is damaged costs its own tensors only.  An
    object graph that is damaged is lost too: names are then those of the keys.
    Raises PathNotFoundError, UnsupportedError (a format without a checksum for each tensor, where
    nobody could tell), UsageError when nothing is left.
    """
    bundle, problems = survey(_prefix(path))
    lost = [LostTensor("", str(problem)) for problem in problems]
    sound = _sound(bundle, lost, executor, progress)
    sound_specs = {key: spec for key, spec in bundle.specs.items() if key in sound}
    if not sound_specs:
        raise UsageError(
            "nothing can be rescued: no tensor is whole",
            where=str(path),
            hint="`ckptkit verify` says what is wrong",
        )
    store = replace(bundle, specs=MappingProxyType(sound_specs))
    note = f"rescued {len(sound_specs)} of {len(bundle.specs)} tensors that the index still lists"
    names = readable_names(bundle)
    named = tuple(item._replace(name=names.get(item.key, "")) for item in lost)
    return Salvage(SalvagedCheckpoint(store, None, (note,)), named)


def readable_names(store: Store) -> dict[str, str]:
    """Return the readable name of every tensor that has another key; the graph may be damaged."""
    try:
        names = {key: naming.name for key, naming in Checkpoint(store).names.items()}
    except CkptkitError:
        names = {key: key.removesuffix(_SUFFIX) for key in store.specs}
    return {key: name for key, name in names.items() if name != key}


def _prefix(path: str | os.PathLike[str]) -> Path:
    """Return the prefix of the bundle that an operand means, damaged or not."""
    plain = path_of(path)
    if index_path(plain / VARIABLES).is_file():
        return plain / VARIABLES
    located = locate(path)
    if located.subtree is not None:
        raise UsageError("a whole file is rescued, not a part of it", where=str(path))
    if (located.path / VARIABLES.parts[0]).is_dir():
        return located.path / VARIABLES
    if format_of(located.format).structure != OBJECT_GRAPH:
        raise UnsupportedError(
            f"{located.format} files keep no checksum for each tensor, so none can be told sound",
            where=str(path),
            hint="`ckptkit verify` says what can be seen",
        )
    return located.path


def _sound(
    bundle: TensorBundle,
    lost: list[LostTensor],
    executor: Executor | None,
    progress: Progress | None,
) -> set[str]:
    """Return the keys of the tensors all of whose pieces hold; the others go to `lost`."""
    reasons: dict[str, str] = {}
    plans = list(_plans(bundle, reasons))
    passed: Counter[str] = Counter()
    found = range_checksums(plans, executor, progress)
    for plan, piece, crc in ((some.plan, *pair) for some in found for pair in some.each()):
        if piece.key is None:
            continue
        if isinstance(crc, CkptkitError):
            reasons.setdefault(piece.key, f"its bytes cannot be read: {crc.message}")
        elif piece.crc32c == crc:
            passed[piece.key] += 1
        else:
            place = f"{plan.path.name} bytes {piece.offset} to {piece.offset + piece.nbytes}"
            reasons.setdefault(piece.key, f"its checksum does not hold ({place})")
    decoded = [(bundle, plan.path, piece) for plan in plans for piece in plan.pieces.decoded()]
    for key, reason in bounded_map(executor, _decoded, decoded, lambda item: item[2].label):
        if reason:
            reasons.setdefault(key, reason)
        else:
            passed[key] += 1
    sound = set()
    for key, spec in bundle.specs.items():
        needed = sum(part.nbytes > 0 for part in spec.slices) if spec.slices else spec.nbytes > 0
        if key not in reasons and passed[key] >= needed:
            sound.add(key)
        else:
            lost.append(LostTensor(key, reasons.get(key, "its bytes are not there")))
    return sound


def _plans(bundle: TensorBundle, reasons: dict[str, str]) -> Iterator[ShardPlan]:
    for path, pieces in zip(bundle.shards, ranges_by_shard(bundle), strict=True):
        try:
            plan = plan_shard(path, pieces)
        except CkptkitError as error:
            for piece in pieces:
                _lose(reasons, piece, f"{path.name}: {error.message}")
            continue
        for piece in pieces:
            if piece.offset + piece.nbytes > plan.size:
                _lose(reasons, piece, f"{path.name} ends before it, at byte {plan.size}")
        yield plan


def _lose(reasons: dict[str, str], piece: ChecksummedRange, reason: str) -> None:
    if piece.key is not None:
        reasons.setdefault(piece.key, reason)


def _decoded(item: tuple[TensorBundle, Path, ChecksummedRange]) -> tuple[str, str]:
    """Return (key, why its strings or variants are lost, or "")."""
    bundle, shard, piece = item
    assert piece.key is not None
    try:
        bundle.read_through(piece.key)
    except ChecksumError:
        return piece.key, f"its checksum does not hold ({shard.name})"
    except CkptkitError as error:
        return piece.key, error.message
    return piece.key, ""
