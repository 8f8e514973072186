"""What a child process finds out about the inside of a model, for the parent.

    isolate(model, spec, inputs, sources, limits)   each layer fed with a reference's values
    perturb(model, spec, cases, limits)             which variables the outputs see
    audit(model, spec, cases, reference, limits)    which faults a tolerance lets pass
    float64_outputs(model, cases, limits)           its outputs when computed in float64

Which runtimes can do it is told by `ckptkit.runners.registry.Runtime.introspection`.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.model_io.layouts import Layout
from ckptkit.model_io.tiers import OutputTolerance
from ckptkit.runners import client
from ckptkit.runners.chunks import ChunkedArrays, save_cases
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits, ModelSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


class ReadVariable(NamedTuple):
    """A variable that a layer reads; names: by which it may go in a file, the best first.

    digests: of a constant of a converted model, in the layouts that TensorFlow may have it in (as
    `ckptkit.stores.digest.digest`).  layer: path of the object that has it, where the model tells.
    """

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    digests: tuple[str, ...] = ()
    layer: str = ""


class Point(NamedTuple):
    """A value inside of a model.

    kind: class of the layer, or kind of the op.  policy: dtype policy, or dtype.  variables: those
    that are read between it and the points before it, `inputs`.  fed: whether those that read it
    were given the reference's value instead.  stateful: whether it reads what a call changes, so
    that two calls give two values.
    """

    name: str
    kind: str
    policy: str
    dtype: str
    variables: tuple[ReadVariable, ...]
    inputs: tuple[str, ...]
    fed: bool
    stateful: bool


@dataclass(frozen=True)
class IsolationResult:
    """What each point gave when all before it was the reference's; values are read from disk.

    points: in the order of computation.
    """

    points: tuple[Point, ...]
    values: Arrays


class ValueFile(NamedTuple):
    """A file of values (`ckptkit.model_io.array_files`): {point: name in the file}.

    layouts: {point: how the value becomes the point's}, where that is not as it is in the file.
    """

    file: Path
    described: Mapping[str, Any]
    names: Mapping[str, str]
    layouts: Mapping[str, Layout]


def value_files(
    values: Arrays, names: Mapping[str, str], layouts: Mapping[str, Layout], scratch: Path
) -> list[ValueFile]:
    """Return files that hold these values; names: {point: name in `values`}.

    The files of a run's layers are used as they are.
    """
    from ckptkit.model_io.array_files import save_arrays

    chunks = getattr(values, "chunks", None)
    if chunks is not None:
        found = []
        for chunk in chunks:
            there = set(chunk["names"])
            mine = {point: name for point, name in names.items() if name in there}
            if mine:
                found.append(ValueFile(Path(chunk["file"]), chunk["described"], mine, layouts))
        return found
    file = scratch / f"values{len(list(scratch.iterdir()))}.npz"
    wanted = {name: values[name] for name in sorted(set(names.values()))}
    return [ValueFile(file, save_arrays(file, wanted), dict(names), layouts)] if wanted else []


def isolate(
    model: ModelSpec,
    spec: RunnerSpec,
    inputs: Arrays,
    sources: Sequence[ValueFile],
    limits: Limits,
    *,
    signature: str | None = None,
    globs: Sequence[str] = ("*",),
    options: Mapping[str, Any] | None = None,
) -> IsolationResult:
    """Run every point on the reference's values of what comes before it.

    Args:
        inputs: of one case.
        sources: the reference's values, by the names of this model's points (`value_files`).
        globs: patterns; points whose name fits one of them are computed.
        signature, options: see `ckptkit.runners.client.execute`.
    Raises:
        RunnerError: where the model cannot be run, or not be cut.
        UsageError: where the runtime does not run such a model.
    """
    scratch = Path(tempfile.mkdtemp(prefix="ckptkit-introspect-"))
    try:
        request = client.build_request(model, spec, "isolate", options) | {
            "cases": save_cases([inputs], scratch),
            "signature": signature,
            "sources": [
                {
                    "file": str(source.file),
                    "described": dict(source.described),
                    "names": dict(source.names),
                    "layouts": {n: source.layouts[n] for n in source.names if n in source.layouts},
                }
                for source in sources
            ],
            "globs": list(globs),
            "scratch": str(scratch),
        }
        result = client.send(request, spec, limits)
    # where it succeeds, the files live as long as the values that read them
    except BaseException:
        rmtree(scratch, ignore_errors=True)
        raise
    values = ChunkedArrays(result["chunks"])
    weakref.finalize(values, rmtree, scratch, ignore_errors=True)
    points = tuple(_point(row) for row in result["points"])
    return IsolationResult(points, values)


def _point(row: Mapping[str, Any]) -> Point:
    owned = tuple(
        ReadVariable(
            tuple(item["names"]),
            item["dtype"],
            tuple(item["shape"]),
            tuple(item.get("digests", ())),
            item.get("layer", ""),
        )
        for item in row["variables"]
    )
    plain = {**row, "variables": owned, "inputs": tuple(row["inputs"])}
    return Point(**plain)


class PerturbationResult(NamedTuple):
    """What a small change of some variables does to the outputs.

    seen: whether an output changed by more than its tolerance.  needed: the largest change, as a
    tolerance.  tried: False for variables that could not be changed a little.
    """

    layer: str
    variables: tuple[str, ...]
    seen: bool
    needed: float
    tried: bool = True


class FaultTrial(NamedTuple):
    """A fault that was put into the model, and what its outputs then were.

    kind, layer, variables, setting: see `ckptkit.runners.child.faults.Fault`.
    verdict: "seen" (an output is further off than the tolerance in use), "passes" (only the
    tightest one sees it), "blind" (nor does that, and other inputs show it), "same" (they do not
    either: it computes the same).  needed: the largest change of an output, as a tolerance.
    """

    kind: str
    layer: str
    variables: tuple[str, ...]
    setting: tuple[Any, Any] | None
    verdict: str
    needed: float


class Perturbations(NamedTuple):
    """A result per layer or variable that was changed, and one per fault that was tried."""

    rows: tuple[PerturbationResult, ...]
    faults: tuple[FaultTrial, ...]


def perturb(
    model: ModelSpec,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    limits: Limits,
    *,
    signature: str | None = None,
    tolerances: Mapping[str, OutputTolerance],
    amount: float = 0.01,
    thorough: bool = False,
    faults: int = 0,
    margins: Mapping[str, float] | None = None,
    seconds: float = 60.0,
    names: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Perturbations:
    """Change the variables of each layer (thorough: each variable) by `amount`, in one child.

    tolerances: by output.  names: {name of a variable in the model: readable name}.  faults: how
    many of each kind are tried besides, for at most `seconds`; margins: the model's noise, by
    output, as a tolerance.
    Raises RunnerError, UsageError.
    """
    with tempfile.TemporaryDirectory(prefix="ckptkit-introspect-") as scratch:
        request = client.build_request(model, spec, "perturb", options) | {
            "cases": save_cases(cases, Path(scratch)),
            "signature": signature,
            "amount": amount,
            "thorough": thorough,
            "faults": faults,
            "margins": dict(margins or {}),
            "seconds": seconds,
            "names": dict(names or {}),
            "tolerances": {name: [t.rtol, t.atol, t.scaled] for name, t in tolerances.items()},
            "out": None,
        }
        found = client.send(request, spec, limits)
    rows = [{**row, "variables": tuple(row["variables"])} for row in found["rows"]]
    return Perturbations(
        tuple(PerturbationResult(**row) for row in rows), tuple(map(_trial, found["faults"]))
    )


class TriedFaults(NamedTuple):
    """The faults of a model; untried: (kind, layer, why), why "time" or "no effect"."""

    faults: tuple[FaultTrial, ...]
    untried: tuple[tuple[str, str, str], ...]


class AuditedTolerances(NamedTuple):
    """What faults are judged by, by output.

    used: the tolerance in use.  tightest: just above the model's noise.  margins: that noise, as a
    tolerance.  noise: as a golden keeps it, where the tolerance in use takes it.
    """

    used: Mapping[str, OutputTolerance]
    tightest: Mapping[str, OutputTolerance]
    margins: Mapping[str, float]
    noise: Mapping[str, Mapping[str, Any]]


def audit(
    model: ModelSpec,
    spec: RunnerSpec,
    cases: Sequence[Arrays],
    reference: Sequence[Mapping[str, Any]],
    limits: Limits,
    *,
    tolerances: AuditedTolerances,
    outputs: Mapping[str, str],
    seconds: float,
    signature: str | None = None,
    names: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> TriedFaults:
    """Put one fault after the other into a model, in one child, and judge what it then gives.

    Args:
        cases: inputs, by the model's own names.
        reference: per case what outputs are held against: {output: array or `Sample`}.
        outputs: {the model's own name of an output: that of the reference}.
        seconds: after which no more are tried.
        names: {name of a variable in the model: readable name}.
        signature, options: see `ckptkit.runners.client.execute`.
    Raises:
        RunnerError: where the model cannot be run.
        UsageError: where the runtime does not run such a model.
    """
    from ckptkit.model_io.sampling import save_values

    with tempfile.TemporaryDirectory(prefix="ckptkit-introspect-") as scratch:
        folder = Path(scratch)
        request = client.build_request(model, spec, "audit", options) | {
            "cases": save_cases(cases, folder),
            "reference": [
                save_values(folder / f"case{number}.reference.npz", values)
                for number, values in enumerate(reference)
            ],
            "signature": signature,
            "names": dict(names or {}),
            "outputs": dict(outputs),
            "used": _plain(tolerances.used),
            "tightest": _plain(tolerances.tightest),
            "margins": dict(tolerances.margins),
            "noise": {name: dict(noise) for name, noise in tolerances.noise.items()},
            "seconds": seconds,
            "out": None,
        }
        found = client.send(request, spec, limits)
    return TriedFaults(
        tuple(_trial(row) for row in found["faults"]),
        tuple((row["kind"], row["layer"], row["why"]) for row in found["untried"]),
    )


def _plain(tolerances: Mapping[str, OutputTolerance]) -> dict[str, list[Any]]:
    return {name: [t.rtol, t.atol, t.scaled, t.min_cosine] for name, t in tolerances.items()}


def _trial(row: Mapping[str, Any]) -> FaultTrial:
    setting = None if row["setting"] is None else tuple(row["setting"])
    return FaultTrial(**{**row, "variables": tuple(row["variables"]), "setting": setting})


def float64_outputs(
    model: ModelSpec,
    cases: Sequence[Arrays],
    limits: Limits,
    *,
    options: Mapping[str, Any] | None = None,
) -> tuple[Arrays, ...]:
    """Return the outputs of a Keras model that is rebuilt in float64, per case, on the CPU.

    Raises RunnerError where it cannot be rebuilt (of kind "UnsupportedError": see
    `ckptkit.runners.tensorflow.float64`), UsageError.
    """
    from ckptkit.model_io.array_files import load_arrays

    spec = RunnerSpec()
    with tempfile.TemporaryDirectory(prefix="ckptkit-introspect-") as scratch:
        request = client.build_request(model, spec, "float64_outputs", options) | {
            "cases": save_cases(cases, Path(scratch)),
            "scratch": scratch,
            "out": None,
        }
        done = client.send(request, spec, limits)["cases"]
        return tuple(load_arrays(Path(case["file"]), case["described"]) for case in done)
