"""Which tensor of one step is which of the next: the same answer as `diff` gives, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ckptkit.align.matching import Alignment, TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.statistics import is_numeric
from ckptkit.stores.base import KerasStructure, TensorSpec

_LEFT_OUT = ("counter", "config")  # by default: what is no value that is trained


@dataclass
class Track:
    """One tensor over the run.  keys: of the tensor in the file of each step, by index."""

    naming: Naming
    spec: TensorSpec
    is_trained: bool | None
    keys: dict[int, str] = field(default_factory=dict)
    specs: dict[int, TensorSpec] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the layer: that of the variable, without its last part."""
        name = self.naming.slot_of or self.naming.name
        return name.rpartition("/")[0] or name


class _Seen(NamedTuple):
    """A structure that was met: its tensors, and the track of each key."""

    tensors: TensorSet
    tracks: dict[str, Track]


class Tracks:
    """The tensors of a run, filled a step at a time.

    ambiguous: what could not be paired, (step, names).
    """

    def __init__(self, roles: Sequence[str], names: Sequence[str]) -> None:
        self.tracks: list[Track] = []
        self.ambiguous: list[tuple[int, tuple[str, ...]]] = []
        self._roles = tuple(roles)
        self._names = tuple(names)
        self._seen: dict[object, _Seen] = {}
        self._refusal: UsageError | None = None

    def add(self, step: int, checkpoint: Checkpoint, signature: object) -> None:
        """Add the tensors of the step with that index.

        signature: what checkpoints share whose tensors are called the same.
        """
        seen = self._seen.get(signature)
        if seen is None:
            seen = self._seen[signature] = self._pair(step, checkpoint)
        # the latest last: what comes next is first held against it
        self._seen[signature] = self._seen.pop(signature)
        for key, track in seen.tracks.items():
            track.keys[step] = key
            track.specs[step] = checkpoint.specs[key]

    def check_filter(self) -> None:
        """Raise UsageError where the filter leaves nothing of any step."""
        if not self.tracks and self._refusal is not None:
            raise self._refusal

    def _selected(self, checkpoint: Checkpoint) -> dict[str, Naming]:
        try:
            tensors = Selection(self._roles, self._names).of(checkpoint)
        except UsageError as error:
            self._refusal = self._refusal or error
            return {}
        return {
            spec.key: naming
            for spec, naming in tensors
            if is_numeric(spec.dtype)
            and naming.duplicate_of is None
            and (self._roles or naming.role not in _LEFT_OUT)
        }

    def _pair(self, step: int, checkpoint: Checkpoint) -> _Seen:
        """Return the tracks of a structure that was not met before."""
        tensors = TensorSet(checkpoint.specs, checkpoint.names, structure=checkpoint.structure)
        chosen = self._selected(checkpoint)
        partners: dict[str, Track] = {}
        taken: set[int] = set()
        ambiguous: tuple[str, ...] = ()
        for earlier in reversed(list(self._seen.values())):
            missing = [key for key in chosen if key not in partners]
            if not missing:
                break
            alignment = align(earlier.tensors, tensors)
            for match in (*alignment.pairs, *alignment.renamed):
                track = earlier.tracks.get(match.old)
                if track is None or match.new not in chosen or match.new in partners:
                    continue
                if id(track) not in taken:
                    partners[match.new] = track
                    taken.add(id(track))
            ambiguous = ambiguous or _undecided(alignment, chosen)
        trained = _trained(checkpoint)
        for key, naming in chosen.items():
            if key not in partners:
                partners[key] = Track(naming, checkpoint.specs[key], trained.get(key))
                self.tracks.append(partners[key])
            elif not partners[key].is_trained and key in trained:  # a layer may be freed later
                partners[key].is_trained = trained[key]
        still_open = tuple(name for name in ambiguous if name)
        if still_open:
            self.ambiguous.append((step, still_open))
        return _Seen(tensors, partners)


def _undecided(alignment: Alignment, chosen: Mapping[str, Naming]) -> tuple[str, ...]:
    return tuple(
        chosen[key].name for item in alignment.ambiguous for key in item.new if key in chosen
    )


def _trained(checkpoint: Checkpoint) -> dict[str, bool]:
    """Return which weights an optimizer updates, as far as the file tells.

    A weight that optimizer state belongs to is trained, and where there is such state for some, the
    others are not.  An optimizer without any lists what it trains in the object graph; a Keras
    config says which variables are trainable.
    """
    names = checkpoint.names
    weights = [key for key, naming in names.items() if naming.role == "weight"]
    owners = {n.slot_of for n in names.values() if n.role == "slot" and n.slot_of is not None}
    if owners:
        return {key: names[key].name in owners for key in weights}
    listed = {
        key
        for key in weights
        for path in (key, *names[key].aliases)
        if "/_trainable_variables/" in f"/{path}"
    }
    if listed:
        return {key: key in listed for key in weights}
    structure = checkpoint.structure
    if isinstance(structure, KerasStructure):
        return {key: flag for key, flag in structure.order if flag is not None}
    return {}
