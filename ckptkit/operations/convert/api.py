"""`convert`: from form to form, each conversion proven.

Values come from SRC, streamed; the structure (keys, shapes, dtypes, and a graph where the form has
one) from LIKE, from SRC itself, or from a model built in a child process.  What does not fit is
refused by name before anything is written.  The output lies beside DST until it is proven.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.digest import tensor_sha256, weights_digest
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.convert import receipt as _receipt
from ckptkit.operations.convert import write as _write
from ckptkit.operations.convert.destination import (
    FORMS,
    Target,
    model_of,
    refuse_existing,
    target_of,
)
from ckptkit.operations.convert.output_comparison import compare_files
from ckptkit.operations.convert.plan import TRAINING_ROLES, MismatchError, Plan, Problem, Request
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.proof import Proof, prove
from ckptkit.operations.convert.receipt import Receipt, write_inverse
from ckptkit.operations.convert.value_stores import Cast, parse_cast, parse_size
from ckptkit.operations.input_files import files_read, refuse_inputs

__all__ = [
    "FORMS",
    "MismatchError",
    "Plan",
    "Problem",
    "Receipt",
    "convert",
    "plan",
    "write_inverse",
]

Source = str | os.PathLike[str] | Checkpoint
TIMEOUT_S = 600.0  # for each run of a model: building and tracing a large one takes minutes


def convert(
    src: Source | Sequence[Source],
    dst: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    check: bool = True,
    receipt: str | os.PathLike[str] | None = None,
    inverse: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float = TIMEOUT_S,
    digests: bool = False,
    **options: Any,
) -> Receipt:
    """Write SRC in another form at DST, and prove it.

    src: a checkpoint or model file; several checkpoints give their average (weights and averages of
    weights in float64, everything else from the last).
    options: see `plan`.  overwrite: replace what is at DST, SRC included.  check: prove the output
    by reading it again and comparing it bit for bit with the source, and, where both sides run and
    TensorFlow is installed, by what they compute.  receipt: a JSON file to write, with the sha256
    of every tensor.  inverse: a file to write the map into that leads back to SRC.
    executor: where the comparison is done, by default here.  progress: called with (bytes proven,
    bytes in all).  timeout_s: for each run of a model.  digests: the result has the sha256 of every
    tensor and the digests of the sources, as with `receipt`.

    Returns a Receipt; when its `ok` is False the proof failed, DST is as it was, and the output is
    at DST.rejected.  Raises MismatchError when SRC and LIKE do not fit (`.problems` says how),
    UsageError, OutputError, and what reading the files raises.
    """
    _check_options("convert", options)
    asked = _Asked(src, dst, timeout_s=timeout_s, **options)
    target = asked.target
    refuse_existing(target, overwrite)
    for beside in (receipt, inverse):
        if beside is not None:
            refuse_existing(Target("receipt", Path(beside)), overwrite)
    if receipt is not None or inverse is not None:
        refuse_inputs([receipt, inverse], (), asked.files())
    with _write.staging(target) as scratch, _write.staging(target) as staged:
        planned = asked.plan(scratch.directory)
        planned.check()
        proof = _produce(planned, staged.path, check, timeout_s, executor, progress)
        done = _describe(planned, staged.path, proof, with_digests=digests or receipt is not None)
        if done.ok:
            files = _write.commit(staged, target, overwrite=overwrite)
            done = replace(done, path=target.path, files=files)
        else:
            done = replace(done, path=_write.reject(staged, target))
    if receipt is not None:
        _receipt.write_receipt(done, Path(receipt), overwrite=overwrite)
    if inverse is not None and done.ok:
        write_inverse(planned, Path(inverse), overwrite=overwrite)
    return done


def _produce(
    planned: Plan,
    path: Path,
    check: bool,
    timeout_s: float,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
) -> Proof | None:
    """Write the output at `path` and prove it."""
    if planned.build is not None:
        from ckptkit.operations.convert import built_model as _model

        exported = _model.export(planned, path, compare=check)
        return _model.prove_model(exported, path, executor) if check else None
    _write.write(planned, path)
    if not check:
        return None
    proof = prove(planned, path, executor, _Progress(progress, planned.nbytes))
    outputs = compare_files(planned, path, timeout_s) if proof.ok else None
    failures = (*proof.failures, *(outputs.failures if outputs is not None else ()))
    return replace(proof, failures=failures, outputs=outputs)


def plan(src: Source | Sequence[Source], dst: str | os.PathLike[str], **options: Any) -> Plan:
    """Return what `convert` would do; nothing is written, but a model may be built.

    options: of `convert`, and

    to: one of FORMS, where DST's name does not say it.  like: a file whose structure the output
    takes.  model: `package.module:callable[?json]` or `file.py:callable`, built in a child process.
    root: child of a new root that SRC's object graph goes under ("" keeps the root of a
    SavedModel).  rules: `RE=>REPL` from names of SRC to names of LIKE, or `RE=>REPL | STEP | STEP`
    with transforms (`ckptkit.align.transforms`) of what they rename.  names: globs of what to
    take, "!GLOB" leaves out.  drop_roles: roles to leave behind; weights_only: all of training.
    casts: `OLD=NEW` dtypes.  ema: the averaged variables in place of the weights.  shard_size:
    bytes per data file.  allow_missing, allow_unused, allow_renamed: globs that each relax one
    rule; one that relaxes nothing is an error.
    """
    _check_options("plan", options)
    with tempfile.TemporaryDirectory(prefix="ckptkit-plan-") as scratch:
        return _Asked(src, dst, **options).plan(Path(scratch))


class _Asked:
    """The arguments of `convert`, files opened and texts parsed."""

    def __init__(
        self,
        src: Source | Sequence[Source],
        dst: str | os.PathLike[str],
        *,
        to: str | None = None,
        like: Source | None = None,
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
    ) -> None:
        self.sources = [_open(source) for source in _several(src)]
        self.like = _open(like) if like is not None else None
        if like is not None and model is not None:
            raise UsageError("--like and --model exclude each other")
        self.target = target_of(dst, to, self.like.store if self.like is not None else None)
        self.model = model_of(self.sources[-1], self.like, model, self.target)
        self.timeout_s = timeout_s
        training = frozenset(TRAINING_ROLES) if weights_only else frozenset[str]()
        self.request = Request(
            tuple(
                parse_rule(rule, transforms=True) if isinstance(rule, str) else rule
                for rule in rules
            ),
            tuple(names),
            frozenset(drop_roles) | training,
            tuple(parse_cast(item) if isinstance(item, str) else item for item in casts),
            ema,
            root,
            parse_size(shard_size) if isinstance(shard_size, str) else shard_size,
            tuple(allow_missing),
            tuple(allow_unused),
            tuple(allow_renamed),
        )
        shards = ("checkpoint", "safetensors") if self.model is None else ()
        if self.request.shard_size is not None:
            if self.target.form not in shards:
                raise UsageError(f"--shard-size: this {self.target.form} is not cut into shards")
            self.target = self.target.as_set()

    def files(self) -> list[Path]:
        """Return the files of the sources and of LIKE, and those that lie at the target."""
        read = self.sources if self.like is None else [*self.sources, self.like]
        found = [file for one in read for file in files_read(one.store.format, one.store.path)]
        found += [shard for one in read for shard in one.store.shards]
        return [*found, self.target.path, self.target.index_file, *self.target.existing()]

    def plan(self, scratch: Path) -> Plan:
        """Return the plan; scratch: a directory for the structure of a model that is built."""
        if self.model is None:
            return make_plan(self.sources, self.like, self.target, self.request)
        from ckptkit.operations.convert import built_model as _model

        model = _model.Model(self.model, self.like, self.timeout_s)
        return _model.plan_model(self.sources, model, self.target, self.request, scratch)


def _check_options(function: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that no option has, as Python does for its own."""
    known = _Asked.__init__.__kwdefaults__ or {}
    for name in options:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, 1)
            instead = f" (did you mean {close[0]!r}?)" if close else f": it has {', '.join(known)}"
            raise TypeError(f"{function}() has no keyword argument {name!r}{instead}")


