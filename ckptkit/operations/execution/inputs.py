"""What the models of a check are given: arrays of a file, or arrays drawn from a seed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject, signatures_of_file
from ckptkit.operations.findings import Finding
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Description, ExecutionResult
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

SEED = 20
BATCH = 8
_CALL = "call"  # the signature of what is called, as `Description` has it
_ENDED = ("run.died", "run.timeout", "run.memory")


@dataclass(frozen=True)
class InputOptions:
    """Where inputs come from.

    files: of arrays, one case each; without any, they are drawn: cases of `batch` examples from
    `seed`.  ranges: {input: (low, high)}.  signature: None leaves it to the subject.
    """

    files: Sequence[str | os.PathLike[str]] = ()
    seed: int = SEED
    batch: int = BATCH
    cases: int = 1
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    signature: str | None = None


class Prepared(NamedTuple):
    """Cases by name, in order, where they come from, and the run that has taken them."""

    cases: Mapping[str, Arrays]
    text: str
    signature: str
    model_signature: ModelSignature
    run: ExecutionResult


def prepare(
    runs: Runs,
    resolved: ResolvedSubject,
    spec: RunnerSpec,
    input_options: InputOptions,
    repeat: int = 1,
) -> Prepared | None:
    """Make inputs that the subject takes, and run it on them; None where it did not run.

    repeat: how often each case is given (what a model answers twice tells how noisy it is).
    Sizes and integers that the signature leaves open are tried in turn.
    Raises UsageError where inputs do not fit, or none could be made up.
    """
    description = _description(runs, resolved, spec, input_options)
    if not description.signatures and input_options.files:  # what takes anything gets what there is
        taken = {_CALL: _signature_of_file(Path(input_options.files[0]))}
        description = replace(description, signatures=taken)
    signature = choose_signature(description, input_options.signature, str(resolved.subject))
    model_signature = description.signatures[signature]
    failures: list[Finding] = []
    for cases, text in _attempts(input_options, model_signature, description, signature):
        before = len(runs.ran), len(runs.findings)
        run = runs.execute(resolved, spec, list(cases.values()) * repeat, signature)
        if run is not None:
            return Prepared(cases, text, signature, model_signature, run)
        failures = runs.findings[before[1] :]
        drawn = not input_options.files
        if not drawn or not failures or any(f.code in _ENDED for f in failures):
            return None
        del runs.ran[before[0] :], runs.findings[before[1] :]
    raise UsageError(
        f"the model took none of the inputs that were made up: {failures[0].message}",
        where=str(resolved.subject),
        hint=say("‹inputs=FILE.npz› gives it real ones, ‹ranges=NAME=LOW:HIGH› other numbers"),
    )


def choose_signature(description: Description, wanted: str | None, where: str) -> str:
    """Return the signature that is meant; raises UsageError."""
    known = ", ".join(description.signatures) or "none"
    if wanted is not None:
        if wanted not in description.signatures:
            raise UsageError(f"no signature {wanted!r}", where=where, hint=f"there are: {known}")
        return wanted
    if description.default is None:
        if not description.signatures:
            hint = say("‹inputs=FILE.npz› gives it some; or export it with a signature")
            raise UsageError("it does not say what inputs it takes", where=where, hint=hint)
        hint = say(f"‹signature=NAME›, of: {known}")
        raise UsageError("it does not say which signature is meant", where=where, hint=hint)
    return description.default


def _signature_of_file(path: Path) -> ModelSignature:
    """Return a signature that the arrays of a file fit: any number of examples of their shapes."""
    from ckptkit.model_io.array_files import load_inputs

    infos = [
        TensorInfo(name or "input", _dtype(array), (None, *array.shape[1:]) if array.ndim else ())
        for name, array in load_inputs(path).items()
    ]
    return ModelSignature(tuple(infos), ())


def model_signature_of(
    runs: Runs, resolved: ResolvedSubject, signature: str | None, spec: RunnerSpec
) -> ModelSignature | None:
    """Return what the subject takes and gives: from its file, else from a child that loads it.

    None: it takes what it is given, as code without a signature does.
    """
    known = signatures_of_file(resolved.subject)
    described = Description(known) if known else runs.describe(resolved.subject, spec)
    if not described.signatures and signature in (None, _CALL):
        return None
    return described.signatures[choose_signature(described, signature, str(resolved.subject))]


def _description(
    runs: Runs, resolved: ResolvedSubject, spec: RunnerSpec, input_options: InputOptions
) -> Description:
    """Return what the subject takes, from its file where that says enough."""
    found = Description(signatures_of_file(resolved.subject))
    name = input_options.signature or found.default
    model_signature = found.signatures.get(name) if name is not None else None
    if model_signature is not None and (
        input_options.files
        or all(info.dtype.startswith(("float", "bfloat")) for info in model_signature.inputs)
    ):
        return found
    return runs.describe(resolved.subject, spec)


def _attempts(
    input_options: InputOptions,
    model_signature: ModelSignature,
    description: Description,
    signature: str,
) -> Iterator[tuple[dict[str, Arrays], str]]:
    """Yield (cases, text) until one is taken."""
    from ckptkit.model_io.array_files import load_inputs
    from ckptkit.model_io.random_inputs import candidate_inputs, fit_inputs

    optional = description.optional.get(signature, ())
    if input_options.files:
        if input_options.ranges:
            raise UsageError(say("‹ranges› is for inputs that are drawn, not for ‹inputs›"))
        paths = [Path(file) for file in input_options.files]
        cases: dict[str, Arrays] = {}
        for path in paths:
            given = load_inputs(path)
            wanted = [
                i for i in model_signature.inputs if i.name in given or i.name not in optional
            ]
            cases[_stem(path)] = fit_inputs(given, wanted)
        if len(cases) < len(paths):
            raise UsageError(say("two files of ‹inputs› have one name"), hint="rename one")
        yield cases, f"inputs of {', '.join(path.name for path in paths)}"
        return
    infos = [info for info in model_signature.inputs if info.name not in optional]
    unknown = sorted(set(input_options.ranges) - {info.name for info in infos})
    if unknown:
        names = ", ".join(info.name for info in infos)
        raise UsageError(say(f"‹ranges›: no input {unknown[0]!r}"), hint=f"inputs are {names}")
    count = (
        f"{input_options.cases} x {input_options.batch}"
        if input_options.cases > 1
        else f"{input_options.batch}"
    )
    text = f"{count} examples drawn from seed {input_options.seed}"
    for drawn in candidate_inputs(
        infos,
        seed=input_options.seed,
        batch=input_options.batch,
        cases=input_options.cases,
        ranges=input_options.ranges,
        words=description.words,
        int_high=description.int_high,
        examples=description.examples.get(signature, {}),
    ):
        if len(drawn) == 1:
            yield {"drawn": drawn[0]}, text
        else:
            yield {f"drawn{number}": case for number, case in enumerate(drawn)}, text


def _stem(path: Path) -> str:
    """Return the name of a case: the file's, in letters that a golden's files may have."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.partition(".")[0]) or "case"


