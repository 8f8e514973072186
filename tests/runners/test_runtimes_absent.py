"""Runtimes whose package is not installed, and what none of them takes; needs none of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners.client import describe
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import parse_runner
from ckptkit.runners.types import Limits, ModelSpec

LIMITS = Limits(timeout_s=600)
SUBJECTS = {
    "litert": ("ai_edge_litert", "tflite"),
    "onnx": ("onnxruntime", "onnx"),
    "keras-jax": ("jax", "keras"),
    "keras-torch": ("torch", "keras"),
}


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages that cannot be imported, found before any real ones."""
    for name, _ in SUBJECTS.values():
        package = tmp_path / "absent" / name
        package.mkdir(parents=True)
        text = f"raise ModuleNotFoundError('not here', name='{name}')\n"
        (package / "__init__.py").write_text(text)
    before = os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join(filter(None, [str(tmp_path / "absent"), before]))
    monkeypatch.setenv("PYTHONPATH", paths)
    yield


@pytest.mark.parametrize("runtime", SUBJECTS)
def test_a_package_that_is_not_there(nothing_installed: None, tmp_path: Path, runtime: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"")
    subject = ModelSpec(SUBJECTS[runtime][1], path)

    with pytest.raises(RunnerError, match="which is not installed") as caught:
        describe(subject, parse_runner(f"{runtime}:CPU:0"), LIMITS)

    assert caught.value.kind == "missing"
    assert "pip install 'ckptkit-tf[runtimes]'" in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "kind"), [("onnx", "tflite"), ("litert", "keras"), ("keras-jax", "saved_model")]
)
def test_a_runtime_says_which_others_take_a_model(runtime: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        describe(ModelSpec(kind, Path("model")), parse_runner(f"{runtime}:CPU:0"), LIMITS)
    able = [name for name, row in RUNNERS.items() if kind in row.model_kinds]
    assert able and ", ".join(able) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("litert:GPU:0", "litert runs on CPU"),
        ("litert:CPU:0,tf32", "litert has no tf32"),
        ("onnx:xla:CPU:0", "onnx has no xla"),
        ("keras-torch:CPU:0,eager", "keras-torch has no eager"),
        ("keras-jax:mirrored:CPUx2", "keras-jax has no mirrored"),
    ],
)
def test_switches_that_a_runtime_lacks(text: str, lacks: str) -> None:
    with pytest.raises(UsageError, match=lacks):
        parse_runner(text)
