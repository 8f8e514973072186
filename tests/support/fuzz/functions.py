"""What is fuzzed of public functions: mutants of any file, and of the files beside one."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ckptkit
from ckptkit.align.matching import TensorSet, align
from ckptkit.align.rules import apply_rules, parse_rule, read_rules, suggest_rules
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.errors import CkptkitError
from ckptkit.golden.binding import Binding
from ckptkit.golden.golden import Case, Golden, read_golden, sampled, write_golden
from ckptkit.model_io.array_files import load_inputs
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.golden import FORMS, export_golden, import_golden
from ckptkit.operations.scan.api import scan
from ckptkit.operations.show import parse_slice, slice_text
from ckptkit.operations.tolerance_rules import choose, read_tolerances, tolerance
from ckptkit.operations.verify.api import verify
from ckptkit.reports import tensor as tensor_report
from ckptkit.reports.diff import html, junit
from ckptkit.reports.diff import text as diff_text
from ckptkit.runners.spec import parse_runner
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.tensor_bundle.state_file import latest_checkpoint, read_state
from ckptkit.text import parse_size
from support.fuzz import mutators
from support.fuzz.readers import READERS, Target, read_everything
from support.goldens import GOLDEN

SOURCES = ("bundle", "h5", "keras", "npz", "safetensors", "saved-model")
DESTINATIONS = ("npz", "safetensors", "weights.h5", "tensor-bundle")
SLICES = ("0", "...", ":", "0:2,:", "-1", "::2", ":,0", "0:0", "9999999999:", "...,0:3", "-5:2")


def any_mutant(directory: Path, rng: random.Random) -> Path:
    """Put a mutant of a file of some format below a directory; return the operand."""
    return READERS[rng.choice(SOURCES)].write(directory, rng)


# --- functions on one or two models ---------------------------------------------------------------


def show(path: Path) -> None:
    rng = random.Random(str(path.stat().st_size if path.is_file() else 0))
    with ckptkit.open(path) as checkpoint:
        keys = list(checkpoint.specs)
        for key in rng.sample(keys, min(len(keys), 3)):
            for part in (None, rng.choice(SLICES)):
                with suppress(CkptkitError):
                    summary = ckptkit.show(path, key, slice=part)
                    assert all(line.isprintable() for line in tensor_report.lines(summary))
                    assert list(tensor_report.several([summary], "json"))


def two_mutants(directory: Path, rng: random.Random) -> Path:
    """Put two mutants of one kind below a directory, `0` and `1`."""
    source = READERS[rng.choice(SOURCES)]
    state = rng.getstate()
    operands = []
    for name in ("0", "1"):
        place = directory / name
        place.mkdir()
        if rng.random() < 0.7:
            rng.setstate(state)  # of the same file
        operands.append(source.write(place, rng))
        rng.seed(f"{state[1][:4]} {name}")
    (directory / "operands").write_text("\n".join(str(o.relative_to(directory)) for o in operands))
    return directory


def diff(directory: Path) -> None:
    old, new = (directory / line for line in (directory / "operands").read_text().split("\n"))
    modes: list[dict[str, Any]] = [{}, {}, {"mode": "quick"}, {"mode": "structure"}]
    result = ckptkit.diff(old, new, **chosen(directory, [*modes, {"bitwise": True}]))
    for fmt in ("table", "json", "csv", "markdown"):
        lines = list(diff_text.lines(result, fmt))
        assert fmt == "json" or all(line.isprintable() for line in lines)
    assert list(junit.lines(result)) and list(html.lines(result))


def chosen(path: Path, choices: Sequence[Any]) -> Any:
    """Return one of several for a mutant, the same each time."""
    files = sorted(path.parent.rglob("*")) if not path.is_file() else [path]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return random.Random(str(sizes)).choice(choices)


def convert(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-converted-") as scratch:
        form = chosen(path, DESTINATIONS)
        place = Path(scratch, f"out.{form}")
        assert ckptkit.convert(path, place, to=form).ok
        assert verify(place).exit_code == 0


def noisy(text: str, rng: random.Random) -> str:
    return mutators.noise(text.encode(), rng).decode("utf-8", "replace")


def names_of_two(directory: Path, rng: random.Random) -> Path:
    """Write two lists of tensors as (name, dtype, shape, role, slot_of) in JSON."""
    stems = [noisy(rng.choice(("dense/kernel", "conv_12/bias", "a/b/c/w", "w")), rng) for _ in "12"]
    sides = []
    for _ in range(2):
        side: dict[str, Any] = {}
        for number in range(rng.randrange(12)):
            name = noisy(rng.choice(stems), rng) if rng.random() < 0.5 else rng.choice(stems)
            side[f"{name}{rng.choice(('', number, '/0', '_1', '@m'))}"] = (
                rng.choice(("float32", "int64", "string", "float16", "dtype#99")),
                rng.choice(((), (2,), (0,), (2, 3), (3, 2), (1 << 40, 0))),
                rng.choice(ROLES),
                rng.choice(stems),
                rng.choice((None, 0, 1, 7)),
            )
        sides.append(side)
    rules = [f"{noisy(rng.choice(stems), rng)}=>{noisy(rng.choice(stems), rng)}"]
    path = directory / "names.json"
    path.write_text(json.dumps([*sides, rules]))
    return path


def _tensor_set(side: Mapping[str, Any]) -> TensorSet:
    specs, names = {}, {}
    for key, (dtype, shape, role, slot_of, crc) in side.items():
        specs[key] = TensorSpec(key, dtype, tuple(shape), 4, 0, 0, crc)
        names[key] = Naming(key, role, key, (key, f"x/{key}"), slot_of if role == "slot" else None)
    return TensorSet(specs, names)


def pair(path: Path) -> None:
    old, new, texts = json.loads(path.read_text())
    sets = _tensor_set(old), _tensor_set(new)
    rules = []
    with suppress(CkptkitError):
        rules = [parse_rule(text) for text in texts]
    for chosen in ([], rules):
        with suppress(CkptkitError):
            found = align(*sets, chosen)
            left = [m.old for m in (*found.pairs, *found.renamed)] + list(found.only_left)
            assert len(set(left)) == len(left)
    assert suggest_rules(dict.fromkeys(old, (1,)), dict.fromkeys(new, (1,))) is not None


# --- files beside a model -------------------------------------------------------------------------

CASES = (
    Case("c0", {"x": np.ones((2, 2), np.float32)}, {"y": np.arange(4.0), "t": np.array([b"a"])}),
    Case("c1", {"x": np.zeros((1, 2), np.float32)}, {"y": np.arange(4.0), "t": np.array([b"b"])}),
)


@cache
def golden_files() -> dict[str, bytes]:
    """Return the files of a golden by name."""
    made = Golden(
        "m", "saved_model", "serve",
        ModelSignature((TensorInfo("x", "float32", (None, 2)),), (TensorInfo("y", "f8", None),)),
        Binding("x", ""), {"runtime": "onnx"}, "CPU:0",
        tuple(Case(c.name, c.inputs, sampled(c.outputs, 20), {"a/b": np.ones(3)}) for c in CASES),
        noise={"y": {"max_abs": 1e-7, "max_scaled": 0.5, "runs": 3}}, blind=("b",),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fuzz-golden-") as scratch:
        write_golden(Path(scratch, "g"), made)
        return {p.name: p.read_bytes() for p in sorted(Path(scratch, "g").iterdir())}


def golden(directory: Path, rng: random.Random) -> Path:
    """Write a golden one file of which is damaged, digests made anew in nine of ten."""
    import hashlib

    files = dict(golden_files())
    name = rng.choice([*files, "golden.json", "golden.json"])
    name = name if name in files else next(n for n in files if n.endswith(".json"))
    old = hashlib.sha256(files[name]).hexdigest()
    if name.endswith(".json"):
        files[name] = mutators.json_text(files[name], rng)
    else:
        files[name] = mutators.archive(files[name], rng)
    new = hashlib.sha256(files[name]).hexdigest()
    place = directory / "golden"
    place.mkdir()
    for other, content in files.items():
        if rng.random() < 0.9:
            content = content.replace(old.encode(), new.encode())
        (place / other).write_bytes(content)
    return place


def read_a_golden(path: Path) -> None:
    found = read_golden(path)
    assert found.cases
    assert list(found.binding.to_json())


@cache
def exchange_files(form: str) -> dict[str, bytes]:
    """Return the files of a golden in the form of another tool, by relative path."""
    with tempfile.TemporaryDirectory(prefix="fuzz-golden-") as scratch:
        place = Path(scratch, "g")
        place.mkdir()
        for name, content in golden_files().items():
            (place / name).write_bytes(content)
        export_golden(place, Path(scratch, "out"), form)
        out = Path(scratch, "out")
        return {
            str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()
        }


def exchange(directory: Path, rng: random.Random) -> Path:
    files = exchange_files(rng.choice(sorted(FORMS)))
    damaged = rng.choice(sorted(files))
    for name, content in files.items():
        path = directory / "golden" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == damaged:
            mutate = mutators.archive if name.endswith(".npz") else mutators.noise
            mutate = mutators.json_text if name.endswith(".json") else mutate
            content = mutate(content, rng)
        path.write_bytes(content)
    return directory / "golden"


def import_one(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-golden-") as scratch:
        import_golden(path, Path(scratch, "g"))


def text_file(name: str, text: str) -> Callable[[Path, random.Random], Path]:
    def write(directory: Path, rng: random.Random) -> Path:
        path = directory / name
        path.write_bytes(mutators.noise(text.encode(), rng))
        return path

    return write


TOLERANCES = "# by layer\ndense/* rtol=1e-3 atol=1e-6\n*/bias atol=0.5\n[a-z]* rtol=0\n"
RULES = """# renames
^model/(.*)$=>\\1
layer(\\d+)=>block\\1 | transpose 1 0
kernel=>weight | reshape 2 3
^a$=>b
"""


def use_tolerances(path: Path) -> None:
    rules = read_tolerances(path)
    for name in ("dense/kernel", "x/bias", "", "\n"):
        assert choose(rules, tolerance(0, 0), [name]).rtol >= 0


def use_rules(path: Path) -> None:
    names = {name: (name,) for name in ("model/a", "layer12/kernel", "a", "b", "weight", "")}
    for transforms in (False, True):
        with suppress(CkptkitError):
            apply_rules(read_rules(path, transforms=transforms), names, names)


@cache
def manifest_text() -> bytes:
    with tempfile.TemporaryDirectory(prefix="fuzz-manifest-") as scratch:
        shutil.copy(GOLDEN / "tf2.21.0/files_nested/model.weights.h5", scratch)
        np.savez(Path(scratch, "w.npz"), a=np.arange(3))
        verify(scratch, new_manifest=Path(scratch, "SUMS"))
        return Path(scratch, "SUMS").read_bytes()


def manifest(directory: Path, rng: random.Random) -> Path:
    shutil.copy(GOLDEN / "tf2.21.0/files_nested/model.weights.h5", directory)
    np.savez(directory / "w.npz", a=np.arange(3))
    path = directory / "SUMS"
    path.write_bytes(mutators.noise(manifest_text(), rng))
    return path


def use_manifest(path: Path) -> None:
    result = verify(path.parent, manifest=path)
    assert result.exit_code in (0, 1)
    with suppress(CkptkitError):
        verify(path.parent, new_manifest=path)


def inputs(directory: Path, rng: random.Random) -> Path:
    whole = directory / "good.npz"
    np.savez(whole, x=np.arange(6.0).reshape(2, 3), t=np.array([b"ab", b"c"]), f=np.eye(3).T)
    if rng.random() < 0.5:
        path = directory / "x.npz"
        path.write_bytes(mutators.archive(whole.read_bytes(), rng))
        return path
    path = directory / "x.npy"
    dtype = rng.choice(("f4", "<i8", "S3", "U2", "c8", ">f8"))
    np.save(path, np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)))
    path.write_bytes(mutators.noise(path.read_bytes(), rng))
    return path


def use_inputs(path: Path) -> None:
    for array in load_inputs(path).values():
        assert array.nbytes < 1 << 28


@cache
def shards_of(kind: str) -> dict[str, bytes]:
    """Return the files of a model's weights in several files, by name."""
    with tempfile.TemporaryDirectory(prefix="fuzz-shards-") as scratch:
        out = Path(scratch, "model.safetensors")
        ckptkit.convert(GOLDEN / "tf2.21.0/adam/ckpt", out, shard_size=600)
        return {p.name: p.read_bytes() for p in sorted(Path(scratch).iterdir())}


