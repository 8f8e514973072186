"""What a conversion is asked for, put together and validated once, and the files that it opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert.destination import model_of, target_of
from ckptkit.operations.convert.plan import (
    NOT_WEIGHTS,
    ChosenGraph,
    ConvertOptions,
    GraphToServe,
    Plan,
)
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.value_stores import Cast, parse_cast
from ckptkit.operations.input_files import files_read, operand_text
from ckptkit.runners.limits import time_limit
from ckptkit.stores.following import opened_still
from ckptkit.stores.registry import SAVED_MODEL, can_be_cut
from ckptkit.text import parse_size
from ckptkit.wording import say

CheckpointLike = str | os.PathLike[str] | Checkpoint
TIMEOUT_S = 600.0  # for each run of a model: building and tracing a large one takes minutes

WriteBundle = Callable[[Checkpoint, Path], object]
"""Writes a checkpoint of TensorFlow with the values of another."""


@dataclass(frozen=True)
class ConvertRequest:
    """One conversion.

    sources: at least one, the last being the one whose names count.  graph: of TensorFlow 1, which
    makes a SavedModel of the source.  tags: of the one graph that is written.  options: how tensors
    are chosen, named and changed.  The rest is as in `convert`.
    Raises UsageError where the parts contradict each other, or one makes no sense.
    """

    sources: tuple[CheckpointLike, ...]
    dst: str | os.PathLike[str]
    to: str | None = None
    like: CheckpointLike | None = None
    graph: GraphToServe | None = None
    tags: tuple[str, ...] = ()
    model: str | None = None
    options: ConvertOptions = field(default_factory=ConvertOptions)
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("no source")
        if self.tags and (self.graph is not None or self.model is not None):
            raise UsageError(say("‹tags› excludes ‹graph› and ‹model›"))
        if self.graph is not None and (self.like is not None or self.model is not None):
            raise UsageError(say("‹graph› excludes ‹like› and ‹model›"))
        if self.like is not None and self.model is not None:
            raise UsageError(say("‹like› and ‹model› exclude each other"))
        time_limit(self.timeout_s)

    @property
    def called(self) -> Mapping[str, str]:
        """What the operands are called in messages, by their place."""
        source = operand_text(self.sources[-1])
        like = self.graph.path if self.graph is not None else self.like
        return {
            "SRC": source,
            "LIKE": operand_text(like) if like is not None else source,
            "DST": os.fspath(self.dst),
        }

    @contextmanager
    def opened(self, write_bundle: WriteBundle) -> Iterator[Conversion]:
        """Open the files, for as long as what is made of them is needed.

        write_bundle: for a graph of TensorFlow 1, which gets variables of its own.
        """
        if self.graph is not None:
            from ckptkit.operations.convert.from_meta_graph import donor_of  # few want it

            source = opened_whole(self.sources[-1])
            with donor_of(self.graph, source, write_bundle) as donor:
                yield self._with(opened_whole(donor), self.to or SAVED_MODEL, graph=self.graph)
        elif self.tags:
            with self._with_chosen_graph() as conversion:
                yield conversion
        else:
            like = opened_whole(self.like) if self.like is not None else None
            yield self._with(like, self.to)

    def _with(
        self,
        like: Checkpoint | None,
        to: str | None,
        *,
        graph: GraphToServe | None = None,
        chosen: ChosenGraph | None = None,
    ) -> Conversion:
        sources = [opened_whole(source) for source in self.sources]
        options = replace(self.options, graph=graph, chosen=chosen)
        return Conversion(sources, like, self.dst, to, self.model, options, self.timeout_s)

    @contextmanager
    def _with_chosen_graph(self) -> Iterator[Conversion]:
        """Open what gives the output one graph of the SavedModel that has several."""
        from ckptkit.operations.convert.one_graph import with_one_graph  # here, since few want it
        from ckptkit.stores.saved_model.signatures import graph_with

        holder = opened_whole(self.like if self.like is not None else self.sources[-1])
        if holder.store.format != SAVED_MODEL or holder.store.model is None:
            raise UsageError(
                say("‹tags› chooses a graph of a SavedModel, and this is none"),
                where=str(holder.path),
            )
        there = holder.store.model.tags
        tags = tuple(sorted(graph_with(self.tags, there, str(holder.path))))
        target = target_of(self.dst, self.to, holder.store)
        if target.format.structure != SAVED_MODEL:
            raise UsageError(
                say(f"‹tags›: {target.format.name} holds no graphs"), where=str(self.dst)
            )
        if len(there) == 1:
            yield self._with(holder if self.like is not None else None, self.to)
            return
        with with_one_graph(holder.store.path, tags) as donor:
            chosen = ChosenGraph(holder.store.path, tags)
            yield self._with(open_checkpoint(donor), self.to, chosen=chosen)


class Conversion:
    """What is to be converted into what: files opened, the target and the model known.

    model: what must be built for it; None where nothing is.
    """

    def __init__(
        self,
        sources: Sequence[Checkpoint],
        like: Checkpoint | None,
        dst: str | os.PathLike[str],
        to: str | None,
        model: str | None,
        options: ConvertOptions,
        timeout_s: float,
    ) -> None:
        self.sources, self.like, self.options = sources, like, options
        self.timeout_s = timeout_s
        self.target = target_of(dst, to, like.store if like is not None else None)
        self.model = model_of(sources[-1], like, model, self.target)
        # Only checkpoints and safetensors are cut, and only where this package writes them.
        if options.is_cut:
            row = self.target.format
            is_cut = can_be_cut(row) and not row.is_directory and self.model is None
            if not is_cut:
                asked = "shards" if options.shards is not None else "shard_size"
                raise UsageError(
                    say(f"‹{asked}›: this {self.target.format.name} is not cut into shards")
                )
            self.target = self.target.as_set()

    @property
    def like_path(self) -> Path | None:
        """Where LIKE lies; None where there is none."""
        return self.like.store.path if self.like is not None else None

    def files(self) -> list[Path]:
        """Return the files of the sources and of LIKE, and those that lie at the target."""
        inputs = self.sources if self.like is None else [*self.sources, self.like]
        files = [file for one in inputs for file in files_read(one.store.format, one.store.path)]
        files += [shard for one in inputs for shard in one.store.shards]
        return [*files, self.target.path, self.target.index_file, *self.target.existing()]

    def plan(self, scratch: Path) -> Plan:
        """Return the plan; scratch: a directory for the structure of a model that is built."""
        if self.model is None:
            return make_plan(self.sources, self.like, self.target, self.options)
        from ckptkit.operations.convert.built_model import ModelToBuild, plan_model

        model = ModelToBuild(self.model, self.like, self.timeout_s)
        return plan_model(self.sources, model, self.target, self.options, scratch)


def opened_whole(source: CheckpointLike) -> Checkpoint:
    """Return an opened checkpoint; raises the first problem of one that is not whole."""
    if isinstance(source, Checkpoint):
        checkpoint, problems = source, source.problems()
    else:
        checkpoint, problems = opened_still(partial(open_checkpoint, source))
    if problems:
        raise problems[0]
    return checkpoint


def as_sources(src: CheckpointLike | Sequence[CheckpointLike]) -> tuple[CheckpointLike, ...]:
    """Return one or several sources as several."""
    return (src,) if isinstance(src, str | os.PathLike | Checkpoint) else tuple(src)


def graph_to_serve(
    graph: str | os.PathLike[str] | None, inputs: Sequence[str], outputs: Sequence[str]
) -> GraphToServe | None:
    """Return a graph of TensorFlow 1 and what goes in and out; None where there is none.

    Raises UsageError for names without a graph.
    """
    if graph is None:
        if inputs or outputs:
            raise UsageError(say("‹inputs› and ‹outputs› go with ‹graph›"))
        return None
    return GraphToServe(Path(graph), tuple(inputs), tuple(outputs))


def options_of(
    *,
    rules: Sequence[str | Rule],
    names: Sequence[str],
    drop_roles: Sequence[str],
    weights_only: bool,
    casts: Sequence[str | Cast],
    ema: bool,
    root: str | None,
    shard_size: int | str | None,
    shards: int | None,
    allow_missing: Sequence[str],
    allow_unused: Sequence[str],
    allow_renamed: Sequence[str],
) -> ConvertOptions:
    """Return the keywords of `convert` with texts parsed; raises UsageError."""
    left_behind = frozenset(NOT_WEIGHTS) if weights_only else frozenset[str]()
    return ConvertOptions(
        rules=tuple(
            parse_rule(rule, transforms=True) if isinstance(rule, str) else rule for rule in rules
        ),
        names=tuple(names),
        drop_roles=frozenset(drop_roles) | left_behind,
        casts=tuple(parse_cast(cast) if isinstance(cast, str) else cast for cast in casts),
        ema=ema,
        root=root,
        shard_size=_bytes_of(shard_size) if isinstance(shard_size, str) else shard_size,
        shards=shards,
        allow_missing=tuple(allow_missing),
        allow_unused=tuple(allow_unused),
        allow_renamed=tuple(allow_renamed),
    )


def _bytes_of(size: str) -> int:
    try:
        return parse_size(size)
    except ValueError as error:
        raise UsageError(str(error)) from error
