"""`convert`: from form to form, each conversion proven.

Values come from SRC, streamed; the structure (keys, shapes, dtypes, and a graph where the form has
one) from LIKE, from SRC itself, or from a model built in a child process.  What does not fit is
refused by name before anything is written.  The output lies beside DST until it is proven.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from ckptkit._io.files import refusing_os_errors
from ckptkit._io.progress import Progress, ProgressMeter, phase
from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.digest import tensor_sha256, weights_digest
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.convert import write as _write
from ckptkit.operations.convert.destination import (
    model_of,
    refuse_existing,
    refuse_existing_file,
    refuse_nested,
    target_of,
)
from ckptkit.operations.convert.from_meta_graph import donor_of
from ckptkit.operations.convert.loading import load_output
from ckptkit.operations.convert.one_graph import with_one_graph
from ckptkit.operations.convert.output_comparison import OutputComparison, compare_files
from ckptkit.operations.convert.plan import (
    NOT_WEIGHTS,
    ChosenGraph,
    ConvertOptions,
    GraphToServe,
    Plan,
)
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.problems import MismatchError, Problem
from ckptkit.operations.convert.proof import Proof, prove
from ckptkit.operations.convert.receipt import (
    Receipt,
    package_versions,
    signature_changes,
    write_inverse,
    write_receipt,
)
from ckptkit.operations.convert.value_stores import Cast, parse_cast
from ckptkit.operations.input_files import files_read, refuse_inputs
from ckptkit.stores.following import following_latest, opened_still
from ckptkit.stores.registry import SAVED_MODEL, TENSOR_BUNDLE, can_be_cut
from ckptkit.stores.saved_model.signatures import graph_with
from ckptkit.text import parse_size
from ckptkit.wording import say

__all__ = [
    "MismatchError",
    "Plan",
    "Problem",
    "Receipt",
    "convert",
    "plan",
    "write_inverse",
]

CheckpointLike = str | os.PathLike[str] | Checkpoint
TIMEOUT_S = 600.0  # for each run of a model: building and tracing a large one takes minutes


_Converting = TypeVar("_Converting", bound=Callable[..., Any])


def _serving_graphs(function: _Converting) -> _Converting:
    """Let LIKE be the SavedModel that `graph` and SRC come to, or the one graph of `tags`."""

    @wraps(function)
    def run(src: Any, dst: Any, **keywords: Any) -> Any:
        graph = keywords.get("graph")
        if keywords.get("tags"):
            return _with_chosen_graph(function, src, dst, keywords)
        if graph is None:
            if keywords.get("inputs") or keywords.get("outputs"):
                raise UsageError(say("‹inputs› and ‹outputs› go with ‹graph›"))
            return function(src, dst, **keywords)
        if keywords.get("like") is not None or keywords.get("model") is not None:
            raise UsageError(say("‹graph› excludes ‹like› and ‹model›"))
        named = (tuple(keywords.get(name, ())) for name in ("inputs", "outputs"))
        to_serve = GraphToServe(Path(graph), *named)
        source = _open(_as_sequence(src)[-1])
        with donor_of(to_serve, source, _write_bundle) as donor:
            return function(src, dst, **{"to": SAVED_MODEL, **keywords, "like": donor})

    return cast("_Converting", run)


def _with_chosen_graph(
    function: Callable[..., Any], src: Any, dst: Any, keywords: dict[str, Any]
) -> Any:
    """Convert into one graph of the SavedModel that gives the output's graphs, LIKE or SRC."""
    if keywords.get("graph") is not None or keywords.get("model") is not None:
        raise UsageError(say("‹tags› excludes ‹graph› and ‹model›"))
    like = keywords.get("like")
    holder = _open(like if like is not None else _as_sequence(src)[-1])
    if holder.store.format != SAVED_MODEL or holder.store.model is None:
        raise UsageError(
            say("‹tags› chooses a graph of a SavedModel, and this is none"), where=str(holder.path)
        )
    there = holder.store.model.tags
    tags = tuple(sorted(graph_with(keywords["tags"], there, str(holder.path))))
    target = target_of(dst, keywords.get("to"), holder.store)
    if target.format.structure != SAVED_MODEL:
        raise UsageError(say(f"‹tags›: {target.format.name} holds no graphs"), where=str(dst))
    if len(there) == 1:
        return function(src, dst, **{**keywords, "tags": ()})
    with with_one_graph(holder.store.path, tags) as donor:
        opened = open_checkpoint(donor)
        chosen = ChosenGraph(holder.store.path, tags)
        return function(src, dst, **{**keywords, "like": opened, "tags": chosen})


