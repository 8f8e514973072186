"""`history`: what happened to every layer over a run, from its checkpoints alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.files import taking_paths
from ckptkit._io.places import local_path, path_of
from ckptkit._io.progress import Progress
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.errors import PathNotFoundError, UsageError
from ckptkit.operations.history.cache import MeasuredBefore, default_path
from ckptkit.operations.history.first_nan import first_nan_finding
from ckptkit.operations.history.identity import (
    broken_findings,
    optimizer_findings,
    repeat_findings,
    repeats_of,
)
from ckptkit.operations.history.movement import movement_findings, unit_findings
from ckptkit.operations.history.norms import direction_findings, norm_findings, value_findings
from ckptkit.operations.history.record import MeasuredRun
from ckptkit.operations.history.result import History
from ckptkit.operations.history.series import Measurer
from ckptkit.operations.history.steps import (
    KnownNames,
    OrderedRun,
    RunFile,
    opened,
    ordered,
    places_of,
)
from ckptkit.operations.history.structure import structure_findings
from ckptkit.operations.history.tracks import Track, Tracks
from ckptkit.operations.history.types import (
    WENT,
    HistoryFinding,
    HistoryThresholds,
    RunStep,
    TensorHistory,
    TensorMeasurement,
    thresholds_of,
)
from ckptkit.text import natural

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["History", "HistoryFinding", "HistoryThresholds", "history"]

_SEVERITIES = {"error": 0, "warning": 1, "note": 2}


@taking_paths
def history(
    *runs: str | os.PathLike[str],
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    every: int = 1,
    since: int | None = None,
    first_nan: bool = False,
    cache: str | os.PathLike[str] | bool = False,
    thresholds: Mapping[str, float] | HistoryThresholds | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> History:
    """Tell what happened to every tensor over a run, and what looks wrong.

    Args:
        *runs: a training directory, or several checkpoints, SavedModels, `.keras` or `.h5` files,
            in any mixture; they are put in the order of their steps.
        roles: which tensors to look at; by default all numbers but counters and configuration.
        names: globs over readable names, keys and full names; "!GLOB" leaves out.
        every: look at every so many checkpoints, and the last.
        since: leave out what is before this step.
        first_nan: only look for the first NaN or infinity, by bisection: it is assumed that a
            tensor which has some keeps them.
        cache: where measurements are kept for the next time; True for a file in the user's cache
            directory.
        thresholds: from where on something is a finding, by name, as `HistoryThresholds` has them.
        executor: where the work is done; None does it here.
        progress: is called with ("measured", bytes, bytes in all).

    Returns:
        Steps, tensors over them, and findings; `ok` where nothing but notes was found.

    Raises:
        PathNotFoundError: nothing lies there, or nothing that is whole.
        UsageError: nothing tells one order of the files, or a filter leaves nothing.
        UnsupportedError, FormatError, MissingDependencyError: the only file is not read.
    """
    if not runs:
        raise UsageError("no run was given", hint="name a directory, or checkpoints")
    if every < 1:
        raise UsageError(f"every {every} checkpoints is none", hint="every is 1 or more")
    limits = (
        thresholds if isinstance(thresholds, HistoryThresholds) else thresholds_of(thresholds or {})
    )
    known: KnownNames = {}
    notes: list[str] = []
    run = ordered(_files(runs, known, notes))
    run = _chosen(run._replace(notes=(*run.notes, *notes)), every, since)
    paths = tuple(map(path_of, runs))
    if first_nan:
        found = first_nan_finding(run, roles, names, executor, progress)
        steps = tuple(_step(number, file, run) for number, file in run.files)
        return History(paths, steps, (), found, run.how, run.notes, limits)
    place = None
    if cache:
        place = default_path(paths[0]) if cache is True else local_path(cache)
    measured_before = MeasuredBefore(place, limits.saturated)
    result = measured_run(
        paths, run, roles, names, limits, measured_before, executor, progress, known
    )
    problem = measured_before.save()
    if problem and cache is not True:  # a file that was asked for
        return replace(result, notes=(*result.notes, f"nothing is kept: {problem}"))
    return result


def _files(
    runs: Sequence[str | os.PathLike[str]], known: KnownNames, notes: list[str]
) -> list[RunFile]:
    """Return what is meant; notes: added to.  Raises where none of it can be read."""
    places = places_of(runs, notes)
    files = [opened(path, given, known) for path, given in places]
    files = [file for file in files if not file.gone]
    if not any(file.checkpoint is not None for file in files):
        for path, _given in places:
            checkpoint = open_checkpoint(path)
            for problem in checkpoint.problems():
                raise problem
        said = next((file.problem for file in files if file.problem), None)
        raise PathNotFoundError(
            "no file of the run can be read", where=str(runs[0]), hint=said or ""
        )
    return files


def _chosen(run: OrderedRun, every: int, since: int | None) -> OrderedRun:
    files = [(n, f) for n, f in run.files if since is None or n >= since or f.checkpoint is None]
    whole = [(n, f) for n, f in files if f.checkpoint is not None]
    if not whole:
        last = max((n for n, f in run.files if f.checkpoint is not None), default=0)
        raise UsageError(f"no step from {since:,} on", hint=f"the last one is {last:,}")
    kept = {f.path for _, f in (*whole[::every], whole[-1])}
    files = [(n, f) for n, f in files if f.checkpoint is None or f.path in kept]
    return run._replace(files=tuple(files))


def _step(number: int, file: RunFile, run: OrderedRun) -> RunStep:
    checkpoint = file.checkpoint
    return RunStep(
        number,
        file.path,
        checkpoint.store.format if checkpoint else "",
        file.training_step,
        file.save_counter,
        run.name_numbers.get(file.path),
        dict(file.counters),
        file.problem,
    )


def measured_run(
    paths: tuple[Path, ...],
    run: OrderedRun,
    roles: Sequence[str],
    names: Sequence[str],
    thresholds: HistoryThresholds,
    cache: MeasuredBefore,
    executor: Executor | None = None,
    progress: Progress | None = None,
    known: KnownNames | None = None,
) -> History:
    """Return the history of a run whose files are open and in order; raises as `history` does."""
    tracks = Tracks(roles, names)
    checkpoints, stores = {}, {}
    for at, (_number, file) in enumerate(run.files):
        if file.checkpoint is not None and file.values is not None:
            tracks.add(at, file.checkpoint, file.signature)
            checkpoints[at], stores[at] = file.checkpoint, file.values
    tracks.check_filter()
    measurer = Measurer(checkpoints, stores, cache, thresholds.saturated, executor, progress)
    measured = measurer.run(tracks.tracks)
    steps = [_step(number, file, run) for number, file in run.files]
    for at, (name, problem) in measurer.damage.items():
        steps[at] = replace(steps[at], problem=f"{name}: {problem.message}")
    for at in measurer.gone:
        steps[at] = replace(steps[at], problem=WENT)
    tensors = tuple(
        sorted(
            map(_tensor, tracks.tracks, measured),
            key=lambda tensor: (ROLES.index(tensor.role), natural(tensor.name)),
        )
    )
    record = MeasuredRun(tuple(steps), tensors, thresholds)
    return History(
        paths,
        record.steps,
        tensors,
        tuple(findings_of(record, tracks.ambiguous)),
        run.how,
        run.notes,
        thresholds,
    )


def _tensor(track: Track, measured: Mapping[int, TensorMeasurement]) -> TensorHistory:
    naming = track.naming
    return TensorHistory(
        naming.name,
        naming.role,
        track.layer,
        naming.slot_of,
        naming.slot,
        track.is_trained,
        {at: spec.shape for at, spec in track.specs.items()},
        {at: spec.dtype for at, spec in track.specs.items()},
        dict(sorted(measured.items())),
    )


def findings_of(
    run: MeasuredRun, ambiguous: Sequence[tuple[int, tuple[str, ...]]] = ()
) -> list[HistoryFinding]:
    """Return all findings of a run, errors before warnings before notes, each by step."""
    repeats = repeats_of(run)
    found = [
        *broken_findings(run),
        *value_findings(run),
        *repeat_findings(run, repeats),
        *optimizer_findings(run, repeats),
        *norm_findings(run, repeats),
        *direction_findings(run, repeats),
        *movement_findings(run, repeats),
        *unit_findings(run, repeats),
        *structure_findings(run, ambiguous),
    ]
    order = {step.number: at for at, step in enumerate(run.steps)}
    return sorted(found, key=lambda f: (_SEVERITIES[f.severity], order.get(f.step or 0, 0)))
