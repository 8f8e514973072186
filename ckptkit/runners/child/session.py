"""The child's side of `ckptkit.runners.client`, the same for every runtime.

A runtime gives a `Session`, a model made ready to run, and a `probe`; `actions` makes of them what
`ckptkit.runners.child.__main__` calls.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ckptkit.dtypes import dtype_of_numpy
from ckptkit.model_io.array_files import as_array, load_arrays, save_arrays
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


CHUNK_BYTES = 128 << 20  # of values inside of a model that are held at a time
MAX_GAP = 1e30
MAX_WORDS = 1000
MAX_WORD_BYTES = 200

Request = Mapping[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """What a session knows of its model: see `ckptkit.runners.types.Description`."""

    signatures: Mapping[str, ModelSignature]
    words: Sequence[bytes] = ()
    int_high: int | None = None
    optional: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Intermediates(NamedTuple):
    """Some values inside of a model, and its outputs as computed together with them."""

    layers: Arrays
    outputs: Arrays


class Session(Protocol):
    """A model that is ready to run."""

    @property
    def restored(self) -> Mapping[str, Any] | None:
        """The fields of RestoreRun, where values were restored."""

    @property
    def skipped(self) -> str:
        """Why it must not run; "" where it may."""

    def describe(self) -> ModelFacts:
        """Return what the model takes and gives."""

    def infer_signature(self, inputs: Arrays) -> str:
        """Return the signature to call with these where the model itself tells none."""

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs, by name."""

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        """Yield values inside of the model whose names fit, in the order of computation."""

    def devices(self) -> dict[str, dict[str, int]]:
        """Return {device: {"ops": n, "heavy": n}} of the kernels of the first call."""

    def environment(self) -> dict[str, Any]:
        """Return what ran it, as plain values."""


Open = Callable[[Request, RunnerSpec], Session]


def actions(
    start: Open, probe: Callable[[Request], Result]
) -> dict[str, Callable[[Request], Result]]:
    """Return the ACTIONS of a runtime; start: what makes a session of a request."""

    def describe(request: Request) -> Result:
        session = start(request, spec_of(request))
        return {"description": _described(session.describe()), "environment": _environment(session)}

    def execute(request: Request) -> Result:
        return _executed(request, start(request, spec_of(request)))

    return {"describe": describe, "execute": execute, "probe": probe}


def spec_of(request: Request) -> RunnerSpec:
    """Return the spec of a request."""
    return RunnerSpec(**request["spec"])


def _environment(session: Session) -> dict[str, Any]:
    return {**machine(), **session.environment()}


def machine() -> dict[str, Any]:
    """Return what every runtime's environment has: Python, system and processor."""
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _described(known: ModelFacts) -> Result:
    words = [word for word in known.words if len(word) <= MAX_WORD_BYTES][:MAX_WORDS]
    return {
        "signatures": {key: value.to_json() for key, value in known.signatures.items()},
        "words": [word.hex() for word in words],
        "int_high": known.int_high,
        "optional": {key: list(names) for key, names in known.optional.items()},
    }


def _executed(request: Request, session: Session) -> Result:
    known = session.describe()
    signature = ""
    done: list[Result] = []
    if not session.skipped:
        for number, (signature, inputs) in enumerate(cases_of(request, session)):
            done.append(_case(request, session, number, signature, inputs))
    return {
        "cases": done,
        "signature": signature,
        "skipped": session.skipped,
        "restored": session.restored,
        "devices": session.devices() if done else {},
        "description": _described(known),
        "environment": _environment(session),
    }


def cases_of(request: Request, session: Session) -> Iterator[tuple[str, Arrays]]:
    """Yield (signature, inputs) of each case of a request, as the model takes them."""
    known = session.describe()
    for entry in request["cases"]:
        given = load_arrays(Path(entry["file"]), entry["described"])
        signatures = known.signatures or {session.infer_signature(given): _signature_of(given)}
        signature = choose_signature(signatures, request.get("signature"))
        yield signature, fit(given, signatures[signature], known.optional.get(signature, ()))


def _case(
    request: Request, session: Session, number: int, signature: str, inputs: Arrays
) -> Result:
    """Run one case and write what comes of it."""
    scratch = Path(request["scratch"])
    begin = time.monotonic()
    outputs = session.call(signature, inputs)
    seconds = time.monotonic() - begin
    result = {**written(scratch / f"case{number}.outputs.npz", outputs), "seconds": seconds}
    chunks: list[Result] = []
    apart: float | None = None
    if request["layers"]:
        apart = 0.0
        for chunk in session.intermediates(signature, inputs, request["layers"]):
            apart = max(apart, largest_gap(outputs, chunk.outputs)[0])
            file = scratch / f"case{number}.layers{len(chunks)}.npz"
            chunks.append(written(file, chunk.layers))
    return {**result, "layers": chunks, "intermediates_gap": apart}


def written(path: Path, arrays: Arrays) -> Result:
    """Write arrays; return what the parent reads them by."""
    return {"file": str(path), "described": save_arrays(path, arrays), "names": list(arrays)}


