"""Goldens in the files of other tools, both ways.

npy         CASE/inputs.npz, CASE/outputs/NAME.npy: what `saved_model_cli run` takes and writes
onnx        test_data_set_N/{input,output}_M.pb: the data of ONNX's own model tests
polygraphy  inputs.json and outputs.json (RunResults): `polygraphy run --load-inputs ...`
warmup      assets.extra/tf_serving_warmup_requests: PredictionLog records of TensorFlow Serving
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from ckptkit._io.atomic import replacing
from ckptkit._io.side_files import read_whole
from ckptkit.errors import FormatError, PathNotFoundError, UnsupportedError, UsageError
from ckptkit.golden.golden import Case, Golden
from ckptkit.golden.tensor_protos import (
    from_onnx,
    from_tensor,
    read_records,
    records,
    to_onnx,
    to_tensor,
)
from ckptkit.model_io.sampling import Sample
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
MAX_WARMUP = 1000  # records that TensorFlow Serving takes
MAX_FILE = 1 << 31  # bytes of one file that is read whole
_MARK = "polygraphy_class"


class ExchangedCases(NamedTuple):
    """What a file of another tool holds: the cases, and the signature, where it tells one."""

    cases: tuple[Case, ...]
    signature: str = ""


class ExchangeForm(NamedTuple):
    """write(golden, directory); read(path)."""

    write: Callable[[Golden, Path], None]
    read: Callable[[Path], ExchangedCases]


def whole(case: Case) -> dict[str, Array]:
    """Return the outputs of a case; raises UsageError where one is kept as a sample."""
    for name, value in case.outputs.items():
        if isinstance(value, Sample):
            raise UsageError(
                f"output {name!r} of case {case.name} is too large to be kept whole in a golden",
                hint=say("record fewer examples: ‹batch›"),
            )
    return dict(case.outputs)  # type: ignore[arg-type]


def _bytes(path: Path) -> bytes:
    return read_whole(path, MAX_FILE, "a file of another tool")


# --- npy ------------------------------------------------------------------------------------------


def _plain(name: str, array: Array) -> Array:
    """Return an array that a .npy file can hold as it is; text with a fixed width."""
    import numpy as np

    if array.dtype == object:
        if any(item.endswith(b"\0") for item in array.reshape(-1)):
            raise UnsupportedError("text that ends in NUL, which .npy drops", where=name)
        return array.astype(np.bytes_)
    if array.dtype.kind == "V" or array.dtype.name not in np.sctypeDict:
        raise UnsupportedError(f".npy has no {array.dtype.name}", where=name)
    return array


def _npy_bytes(name: str, array: Array) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, _plain(name, array), allow_pickle=False)
    return file.getvalue()


def _write_npy(golden: Golden, directory: Path) -> None:
    import numpy as np

    for case in golden.cases:
        place = directory / case.name / "outputs"
        place.mkdir(parents=True)
        plain = {name: _plain(name, array) for name, array in case.inputs.items()}
        np.savez(place.parent / "inputs.npz", **plain)  # type: ignore[arg-type]
        for name, array in whole(case).items():
            (place / f"{quote(name, safe='')}.npy").write_bytes(_npy_bytes(name, array))


def _read_npy(path: Path) -> ExchangedCases:
    from ckptkit.model_io.array_files import load_inputs

    places = (
        [path] if (path / "outputs").is_dir() else sorted(p.parent for p in path.glob("*/outputs"))
    )
    cases = []
    for place in places:
        outputs = {
            unquote(file.stem): load_inputs(file)[""]
            for file in sorted((place / "outputs").glob("*.npy"))
        }
        cases.append(Case(_safe(place.name), load_inputs(place / "inputs.npz"), outputs))
    return ExchangedCases(tuple(cases))


# --- ONNX -----------------------------------------------------------------------------------------


def _write_onnx(golden: Golden, directory: Path) -> None:
    for number, case in enumerate(golden.cases):
        place = directory / f"test_data_set_{number}"
        place.mkdir()
        for side, arrays in (("input", case.inputs), ("output", whole(case))):
            order = [info.name for info in getattr(golden.model_signature, f"{side}s")]
            names = [*(n for n in order if n in arrays), *(n for n in arrays if n not in order)]
            for index, name in enumerate(names):
                (place / f"{side}_{index}.pb").write_bytes(to_onnx(name, arrays[name]))


def _read_onnx(path: Path) -> ExchangedCases:
    inner = sorted(path.glob("test_data_set_*"), key=lambda p: int(p.name.rpartition("_")[2]))
    cases = []
    for place in inner or [path]:
        sides = []
        for side in ("input", "output"):
            files = sorted(place.glob(f"{side}_*.pb"), key=lambda p: int(p.stem.rpartition("_")[2]))
            named = [from_onnx(_bytes(file), str(file)) for file in files]
            sides.append({name or f"{side}_{n}": array for n, (name, array) in enumerate(named)})
        cases.append(Case(_safe(place.name), *sides))
    return ExchangedCases(tuple(cases))


# --- Polygraphy -----------------------------------------------------------------------------------


def _encoded(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {
        name: {"array": base64.b64encode(_npy_bytes(name, array)).decode(), _MARK: "ndarray"}
        for name, array in arrays.items()
    }


def _write_polygraphy(golden: Golden, directory: Path) -> None:
    feeds = [_encoded(case.inputs) for case in golden.cases]
    results = [
        {
            "outputs": {
                name: {"values": value, _MARK: "LazyNumpyArray"}
                for name, value in _encoded(whole(case)).items()
            },
            "runtime": 0.0,
            "runner_name": golden.runner or "golden",
            _MARK: "IterationResult",
        }
        for case in golden.cases
    ]
    runs = {"lst": [[golden.runner or "golden", results]], _MARK: "RunResults"}
    for name, value in (("inputs.json", feeds), ("outputs.json", runs)):
        (directory / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _read_polygraphy(path: Path) -> ExchangedCases:
    feeds, runs = (_json(path / name) for name in ("inputs.json", "outputs.json"))
    where = str(path / "outputs.json")
    try:
        (_, results), *others = runs["lst"]
        outputs = [
            {name: value.get("values", value) for name, value in result["outputs"].items()}
            for result in results
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(where, f"no RunResults of Polygraphy: {error!r}") from None
    if others:
        raise UsageError("results of several runners", where=where, hint="save those of one")
    if not isinstance(feeds, list) or len(feeds) != len(outputs):
        raise FormatError(where, f"{len(outputs)} iterations for the inputs of another number")
    cases = (
        Case(f"case{n}", dict(_decoded(feed, str(path))), dict(_decoded(result, where)))
        for n, (feed, result) in enumerate(zip(feeds, outputs, strict=True))
    )
    return ExchangedCases(tuple(cases))


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(str(path), f"no JSON: {error}") from None


def _decoded(values: Any, where: str) -> Iterator[tuple[str, Array]]:
    from ckptkit.model_io.array_files import load_inputs

    if not isinstance(values, dict):
        raise FormatError(where, "no arrays by name")
    with tempfile.TemporaryDirectory(prefix="ckptkit-npy-") as scratch:
        for name, value in values.items():
            try:
                data = base64.b64decode(value["array"], validate=True)
            except (KeyError, TypeError, ValueError):
                raise FormatError(where, f"no array in base64: {name!r}") from None
            file = Path(scratch, "array.npy")
            file.write_bytes(data)
            yield name, load_inputs(file)[""]


# --- TensorFlow Serving ---------------------------------------------------------------------------


def _write_warmup(golden: Golden, directory: Path) -> None:
    if len(golden.cases) > MAX_WARMUP:
        raise UsageError(f"TensorFlow Serving takes {MAX_WARMUP} warm-up requests at most")
    file = directory / WARMUP
    file.parent.mkdir(exist_ok=True)
    with replacing(file, overwrite=True) as temporary, temporary.open("wb") as out:
        out.writelines(records(_logged(golden, case) for case in golden.cases))


def _logged(golden: Golden, case: Case) -> bytes:
    from ckptkit.stores.proto.messages import message_class

    log = message_class("PredictionLog")()
    request = log.predict_log.request
    name = golden.signature if golden.signature != "call" else "serving_default"
    request.model_spec.signature_name = name
    for side, arrays in (
        (request.inputs, case.inputs),
        (log.predict_log.response.outputs, case.outputs),
    ):
        for key, array in arrays.items():
            if not isinstance(array, Sample):
                side[key].CopyFrom(to_tensor(array))
    return bytes(log.SerializeToString(deterministic=True))


def _read_warmup(path: Path) -> ExchangedCases:
    from ckptkit.stores.proto.messages import parse

    file = path / WARMUP if path.is_dir() else path
    cases, signature = [], ""
    for number, record in enumerate(read_records(_bytes(file), str(file))):
        where = f"{file}: record {number}"
        log = parse("PredictionLog", record, where).predict_log
        signature = log.request.model_spec.signature_name or signature
        sides = (log.request.inputs, log.response.outputs)
        arrays = [
            {n: from_tensor(side[n], f"{where}: {n}") for n in sorted(side)} for side in sides
        ]
        cases.append(Case(f"case{number}", *arrays))
    return ExchangedCases(tuple(cases), signature)


def _safe(name: str) -> str:
    """Return a case's name as a file name."""
    characters = (c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return "".join(characters) or "case"


FORMS: Mapping[str, ExchangeForm] = {
    "npy": ExchangeForm(_write_npy, _read_npy),
    "onnx": ExchangeForm(_write_onnx, _read_onnx),
    "polygraphy": ExchangeForm(_write_polygraphy, _read_polygraphy),
    "warmup": ExchangeForm(_write_warmup, _read_warmup),
}


def form_of(path: Path) -> str:
    """Return the form of what lies at a path; raises UsageError."""
    signs: Sequence[tuple[str, bool]] = (
        ("warmup", path.name == WARMUP.name or (path / WARMUP).is_file()),
        ("onnx", any(path.glob("test_data_set_*")) or any(path.glob("output_*.pb"))),
        ("polygraphy", (path / "outputs.json").is_file()),
        ("npy", any(path.glob("*/outputs")) or (path / "outputs").is_dir()),
    )
    fitting = [name for name, fits in signs if fits]
    if not path.exists():
        raise PathNotFoundError("nothing is there", where=str(path))
    if len(fitting) != 1:
        raise UsageError(
            "it is not clear what this holds", where=str(path), hint=f"one of {', '.join(FORMS)}"
        )
    return fitting[0]
