"""From steps and tensors to measurements: what has to be read, and what is known already."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.compare.spans import FileSpan, TensorSource, source_of
from ckptkit.errors import ChangedError, ChecksumError, CkptkitError, PathNotFoundError
from ckptkit.operations.history.cache import MeasuredBefore
from ckptkit.operations.history.measure import (
    STEPS_AT_ONCE,
    SpanRequest,
    TensorSums,
    measure,
    spans_of,
)
from ckptkit.operations.history.tracks import Track
from ckptkit.operations.history.types import TensorMeasurement, TensorUpdate, units_of
from ckptkit.stores.archive_checksums import ArchiveChecksums
from ckptkit.stores.base import Store

if TYPE_CHECKING:
    from concurrent.futures import Executor

_WIDE = 1 << 16  # columns of a matrix that is measured at fewer steps at a time


@dataclass
class _Link:
    """Values of one tensor, met first at a step; steps right after it may hold the same.

    content: None until it is read.  is_known: what the cache has of it may be used.
    """

    step: int
    steps: list[int]
    source: TensorSource
    content: str | None
    is_known: bool
    measured: TensorMeasurement | None = None


@dataclass
class Measurer:
    """Measures the tensors of a run.

    checkpoints: by index of the step.  stores: of their values, as `RunFile.values`.  damage: by
    index, what was found while values were read.  gone: indices of steps whose files went or
    changed meanwhile.
    """

    checkpoints: dict[int, Checkpoint]
    stores: dict[int, Store]
    cache: MeasuredBefore
    saturated: float
    executor: Executor | None = None
    progress: Progress | None = None
    damage: dict[int, tuple[str, CkptkitError]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def run(self, tracks: Sequence[Track]) -> list[dict[int, TensorMeasurement]]:
        """Return what was measured of each tensor, by index of the step."""
        known = {step: self.cache.contents(c) for step, c in self.checkpoints.items()}
        found: list[dict[int, TensorMeasurement]] = [{} for _ in tracks]
        pending = list(range(len(tracks)))
        passed = dict(enumerate(self._damaged_archives(tracks)))
        total = sum(spec.nbytes for track in tracks for spec in track.specs.values())
        meter = ProgressMeter(self.progress, "measured", total)
        while pending:
            chains = {
                index: list(self._chain(tracks[index], known, passed[index])) for index in pending
            }
            again = self._measure(tracks, chains, passed, meter)
            for index in pending:
                if index not in again:
                    found[index] = _spread(chains[index])
            pending = again
        meter.add(total)  # what was known, or could not be read
        contents: dict[int, dict[str, str]] = {step: {} for step in self.checkpoints}
        for track, rows in zip(tracks, found, strict=True):
            for step, row in rows.items():
                contents[step][track.keys[step]] = row.content
        for step, checkpoint in self.checkpoints.items():
            if step not in self.damage and step not in self.gone:
                self.cache.remember(checkpoint, contents[step])
        return found

    def _damaged_archives(self, tracks: Sequence[Track]) -> Iterator[set[int]]:
        """Yield, of each tensor, the steps that have it in a damaged member of an archive."""
        archives = ArchiveChecksums()
        for track in tracks:
            damaged: set[int] = set()
            for step, key in track.keys.items():
                try:
                    archives.compare(self.checkpoints[step].store, (key,))
                except (ChangedError, PathNotFoundError):  # whoever reads the values finds out
                    continue
                except CkptkitError as error:
                    damaged.add(step)
                    self.damage.setdefault(step, (track.naming.name, error))
            yield damaged

    # -- what there is to measure ------------------------------------------------------------------

    def _chain(
        self, track: Track, known: Mapping[int, Mapping[str, str]], passed: set[int]
    ) -> Iterator[_Link]:
        """Yield the values that follow each other, equal neighbours once."""
        last: _Link | None = None
        for step in sorted(track.keys):
            if step in passed or step in self.gone:
                continue
            key, spec = track.keys[step], track.specs[step]
            source = source_of(self.stores[step], key)
            content = known[step].get(key)
            if content is not None and not _is_of(content, source.dtype):
                content = None
            is_known = content is not None
            if content is None and spec.crc32c is not None and not spec.slices:
                content = _content(spec.crc32c, spec.dtype)
            is_same = (
                last is not None
                and content is not None
                and content == last.content
                and track.specs[last.step].shape == spec.shape
            )
            if last is not None and is_same:
                last.steps.append(step)
                continue
            if last is not None:
                yield last
            last = _Link(step, [step], source, content, is_known)
        if last is not None:
            yield last

    def _from_cache(self, track: Track, chain: list[_Link]) -> list[int]:
        """Fill in what the cache has; return the places in the chain that must be measured."""
        name, missing = track.naming.name, []
        for at, link in enumerate(chain):
            content = link.content
            measured = None
            if link.is_known and content is not None:
                measured = self.cache.values(name, content)
            before, earlier = _before(track, chain, at, 1), _before(track, chain, at, 2)
            if measured is not None and before is not None:
                found = self._known_update(name, earlier, before, link)
                measured = measured._replace(update=found[0]) if found is not None else None
            link.measured = measured
            if measured is None:
                missing.append(at)
        return missing

    def _known_update(
        self, name: str, earlier: _Link | None, before: _Link, link: _Link
    ) -> tuple[TensorUpdate | None] | None:
        """Return the update to a link, where the cache has it, in a tuple; else None."""
        if not before.is_known or before.content is None or link.content is None:
            return None
        found = self.cache.update(name, before.content, link.content)
        if found is None or found[0] is None or earlier is None:
            return found
        if not earlier.is_known or earlier.content is None:
            return None
        turn = self.cache.turn(name, (earlier.content, before.content, link.content))
        return None if turn is None else (found[0]._replace(turn=turn[0]),)

    def _measure(
        self,
        tracks: Sequence[Track],
        chains: dict[int, list[_Link]],
        passed: dict[int, set[int]],
        meter: ProgressMeter,
    ) -> list[int]:
        """Measure what is missing of each chain; return the tensors that must be measured again.

        Those had values that could not be read at a step, which is passed over from then on.
        """
        jobs: list[tuple[int, int, list[int], int]] = []
        for index, chain in chains.items():
            track = tracks[index]
            for places in _windows(track, chain, self._from_cache(track, chain)):
                first = places[0]
                known = sum(1 for back in (1, 2) if _before(track, chain, first, back) is not None)
                jobs.append((index, first, places, known))
        # as they lie in the first file, the windows of one tensor in the order of the run
        jobs.sort(key=lambda job: (_place(chains[job[0]][0].source), job[0], job[1]))
        sums: dict[int, list[TensorSums]] = {}

        def requests() -> Iterator[SpanRequest]:
            for number, (index, first, places, known) in enumerate(jobs):
                chain = chains[index]
                sources = tuple(link.source for link in chain[first - known : first + len(places)])
                spec = tracks[index].specs[chain[first].step]
                columns = units_of(spec.shape)
                is_plain = all(isinstance(source, FileSpan) for source in sources)
                parts = spans_of(spec.size, columns) if is_plain else iter([(0, spec.size)])
                for start, stop in parts:
                    yield SpanRequest(number, sources, known, start, stop, columns)

        def name(number: int) -> str:
            index, first, _places, _known = jobs[number]
            return tracks[index].keys[chains[index][first].step]

        again: set[int] = set()
        for request, values in measure(requests(), self.executor, name):
            index, first, places, known = jobs[request.tensor]
            track, chain = tracks[index], chains[index]
            spec = track.specs[chain[first].step]
            joined = sums.setdefault(request.tensor, [TensorSums(request.columns) for _ in places])
            for total, value in zip(joined, values, strict=True):
                total.add(value, request.start)
            if request.stop < spec.size:
                continue
            del sums[request.tensor]
            if not self._finish(track, chain, places, joined, passed[index]):
                again.add(index)
            meter.add(sum(track.specs[chain[at].step].nbytes for at in places))
        return sorted(again)

    def _finish(
        self,
        track: Track,
        chain: list[_Link],
        places: list[int],
        sums: list[TensorSums],
        passed: set[int],
    ) -> bool:
        """Take what was measured of a window; return whether all of it could be read."""
        is_sound = True
        for at, total in zip(places, sums, strict=True):
            link = chain[at]
            problem = total.problem
            stored = track.specs[link.step].crc32c
            if problem is None and isinstance(link.source, FileSpan) and stored is not None:
                problem = _checksum_problem(link.source, track.keys[link.step], stored, total.crc)
            if problem is None:
                continue
            is_sound = False
            self._pass_over(track, link, problem, passed)
        if not is_sound:
            return False
        for at, total in zip(places, sums, strict=True):
            link = chain[at]
            link.content = link.content or _content(total.crc, link.source.dtype)
            update = None
            before = _before(track, chain, at, 1)
            earlier = _before(track, chain, at, 2)
            if before is not None and not math.isnan(total.changes):  # else it could not be read
                update = TensorUpdate(math.sqrt(total.changes), None, total.still_units())
            link.measured = TensorMeasurement(
                link.content,
                total.statistics(),
                total.zero_units(),
                total.saturated_units(self.saturated),
                update,
            )
            if update is not None and earlier is not None:
                link.measured = link.measured._replace(
                    update=update._replace(turn=_turn(chain, at, total.turns, update.norm))
                )
            self.cache.keep(
                track.naming.name,
                link.measured,
                before.content if before is not None else None,
                earlier.content if earlier is not None else None,
            )
        return True

    def _pass_over(
        self, track: Track, link: _Link, problem: CkptkitError, passed: set[int]
    ) -> None:
        """Leave a step out of this tensor; of one whose files went, out of all."""
        if isinstance(problem, ChangedError | PathNotFoundError):
            self.gone.add(link.step)
            return
        # of equal neighbours another one may be sound
        passed.add(link.step)
        self.damage.setdefault(link.step, (track.naming.name, problem))


def _content(crc: int, dtype: str) -> str:
    return f"{crc:08x}/{dtype}"


def _is_of(content: str, dtype: str) -> bool:
    """Whether values were measured in a dtype; integers once were that now are numbers."""
    return content.rpartition("/")[2] == dtype


def _place(source: TensorSource) -> tuple[str, int]:
    return (str(source.path), source.offset) if isinstance(source, FileSpan) else ("", 0)


def _before(track: Track, chain: list[_Link], at: int, back: int) -> _Link | None:
    """Return the link so many places before one, where all between are of its shape."""
    if at < back:
        return None
    shape = track.specs[chain[at].step].shape
    links = chain[at - back : at]
    return links[0] if all(track.specs[link.step].shape == shape for link in links) else None


def _windows(track: Track, chain: list[_Link], missing: list[int]) -> Iterator[list[int]]:
    """Yield runs of neighbouring places of one shape, few enough for one task."""
    columns = units_of(track.specs[chain[0].step].shape) if chain else 0
    most = STEPS_AT_ONCE if columns <= _WIDE else 4
    window: list[int] = []
    for at in missing:
        is_next = window and at == window[-1] + 1 and len(window) < most
        if is_next and _before(track, chain, at, 1) is not None:
            window.append(at)
            continue
        if window:
            yield window
        window = [at]
    if window:
        yield window


def _turn(chain: list[_Link], at: int, turns: float, norm: float) -> float | None:
    """Return the cosine of the angle between an update and the one before."""
    before = chain[at - 1].measured
    if before is None or before.update is None or not norm or not before.update.norm:
        return None
    product = norm * before.update.norm
    if not math.isfinite(turns) or not math.isfinite(product) or not product:
        return None
    return min(1.0, max(-1.0, turns / product))


def _checksum_problem(source: FileSpan, key: str, stored: int, found: int) -> ChecksumError | None:
    if stored == found:
        return None
    return ChecksumError(
        f"{source.path}: {key}",
        "crc32c of the values does not match the stored one",
        expected=f"{stored:08x}",
        found=f"{found:08x}",
        hint="the file is damaged; `ckptkit verify` lists every damaged tensor",
    )


def _spread(chain: list[_Link]) -> dict[int, TensorMeasurement]:
    """Return what each step holds: of equal neighbours, the later ones did not move."""
    found: dict[int, TensorMeasurement] = {}
    after_pause = False
    for link in chain:
        assert link.measured is not None
        measured = link.measured
        if after_pause and measured.update is not None:
            measured = measured._replace(update=measured.update._replace(turn=None))
        for step in link.steps:
            found[step] = measured
            measured = measured._replace(update=TensorUpdate(0.0))
        after_pause = len(link.steps) > 1
    return found
