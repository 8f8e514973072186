"""`convert`: from form to form, each conversion proven.

Values come from SRC, streamed; the structure (keys, shapes, dtypes, and a graph where the form has
one) from LIKE, from SRC itself, or from a model built in a child process.  What does not fit is
refused by name before anything is written.  The output lies beside DST until it is proven.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from ckptkit._io.files import taking_paths
from ckptkit._io.progress import Progress
from ckptkit.align.rules import Rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.pipeline import OutputRequest, carry_out
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.problems import MismatchError, Problem
from ckptkit.operations.convert.receipt import Receipt, write_inverse
from ckptkit.operations.convert.request import (
    TIMEOUT_S,
    CheckpointLike,
    ConvertRequest,
    as_sources,
    graph_to_serve,
    options_of,
)
from ckptkit.operations.convert.value_stores import Cast
from ckptkit.stores.following import following_latest
from ckptkit.stores.registry import TENSOR_BUNDLE
from ckptkit.wording import operands_called

__all__ = [
    "MismatchError",
    "Plan",
    "Problem",
    "Receipt",
    "convert",
    "plan",
    "write_inverse",
]


@taking_paths
@following_latest
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
    shards: int | None = None,
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
        shards: how many data files, about as large as one another, in place of that; a few more
            where those that are replaced have such names.
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
        executor: where the comparison is done, and where several files of one output are written,
            which all workers then have to see; None does it here.
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
    request = ConvertRequest(
        as_sources(src),
        dst,
        to,
        like,
        graph_to_serve(graph, inputs, outputs),
        tuple(tags),
        model,
        options_of(
            rules=rules,
            names=names,
            drop_roles=drop_roles,
            weights_only=weights_only,
            casts=casts,
            ema=ema,
            root=root,
            shard_size=shard_size,
            shards=shards,
            allow_missing=allow_missing,
            allow_unused=allow_unused,
            allow_renamed=allow_renamed,
        ),
        timeout_s,
    )
    asked = OutputRequest(
        overwrite,
        check,
        check_outputs,
        trust,
        Path(receipt) if receipt is not None else None,
        Path(inverse) if inverse is not None else None,
        digests,
        executor,
        progress,
    )
    with operands_called(request.called), request.opened(_write_bundle) as conversion:
        return carry_out(conversion, asked)


@taking_paths
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
    shards: int | None = None,
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
    import tempfile  # here, since a conversion writes beside its output

    request = ConvertRequest(
        as_sources(src),
        dst,
        to,
        like,
        graph_to_serve(graph, inputs, outputs),
        tuple(tags),
        model,
        options_of(
            rules=rules,
            names=names,
            drop_roles=drop_roles,
            weights_only=weights_only,
            casts=casts,
            ema=ema,
            root=root,
            shard_size=shard_size,
            shards=shards,
            allow_missing=allow_missing,
            allow_unused=allow_unused,
            allow_renamed=allow_renamed,
        ),
        timeout_s,
    )
    with (
        operands_called(request.called),
        request.opened(_write_bundle) as conversion,
        tempfile.TemporaryDirectory(prefix="ckptkit-plan-") as scratch,
    ):
        return conversion.plan(Path(scratch))


def _write_bundle(source: Checkpoint, path: Path) -> object:
    return convert(source, path, to=TENSOR_BUNDLE)
