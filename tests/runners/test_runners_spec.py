"""How runners are spelled."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ckptkit.errors import UsageError
from ckptkit.runners.client import describe, restore
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import RunnerSpec, parse_runner
from ckptkit.runners.types import Limits, ModelSpec


@pytest.mark.parametrize(
    ("text", "spec", "canonical"),
    [
        ("CPU:0", RunnerSpec(), "CPU:0"),
        ("cpu", RunnerSpec(), "CPU:0"),
        ("tensorflow", RunnerSpec(), "CPU:0"),
        ("tensorflow:gpu:3", RunnerSpec(device="GPU", index=3), "GPU:3"),
        ("xla:CPU:1", RunnerSpec(index=1, xla=True), "xla:CPU:1"),
        ("Mirrored:cpux2", RunnerSpec(replicas=2), "mirrored:CPUx2"),
        ("CPU:0, tf32 ,threads=4", RunnerSpec(threads=4, tf32=True), "CPU:0,threads=4,tf32"),
        (
            "GPU:0,eager,deterministic",
            RunnerSpec(device="GPU", deterministic=True, eager=True),
            "GPU:0,deterministic,eager",
        ),
    ],
)
def test_a_runner_is_read(text: str, spec: RunnerSpec, canonical: str) -> None:
    assert parse_runner(text) == spec
    assert spec.text == canonical == str(spec)


def test_every_canonical_text_is_read_back() -> None:
    bools = (False, True)
    for device, index, xla, deterministic, tf32, threads in itertools.product(
        ("CPU", "GPU"), (0, 1, 63), bools, bools, bools, (None, 1, 16)
    ):
        spec = RunnerSpec("tensorflow", device, index, 1, xla, deterministic, tf32, threads)
        assert parse_runner(spec.text) == spec
    for runtime, row in RUNNERS.items():
        assert parse_runner(RunnerSpec(runtime, row.devices[0]).text).runtime == runtime


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no device"),
        ("TPU:0", "'TPU:0' is no device"),
        ("CPU:x", "'CPU:x' is no device"),
        ("CPU:-1", "no device"),
        ("CPU:64", "above 63"),
        ("torchscript:CPU:0", "no runtime"),
        ("CPU:0,fast", "'fast' is no switch"),
        ("CPU:0,threads=0", "no switch"),
        ("CPU:0,threads=two", "no switch"),
        ("CPU:0,tf32,tf32", "twice"),
        ("CPU:0,threads=1,threads=2", "twice"),
        ("xla:CPU:0,eager", "choose one"),
        ("mirrored:CPU:0", "mirrored:CPUx2"),
        ("mirrored:CPUx1", "2 to 64"),
        ("xla:mirrored:CPUx2", "neither under xla"),
    ],
)
def test_what_is_no_runner_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_runner(text)
    assert "write [RUNTIME:]" in caught.value.hint


def test_a_subject_goes_to_runtimes_that_take_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tensorflow does not run"):
        describe(ModelSpec("tflite", tmp_path / "m.tflite"), RunnerSpec(), Limits())
    with pytest.raises(UsageError, match="only a checkpoint"):
        restore(ModelSpec("keras", tmp_path / "m.keras"), RunnerSpec(), Limits(), tmp_path / "out")
