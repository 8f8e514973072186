"""Goldens: what a model gave for known inputs, and what it was bound to, in files that git likes.

    DIR/manifest.json       all but the arrays; sorted, indented
    DIR/binding.json        what it is bound to (`ckptkit.golden.binding`), one line per variable
    DIR/caseN.inputs.npz    arrays (`ckptkit.model_io.array_files`); nothing is ever unpickled
    DIR/caseN.outputs.npz   an output of more than 4 MiB as a seeded sample, with norms of all of it
    DIR/caseN.layers.npz    outputs of layers, where they were recorded
    DIR/caseN.float64.npz   outputs of the model computed in float64, where it could be

No times and no paths are written: the same golden gives the same bytes.
The manifest holds the SHA-256 of every other file, so that one that was edited or left behind by
another recording is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ckptkit._io.claims import Claim, claiming
from ckptkit._io.file_states import is_file
from ckptkit._io.files import file_sha256
from ckptkit.errors import (
    ChecksumError,
    FormatError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.golden.binding import Binding
from ckptkit.golden.sketch_types import float_of
from ckptkit.model_io.sampling import Sample, sample
from ckptkit.model_io.signature import ModelSignature
from ckptkit.results import Document
from ckptkit.text import count_text, json_number

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

SCHEMA = "ckptkit.golden/1"
MANIFEST = "manifest.json"
BINDING = "binding.json"
MAX_WHOLE = 4 << 20  # bytes of one output that is kept whole
_OPTIONAL = ("layers", "float64")  # files of a case that need not be there

Values = Mapping[str, "Array | Sample"]


@dataclass(frozen=True)
class Case:
    """One call of the model: inputs, and what it gave; large arrays are samples."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Values
    layers: Values = field(default_factory=dict)
    float64: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Golden(Document):
    """A recording.

    subject: what it was recorded of, for people (a file name, no path).  kind: as runners call it.
    environment: as the runner reports it; runner: its canonical text.  noise: per output, as
    `noise_of` measures it.  blind: variables whose change no output shows.  options: what
    was asked for (seed, batch, ranges, ...), in plain values.
    """

    ROWS: ClassVar[str] = "outputs"

    subject: str
    kind: str
    signature: str
    model_signature: ModelSignature
    binding: Binding
    environment: Mapping[str, Any]
    runner: str
    cases: tuple[Case, ...]
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = count_text(len(self.cases), "case")
        return f"<Golden of {self.subject!r}: {count}, recorded on {self.runner}>"

    @property
    def ok(self) -> bool:
        """Whether there is something to check against: at least one case, each with outputs."""
        return bool(self.cases) and all(case.outputs for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Return what the golden says of itself, without the arrays.

        Returns:
            Plain values that JSON can hold; `outputs` has a row per case and output.
        """
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "kind": self.kind,
            "signature": self.signature,
            "runner": self.runner,
            "environment": _numbers(self.environment),
            "noise": _numbers(self.noise),
            "blind": list(self.blind),
            "options": _numbers(self.options),
            "variables": len(self.binding.variables),
            "outputs": [
                {
                    "case": case.name,
                    "output": name,
                    "dtype": _dtype_name(value),
                    "shape": list(value.shape),
                    "is_sample": isinstance(value, Sample),
                }
                for case in self.cases
                for name, value in case.outputs.items()
            ],
        }


def sampled(values: Mapping[str, Any], seed: int) -> dict[str, Array | Sample]:
    """Return the values as a golden keeps them: those of more than 4 MiB as samples."""
    from ckptkit.model_io.array_files import as_array

    arrays = {name: as_array(value) for name, value in values.items()}
    return {
        name: sample(array, seed) if _nbytes(array) > MAX_WHOLE else array
        for name, array in arrays.items()
    }


def _dtype_name(value: Array | Sample) -> str:
    from ckptkit.dtypes import dtype_of_numpy

    values = value.values if isinstance(value, Sample) else value
    return "string" if values.dtype == object else dtype_of_numpy(values.dtype)


def _nbytes(array: Array) -> int:
    return sum(map(len, array.reshape(-1))) if array.dtype == object else array.nbytes


# --- writing --------------------------------------------------------------------------------------


def write_golden(
    path: Path | str, golden: Golden, *, overwrite: bool = False, claim: Claim | None = None
) -> None:
    """Write a golden into the directory `path`, whole or not at all, and read it there again.

    Args:
        overwrite: whether a directory that holds a golden is replaced; one that holds anything
            else never is.
        claim: to `path`, where the caller holds it already.

    Raises:
        OutputError: where it cannot be written, or another process writes it.
        UsageError: for a golden without cases or outputs, and case names that are no file names.
        FormatError, ChecksumError: where what lies there afterwards is no golden.
    """
    _check(golden)
    if claim is None:
        with claiming(Path(path)) as own:
            write_golden(path, golden, overwrite=overwrite, claim=own)
        return
    _write_files(Path(path), golden, overwrite, claim)
    read_golden(path)


def _write_files(path: Path, golden: Golden, overwrite: bool, claim: Claim) -> None:
    from ckptkit._io.atomic import replacing_directory

    with replacing_directory(path, overwrite=overwrite, marker=MANIFEST, claim=claim) as directory:
        cases = [_write_case(directory, case) for case in golden.cases]
        binding = directory / BINDING
        binding.write_text(_binding_text(golden.binding.to_json()), encoding="utf-8")
        manifest = {
            "schema": SCHEMA,
            "subject": {"name": golden.subject, "kind": golden.kind},
            "signature": {"name": golden.signature, **golden.model_signature.to_json()},
            "environment": _numbers(dict(golden.environment)),
            "runner": golden.runner,
            "binding": {"digest": golden.binding.digest, "sha256": file_sha256(binding)},
            "cases": cases,
            "noise": _numbers({name: dict(noise) for name, noise in golden.noise.items()}),
            "blind": sorted(golden.blind),
            "options": _numbers(dict(golden.options)),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _check(golden: Golden) -> None:
    names = [case.name for case in golden.cases]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"a golden of cases {names}", hint="it needs at least one, each by a name")
    for case in golden.cases:
        if not _is_file_name(case.name):
            raise UsageError(f"the name of a case is {case.name!r}", hint="letters and digits")
        if not case.outputs:
            raise UsageError(f"case {case.name} has no outputs, so nothing could be compared")


def _is_file_name(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def _write_case(directory: Path, case: Case) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": case.name}
    parts: tuple[tuple[str, Values], ...] = (
        ("inputs", case.inputs), ("outputs", case.outputs), ("layers", case.layers),
        ("float64", case.float64),
    )  # fmt: skip
    for part, values in parts:
        if values or part not in _OPTIONAL:
            plain[part] = _write_arrays(directory / f"{case.name}.{part}.npz", values)
    if case.layers:
        plain["layers"]["order"] = list(case.layers)  # of computation
    return plain


def _write_arrays(path: Path, values: Values) -> dict[str, Any]:
    """Write one file; return what the manifest says of it."""
    from ckptkit.model_io.array_files import save_arrays

    arrays = {
        name: value.values if isinstance(value, Sample) else value for name, value in values.items()
    }
    described = save_arrays(path, arrays)
    for name, value in values.items():
        if isinstance(value, Sample):
            norms = value.norms
            described[name]["sampled"] = {
                "shape": list(value.shape),
                "seed": value.seed,
                "norms": None
                if norms is None
                else [norms.nonfinite, *map(json_number, (norms.rms, norms.lowest, norms.highest))],
            }
    return {"sha256": file_sha256(path), "arrays": described}


def _binding_text(binding: Mapping[str, Any]) -> str:
    """Return the binding as JSON with one line per entry, so that git shows which one changed."""

    def line(value: Any) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)

    parts = []
    for name, value in sorted(binding.items()):
        if isinstance(value, dict) and value:
            entries = ",\n".join(f"  {line(key)}: {line(item)}" for key, item in value.items())
            parts.append(f" {line(name)}: {{\n{entries}\n }}")
        else:
            parts.append(f" {line(name)}: {line(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _numbers(value: Any) -> Any:
    """Return plain values in which every number is one that JSON holds."""
    if isinstance(value, Mapping):
        return {str(key): _numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(item) for item in value]
    if isinstance(value, (str, int, float, type(None))):
        return json_number(value)
    return str(value)


# --- reading --------------------------------------------------------------------------------------


def is_golden(path: Path | str) -> bool:
    """Whether the directory holds what looks like a golden."""
    return is_file(Path(path, MANIFEST))


def read_golden(path: Path | str) -> Golden:
    """Read the golden in a directory, every file compared with its SHA-256.

    Raises:
        PathNotFoundError: where there is none.
        FormatError: where a file does not hold what it should.
        ChecksumError: where a file was edited, or is of another recording.
        UnsupportedError: for a newer schema.
    """
    from ckptkit.stores.containers import strict_json

    directory = Path(path)
    if not is_golden(directory):
        raise PathNotFoundError(
            "no golden here" if directory.is_dir() else "no such directory",
            where=str(directory),
            hint=f"`ckptkit record MODEL -o DIR` makes one; it holds a {MANIFEST}",
        )
    where = str(directory / MANIFEST)
    manifest = _Fields(strict_json.load(directory / MANIFEST), where)
    schema = manifest.text("schema")
    if schema != SCHEMA:
        raise UnsupportedError(
            f"schema {schema!r}, this version reads {SCHEMA!r}",
            where=where,
            hint="update ckptkit, or record again",
        )
    subject, signature = manifest.fields("subject"), manifest.fields("signature")
    binding = manifest.fields("binding")
    # a binding that another recording left behind would blame the wrong things
    _compare_sha256(directory / BINDING, binding.text("sha256"))
    cases = tuple(_read_cases(directory, manifest.items("cases"), where))
    if not cases:
        raise FormatError(where, "the golden has no cases, so nothing could be compared")
    return Golden(
        subject=subject.text("name"),
        kind=subject.text("kind"),
        signature=signature.text("name"),
        model_signature=ModelSignature.from_json(signature.value, where),
        binding=Binding.from_json(strict_json.load(directory / BINDING), str(directory / BINDING)),
        environment=manifest.fields("environment").value,
        runner=manifest.text("runner"),
        cases=cases,
        noise=_noise(manifest.fields("noise")),
        blind=tuple(str(name) for name in manifest.items("blind")),
        options=manifest.fields("options").value,
    )


class _Fields:
    """A JSON object whose fields are asked for by kind."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(where, "no JSON object", found=type(value).__name__)
        self.value: dict[str, Any] = value
        self.where = where

    def _get(self, name: str, kind: type) -> Any:
        found = self.value.get(name)
        if not isinstance(found, kind):
            raise FormatError(
                self.where,
                f"field {name!r}",
                expected=kind.__name__,
                found="nothing" if found is None else type(found).__name__,
            )
        return found

    def text(self, name: str) -> str:
        """Return a field that is text."""
        return str(self._get(name, str))

    def items(self, name: str) -> Sequence[Any]:
        """Return a field that is a list."""
        found: list[Any] = self._get(name, list)
        return found

    def fields(self, name: str) -> _Fields:
        """Return a field that is an object."""
        return _Fields(self._get(name, dict), f"{self.where}: {name}")


def _noise(fields: _Fields) -> dict[str, dict[str, float]]:
    try:
        return {
            output: {name: float_of(value) for name, value in noise.items() if value is not None}
            for output, noise in fields.value.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise FormatError(fields.where, f"no noise: {error}") from None


def _read_cases(directory: Path, cases: Sequence[Any], where: str) -> Iterator[Case]:
    for value in cases:
        fields = _Fields(value, f"{where}: cases")
        name = fields.text("name")
        if not _is_file_name(name):
            raise FormatError(where, f"the name of a case is {name!r}")
        parts: dict[str, dict[str, Any]] = {}
        for part in ("inputs", "outputs", *_OPTIONAL):
            if part not in _OPTIONAL or part in fields.value:
                path = directory / f"{name}.{part}.npz"
                parts[part] = _read_arrays(path, fields.fields(part))
        optional = (parts.get(part, {}) for part in _OPTIONAL)
        yield Case(name, parts["inputs"], parts["outputs"], *optional)


def _compare_sha256(path: Path, wanted: str) -> None:
    if not is_file(path):
        raise PathNotFoundError(
            "a file of the golden is missing",
            where=str(path),
            hint="add it to git, or record again",
        )
    found = file_sha256(path)
    if found != wanted:
        raise ChecksumError(
            str(path),
            "SHA-256 is not the one in the manifest",
            expected=wanted,
            found=found,
            hint="it was edited, or comes from another recording (git-lfs?): record again",
        )


def _read_arrays(path: Path, fields: _Fields) -> dict[str, Any]:
    from ckptkit.model_io.array_files import load_arrays

    _compare_sha256(path, fields.text("sha256"))
    described = fields.fields("arrays").value
    if not all(isinstance(entry, dict) for entry in described.values()):
        raise FormatError(fields.where, "an array is no JSON object")
    arrays: dict[str, Any] = dict(load_arrays(path, described))
    for name, entry in described.items():
        if "sampled" in entry:
            where = f"{fields.where}: {name}"
            arrays[name] = _sample(_Fields(entry["sampled"], where), arrays[name], entry["dtype"])
    order = fields.items("order") if "order" in fields.value else list(described)
    if sorted(map(str, order)) != sorted(described):
        raise FormatError(fields.where, "the order is not one of the arrays there")
    return {name: arrays[name] for name in order}


def _sample(fields: _Fields, values: Array, dtype: str) -> Sample:
    from ckptkit.model_io.sampling import Norms

    shape, seed, norms = fields.items("shape"), fields.value.get("seed"), fields.value.get("norms")
    try:
        norms_of_all = None
        if norms is not None:
            nonfinite, rms, lowest, highest = norms
            norms_of_all = Norms(int(nonfinite), float_of(rms), float_of(lowest), float_of(highest))
        if type(seed) is not int or not all(type(n) is int and n >= 0 for n in shape):
            raise TypeError("a shape or seed that is none")
    except (TypeError, ValueError) as error:
        raise FormatError(fields.where, f"no sample: {error}") from None
    found = Sample(dtype, tuple(shape), seed, values, norms_of_all)
    if values.ndim != 1 or len(values) > found.size:
        raise FormatError(fields.where, f"{values.size} samples of {found.size} elements")
    return found
