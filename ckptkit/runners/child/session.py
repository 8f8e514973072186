"""The child's side of `ckptkit.runners.client`, the same for every runtime.

To write a runner, implement `Session` (a model that is ready to run), a function that opens one for
a request, and a `probe` that lists the devices here.  `actions` makes of them what
`ckptkit.runners.child.__main__` calls:

    describe   {"model_spec", "spec", "options"}  ->  {"description", "environment"}
    execute    the same and {"cases", "signature", "layers", "scratch", "out"}
               ->  {"cases", "signature", "skipped", "restored", "devices", "description", ...}
    probe      {}  ->  {"devices": [{"device", "name"}], "versions"}

Arrays travel as files: a case is {"file", "described"} of `ckptkit.model_io.array_files`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ckptkit.model_io.array_files import as_array, load_arrays, save_arrays
from ckptkit.model_io.signature import ModelSignature
from ckptkit.model_io.tf_examples import Feature
from ckptkit.runners.child.inputs import choose_signature, fit, signature_of
from ckptkit.runners.child.machine import machine
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
    """What a model takes and gives, without what ran it: see `ckptkit.runners.types.Description`.

    signatures: by key; {} where the model does not tell its inputs.  words: of its vocabulary.
    int_high: integers below it are safe as inputs, None where nothing says so.  optional: names of
    inputs that may be left out, by signature.  examples: {signature: {input: features}} of inputs
    that are serialized tf.train.Example.
    """

    signatures: Mapping[str, ModelSignature]
    words: Sequence[bytes] = ()
    int_high: int | None = None
    optional: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, Sequence[Feature]]] = field(default_factory=dict)


class Intermediates(NamedTuple):
    """Some values inside of a model, and its outputs as computed together with them."""

    layers: Arrays
    outputs: Arrays


class Session(Protocol):
    """A model that is ready to run: what a runtime implements.

    A session is opened once per child, for one request.  What it raises ends the request: a
    CkptkitError with its message, anything else (which a user's code may raise) with its class.
    """

    @property
    def restored(self) -> Mapping[str, Any] | None:
        """The fields of RestoreResult but for `environment`; None where nothing was restored."""

    @property
    def skipped(self) -> str:
        """Why the model must not run, as variables that got no value; "" where it may."""

    def describe(self) -> ModelFacts:
        """Describe the model, without running it.

        Returns:
            Its signatures; those of a model that tells no inputs are {}, and `infer_signature` is
            asked instead.
        Raises:
            UnsupportedError: for inputs of a kind that is not run (sparse, ragged, nested).
        """

    def infer_signature(self, inputs: Arrays) -> str:
        """Choose the signature to call with these inputs, where `describe` tells of none.

        Args:
            inputs: {name: array}, as the user gave them.
        Returns:
            What `call` takes as its signature.
        Raises:
            RunnerError: of kind "signature", where several could be meant or none can.
        """

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        """Run the model on one case.

        Args:
            signature: a key of `describe().signatures`, or what `infer_signature` returned.
            inputs: {name: array} in the order and dtypes of the signature; strings are object
                arrays of bytes.  Optional ones may be absent.
        Returns:
            {name: array} in the model's own order, strings as object arrays of bytes.  The same
            inputs give the same outputs, as far as the runtime is deterministic.
        """

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        """Yield the values inside of the model, in chunks of about CHUNK_BYTES.

        Args:
            signature: as of `call`.
            inputs: as of `call`.
            globs: patterns; values whose name fits one of them (see `wanted`) are given.
        Yields:
            Values by name, in the order of computation, each chunk with the outputs that were
            computed together with it.
        Raises:
            UnsupportedError: where the runtime cannot look inside of such a model.
        """

    def devices(self) -> dict[str, dict[str, int]]:
        """Say where the kernels of the first call ran.

        What counts is where a kernel ran, not where it was meant to: a model that fell back to the
        CPU is found by it.

        Returns:
            {device: {"ops": n, "heavy": n}}: kernels in all, and those that multiply matrices or
            convolve.
        """

    def environment(self) -> dict[str, Any]:
        """Say what ran the model.

        Returns:
            Plain values: see `environment` in docs/check.md.
        """


Open = Callable[[Request, RunnerSpec], Session]
"""Loads the model of a request, restores its values, and sets the switches of the spec."""


def actions(
    start: Open, probe: Callable[[Request], Result]
) -> dict[str, Callable[[Request], Result]]:
    """Make the ACTIONS of a runtime.

    Args:
        start: opens a session for a request.
        probe: takes {} and returns {"devices": [{"device": "GPU:0", "name": ...}], "versions": {}}.
    Returns:
        {action: what carries it out}, of which a runtime's module keeps its ACTIONS.
    """

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


def _described(facts: ModelFacts) -> Result:
    words = [word for word in facts.words if len(word) <= MAX_WORD_BYTES][:MAX_WORDS]
    return {
        "signatures": {key: value.to_json() for key, value in facts.signatures.items()},
        "words": [word.hex() for word in words],  # bytes of any encoding, through JSON
        "int_high": facts.int_high,
        "optional": {key: list(names) for key, names in facts.optional.items()},
        "examples": {
            key: {name: list(features) for name, features in inputs.items()}
            for key, inputs in facts.examples.items()
        },
    }


def _executed(request: Request, session: Session) -> Result:
    facts = session.describe()
    signature = ""
    cases: list[Result] = []
    if not session.skipped:
        for number, (signature, inputs) in enumerate(cases_of(request, session)):
            cases.append(_case(request, session, number, signature, inputs))
    return {
        "cases": cases,
        "signature": signature,
        "skipped": session.skipped,
        "restored": session.restored,
        "devices": session.devices() if cases else {},
        "description": _described(facts),
        "environment": _environment(session),
    }


def cases_of(request: Request, session: Session) -> Iterator[tuple[str, Arrays]]:
    """Yield (signature, inputs) of each case of a request, as the model takes them."""
    facts = session.describe()
    for entry in request["cases"]:
        arrays = load_arrays(Path(entry["file"]), entry["described"])
        # a model that tells no inputs takes what it is given
        signatures = facts.signatures or {session.infer_signature(arrays): signature_of(arrays)}
        signature = choose_signature(signatures, request.get("signature"))
        yield signature, fit(arrays, signatures[signature], facts.optional.get(signature, ()))


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
    gap: float | None = None
    # a second computation, so its outputs may differ: how far is part of the result
    if request["layers"]:
        gap = 0.0
        for chunk in session.intermediates(signature, inputs, request["layers"]):
            gap = max(gap, largest_gap(outputs, chunk.outputs)[0])
            file = scratch / f"case{number}.layers{len(chunks)}.npz"
            chunks.append(written(file, chunk.layers))
    return {**result, "layers": chunks, "intermediates_gap": gap}


def written(path: Path, arrays: Arrays) -> Result:
    """Write arrays; return what the parent reads them by."""
    return {"file": str(path), "described": save_arrays(path, arrays), "names": list(arrays)}


def largest_gap(
    reference: Arrays, new: Arrays, tolerances: Mapping[str, Sequence[Any]] | None = None
) -> tuple[float, bool]:
    """Compare outputs with those of a reference run.

    Args:
        reference, new: {output: array}, the same names on both sides.
        tolerances: {output: [rtol, atol, scaled]}; none is 0.
    Returns:
        The largest difference as the tolerance that it needs (0 to the bit, MAX_GAP at most), and
        whether an output is further off than its tolerance.
    """
    from ckptkit.model_io.measure import compare_output
    from ckptkit.model_io.tiers import OutputTolerance

    def limit(name: str, _dtype: str) -> OutputTolerance:
        return OutputTolerance(*(tolerances or {}).get(name, (0.0, 0.0, True)))

    largest, exceeds = 0.0, False
    for name, ref in reference.items():
        result = compare_output(name, as_array(ref), as_array(new[name]), limit, {})
        if result.status == "equal":
            continue
        largest = max(largest, MAX_GAP if result.needed is None else result.needed)
        exceeds = exceeds or not (result.ok or result.status in ("meaningless", "empty"))
    return min(largest, MAX_GAP), exceeds


def wanted(name: str, globs: Sequence[str]) -> bool:
    """Whether a layer's name fits one of the globs."""
    return any(fnmatchcase(name, pattern) for pattern in globs)


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


def import_extras(request: Request) -> None:
    """Import the modules and files of `options["imports"]`, which register custom classes."""
    from ckptkit.runners.child.user_code import import_code

    for name in request["options"].get("imports", ()):
        import_code(name)
