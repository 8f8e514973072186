"""Carrying a conversion out: plan, write beside, prove, describe, and then take DST's place."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.progress import Progress, ProgressMeter, phase
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.digest import tensor_digests, weights_digest
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.convert import write as _write
from ckptkit.operations.convert.destination import (
    Target,
    refuse_existing,
    refuse_existing_file,
    refuse_nested,
)
from ckptkit.operations.convert.loading import load_output
from ckptkit.operations.convert.output_comparison import OutputComparison, compare_files
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.receipt import (
    Receipt,
    package_versions,
    signature_changes,
    write_inverse,
    write_receipt,
)
from ckptkit.operations.convert.request import Conversion
from ckptkit.operations.convert.second_look import DiskReading
from ckptkit.operations.input_files import refuse_inputs
from ckptkit.stores.registry import SAVED_MODEL
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.operations.convert.proof import Proof


@dataclass(frozen=True)
class OutputRequest:
    """What is done with the output, as in `convert`.

    receipt, inverse: files that are written beside it.
    Raises UsageError where the proof is left out and a part of it asked for.
    """

    overwrite: bool = False
    check: bool = True
    check_outputs: bool = False
    trust: bool = False
    receipt: Path | None = None
    inverse: Path | None = None
    digests: bool = False
    executor: Executor | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.check_outputs and not self.check:
            raise UsageError(say("‹check_outputs› is a part of the proof, which is left out"))


def carry_out(conversion: Conversion, asked: OutputRequest) -> Receipt:
    """Convert; the receipt says where the output lies: at DST, or at DST.rejected."""
    target = conversion.target
    _refuse_outputs(conversion, asked)
    with (
        _several_builds() if conversion.model is not None else nullcontext(),
        _write.claimed(target) as claim,
        _write.staging(target, claim) as scratch,
        _write.staging(target, claim) as staging_area,
        DiskReading() as disk,
    ):
        refuse_existing(target, asked.overwrite)  # another process may just have written it
        plan = conversion.plan(scratch.directory)
        plan.check()
        if asked.inverse is not None:
            plan.inverse_rules()  # where nothing leads back, that is said before the work
        result = _prepared(plan, staging_area, conversion.timeout_s, asked, disk)
        result = _in_its_place(result, target, staging_area, asked, disk)
    if asked.receipt is not None:
        write_receipt(result, asked.receipt, overwrite=asked.overwrite)
    if asked.inverse is not None and result.ok:
        write_inverse(plan, asked.inverse, overwrite=asked.overwrite)
    return result


def _several_builds() -> AbstractContextManager[None]:
    """Have the children that build a model share the import of TensorFlow."""
    from ckptkit.runners.fork_server import sharing_imports

    return sharing_imports()


def _refuse_outputs(conversion: Conversion, asked: OutputRequest) -> None:
    """Raise OutputError where an output would take the place of a file, unasked."""
    target = conversion.target
    refuse_nested(target, [s.store.path for s in conversion.sources], conversion.like_path)
    refuse_existing(target, asked.overwrite)
    beside = [path for path in (asked.receipt, asked.inverse) if path is not None]
    for path in beside:
        refuse_existing_file(path, asked.overwrite)
    if beside:
        refuse_inputs(beside, (), conversion.files())


def _prepared(
    plan: Plan,
    area: _write.StagingArea,
    timeout_s: float,
    asked: OutputRequest,
    disk: DiskReading,
) -> Receipt:
    """Write the output, prove it, and describe it while SRC is still what it was."""
    path = area.path
    proof = _produced(plan, area, timeout_s, asked, disk)
    with_digests = asked.digests or asked.receipt is not None
    executor = asked.executor
    result = _described(plan, path, proof, with_digests=with_digests, executor=executor)
    if proof is not None and result.ok:
        return replace(result, loaded=load_output(plan, path, proof, timeout_s))
    return result


def _in_its_place(
    result: Receipt,
    target: Target,
    staging_area: _write.StagingArea,
    asked: OutputRequest,
    disk: DiskReading,
) -> Receipt:
    """Let what is proven take the place of DST, and nothing else."""
    if not result.ok:
        return replace(result, path=_write.reject(staging_area, target))
    files = _write.commit(
        staging_area,
        target,
        overwrite=asked.overwrite,
        disk=disk if result.proof is not None else None,
        executor=asked.executor,
    )
    return replace(result, path=target.path, files=files)


def _produced(
    plan: Plan,
    area: _write.StagingArea,
    timeout_s: float,
    asked: OutputRequest,
    disk: DiskReading,
) -> Proof | None:
    """Write the output and prove it, as it is read from the disk; None where that is left out."""
    path = area.path
    if plan.build is not None:
        from ckptkit.operations.convert.built_model import export, prove_model

        model_export = export(plan, path, compare=asked.check)
        if not asked.check:
            return None
        disk.start(_write.files_of(area, plan.target))
        proof = prove_model(model_export, path, asked.executor)
        looks_further = asked.check_outputs
    else:
        following = disk.following() if asked.check else nullcontext()
        with phase("written", plan.nbytes), following:
            _write.write(plan, path, asked.executor)
        if not asked.check:
            return None
        disk.start(_write.files_of(area, plan.target))
        # here, since there is time for it while the disk is read
        from ckptkit.operations.convert.proof import prove

        meter = ProgressMeter(asked.progress, "proven", plan.nbytes)
        proof = prove(plan, path, asked.executor, meter)
        looks_further = True
    if not looks_further or not proof.ok:
        return proof
    outputs = compare_files(plan, path, timeout_s, is_wanted=asked.check_outputs, trust=asked.trust)
    return _with_outputs(proof, outputs)


def _with_outputs(proof: Proof, outputs: OutputComparison | None) -> Proof:
    failures = (*proof.failures, *(outputs.failures if outputs is not None else ()))
    return replace(proof, failures=failures, outputs=outputs)


def _described(
    plan: Plan,
    path: Path,
    proof: Proof | None,
    *,
    with_digests: bool,
    executor: Executor | None,
) -> Receipt:
    """Return the receipt of the output at `path`, while SRC is still what it was."""
    receipt = Receipt(plan, path, (), proof, versions=_versions(plan, proof))
    if not receipt.ok or not (with_digests or plan.target.format.structure == SAVED_MODEL):
        return receipt
    output = open_checkpoint(path)
    source_model, chosen = plan.source.store.model, plan.options.chosen
    if chosen is not None and source_model is not None and len(source_model.tags) > 1:
        of_graph = tuple(s for s in source_model.signatures if {*s.tags} == {*chosen.tags})
        source_model = source_model._replace(signatures=of_graph)
    changes = signature_changes(source_model, output.store.model)
    receipt = replace(receipt, signatures=tuple(changes))
    if not with_digests:
        return receipt
    keys = sorted(output.specs.keys() & {tensor.key for tensor in plan.tensors})
    with phase("digest", 2 * plan.nbytes):
        return replace(
            receipt,
            sha256=dict(zip(keys, tensor_digests(output, keys, executor), strict=True)),
            digests=[weights_digest(item, Selection().of(item), executor) for item in plan.sources],
        )


def _versions(plan: Plan, proof: Proof | None) -> dict[str, str]:
    """Return the versions of all that took part, the child's among them."""
    versions = package_versions()
    if plan.build is not None:
        versions.update(plan.build.versions)
    if proof is not None and proof.outputs is not None:
        versions.update(proof.outputs.versions or {})
    return versions