def largest_gap(
    reference: Arrays, new: Arrays, tolerances: Mapping[str, Sequence[Any]] | None = None
) -> tuple[float, bool]:
    """Return the largest difference, as a tolerance, and whether one is above its tolerance.

    It is 0 to the bit, and MAX_GAP at most.  tolerances: {output: [rtol, atol, scaled]}.
    """
    from ckptkit.model_io import measure as _output_measure
    from ckptkit.model_io.tiers import OutputTolerance

    def limit(name: str, _dtype: str) -> OutputTolerance:
        return OutputTolerance(*(tolerances or {}).get(name, (0.0, 0.0, True)))

    largest, seen = 0.0, False
    for name, ref in reference.items():
        result = _output_measure.measure(name, as_array(ref), as_array(new[name]), limit, {})
        if result.status == "equal":
            continue
        largest = max(largest, MAX_GAP if result.needed is None else result.needed)
        seen = seen or not (result.ok or result.status in ("meaningless", "empty"))
    return min(largest, MAX_GAP), seen


def wanted(name: str, globs: Sequence[str]) -> bool:
    """Whether a layer's name fits one of the globs."""
    return any(fnmatchcase(name, pattern) for pattern in globs)


def choose_signature(signatures: Mapping[str, ModelSignature], name: str | None) -> str:
    """Return the signature to run; raises RunnerError, which lists those that there are."""
    names = list(signatures)
    if name is not None and name in names:
        return name
    there = ", ".join(names) or "none"
    if name is not None:
        raise refused(f"no signature {name!r}; there are: {there}")
    for usual in ("serving_default", "call"):
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    raise refused(f"which signature? There are: {there}", "‹signature› names one")


def fit(
    given: Arrays, model_signature: ModelSignature, optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Return the inputs in the model's order and dtypes; raises RunnerError naming what misfits."""
    inputs = {info.name: info for info in model_signature.inputs}
    if list(given) == [""] and len(inputs) == 1:
        given = {next(iter(inputs)): given[""]}
    missing = [name for name in inputs if name not in given and name not in optional]
    extra = [name for name in given if name not in inputs]
    if missing or extra:
        parts = [f"no value for {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"no input {', '.join(map(repr, extra))}"] if extra else []
        raise refused(f"{'; '.join(parts)}; the model takes {_listed(model_signature.inputs)}")
    return {name: _fitted(given[name], info) for name, info in inputs.items() if name in given}


def _fitted(array: Array, info: TensorInfo) -> Array:
    """Return one input in its dtype; a cast must keep every value."""
    shape = info.shape
    if shape is not None and (
        len(shape) != array.ndim
        or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        raise refused(f"input {info.name!r} is {info.text}, not of shape {list(array.shape)}")
    found = dtype_of_numpy(array.dtype)
    if found == info.dtype:
        return array
    if "string" not in (found, info.dtype):
        from ckptkit.dtypes import numpy_dtype

        cast = array.astype(numpy_dtype(info.dtype))
        if found.startswith("float") and info.dtype.startswith(("float", "bfloat")):
            return cast
        if (cast.astype(array.dtype) == array).all():
            return cast
    quantised = found.startswith("float") and info.dtype in ("int8", "uint8", "int16")
    raise refused(
        f"input {info.name!r} is {info.text}, and {found} values do not fit it",
        "convert it with float inputs, or record it on its own runtime" if quantised else "",
    )


def _signature_of(given: Arrays) -> ModelSignature:
    """Return a signature that these inputs fit, for a model that tells none."""
    infos = [
        TensorInfo(
            name, dtype_of_numpy(array.dtype), (None, *array.shape[1:]) if array.ndim else ()
        )
        for name, array in given.items()
    ]
    return ModelSignature(tuple(infos), ())


def _listed(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.name} ({info.text})" for info in infos) or "nothing"


def grouped(sizes: Mapping[str, int]) -> Iterator[set[str]]:
    """Yield names in groups of about CHUNK_BYTES; sizes: of their values, in bytes."""
    group: set[str] = set()
    total = 0
    for name, nbytes in sizes.items():
        if group and total + nbytes > CHUNK_BYTES:
            yield group
            group, total = set(), 0
        group.add(name)
        total += nbytes
    if group:
        yield group


def refused(message: str, hint: str = "") -> RunnerError:
    """Return the error for inputs or a signature that the model does not have."""
    return RunnerError(message, kind="signature", hint=hint)


def missing(message: str, hint: str = "") -> RunnerError:
    """Return the error for a device or package that is not here."""
    return RunnerError(message, kind="missing", hint=hint)


def import_extras(request: Request) -> None:
    """Import the modules and files of `options["imports"]`, which register custom classes."""
    from ckptkit.runners.child.user_code import import_code

    for name in request["options"].get("imports", ()):
        import_code(name)


def package_version(module: Any) -> str:
    """Return a module's version."""
    return str(getattr(module, "__version__", "")) or "unknown"


def versions_of(*names: str) -> dict[str, str]:
    """Return the versions of those of these modules that were imported."""
    found = ((name, sys.modules.get(name)) for name in names)
    return {name: package_version(module) for name, module in found if module is not None}