def safetensors_index(directory: Path, rng: random.Random) -> Path:
    files = shards_of("safetensors")
    index = next(name for name in files if name.endswith(".json"))
    damaged = index if rng.random() < 0.8 else rng.choice(sorted(files))
    for name, content in files.items():
        if name == damaged:
            mutate = mutators.json_text if name == index else mutators.safetensors
            content = mutate(content, rng)
        (directory / name).write_bytes(content)
    return directory / index


def weights_json(directory: Path, rng: random.Random) -> Path:
    shutil.copy(GOLDEN / "tf2.21.0/files_nested/model.weights.h5", directory / "m_0.weights.h5")
    index = {
        "metadata": {"total_size": 9},
        "weight_map": {"/layers/dense/vars": ["m_0.weights.h5"]},
    }
    path = directory / "m.weights.json"
    path.write_bytes(mutators.json_text(json.dumps(index).encode(), rng))
    return path


def keras_config(directory: Path, rng: random.Random) -> Path:
    """Write a `.keras` file of whose config several parts are replaced."""
    import zipfile

    source = GOLDEN / rng.choice(("tf2.21.0/files_nested", "tf2.21.0/files_text")) / "model.keras"
    path = directory / "m.keras"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                for _ in range(rng.choice((1, 2, 5))):
                    content = mutators.json_text(content, rng, noisy=0.1)
            new.writestr(name, content)
    return path


