"""What `benchmarks.gpu` carries to a machine with a GPU: models, goldens, wheels.

DIR/models/NAME[-float16|-bfloat16].keras     the same weights, computing by a mixed policy
DIR/models/NAME.weights.h5, NAME.ckpt.index   of those that are also checked as weights and code
DIR/goldens/NAME[-float16|-bfloat16]          what TensorFlow computes with them on the CPU
DIR/wheels/*.whl                              what the packages need that run the check there
DIR/prepared.json                             the versions that recorded the goldens
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from benchmarks._gpu_models import MODELS, REGISTERED, drawn, in_policy
from benchmarks._gpu_rows import AS_CODE, PRECISIONS, say

PREPARED = "prepared.json"
WHEELS = "wheels"
# pip matches these one by one; wheels for older systems run on newer ones
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
_BROUGHT = {"numpy"}  # by JAX, whose version must stay


def prepare(directory: Path, python: str, machine: str) -> None:
    """Make all of it; needs TensorFlow.  python, machine: of the wheels, "3.12" and "x86_64"."""
    from ckptkit.operations.record.api import record

    models, goldens = directory / "models", directory / "goldens"
    for folder in (models, goldens):
        folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        model = drawn(name)
        forms = {"": model}
        forms |= {f"-{p}": in_policy(model, f"mixed_{p}") for p in PRECISIONS}
        for suffix, form in forms.items():
            path = models / f"{name}{suffix}.keras"
            form.save(path)
            say(f"recording {path.name}")
            imports = [REGISTERED[name]] if name in REGISTERED else []
            record(
                path,
                goldens / f"{name}{suffix}",
                imports=imports,
                batch=16,
                noise=False,
                blind=False,
                overwrite=True,
            )
        if name in AS_CODE:
            _weights(model, models, name)
    _wheels(directory / WHEELS, python, machine)
    names = ("tensorflow", "keras", "numpy")
    text = json.dumps({name: version(name) for name in names}, indent=2)
    (directory / PREPARED).write_text(f"{text}\n", encoding="utf-8")


def _weights(model: object, models: Path, name: str) -> None:
    from ckptkit.fixtures.saving import checkpoint

    model.save_weights(models / f"{name}.weights.h5")  # type: ignore[attr-defined]
    checkpoint(models / f"{name}.ckpt", model=model)


def _wheels(folder: Path, python: str, machine: str) -> None:
    """Download what Keras and this package need, for that Python."""
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [f"--platform={name}_{machine}" for name in _PLATFORMS]
    # the Keras that recorded; of the rest what is newest there
    names = sorted({*_needed("ckptkit-tf"), *_needed("keras")} - {"ckptkit-tf", "keras"} - _BROUGHT)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [*platforms, f"--dest={folder}", f"keras=={version('keras')}", *names]
    say(f"wheels of keras, {', '.join(names)}")
    subprocess.run(command, check=True)


def _needed(name: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield a package and all that it needs, as their metadata say; extras left out."""
    from packaging.requirements import Requirement

    if name in seen:
        return
    yield name
    try:
        needs = map(Requirement, requires(name) or [])
    except PackageNotFoundError:  # needed nowhere here
        return
    for need in needs:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield from _needed(need.name.lower().replace("_", "-"), seen | {name})