def ranges_of(
    ranges: Mapping[str, tuple[float, float]] | Sequence[str],
) -> Mapping[str, tuple[float, float]]:
    """Return {input: (low, high)}, which texts give as `NAME=LOW:HIGH`; raises UsageError."""
    if isinstance(ranges, Mapping):
        return ranges
    found: dict[str, tuple[float, float]] = {}
    for text in ranges:
        name, equals, span = text.rpartition("=")
        low, colon, high = span.partition(":")
        try:
            if not (equals and colon and name):
                raise ValueError
            found[name] = float(low), float(high)
            if not found[name][0] < found[name][1] < float("inf"):
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{text!r} is no range of an input", hint=say("write ‹ranges=NAME=0:255›")
            ) from None
    return found


def with_outputs(model_signature: ModelSignature, outputs: Mapping[str, Any]) -> ModelSignature:
    """Return the signature with the outputs that were given, where it does not tell them."""
    if model_signature.outputs:
        return model_signature
    return ModelSignature(
        model_signature.inputs,
        tuple(
            TensorInfo(name, _dtype(array), (None, *array.shape[1:]) if array.ndim else ())
            for name, array in outputs.items()
        ),
    )


def _dtype(array: Any) -> str:
    return "string" if array.dtype.hasobject else str(array.dtype.name)


MAX_SPLIT = 64  # examples of a case that are run one by one


def split_cases(
    cases: Sequence[Arrays], model_signature: ModelSignature
) -> list[list[dict[str, Any]]]:
    """Return each case as cases of one example; [] for one that cannot be split.

    A case splits where the first axis of every input is free, and as long in all of them; parts of
    sparse and ragged inputs are as long as they have values.
    """
    free = all(
        info.shape is not None and info.shape and info.shape[0] is None
        for info in model_signature.inputs
    ) and not any(info.part for info in model_signature.inputs)
    found: list[list[dict[str, Any]]] = []
    for case in cases:
        lengths = {array.shape[0] for array in case.values() if array.ndim}
        whole = free and len(lengths) == 1 and all(array.ndim for array in case.values())
        count = lengths.pop() if whole else 0
        if not 1 < count <= MAX_SPLIT:
            found.append([])
            continue
        found.append([{k: v[i : i + 1] for k, v in case.items()} for i in range(count)])
    return found


def joined(parts: Sequence[Arrays], whole: Arrays) -> dict[str, Any] | None:
    """Return the outputs of single examples put together again; None where that is not the whole's
    shape: the model does more than treat example by example.
    """
    import numpy as np

    found: dict[str, Any] = {}
    for name, reference in whole.items():
        pieces = [part.get(name) for part in parts]
        if not reference.ndim or any(piece is None or not piece.ndim for piece in pieces):
            return None
        try:
            found[name] = np.concatenate(pieces)  # type: ignore[arg-type]
        except ValueError:
            return None
        if found[name].shape != reference.shape:
            return None
    return found