def _several(src: Source | Sequence[Source]) -> Sequence[Source]:
    if isinstance(src, (str, os.PathLike, Checkpoint)):
        return [src]
    if not src:
        raise UsageError("no source")
    return src


def _open(source: Source) -> Checkpoint:
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    problems = checkpoint.problems()
    if problems:
        raise problems[0]
    return checkpoint


class _Progress:
    """Adds up the bytes that were proven."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def __call__(self, nbytes: int) -> None:
        self.done += nbytes
        if self.report is not None:
            self.report(min(self.done, self.total), self.total)


def _versions(planned: Plan, proof: Proof | None) -> dict[str, str]:
    """Return the versions of all that took part, the child's among them."""
    found = _receipt.versions()
    if planned.build is not None:
        found.update(planned.build.versions)
    if proof is not None and proof.outputs is not None:
        found.update(proof.outputs.versions or {})
    return found


def _describe(planned: Plan, path: Path, proof: Proof | None, *, with_digests: bool) -> Receipt:
    """Return the receipt of the output at `path`, while SRC is still what it was."""
    done = Receipt(planned, path, (), proof, versions=_versions(planned, proof))
    if not done.ok or not (with_digests or planned.target.form == "saved_model"):
        return done
    output = open_checkpoint(path)
    models = planned.source.store.model, output.store.model
    done = replace(done, signatures=tuple(_receipt.signature_changes(*models)))
    if not with_digests:
        return done
    keys = output.specs.keys() & {fill.key for fill in planned.fills}
    return replace(
        done,
        sha256={key: tensor_sha256(output, key) for key in sorted(keys)},
        digests=[weights_digest(item, Selection().of(item)) for item in planned.sources],
    )