def use_config(path: Path) -> None:
    scan(path)
    ckptkit.ls(path)
    verify(path)


def words(directory: Path, rng: random.Random) -> Path:
    path = directory / "words"
    good = ("xla:GPU:1,threads=2,tf32", "mirrored:CPUx2", "1.5GiB", "0:2,:,3")
    path.write_bytes(mutators.noise(rng.choice(good).encode(), rng))
    return path


def use_words(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "replace")
    with suppress(CkptkitError):
        assert parse_runner(parse_runner(text).text) == parse_runner(text)
    with suppress(ValueError):
        assert parse_size(text) > 0
    for shape in ((3, 4), (), (0, 1 << 40)):
        with suppress(CkptkitError):
            indices = parse_slice(text, shape)
            assert len(indices) == len(shape) and slice_text(indices, shape) is not None


def state_text(directory: Path, rng: random.Random) -> Path:
    text = b'model_checkpoint_path: "c-2"\nall_model_checkpoint_paths: "c-1"\n'
    (directory / "checkpoint").write_bytes(mutators.noise(text, rng))
    return directory


def read_state_text(directory: Path) -> None:
    with suppress(CkptkitError):
        read_state(directory / "checkpoint")
    latest_checkpoint(directory)


FUNCTIONS = {
    "align": Target(names_of_two, pair),
    "convert": Target(any_mutant, convert),
    "diff": Target(two_mutants, diff),
    "exchange": Target(exchange, import_one),
    "golden": Target(golden, read_a_golden),
    "inputs": Target(inputs, use_inputs),
    "keras-config": Target(keras_config, use_config),
    "manifest": Target(manifest, use_manifest),
    "rules": Target(text_file("rules", RULES), use_rules),
    "safetensors-index": Target(safetensors_index, read_everything),
    "show": Target(any_mutant, show),
    "state-text": Target(state_text, read_state_text),
    "tolerances": Target(text_file("tolerances", TOLERANCES), use_tolerances),
    "weights-json": Target(weights_json, read_everything),
    "words": Target(words, use_words),
}
