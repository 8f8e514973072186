"""Conversions that need a model to be built: a child process gives its structure, and exports it.

    1. the child builds the model and writes its structure, with the values that it was built with;
    2. SRC is converted into that structure here, under all the rules of `--like`;
    3. the child builds the model again, marks every variable, restores, looks for survivors of the
       marking, and exports.

The structure of 1 holds every weight under its path, those in Python lists too, which
tf.train.Checkpoint(model=...) alone would pass by.  SRC in Keras's own formats gets the structure
of a `.weights.h5` of the same model instead, whose keys are SRC's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.align.matching import TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.compare.spans import extend_crc
from ckptkit.compare.tensors import Pair, compare_all
from ckptkit.dtypes import kind
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.output_comparison import CPU, outputs_of
from ckptkit.operations.convert.plan import TRAINING_ROLES, Build, Plan, Request
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.proof import Proof, prove
from ckptkit.operations.convert.write import write
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import run

# How the child, or Keras itself, says that a class is not known.
_LACKING = re.compile(
    r"class '(\w+)' is not known|(?:locate class|[Uu]nknown (?:layer|object)):? '?(\w+)"
)
_KERAS = ("keras", "weights.h5", "weights.json")


class Model(NamedTuple):
    """What is to be built: code or a `.keras` file; like: that file, where it was given as LIKE."""

    spec: str
    like: Checkpoint | None
    timeout_s: float


def plan_model(
    sources: Sequence[Checkpoint], model: Model, target: Target, request: Request, scratch: Path
) -> Plan:
    """Build the model once and return the plan; raises RunnerError."""
    spec, like, timeout_s = model
    by_keras = sources[-1].store.format in _KERAS and sources[-1].subtree is None
    out = scratch / ("structure.weights.h5" if by_keras else "structure")
    asked = {"action": "skeleton", "model": spec, "out": str(out)}
    result = _run(asked, timeout_s, sources[-1] if like is None else like)
    build = Build(spec, open_checkpoint(out), scratch, timeout_s, result["versions"])
    is_own = like is None and spec == str(sources[-1].path)
    holder = sources[-1] if is_own else like
    # What Keras exports for serving holds no optimizer, so nothing of SRC may rest on one.
    serving = frozenset(TRAINING_ROLES) if target.form == "saved_model" else frozenset()
    inner = make_plan(
        sources,
        build.structure,
        Target("weights.h5" if by_keras else "checkpoint", build.filled),
        replace(request, root=None),
        like_drop=serving,
        same_keys=by_keras,
        holder=holder,
        structure="LIKE" if like is not None else "the model",
    )
    return replace(inner, target=target, request=request, build=build, like=like)


def _run(asked: Mapping[str, object], timeout_s: float, archive: Checkpoint) -> dict[str, Any]:
    """Run the child; where Keras lacks a class of the archive, say so in a line."""
    try:
        return run("tensorflow", asked, timeout_s=timeout_s, environment=CPU)
    except RunnerError as error:
        message = str(error)
        lacking = _LACKING.search(message)
        flagged = archive.store.model.layers if archive.store.model is not None else ()
        custom = [layer.class_name for layer in flagged if layer.flag == "custom"]
        if lacking is None and not ("deserialized" in message and custom):
            raise
        names = ", ".join(
            dict.fromkeys(custom or [next(filter(None, lacking.groups())) if lacking else ""])
        )
        raise RunnerError(
            f"the archive holds custom classes, whose code it does not hold: {names}",
            kind=error.kind,
            where=str(archive.path),
            hint="--model package.module:function builds the model with your code",
        ) from error


class Exported(NamedTuple):
    """What the second run gave."""

    plan: Plan  # of the structure that was filled
    result: Mapping[str, object]


def export(plan: Plan, path: Path, *, compare: bool) -> Exported:
    """Fill the structure, and let the child export the model to `path`; raises RunnerError."""
    build = plan.build
    assert isinstance(build, Build)
    form = "weights.h5" if build.filled.suffix == ".h5" else "checkpoint"
    inner = replace(plan, target=Target(form, build.filled), build=None)
    write(inner, build.filled)
    asked = {
        "action": "export",
        "model": build.spec,
        "filled": str(build.filled),
        "form": plan.target.form,
        "out": str(path),
        "root": plan.request.root,
        "compare": compare,
    }
    result = _run(asked, build.timeout_s, plan.like or plan.source)
    return Exported(inner, result)


def prove_model(exported: Exported, path: Path, executor: Executor | None) -> Proof:
    """Prove SRC against the structure that was filled, and that against the output."""
    proof = prove(exported.plan, exported.plan.target.path, executor)
    failures = list(proof.failures)
    if proof.ok:
        kept = {fill.key for fill in exported.plan.fills if fill.source is None}
        failures += _arrived(open_checkpoint(exported.plan.target.path), kept, path, executor)
    outputs = outputs_of(exported.result)
    if outputs is not None:
        failures += outputs.failures
    return replace(proof, failures=tuple(failures), outputs=outputs)


def _arrived(
    filled: Checkpoint, kept: set[str], path: Path, executor: Executor | None
) -> list[str]:
    """Return the tensors of SRC that the output does not hold, bit for bit.

    Tensors are paired by what the files say of themselves; what that leaves open is settled by
    content, since an export may call everything anew.
    """
    output = open_checkpoint(path)
    sides = [_numbers(filled), _numbers(output)]
    alignment = align(sides[0], sides[1])
    pairs = [
        match
        for match in (*alignment.pairs, *alignment.renamed)
        if sides[0].specs[match.old].shape == sides[1].specs[match.new].shape
        and sides[0].specs[match.old].dtype == sides[1].specs[match.new].dtype
    ]
    compared = compare_all(
        [Pair(filled.store, m.old, output.store, m.new, bitwise=True) for m in pairs], executor
    )
    equal = {m.old for m, done in zip(pairs, compared, strict=True) if done.delta.equal}
    taken = {m.new for m in pairs if m.old in equal}
    free: dict[tuple[object, ...], list[str]] = {}
    for key in sides[1].keys:
        if key not in taken:
            free.setdefault(_content(output, key), []).append(key)
    failures = []
    for key in sides[0].keys:
        naming = filled.names[key]
        if key in equal or key in kept or naming.role == "counter":
            continue
        found = free.get(_content(filled, key))
        if found:
            taken.add(found.pop())
        elif naming.role == "weight" or any(n.role == naming.role for n in output.names.values()):
            failures.append(f"{naming.name} did not arrive: no tensor of the output has its values")
    return failures


def _numbers(checkpoint: Checkpoint) -> TensorSet:
    keys = [key for key, spec in checkpoint.specs.items() if kind(spec.dtype) != "opaque"]
    return TensorSet({k: checkpoint.specs[k] for k in keys}, {k: checkpoint.names[k] for k in keys})


def _content(checkpoint: Checkpoint, key: str) -> tuple[object, ...]:
    spec = checkpoint.specs[key]
    crc = 0
    for _, values in checkpoint.store.blocks(key):
        crc = extend_crc(crc, values)
    return spec.dtype, spec.shape, crc
