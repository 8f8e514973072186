"""Models of Keras 2 upgraded: a zoo made by tf_keras, and models that strangers published.

    python -m benchmarks.upgrades [--keras2 PYTHON] [--jax PYTHON] [--cache DIR] [--form FORM]
                                  [--part zoo|published] [--write]

The zoo (`_upgrade_zoo.py`) is made and saved by tf_keras, which also says what each model computes.
Each is upgraded by the command, as a user would, then loaded by Keras 3 in a fresh process on
TensorFlow and, where an interpreter with JAX is named, on JAX.  The published models are those of
`benchmarks.published` that are whole models.  PYTHON is an interpreter that has tf_keras, Keras 3
and ckptkit's requirements; without one, an environment is made in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.harness import ROOT, put
from benchmarks.published import MODELS, Cache, Published
from ckptkit.reports.table import render

DOCUMENT = ROOT / "docs" / "upgrade.md"
ZOO, LOADS = (Path(__file__).with_name(name) for name in ("_upgrade_zoo.py", "_upgrade_loads.py"))
CLASSES = Path(__file__).with_name("upgrade_classes.py")
FORMS = ("model.h5", "model.keras", "saved")
BASIC_PITCH = Published("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp")
_SECONDS = 1200.0


def environment(backend: str = "tensorflow") -> dict[str, str]:
    """Return the variables of the processes that are started here."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "-1",
    }


def interpreter(folder: Path) -> Path:
    """Return an interpreter with tf_keras, Keras 3 and ckptkit, made where it is not there yet."""
    python = folder / "keras2" / "bin" / "python"
    if not python.is_file():
        venv.create(python.parents[1], with_pip=True)
        packages = (f"{ROOT}[tensorflow]", "tf_keras", "h5py")
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def upgraded(python: Path, source: Path, target: Path, *options: str) -> dict[str, Any]:
    """Return the row of one model, or {"error": why it was refused}."""
    command = [python, "-m", "ckptkit", "upgrade", source, target, "--overwrite", *options]
    done = subprocess.run(
        [*map(str, command), "--format", "json"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if not done.stdout.startswith("{"):
        lines = [line for line in done.stderr.splitlines() if line.startswith("ckptkit: ")]
        return {"status": "refused", "error": (lines or [done.stderr[-300:]])[0][9:]}
    row: dict[str, Any] = json.loads(done.stdout)["rows"][0]
    return row


def told(row: dict[str, Any]) -> str:
    """Return what a row says of outputs, or why there is no model."""
    receipt = row.get("receipt")
    if receipt is None:
        return str(row["error"])
    outputs = receipt["outputs"]
    if outputs["why_not"]:
        return f"not compared: {outputs['why_not']}"
    worst = max((one["max_abs"] for one in outputs["rows"]), default=0.0)
    return f"{len(outputs['rows'])} outputs, {worst:.2g}"


def zoo_rows(python: Path, jax: Path | None, folder: Path, form: str) -> Iterator[tuple[str, ...]]:
    """Yield a row per model of the zoo: what was done, and how far its outputs are off."""
    zoo, new = folder / "zoo", folder / f"new-{form}"
    new.mkdir(parents=True, exist_ok=True)
    if not zoo.is_dir():
        variables = {**environment(), "TF_USE_LEGACY_KERAS": "1"}
        subprocess.run([str(python), str(ZOO), str(zoo)], env=variables, check=True)
    rows: dict[str, dict[str, Any]] = {}
    for place in sorted(zoo.iterdir()):
        source = place / form
        if not source.exists():
            continue
        options = ("--import", str(CLASSES)) if place.name == "custom_layer" else ()
        rows[place.name] = upgraded(python, source, new / f"{place.name}.keras", *options)
        click.echo(
            f"{place.name}: {rows[place.name]['status']}, {told(rows[place.name])}", err=True
        )
    gaps = [loads(python, "tensorflow", zoo, new), loads(jax, "jax", zoo, new) if jax else {}]
    for name, row in rows.items():
        receipt = row.get("receipt") or {}
        changes = len(receipt.get("changes", ()))
        yield (name, row["status"], str(changes), *(gap.get(name, "") for gap in gaps))


def loads(python: Path, backend: str, zoo: Path, new: Path) -> dict[str, str]:
    """Return how far each upgraded model is off on a backend, loaded in one fresh process."""
    command = [str(python), str(LOADS), str(zoo), str(new)]
    done = subprocess.run(
        command, env=environment(backend), stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            gap = one.get("gap")
            found[one["name"]] = (
                f"{gap:.2g}" if gap is not None else one.get("note") or one["error"]
            )
    return found


def published_rows(python: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row per published model: where it is from, and what became of it."""
    from ckptkit.stores.registry import SAVED_MODEL
    from ckptkit.stores.saved_model.files import MODEL_FILE

    cache = Cache(folder, None)
    for model in (*(model for model in MODELS if not model.builder), BASIC_PITCH):
        source = cache.package(model.package, model.version) / model.path
        row = upgraded(python, source, folder / f"{SAVED_MODEL}.keras")
        file = source / MODEL_FILE if source.is_dir() else source
        click.echo(f"{model.path}: {row['status']}, {told(row)}", err=True)
        yield (
            f"{model.package} {model.version}",
            model.path,
            _digest(file)[:16],
            row["status"],
            told(row)[:160],
        )


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@click.command(help=__doc__)
@click.option("--keras2", "python", type=Path, help="An interpreter with tf_keras and Keras 3.")
@click.option("--jax", type=Path, help="An interpreter with Keras 3 and JAX.")
@click.option("--cache", type=Path, default=Path.home() / ".cache" / "ckptkit", show_default=True)
@click.option("--form", type=click.Choice(FORMS), default="model.keras", show_default=True)
@click.option("--part", type=click.Choice(["zoo", "published"]), default=None)
@click.option("--write", is_flag=True, help="Rewrite docs/upgrade.md.")
def main(
    python: Path | None, jax: Path | None, cache: Path, form: str, part: str | None, write: bool
) -> None:
    python = python or interpreter(cache)
    parts: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[tuple[str, ...]]]]] = {
        "zoo": (
            ("MODEL", "", "CHANGES", "ON TENSORFLOW", "ON JAX"),
            lambda: zoo_rows(python, jax, cache / "upgrades", form),
        ),
        "published": (
            ("PACKAGE", "FILE", "SHA-256", "", "OUTPUTS AGAINST TF_KERAS, OR WHY NOT"),
            lambda: published_rows(python, cache),
        ),
    }
    for name, (headers, rows) in parts.items():
        if part not in (None, name):
            continue
        table = "\n".join(render(list(rows()), headers, "markdown"))
        click.echo(table)
        if write:
            put(DOCUMENT, table, f"<!-- {name} -->", f"<!-- /{name} -->")


if __name__ == "__main__":
    main()