def _write_bundle(source: Checkpoint, path: Path) -> object:
    return convert(source, path, to=TENSOR_BUNDLE)


@refusing_os_errors
@following_latest
@_serving_graphs
def convert(
    src: CheckpointLike | Sequence[CheckpointLike],
    dst: str | os.PathLike[str],
    *,
    to: str | None = None,
    like: CheckpointLike | None = None,
    graph: str | os.PathLike[str] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    tags: Sequence[str] = (),
    model: str | None = None,
    root: str | None = None,
    rules: Sequence[str | Rule] = (),
    names: Sequence[str] = (),
    drop_roles: Sequence[str] = (),
    weights_only: bool = False,
    casts: Sequence[str | Cast] = (),
    ema: bool = False,
    shard_size: int | str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    allow_renamed: Sequence[str] = (),
    overwrite: bool = False,
    check: bool = True,
    check_outputs: bool = False,
    trust: bool = False,
    receipt: str | os.PathLike[str] | None = None,
    inverse: str | os.PathLike[str] | None = None,
    digests: bool = False,
    timeout_s: float = TIMEOUT_S,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Receipt:
    """Write SRC in another form at DST, and prove it.

    Args:
        src: a checkpoint or model file; several checkpoints give their average (weights and
            averages of weights in float64, everything else from the last).
        dst: where to write: a file, a directory, or the prefix of a checkpoint.
        to: the name of a format that is written, as `ls` prints it, or another spelling of it;
            None where the name of DST, or LIKE, says it.
        like: a file whose structure the output takes.
        graph: a graph of TensorFlow 1 (`PREFIX.meta`) that makes a SavedModel of a checkpoint.
        inputs: names of tensors of `graph` that its signature takes, `NAME` or `KEY=NAME`; none
            where the graph itself says.
        outputs: of those that its signature gives, likewise.
        tags: of the graph that is written, where the SavedModel that the graphs are of (LIKE, or
            SRC) has several; by default all of them are.
        model: `package.module:callable[?json]` or `file.py:callable`, built in a child process.
        root: child of a new root that SRC's object graph goes under ("" keeps the root of a
            SavedModel).
        rules: `RE=>REPL` from names of SRC to names of LIKE, or `RE=>REPL | STEP | STEP` with
            transforms (`ckptkit.align.transforms`) of what they rename.
        names: globs of what to take; "!GLOB" leaves out.
        drop_roles: roles to leave behind.
        weights_only: leave all state of training behind, and tables (of words and the like).
        casts: `OLD=NEW` dtypes.
        ema: the averaged variables in place of the weights.
        shard_size: bytes per data file, as a number or such as "500MB".
        allow_missing: globs of tensors of LIKE that keep the values of LIKE.
        allow_unused: globs of tensors and files of SRC that may be left behind.
        allow_renamed: globs of tensors that rules may send away from their namesakes.  A glob that
            relaxes nothing is an error, here and in the two above.
        overwrite: replace what is at DST, SRC included.
        check: prove the output by reading it again and comparing it bit for bit with the source,
            and, where both sides run and TensorFlow is installed, by what they compute.
        check_outputs: compare what both compute wherever both sides run, so that the proof does
            not rest on the pairing; the receipt says why where they do not.
        trust: say nothing of a SRC that `ckptkit.scan` flags; else FlaggedModelWarning does, before
            what it computes is compared.
        receipt: a JSON file to write, with the sha256 of every tensor.
        inverse: a file to write the map into that leads back to SRC.
        digests: the result has the sha256 of every tensor and the digests of the sources, as with
            `receipt`.
        timeout_s: for each run of a model.
        executor: where the comparison is done; None does it here.
        progress: called with ("proven", bytes done, bytes in all).

    Returns:
        A receipt; when its `ok` is False the proof failed, DST is as it was, and the output is at
        DST.rejected.

    Raises:
        MismatchError: SRC and LIKE do not fit; `.problems` says how.
        UsageError: the options make no sense together, or one does nothing.
        OutputError: DST exists already, or cannot be written.
        RunnerError: a model could not be built.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
        ChecksumError: stored bytes are not those that were written.
    """
    if check_outputs and not check:
        raise UsageError(say("‹check_outputs› is a part of the proof, which is left out"))
    request = _ConvertRequest(
        [_open(source) for source in _as_sequence(src)],
        _open(like) if like is not None else None,
        dst,
        to,
        model,
        _options(
            rules,
            names,
            drop_roles,
            weights_only,
            casts,
            ema,
            root,
            shard_size,
            allow_missing,
            allow_unused,
            allow_renamed,
            GraphToServe(Path(graph), tuple(inputs), tuple(outputs)) if graph is not None else None,
            tags if isinstance(tags, ChosenGraph) else None,
        ),
        timeout_s,
    )
    target = request.target
    refuse_nested(target, [source.store.path for source in request.sources], request.like_path)
    # Nothing is read or written where an output would take the place of a file, unasked.
    refuse_existing(target, overwrite)
    for beside in (receipt, inverse):
        if beside is not None:
            refuse_existing_file(Path(beside), overwrite)
    if receipt is not None or inverse is not None:
        refuse_inputs([receipt, inverse], (), request.files())
    with (
        _several_builds() if model is not None else nullcontext(),
        _write.claimed(target) as claim,
        _write.staging(target, claim) as scratch,
        _write.staging(target, claim) as staging_area,
    ):
        refuse_existing(target, overwrite)  # another process may just have written it
        conversion = request.plan(scratch.directory)
        conversion.check()
        if inverse is not None:
            conversion.inverse_rules()  # where nothing leads back, that is said before the work
        proof = _produce(
            conversion,
            staging_area.path,
            check,
            check_outputs,
            trust,
            timeout_s,
            executor,
            progress,
        )
        with_digests = digests or receipt is not None
        result = _describe(conversion, staging_area.path, proof, with_digests=with_digests)
        if proof is not None and result.ok:
            loaded = load_output(conversion, staging_area.path, proof, timeout_s)
            result = replace(result, loaded=loaded)
        # Only what is proven takes the place of DST.
        if result.ok:
            files = _write.commit(
                staging_area,
                target,
                overwrite=overwrite,
                is_proven=proof is not None,
                executor=executor,
            )
            result = replace(result, path=target.path, files=files)
        else:
            result = replace(result, path=_write.reject(staging_area, target))
    if receipt is not None:
        write_receipt(result, Path(receipt), overwrite=overwrite)
    if inverse is not None and result.ok:
        write_inverse(conversion, Path(inverse), overwrite=overwrite)
    return result


@refusing_os_errors
@_serving_graphs
def plan(
    src: CheckpointLike | Sequence[CheckpointLike],
    dst: str | os.PathLike[str],
    *,
    to: str | None = None,
    like: CheckpointLike | None = None,
    graph: str | os.PathLike[str] | None = None,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    tags: Sequence[str] = (),
    model: str | None = None,
    root: str | None = None,
    rules: Sequence[str | Rule] = (),
    names: Sequence[str] = (),
    drop_roles: Sequence[str] = (),
    weights_only: bool = False,
    casts: Sequence[str | Cast] = (),
    ema: bool = False,
    shard_size: int | str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    allow_renamed: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
) -> Plan:
    """Return what `convert` would do; nothing is written, but a model may be built.

    Args:
        src, dst, and every keyword: as in `convert`.

    Returns:
        The plan; where it has `problems`, `convert` would refuse.

    Raises:
        UsageError and what reading the files raises, as `convert`.
    """
    request = _ConvertRequest(
        [_open(source) for source in _as_sequence(src)],
        _open(like) if like is not None else None,
        dst,
        to,
        model,
        _options(
            rules,
            names,
            drop_roles,
            weights_only,
            casts,
            ema,
            root,
            shard_size,
            allow_missing,
            allow_unused,
            allow_renamed,
            GraphToServe(Path(graph), tuple(inputs), tuple(outputs)) if graph is not None else None,
            tags if isinstance(tags, ChosenGraph) else None,
        ),
        timeout_s,
    )
    with tempfile.TemporaryDirectory(prefix="ckptkit-plan-") as scratch:
        return request.plan(Path(scratch))


class _ConvertRequest:
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
        if like is not None and model is not None:
            raise UsageError(say("‹like› and ‹model› exclude each other"))
        self.sources, self.like, self.options = sources, like, options
        self.timeout_s = timeout_s
        self.target = target_of(dst, to, like.store if like is not None else None)
        self.model = model_of(sources[-1], like, model, self.target)
        # Only checkpoints and safetensors are cut, and only where this package writes them.
        if options.shard_size is not None:
            row = self.target.format
            is_cut = can_be_cut(row) and not row.is_directory and self.model is None
            if not is_cut:
                raise UsageError(
                    say(f"‹shard_size›: this {self.target.format.name} is not cut into shards")
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


def _several_builds() -> AbstractContextManager[None]:
    """Have the children that build a model share the import of TensorFlow."""
    from ckptkit.runners.fork_server import sharing_imports

    return sharing_imports()


def _options(
    rules: Sequence[str | Rule],
    names: Sequence[str],
    drop_roles: Sequence[str],
    weights_only: bool,
    casts: Sequence[str | Cast],
    ema: bool,
    root: str | None,
    shard_size: int | str | None,
    allow_missing: Sequence[str],
    allow_unused: Sequence[str],
    allow_renamed: Sequence[str],
    graph: GraphToServe | None,
    chosen: ChosenGraph | None,
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
        allow_missing=tuple(allow_missing),
        allow_unused=tuple(allow_unused),
        allow_renamed=tuple(allow_renamed),
        graph=graph,
        chosen=chosen,
    )


def _bytes_of(size: str) -> int:
    try:
        return parse_size(size)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _as_sequence(src: CheckpointLike | Sequence[CheckpointLike]) -> Sequence[CheckpointLike]:
    if isinstance(src, (str, os.PathLike, Checkpoint)):
        return [src]
    if not src:
        raise UsageError("no source")
    return src


def _open(source: CheckpointLike) -> Checkpoint:
    """Return an opened checkpoint; raises the first problem of one that is not whole."""
    if isinstance(source, Checkpoint):
        checkpoint, problems = source, source.problems()
    else:
        checkpoint, problems = opened_still(partial(open_checkpoint, source))
    if problems:
        raise problems[0]
    return checkpoint


def _produce(
    conversion: Plan,
    path: Path,
    check: bool,
    check_outputs: bool,
    trust: bool,
    timeout_s: float,
    executor: Executor | None,
    progress: Progress | None,
) -> Proof | None:
    """Write the output at `path` and prove it; None with `check` false."""
    if conversion.build is not None:
        from ckptkit.operations.convert.built_model import export, prove_model

        model_export = export(conversion, path, compare=check)
        if not check:
            return None
        proof = prove_model(model_export, path, executor)
        if not check_outputs or not proof.ok:
            return proof
        outputs = compare_files(conversion, path, timeout_s, is_wanted=True, trust=trust)
        return _with_outputs(proof, outputs)
    with phase("written", conversion.nbytes):
        _write.write(conversion, path)
    if not check:
        return None
    proof = prove(conversion, path, executor, ProgressMeter(progress, "proven", conversion.nbytes))
    if not proof.ok:
        return proof
    outputs = compare_files(conversion, path, timeout_s, is_wanted=check_outputs, trust=trust)
    return _with_outputs(proof, outputs)


def _with_outputs(proof: Proof, outputs: OutputComparison | None) -> Proof:
    failures = (*proof.failures, *(outputs.failures if outputs is not None else ()))
    return replace(proof, failures=failures, outputs=outputs)


def _describe(conversion: Plan, path: Path, proof: Proof | None, *, with_digests: bool) -> Receipt:
    """Return the receipt of the output at `path`, while SRC is still what it was."""
    receipt = Receipt(conversion, path, (), proof, versions=_versions(conversion, proof))
    if not receipt.ok or not (with_digests or conversion.target.format.structure == SAVED_MODEL):
        return receipt
    output = open_checkpoint(path)
    source_model, chosen = conversion.source.store.model, conversion.options.chosen
    if chosen is not None and source_model is not None and len(source_model.tags) > 1:
        of_graph = tuple(s for s in source_model.signatures if {*s.tags} == {*chosen.tags})
        source_model = replace(source_model, signatures=of_graph)
    changes = signature_changes(source_model, output.store.model)
    receipt = replace(receipt, signatures=tuple(changes))
    if not with_digests:
        return receipt
    keys = output.specs.keys() & {tensor.key for tensor in conversion.tensors}
    with phase("digest", 2 * conversion.nbytes):
        return replace(
            receipt,
            sha256={key: tensor_sha256(output, key) for key in sorted(keys)},
            digests=[weights_digest(item, Selection().of(item)) for item in conversion.sources],
        )


def _versions(conversion: Plan, proof: Proof | None) -> dict[str, str]:
    """Return the versions of all that took part, the child's among them."""
    versions = package_versions()
    if conversion.build is not None:
        versions.update(conversion.build.versions)
    if proof is not None and proof.outputs is not None:
        versions.update(proof.outputs.versions or {})
    return versions
