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

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.align.matching import Match, TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.compare.spans import extend_crc
from ckptkit.compare.tensors import Pair, compare_all
from ckptkit.dtypes import kind
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.output_comparison import CPU, outputs_of
from ckptkit.operations.convert.plan import TRAINING_ROLES, ConvertOptions, ModelBuild, Plan
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.proof import Proof, prove
from ckptkit.operations.convert.write import write
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import run
from ckptkit.stores.registry import KERAS, SAVED_MODEL, format_of
from ckptkit.text import lazy_pattern
from ckptkit.wording import say

# How the child, or Keras itself, says that a class is not known.
_UNKNOWN_CLASS = lazy_pattern(
    r"class '(\w+)' is not known|(?:locate class|[Uu]nknown (?:layer|object)):? '?(\w+)"
)


class ModelToBuild(NamedTuple):
    """What is to be built, and for how long that may take.

    spec: code, or a `.keras` file.  like: that file, where it was given as LIKE.
    timeout_s: for each run of the child.
    """

    spec: str
    like: Checkpoint | None
    timeout_s: float


def plan_model(
    sources: Sequence[Checkpoint],
    model: ModelToBuild,
    target: Target,
    options: ConvertOptions,
    scratch: Path,
) -> Plan:
    """Build the model once, and return the plan of a conversion into its structure.

    Args:
        sources: the checkpoints of SRC.
        model: what is built.
        target: what is written in the end.
        options: how to convert.
        scratch: a directory for the structure; it must outlive the plan.

    Raises:
        RunnerError: the model could not be built.
        UsageError: as `make_plan`.
    """
    spec, like, timeout_s = model
    is_keras = format_of(sources[-1].store.format).structure == KERAS
    by_keras = is_keras and sources[-1].subtree is None
    out = scratch / ("structure.weights.h5" if by_keras else "structure")
    request = {"action": "skeleton", "model": spec, "out": str(out)}
    result = _run(request, timeout_s, sources[-1] if like is None else like)
    build = ModelBuild(spec, open_checkpoint(out), scratch, timeout_s, result["versions"])
    # The vocabularies of the output are those of the archive that the model is built from.
    source_is_model = like is None and spec == str(sources[-1].path)
    asset_model = sources[-1] if source_is_model else like
    # What Keras exports for serving holds no optimizer, so nothing of SRC may rest on one.
    drop_roles = (
        frozenset(TRAINING_ROLES) if target.format.structure == SAVED_MODEL else frozenset()
    )
    structure_plan = make_plan(
        sources,
        build.structure,
        Target(format_of(build.structure.store.format), build.filled),
        replace(options, root=None),
        template_drop_roles=drop_roles,
        same_keys=by_keras,
        asset_model=asset_model,
        template_name="" if like is not None else "the model",
    )
    return replace(structure_plan, target=target, options=options, build=build, like=like)


def _run(request: Mapping[str, object], timeout_s: float, archive: Checkpoint) -> dict[str, Any]:
    """Run the child; where Keras lacks a class of the archive, say so in a line."""
    try:
        return run("tensorflow", request, timeout_s=timeout_s, environment=CPU)
    except RunnerError as error:
        message = str(error)
        unknown = _UNKNOWN_CLASS.search(message)
        flagged = archive.store.model.layers if archive.store.model is not None else ()
        custom = [layer.class_name for layer in flagged if layer.flag == "custom"]
        if unknown is None and not ("deserialized" in message and custom):
            raise
        # All custom classes of the archive where it lists them, else the one that Keras names.
        if not custom and unknown is not None:
            custom = [next(filter(None, unknown.groups()))]
        names = ", ".join(dict.fromkeys(custom))
        raise RunnerError(
            f"the archive holds custom classes, whose code it does not hold: {names}",
            kind=error.kind,
            where=str(archive.path),
            hint=say("‹model=package.module:function› builds the model with your code"),
        ) from error


class ModelExport(NamedTuple):
    """What the second run gave: its result, and the plan of the structure that was filled."""

    plan: Plan
    result: Mapping[str, object]


