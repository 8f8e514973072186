"""Running models, whatever runs them: subjects, and what a child process answers about them.

    describe(subject, spec, limits)         what a model takes and gives
    execute(subject, spec, cases, limits)   its outputs for named arrays
    restore(subject, spec, limits, out)     what becomes of every variable when it is restored
    probe()                                 the runtimes and devices that are here

All of it happens in a fresh child process each time.  Arrays go there and come back as files
(`ckptkit.model_io.array_files`), all else as JSON; nothing here knows TensorFlow.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UsageError
from ckptkit.model_io.signature import ModelSignature
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.process import run
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays

KINDS = ("saved_model", "keras", "code", "tflite", "onnx")
PROBE_TIMEOUT_S = 120.0
_HIDE_GPUS = {"CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class ModelSpec:
    """A model to be run.

    kind: one of KINDS; "code" is a callable that builds a model, and a file of weights for it.
    path: of the model, or of the weights; None runs code with the values that it builds.
    model: `package.module:callable[?json]` or `file.py:callable[?json]`, for code.
    text: how the user called it.
    """

    kind: str
    path: Path | None
    model: str | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.text or str(self.path or self.model)


@dataclass(frozen=True)
class Limits:
    """Of one child: seconds of wall-clock time, bytes of resident memory (None: no limit)."""

    timeout_s: float = 600.0
    max_rss_bytes: int | None = None


@dataclass(frozen=True)
class Description:
    """What a model takes and gives.

    signatures: by key; that of a Keras model, and of what is called, is "call".  `outputs` is
    empty where they are not known before the model runs.
    environment: what ran it: see `environment` in docs/check.md.
    words: some of the vocabulary, for string inputs.  int_high: integers below it are safe as
    inputs; None where nothing says so.  optional: {signature: names of inputs that may be left out}
    """

    signatures: Mapping[str, ModelSignature]
    environment: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[bytes, ...] = ()
    int_high: int | None = None
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def default(self) -> str | None:
        """The signature that is meant where none is named; None where that is open."""
        names = list(self.signatures)
        for name in ("serving_default", "call"):
            if name in names:
                return name
        return names[0] if len(names) == 1 else None


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did; `path` is a bundle of every variable afterwards.

    path: None where it could not be written.  Its root has the children that the file was restored
    into, and `weights`, below which every weight of the model lies by its path.  Variables that
    were not restored hold their mark (`ckptkit.runners.marks`).
    error, error_kind: what the restore raised, and its class; "" where it raised nothing.
    unrestored: paths of variables that hold their mark.  unmarked: paths of those whose dtype has
    none.  optimizer: whether the model has one.  root_children: names that were restored into.
    verdicts: {name of one of the runtime's own assertions: "" or what it raised}.
    """

    path: Path | None
    error: str = ""
    error_kind: str = ""
    unrestored: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    optimizer: bool = False
    root_children: tuple[str, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExecutionResult:
    """What one model gave for every case.

    outputs: per case {name: array}; layers: per case {name: array} in the order of computation,
    read from disk when asked for.  devices: {device: {"ops": n, "heavy": n}}, counted over the
    kernels that were given to it for the first case; heavy ones multiply matrices or convolve.
    seconds: per case.  exposed_apart: per case, how far the outputs were from these when layers
    were looked at, as the tolerance that it needs; 0 to the bit, None where they were not.
    skipped: why nothing was run ("" where it was): variables of the model that got no value.
    """

    outputs: tuple[Arrays, ...]
    signature: str
    description: Description
    layers: tuple[Arrays, ...] = ()
    devices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    intermediates_gap: tuple[float | None, ...] = ()
    restored: RestoreResult | None = None
    skipped: str = ""

    @property
    def environment(self) -> Mapping[str, Any]:
        return self.description.environment


@dataclass(frozen=True)
class DeviceProbe:
    """One device of one runtime; device is "" where the runtime is not here, `why_not` says why."""

    runtime: str
    device: str
    name: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    why_not: str = ""


def describe(
    subject: ModelSpec,
    spec: RunnerSpec,
    limits: Limits,
    *,
    options: Mapping[str, Any] | None = None,
) -> Description:
    """Return what a model takes and gives; values of a checkpoint are not restored for it.

    options: see `execute`.  Raises RunnerError, UsageError.
    """
    asked = request(subject, spec, "describe", options)
    return _description(answer(asked, spec, limits))


def execute(
    subject: ModelSpec,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    limits: Limits,
    *,
    signature: str | None = None,
    layers: bool | Sequence[str] = False,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
) -> ExecutionResult:
    """Run a model on each case, {name of an input: array}; strings are object arrays of bytes.

    A case {"": array} gives the model's only input.  signature: see `Description.default`.
    layers: whether values inside of the model come back too; globs name the wanted ones.
    options: `imports`, modules or files to import before a model is loaded (they register custom
    classes).  out: for code, where the bundle of `RestoreResult.path` is written.
    Raises RunnerError (its `kind` says what happened: see there), UsageError.
    """
    from ckptkit.model_io.array_files import save_arrays

    asked = request(subject, spec, "execute", options)
    scratch = Path(tempfile.mkdtemp(prefix="ckptkit-arrays-"))
    try:
        files = []
        for number, case in enumerate(cases):
            file = scratch / f"case{number}.inputs.npz"
            files.append({"file": str(file), "described": save_arrays(file, dict(case))})
        asked |= {
            "cases": files,
            "signature": signature,
            "layers": ["*"] if layers is True else list(layers or ()),
            "scratch": str(scratch),
            "out": str(out) if out is not None else None,
        }
        result = answer(asked, spec, limits)
        done = result["cases"]
        return ExecutionResult(
            tuple(_loaded(case) for case in done),
            result["signature"] or "",
            _description(result),
            _kept_layers(scratch, [case["layers"] for case in done]) if layers else (),
            result["devices"],
            tuple(case["seconds"] for case in done),
            tuple(case["intermediates_gap"] for case in done),
            _restored(result["restored"]),
            result["skipped"],
        )
    finally:
        if not layers or "result" not in locals():
            shutil.rmtree(scratch, ignore_errors=True)


def restore(
    subject: ModelSpec,
    spec: RunnerSpec,
    limits: Limits,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
) -> RestoreResult:
    """Build the model of a "code" subject, restore `subject.path` into it, and write it to `out`.

    What the restore raises is in the result.  Raises RunnerError where the model cannot be built.
    """
    if subject.kind != "code" or subject.path is None:
        raise UsageError("only a checkpoint with code to restore it into can be restored")
    asked = request(subject, spec, "restore", options) | {"out": str(out)}
    found = _restored(answer(asked, spec, limits)["restored"])
    assert found is not None
    return found


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> tuple[DeviceProbe, ...]:
    """Return the devices of every runtime that is known, those that are not here too."""
    return tuple(row for name in RUNNERS for row in _probe(name, timeout_s))


def _probe(name: str, timeout_s: float) -> Iterator[DeviceProbe]:
    try:
        environment = RUNNERS[name].environment
        found = run(name, {"action": "probe"}, timeout_s=timeout_s, environment=environment)
    except RunnerError as error:
        yield DeviceProbe(name, "", why_not=str(error))
        return
    for row in found["devices"]:
        yield DeviceProbe(name, row["device"], row["name"], found["versions"])


def request(
    subject: ModelSpec, spec: RunnerSpec, action: str, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what to ask a child; raises UsageError where the runtime does not take the subject."""
    taken = RUNNERS[spec.runtime].subjects
    if subject.kind not in taken:
        able = [name for name, row in RUNNERS.items() if subject.kind in row.subjects]
        hint = f"runtimes that do: {', '.join(able)}" if able else "none does here"
        raise UsageError(f"{spec.runtime} does not run {subject} ({subject.kind})", hint=hint)
    return {
        "action": action,
        "subject": {**asdict(subject), "path": str(subject.path) if subject.path else None},
        "spec": asdict(spec),
        "options": dict(options or {}),
    }


def answer(asked: Mapping[str, Any], spec: RunnerSpec, limits: Limits) -> dict[str, Any]:
    """Return what the child answers to `request`; raises RunnerError."""
    environment = dict(RUNNERS[spec.runtime].environment)
    if spec.device == "CPU":
        environment |= _HIDE_GPUS
    return run(
        spec.runtime,
        asked,
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
    )


def _restored(found: Mapping[str, Any] | None) -> RestoreResult | None:
    if found is None:
        return None
    lists = ("unrestored", "unmarked", "root_children")
    plain = {**found, **{name: tuple(found[name]) for name in lists}}
    plain["path"] = Path(found["path"]) if found["path"] else None
    return RestoreResult(**plain)


def _loaded(written: Mapping[str, Any]) -> Arrays:
    """Return the arrays of a file that the child wrote, in its order."""
    from ckptkit.model_io.array_files import load_arrays

    arrays = load_arrays(Path(written["file"]), written["described"])
    return {name: arrays[name] for name in written["names"]}


class ChunkedArrays(Mapping[str, "Array"]):
    """Arrays in several files; one is read when an array of it is asked for, the last is kept."""

    def __init__(self, chunks: Sequence[Mapping[str, Any]]) -> None:
        self.chunks = chunks
        self._places = {
            name: number for number, chunk in enumerate(chunks) for name in chunk["names"]
        }
        self._last: tuple[int, Arrays] = (-1, {})

    def __getitem__(self, name: str) -> Array:
        number = self._places[name]
        if self._last[0] != number:
            self._last = (number, _loaded(self.chunks[number]))
        return self._last[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _ScratchFolder:
    """A directory that goes away with the last of those that hold it."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


def _kept_layers(scratch: Path, cases: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Arrays, ...]:
    holder = _ScratchFolder(scratch)
    layers = [ChunkedArrays(chunks) for chunks in cases]
    for each in layers:
        each.scratch = holder  # type: ignore[attr-defined]
    return tuple(layers)
