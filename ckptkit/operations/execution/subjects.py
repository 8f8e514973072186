"""What is to be run: a model, code with a checkpoint, or a checkpoint in a model's structure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckptkit._io.files import file_size
from ckptkit._io.places import text_of
from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UsageError
from ckptkit.golden.binding import Binding, bind
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.convert.api import convert
from ckptkit.operations.convert.plan import TRAINING_ROLES
from ckptkit.operations.convert.problems import MismatchError, Problem
from ckptkit.operations.execution.coverage import structure_coverage
from ckptkit.operations.execution.coverage_types import RestoreCoverage
from ckptkit.operations.findings import Finding
from ckptkit.operations.input_files import fetched_operand, files_read
from ckptkit.operations.scan.before_running import warn_of_model
from ckptkit.runners.types import ModelSpec
from ckptkit.stores.base import ObjectGraph
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import (
    KERAS,
    OBJECT_GRAPH,
    SAVED_MODEL,
    Format,
    format_of,
    format_of_name,
    model_config,
    model_format,
)
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.saved_model.signatures import SERVE, graph_to_run
from ckptkit.text import without_secrets
from ckptkit.wording import say


@dataclass(frozen=True)
class ResolvedSubject:
    """A subject that can be run.

    file: the checkpoint whose values it takes, None for a model that holds its own.
    coverage: what of the file found a place, where that is known before anything runs.
    place: what the checkpoint goes into, "" for a model that holds its own values.
    """

    subject: ModelSpec
    file: Checkpoint | None = None
    coverage: RestoreCoverage | None = None
    place: str = ""

    @property
    def is_checkpoint(self) -> bool:
        return self.file is not None

    @property
    def runs(self) -> bool:
        """Whether there is a model to run: not where the file does not fit the structure."""
        return self.coverage is None or self.coverage.ok


def resolve(
    text: str | os.PathLike[str],
    scratch: Path,
    *,
    model: str | None = None,
    like: str | os.PathLike[str] | None = None,
    rules: Sequence[str] = (),
    tags: Sequence[str] = (),
    timeout_s: float = 600.0,
) -> ResolvedSubject:
    """Return what `text` means.

    scratch: a directory for a model that is made of a checkpoint and LIKE.  tags: of the graph of a
    SavedModel.
    What is elsewhere is run as the copy of it on this machine.
    Raises UsageError where it cannot be run, PathNotFoundError, and what reading it raises.
    """
    here = fetched_operand(text)
    like = fetched_operand(like) if like is not None else None
    found = _resolved(os.fspath(here), scratch, model, like, rules, tags, timeout_s)
    if here is text:
        return found
    return replace(found, subject=replace(found.subject, text=without_secrets(text_of(text))))


def _resolved(
    name: str,
    scratch: Path,
    model: str | None,
    like: str | os.PathLike[str] | None,
    rules: Sequence[str],
    tags: Sequence[str],
    timeout_s: float,
) -> ResolvedSubject:
    if model is not None and like is not None:
        raise UsageError(say("‹like› and ‹model› exclude each other"))
    if tags and _graphs_of(Path(os.fspath(like) if like is not None else name)) is None:
        raise UsageError(
            say("‹tags› chooses a graph of a SavedModel, and there is none"), where=name
        )
    whole = whole_file_format(Path(name))
    if whole is not None:
        file_size(Path(name))
        return ResolvedSubject(ModelSpec(whole.model_kind, Path(name), text=name))
    if _is_code(name) and model is None and like is None:
        return ResolvedSubject(ModelSpec("code", None, name, name))
    located = locate(name)
    row = format_of(located.format)
    place = located.subtree or ""
    if place and (model is None or row.structure != OBJECT_GRAPH):
        raise UsageError(
            "a whole model is checked, not a part of it",
            where=name,
            hint=say(
                "leave out what follows the #; ‹signature› chooses one of several"
                if model is None
                else "a part is named of a TensorFlow checkpoint that has an object graph"
            ),
        )
    for part in files_read(located.format, located.path):
        file_size(part)  # one that only stands for another, as Git keeps it, is named here
    if model is None and like is None:
        if row.holds_model:
            chosen = _tags_to_run(located.path, tags)
            return ResolvedSubject(ModelSpec(row.model_kind, located.path, text=name, tags=chosen))
        if not row.is_directory and model_config(row.name, located.path) is not None:
            kind = model_format(KERAS).model_kind
            return ResolvedSubject(ModelSpec(kind, located.path, text=name))
        raise UsageError(
            f"{located.format} holds weights and no model that could be run",
            where=name,
            hint=say(
                "‹model=package.module:function› builds it, ‹like› a SavedModel or .keras file"
            ),
        )
    file = open_checkpoint(located.path if place else name)
    for problem in file.problems():
        raise problem
    if like is not None:
        return _in_structure(name, file, os.fspath(like), scratch, rules, timeout_s, tags)
    assert model is not None
    made = ModelSpec("code", file.path, model, name, place=place)
    return ResolvedSubject(made, file, place=model)


def _graphs_of(path: Path) -> tuple[tuple[str, ...], ...] | None:
    """Return the tags of the graphs of a SavedModel; None for anything else."""
    if not (path / MODEL_FILE).is_file():
        return None
    info = open_checkpoint(path).store.model
    return info.tags if info is not None else ()


def _tags_to_run(path: Path, tags: Sequence[str]) -> tuple[str, ...]:
    """Return the tags of the graph to run; none where there is one alone, whatever its tags."""
    there = _graphs_of(path)
    if there is None:
        return ()
    chosen = graph_to_run(tags, there, str(path))
    return tuple(sorted(chosen)) if len(there) > 1 else ()


def _made(scratch: Path, row: Format) -> Path:
    """Return where a model of a format is made."""
    return scratch / f"made{next(iter(row.suffixes), '')}"


def whole_file_format(path: Path) -> Format | None:
    """Return the format of a model that is run as the file that it is, by its name."""
    row = format_of_name(path.name)
    is_model = row is not None and row.is_run_as_file
    return row if is_model and path.is_file() else None


def _is_code(name: str) -> bool:
    head, colon, function = name.partition("?")[0].rpartition(":")
    return bool(colon and head and function.replace(".", "").isidentifier()) and not (
        os.path.lexists(name) or "/" in function
    )


@dataclass(frozen=True)
class ModelSource:
    """What weights are put into, so that there is a model to run: code, or another model.

    model: `package.module:callable` or `file.py:callable`.  like: a SavedModel or `.keras` file;
    rules: `RE=>REPL` from the names of the weights to those of like.  tags: of the graph that is
    run, where a SavedModel has several.  trust: whether to say nothing of what a scan flags.
    """

    model: str | None = None
    like: str | os.PathLike[str] | None = None
    rules: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    trust: bool = False

    def resolve(
        self, subject: str | os.PathLike[str], scratch: Path, timeout_s: float
    ) -> ResolvedSubject:
        """Return what the subject means; raises what `resolve` raises.

        Warns of a model that a scan flags, before anything is run (FlaggedModelWarning).
        """
        found = resolve(
            subject,
            scratch,
            model=self.model,
            like=self.like,
            rules=self.rules,
            tags=self.tags,
            timeout_s=timeout_s,
        )
        path = Path(self.like) if self.like is not None and found.file else found.subject.path
        if not self.trust and found.subject.code is None and path is not None:
            warn_of_model(path)
        return found

    def meant_for(self, path: str | os.PathLike[str]) -> ModelSource:
        """Return itself for a file of weights, and nothing for what is a model already.

        Tags are meant for every SavedModel that has several graphs.
        """
        if _holds_weights_alone(path):
            return self
        several = len(_graphs_of(Path(path)) or ()) > 1
        return replace(self, model=None, like=None, tags=self.tags if several else ())


def _holds_weights_alone(path: str | os.PathLike[str]) -> bool:
    """Whether a subject is a file of weights, so that the source of models is meant for it too."""
    if whole_file_format(Path(path)) is not None:
        return False
    if not os.path.lexists(path):
        return True
    located = locate(path)
    row = format_of(located.format)
    is_whole = row.holds_model or model_config(row.name, located.path) is not None
    return not is_whole


# --- a checkpoint in the structure of LIKE --------------------------------------------------------


def _in_structure(
    name: str,
    file: Checkpoint,
    like: str,
    scratch: Path,
    rules: Sequence[str],
    timeout_s: float,
    tags: Sequence[str],
) -> ResolvedSubject:
    """Put the values of a checkpoint into another model; a misfit is a coverage with findings."""
    holder = open_checkpoint(like)
    row = format_of(holder.store.format)
    if not row.holds_model:
        raise UsageError(
            say(f"‹like› is {holder.store.format}, which holds no model"),
            where=like,
            hint="give a SavedModel or a .keras file",
        )
    coverage = structure_coverage(file, holder, _rules(rules))
    made = _made(scratch, row)
    subject = ModelSpec(row.model_kind, made, text=name, tags=_tags_to_run(Path(like), tags))
    try:
        done = convert(
            name,
            made,
            to=row.name,
            like=like,
            rules=rules,
            drop_roles=TRAINING_ROLES,
            timeout_s=timeout_s,
        )
    except MismatchError as error:
        found = _problems(coverage, error.problems, name)
        return ResolvedSubject(subject, file, _with(coverage, found), like)
    failures = done.proof.failures if done.proof is not None else ()
    found = [Finding("error", "restore.proof", name, failure) for failure in failures]
    return ResolvedSubject(subject, file, _with(coverage, found, compared=not found), like)


def _rules(rules: Sequence[str]) -> list[Rule]:
    return [parse_rule(rule) for rule in rules]


def _with(
    coverage: RestoreCoverage, extra: Sequence[Finding], *, compared: bool = False
) -> RestoreCoverage:
    return RestoreCoverage(
        coverage.path, coverage.variables, coverage.by, coverage.error, tuple(extra), compared
    )


def _problems(coverage: RestoreCoverage, problems: Sequence[Problem], where: str) -> list[Finding]:
    """Return the problems that no row of the coverage tells already."""
    told = {"not restored" if v.severity == "" else v.status for v in coverage.variables}
    return [
        Finding("error", f"restore.{problem.kind}", where, problem.message)
        for problem in problems
        if problem.kind not in told
    ]


# --- what a SavedModel says of itself -------------------------------------------------------------


def signatures_of_file(subject: ModelSpec) -> dict[str, ModelSignature]:
    """Return the signatures of a SavedModel as its file tells them; {} for anything else.

    Nothing is run.  An input of integers or strings needs more to be drawn than its dtype.  What
    parts a sparse or ragged input has, and which of a graph of TensorFlow 1 have a default, is told
    by the process that runs it: {} for those, too.
    """
    if subject.kind != model_format(SAVED_MODEL).model_kind or subject.path is None:
        return {}
    store = open_checkpoint(subject.path).store
    signatures = store.model.signatures if store.model is not None else ()
    sides = [item for signature in signatures for item in (*signature.inputs, *signature.outputs)]
    if not isinstance(store.structure, ObjectGraph) or any(" " in dtype for _, dtype, _ in sides):
        return {}
    wanted = {*subject.tags} or {SERVE}
    served = [signature for signature in signatures if {*signature.tags} == wanted]
    return {
        signature.key: ModelSignature(
            tuple(TensorInfo(*item) for item in signature.inputs),
            tuple(TensorInfo(*item) for item in signature.outputs),
        )
        for signature in served or signatures
    }


def binding_of(resolved: ResolvedSubject, *, full: bool) -> Binding:
    """Return what the subject's outputs follow from: the checkpoint for code, else the model.

    full: as `bind` takes it.  Code without a checkpoint is bound to nothing.
    """
    path = resolved.subject.path
    return bind(path, full=full) if path is not None else Binding("code", "")