def export(plan: Plan, path: Path, *, compare: bool) -> ModelExport:
    """Fill the structure, and let the child export the model to `path`.

    Args:
        plan: of `plan_model`.
        path: where the model is written.
        compare: whether the child also compares the outputs of the two models.

    Raises:
        RunnerError: the model could not be restored or exported.
        OutputError, FormatError and others: as writing, and reading SRC, raise them.
    """
    build = plan.build
    assert isinstance(build, ModelBuild)
    filled = Target(format_of(build.structure.store.format), build.filled)
    filling_plan = replace(plan, target=filled, build=None)
    write(filling_plan, build.filled)
    request = {
        "action": "export",
        "model": build.spec,
        "filled": str(build.filled),
        "format": plan.target.format.name,
        "out": str(path),
        "root": plan.options.root,
        "compare": compare,
    }
    result = _run(request, build.timeout_s, plan.like or plan.source)
    return ModelExport(filling_plan, result)


def prove_model(model_export: ModelExport, path: Path, executor: Executor | None) -> Proof:
    """Prove SRC against the structure that was filled, and that against the output.

    Args:
        model_export: of `export`.
        path: the model that was written.
        executor: where values are compared; None does it here.
    """
    filled_path = model_export.plan.target.path
    proof = prove(model_export.plan, filled_path, executor)
    failures = list(proof.failures)
    if proof.ok:
        not_from_source = {
            tensor.key for tensor in model_export.plan.tensors if tensor.source is None
        }
        filled = open_checkpoint(filled_path)
        failures += _lost_tensors(filled, not_from_source, path, executor)
    outputs = outputs_of(model_export.result)
    if outputs is not None:
        failures += outputs.failures
    return replace(proof, failures=tuple(failures), outputs=outputs)


def _lost_tensors(
    filled: Checkpoint, not_from_source: set[str], path: Path, executor: Executor | None
) -> list[str]:
    """Return the tensors of SRC that the output does not hold, bit for bit, a sentence each.

    Tensors are paired by what the files say of themselves; what that leaves open is settled by
    content, since an export may call everything anew.
    """
    output = open_checkpoint(path)
    filled_set, output_set = _readable_tensors(filled), _readable_tensors(output)
    matches = _matches_of_one_type(filled_set, output_set)
    compared = compare_all(
        [Pair(filled.store, m.old, output.store, m.new, bitwise=True) for m in matches], executor
    )
    equal = {m.old for m, done in zip(matches, compared, strict=True) if done.delta.equal}
    taken = {m.new for m in matches if m.old in equal}
    # Tensors of the output that no name has given to one of SRC, by their content.
    by_content: dict[tuple[object, ...], list[str]] = {}
    for key in output_set.keys:
        if key not in taken:
            by_content.setdefault(_content(output, key), []).append(key)
    failures = []
    for key in filled_set.keys:
        naming = filled.names[key]
        if key in equal or key in not_from_source or naming.role == "counter":
            continue
        candidates = by_content.get(_content(filled, key))
        if candidates:
            candidates.pop()
        elif naming.role == "weight" or any(n.role == naming.role for n in output.names.values()):
            failures.append(f"{naming.name} did not arrive: no tensor of the output has its values")
    return failures


def _matches_of_one_type(old: TensorSet, new: TensorSet) -> list[Match]:
    """Return the pairs that have one dtype and shape."""
    alignment = align(old, new)
    return [
        match
        for match in (*alignment.pairs, *alignment.renamed)
        if old.specs[match.old].shape == new.specs[match.new].shape
        and old.specs[match.old].dtype == new.specs[match.new].dtype
    ]


def _readable_tensors(checkpoint: Checkpoint) -> TensorSet:
    """Return all tensors but those whose values only TensorFlow reads."""
    keys = [key for key, spec in checkpoint.specs.items() if kind(spec.dtype) != "opaque"]
    return TensorSet(
        {k: checkpoint.specs[k] for k in keys},
        {k: checkpoint.names[k] for k in keys},
        structure=checkpoint.structure,
    )


def _content(checkpoint: Checkpoint, key: str) -> tuple[object, ...]:
    """Return what equal tensors share: dtype, shape and the crc32c of the values."""
    spec = checkpoint.specs[key]
    crc = 0
    for _, values in checkpoint.store.blocks(key):
        crc = extend_crc(crc, values)
    return spec.dtype, spec.shape, crc
