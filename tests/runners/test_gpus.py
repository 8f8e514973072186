"""What runners say of GPUs, and the switches that they set; needs no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from ckptkit.errors import CkptkitError
from ckptkit.runners import client
from ckptkit.runners.child.gpus import gpu_title, rounds_to_tf32
from ckptkit.runners.keras.jax_backend import _capability, _cuda
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.tensorflow.setup import as_asked
from ckptkit.runners.types import Limits

ASKED = RunnerSpec(device="GPU", tf32=True)


@pytest.mark.parametrize(
    ("spec", "capability", "rounds"),
    [
        (ASKED, (8, 0), True),
        (ASKED, ("9", "0"), True),
        (ASKED, (10, 0), True),
        (ASKED, (7, 5), False),  # Turing has no TF32
        (ASKED, (), True),
        (RunnerSpec(device="GPU"), (9, 0), False),
        (RunnerSpec(tf32=True), (), False),
    ],
)
def test_what_rounds_to_tf32(
    spec: RunnerSpec, capability: tuple[Any, ...], rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert rounds_to_tf32(spec, capability) is rounds


def test_a_system_that_forbids_tf32_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not rounds_to_tf32(ASKED, (9, 0))


@pytest.mark.parametrize(
    ("runner", "override"), [("GPU:0", "0"), ("GPU:0,tf32", None), ("CPU:0", None)]
)
def test_the_libraries_of_nvidia_are_told(
    runner: str, override: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, str] = {}

    class Told(Exception):
        pass

    def run(*_: Any, environment: Mapping[str, str], **__: Any) -> None:
        given.update(environment)
        raise Told

    monkeypatch.setattr(client, "run", run)
    with pytest.raises(Told):
        client.send({}, parse_runner(runner), Limits())
    assert given.get("NVIDIA_TF32_OVERRIDE") == override
    assert (given.get("CUDA_VISIBLE_DEVICES") == "-1") is runner.startswith("CPU")


def test_gpus_are_called_the_same_everywhere() -> None:
    name = "NVIDIA H100 80GB HBM3"
    assert gpu_title(name, (9, 0)) == gpu_title(name, ["9", "0"])
    assert gpu_title(name, (9, 0)) == f"{name} (compute capability 9.0)"
    assert gpu_title(name, ()) == name


@pytest.mark.parametrize(
    ("runner", "there", "told"),
    [
        ("GPU:1", ("GPU:0", "CPU:0"), ("GPU:1", "CPU:0")),
        ("GPU:0", ("GPU:0", "CPU:0"), ("GPU:0", "CPU:0")),
        ("mirrored:GPUx2", ("GPU:0", "GPU:1"), ("GPU:0", "GPU:1")),
        ("CPU:1", ("CPU:1",), ("CPU:1",)),
    ],
)
def test_the_only_gpu_that_tensorflow_sees_has_the_number_that_was_asked_for(
    runner: str, there: tuple[str, ...], told: tuple[str, ...]
) -> None:
    devices = {name: {"ops": 1, "heavy": 1} for name in there}
    assert tuple(as_asked(parse_runner(runner), devices)) == told


@pytest.mark.parametrize(
    ("told", "version"),
    [("PJRT C API\ncuda 13000", "13.0"), ("cuda 12080", "12.8"), ("cpu", ""), ("rocm 60300", "")],
)
def test_the_version_of_cuda_behind_jax(told: str, version: str) -> None:
    assert _cuda(SimpleNamespace(client=SimpleNamespace(platform_version=told))) == version
    assert _cuda(None) == ""


@pytest.mark.parametrize(("told", "capability"), [("9.0", ["9", "0"]), ("gfx942", ()), (None, ())])
def test_the_capability_of_a_device_of_jax(told: str | None, capability: Any) -> None:
    device = SimpleNamespace() if told is None else SimpleNamespace(compute_capability=told)
    assert _capability(device) == capability


@pytest.mark.runtimes
def test_pytorch_rounds_nothing_to_tf32_unless_told() -> None:
    torch = pytest.importorskip("torch", reason="`make test-runtimes` installs it")
    from ckptkit.runners.keras.torch_backend import allow_tf32

    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32
    try:
        for allowed, word in ((False, "ieee"), (True, "tf32"), (False, "ieee")):
            allow_tf32(backends, allowed)
            assert backends.cuda.matmul.allow_tf32 is allowed
            assert backends.cudnn.allow_tf32 is allowed
            assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")
            for op in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
                assert getattr(op, "fp32_precision", word) == word
    finally:
        allow_tf32(backends, before)


@pytest.mark.parametrize("runner", ["GPU:64", "GPU:", "gpu:x", "keras-torch:GPU:0,eager"])
def test_devices_that_nobody_has_are_refused(runner: str) -> None:
    with pytest.raises(CkptkitError) as caught:
        parse_runner(runner)
    assert caught.value.exit_code == 2
