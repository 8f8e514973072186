"""What the runtimes beyond TensorFlow share: their packages, devices, and chunks of values.

Imported in a child process alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ckptkit.errors import MissingDependencyError
from ckptkit.runners.child.gpus import gpu_title, rounds_to_tf32
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.child.session import CHUNK_BYTES
from ckptkit.runners.doing import importing
from ckptkit.runners.errors import missing
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_ASK_S = 20.0
DAMAGED = "copy it again, or convert the model again"


def package(module: str, distribution: str) -> Any:
    """Return an imported module; raises MissingDependencyError where it is not installed."""
    try:
        with importing(module):
            return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"this needs {distribution}, which is not installed",
            hint="pip install 'ckptkit-tf[runtimes]'",
        ) from error


def installed(*distributions: str) -> dict[str, str]:
    """Return the versions of those of these distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def only_cpu_zero(spec: RunnerSpec) -> None:
    """Raise RunnerError("missing") for a second CPU device, where a runtime knows only one."""
    if spec.device == "CPU" and spec.index:
        raise missing(f"no CPU:{spec.index} here: {spec.runtime} has one CPU device")


def environment(
    spec: RunnerSpec,
    versions: Mapping[str, str],
    *,
    device_name: str | None = None,
    capability: Sequence[int | str] = (),
) -> dict[str, Any]:
    """Return what every runtime tells of itself: see `environment` in docs/check.md.

    capability: of the GPU that is used, (9, 0); () where there is none, or it is not known.
    """
    return {
        "runtime": spec.runtime,
        "runner": spec.text,
        "versions": dict(versions),
        "device": spec.device,
        "device_name": device_name or cpu_name(),
        "tf32": rounds_to_tf32(spec, capability),
        "xla": spec.xla,
        "deterministic": spec.deterministic,
        "threads": spec.threads,
        "replicas": 1,
        "eager": spec.eager,
        "policy": "float32",
    }


def gpu_name(index: int) -> str:
    """Return a GPU's name and compute capability as its driver tells them."""
    query = [
        "nvidia-smi",
        "-i",
        str(index),
        "--query-gpu=name,compute_cap",
        "--format=csv,noheader",
    ]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "GPU"
    name, _, capability = answer.stdout.strip().partition(", ")
    return gpu_title(name or "GPU", capability.split(".") if capability else ())


def chunked(values: Iterable[tuple[str, Array]]) -> Iterator[dict[str, Array]]:
    """Yield values in groups of about CHUNK_BYTES, names made unique."""
    group: dict[str, Array] = {}
    seen: set[str] = set()
    total = 0
    for name, value in values:
        if group and total + value.nbytes > CHUNK_BYTES:
            yield group
            group, total = {}, 0
        key, number = name, 1
        while key in seen:
            number += 1
            key = f"{name}#{number}"
        seen.add(key)
        group[key] = value
        total += value.nbytes
    if group:
        yield group
