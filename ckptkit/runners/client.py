"""What the parent may ask about a model, whatever runs it, and the answers.

    describe(model, spec, limits)         what a model takes and gives
    execute(model, spec, cases, limits)   its outputs for named arrays
    restore(model, spec, limits, out)     what becomes of every variable when it is restored
    resume(model, spec, limits, out, ...) what a training run becomes that goes on from a checkpoint
    probe()                               the runtimes and devices that are here

All of it happens in a child process of its own each time.  Arrays go there and come back as files
(`ckptkit.model_io.array_files`), all else as JSON; nothing here knows TensorFlow.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.model_io.signature import ModelSignature
from ckptkit.model_io.tf_examples import features_of
from ckptkit.runners.chunks import chunked_layers, load_written, save_cases
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import bounded, run
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import (
    Description,
    DeviceProbe,
    ExecutionResult,
    Limits,
    ModelSpec,
    RestoreResult,
    ResumeResult,
)

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

PROBE_TIMEOUT_S = 120.0
_HIDE_GPUS = {"CUDA_VISIBLE_DEVICES": "-1"}
# cuBLAS and cuDNN then round nothing to TF32, whatever asks them to; a runtime's own switch does
# not reach each of its kernels
_NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}


def describe(
    model: ModelSpec,
    spec: RunnerSpec,
    limits: Limits,
    *,
    options: Mapping[str, Any] | None = None,
) -> Description:
    """Return what a model takes and gives; values of a checkpoint are not restored for it.

    options: see `execute`.  Raises RunnerError, UsageError.
    """
    request = build_request(model, spec, "describe", options)
    return _description(send(request, spec, limits))


def execute(
    model: ModelSpec,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    limits: Limits,
    *,
    signature: str | None = None,
    layers: bool | Sequence[str] = False,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> ExecutionResult:
    """Run a model on each case.

    Args:
        cases: {name of an input: array} each, strings as object arrays of bytes; {"": array} gives
            the model's only input.
        signature: which to call; None means `Description.default`.
        layers: whether values inside of the model come back too; globs name the wanted ones.
        options: `imports`, modules or files to import before a model is loaded (they register
            custom classes).
        out: for code, where the bundle of `RestoreResult.path` is written.
    Raises:
        RunnerError: where it could not be run; its `kind` says what happened.
        UsageError: where the runtime does not run such a model.
    """
    request = build_request(model, spec, "execute", options)
    scratch = Path(tempfile.mkdtemp(prefix="ckptkit-arrays-"))
    try:
        request |= {
            "cases": save_cases(cases, scratch),
            "signature": signature,
            "layers": ["*"] if layers is True else list(layers or ()),
            "scratch": str(scratch),
            "out": str(out) if out is not None else None,
        }
        result = send(request, spec, limits)
        done = result["cases"]
        return ExecutionResult(
            tuple(load_written(case) for case in done),
            result["signature"] or "",
            _description(result),
            chunked_layers(scratch, [case["layers"] for case in done]) if layers else (),
            result["devices"],
            tuple(case["seconds"] for case in done),
            tuple(case["intermediates_gap"] for case in done),
            _restored(result["restored"]),
            result["skipped"],
        )
    finally:
        # layers are read from their files when they are asked for
        if not layers or "result" not in locals():
            shutil.rmtree(scratch, ignore_errors=True)


def restore(
    model: ModelSpec,
    spec: RunnerSpec,
    limits: Limits,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
) -> RestoreResult:
    """Build the model of kind "code", restore `model.path` into it, and write it to `out`.

    What the restore raises is in the result.  Raises RunnerError where the model cannot be built.
    """
    if model.kind != "code" or model.path is None:
        raise UsageError("only a checkpoint with code to restore it into can be restored")
    request = build_request(model, spec, "restore", options) | {"out": str(out)}
    found = _restored(send(request, spec, limits)["restored"])
    assert found is not None
    return found


def resume(
    model: ModelSpec,
    spec: RunnerSpec,
    limits: Limits,
    out: Path,
    *,
    steps: int,
    saves: Sequence[int],
    options: Mapping[str, Any] | None = None,
) -> ResumeResult:
    """Restore `model.path` into what the code of a training run builds, and train on.

    Args:
        model: of kind "code"; its path is the prefix of a TensorFlow checkpoint.
        out: an empty directory for what is saved.
        steps: how many to take.
        saves: after which of them to save, counted from 1.

    Raises:
        RunnerError: the code could not be run; its `kind` says what happened.
    """
    request = build_request(model, spec, "resume", options)
    request |= {"out": str(out), "steps": steps, "saves": list(saves)}
    found = send(request, spec, limits)
    names = {key: tuple(found[key]) for key in ("unsaved", "unsaved_metrics", "generators")}
    return ResumeResult(out, bounded(found["raised"]), environment=found["environment"], **names)


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> tuple[DeviceProbe, ...]:
    """Return the devices of every runtime that is known, those that are not here too."""
    return tuple(row for name in RUNNERS for row in _probe(name, timeout_s))


def _probe(name: str, timeout_s: float) -> Iterator[DeviceProbe]:
    try:
        environment = RUNNERS[name].environment
        found = run(name, {"action": "probe"}, timeout_s=timeout_s, environment=environment)
    except (RunnerError, UnsupportedError) as error:
        yield DeviceProbe(name, "", why_not=str(error))
        return
    for row in found["devices"]:
        yield DeviceProbe(name, row["device"], row["name"], found["versions"])


def build_request(
    model: ModelSpec, spec: RunnerSpec, action: str, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Build the request for a child; raises UsageError where the runtime does not run the model."""
    if model.kind not in RUNNERS[spec.runtime].model_kinds:
        able = RUNNERS.matching(lambda row: model.kind in row.model_kinds)
        hint = f"runtimes that do: {', '.join(able)}" if able else "none does here"
        raise UsageError(f"{spec.runtime} does not run {model} ({model.kind})", hint=hint)
    return {
        "action": action,
        "model_spec": {**asdict(model), "path": str(model.path) if model.path else None},
        "spec": asdict(spec),
        "options": dict(options or {}),
    }


def send(request: Mapping[str, Any], spec: RunnerSpec, limits: Limits) -> dict[str, Any]:
    """Start a child for the request and return its result; raises RunnerError."""
    environment = dict(RUNNERS[spec.runtime].environment)
    if spec.device == "CPU":
        environment |= _HIDE_GPUS
    elif not spec.tf32:
        environment |= _NO_TF32
    return run(
        spec.runtime,
        request,
        timeout_s=limits.timeout_s,
        max_rss_bytes=limits.max_rss_bytes,
        environment=environment,
    )


def _description(result: Mapping[str, Any]) -> Description:
    found = result["description"]
    return Description(
        {key: ModelSignature.from_json(value, key) for key, value in found["signatures"].items()},
        result["environment"],
        tuple(bytes.fromhex(word) for word in found["words"]),
        found["int_high"],
        {key: tuple(names) for key, names in found["optional"].items()},
        {
            key: {name: features_of(rows) for name, rows in inputs.items()}
            for key, inputs in found["examples"].items()
        },
    )


def _restored(found: Mapping[str, Any] | None) -> RestoreResult | None:
    if found is None:
        return None
    lists = ("unrestored", "unmarked", "root_children")
    plain = {**found, **{name: tuple(found[name]) for name in lists}}
    plain["path"] = Path(found["path"]) if found["path"] else None
    plain["error"] = bounded(found["error"])
    plain["verdicts"] = {name: bounded(text) for name, text in found["verdicts"].items()}
    return RestoreResult(**plain)
