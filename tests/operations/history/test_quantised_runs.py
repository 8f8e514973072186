"""Steps of quantised models: what is measured is what their integers stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit._io import file_states
from support.flatbuffer_bytes import Constant, litert_model
from support.places import ROOT
from support.proto_bytes import field, onnx_model, onnx_tensor

BLOCKS = ROOT / "fixtures/deployed/keras3.15.1/blocks.onnx"
INT8, SINGLE = 3, 1  # data types of ONNX


def of_litert(path: Path, scale: float) -> Path:
    path = path.with_suffix(".tflite")
    values = bytes(range(64))
    path.write_bytes(litert_model(Constant("w", 9, [8, 8], values, [scale], [0])))
    return path


def of_blocks(path: Path, scale: float, suffix: str = ".onnx") -> Path:
    """Four bits, one scale for a block: the golden file, its scales multiplied."""
    golden = BLOCKS.with_suffix(suffix)
    data = bytearray(golden.read_bytes())
    [spec] = [spec for key, spec in ckptkit.open(golden).specs.items() if "scale" in key]
    assert spec.offset is not None
    dtype = np.dtype(spec.dtype)
    scales = np.frombuffer(data, dtype, spec.size, spec.offset) * dtype.type(scale)
    data[spec.offset : spec.offset + spec.nbytes] = scales.tobytes()
    path.with_suffix(suffix).write_bytes(data)
    return path.with_suffix(suffix)


def of_litert_blocks(path: Path, scale: float) -> Path:
    return of_blocks(path, scale, ".tflite")


@pytest.mark.parametrize("make", [of_litert, of_blocks, of_litert_blocks])
def test_a_change_of_scale_is_a_change(make: Callable[[Path, float], Path], tmp_path: Path) -> None:
    steps = [make(tmp_path / f"step-{at}", 0.5 * 2**at) for at in range(3)]
    run = ckptkit.history(*steps, cache=tmp_path / "cache.json")
    assert [finding.code for finding in run.findings] == []
    (tensor,) = [tensor for tensor in run.tensors if tensor.role == "weight"]
    norms = [tensor.measured[at].statistics.norm for at in range(3)]
    assert norms[1] == 2 * norms[0] and norms[2] == 4 * norms[0]
    shown = ckptkit.show(steps[0], tensor.name).statistics
    assert shown is not None and shown.norm == norms[0]
    listed = ckptkit.ls(steps[0], stats=True).statistics
    assert listed is not None and listed[tensor.name].norm == norms[0]
    update = tensor.measured[2].update
    assert update is not None and update.norm == pytest.approx(norms[1])
    assert not ckptkit.diff(steps[0], steps[1]).same


def test_what_was_measured_of_integers_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what changed just now is remembered
    monkeypatch.setattr(file_states, "_SETTLED_NS", -(10**18))
    cache = tmp_path / "cache.json"
    steps = [of_litert(tmp_path / f"step-{at}", 0.5 * 2**at) for at in range(2)]
    before = ckptkit.history(*steps, cache=cache)
    written = json.loads(cache.read_text("utf-8").replace("/float32", "/int8"))
    for tensor in written["tensors"].values():
        tensor["values"] = {content: [7] * 9 + ["0", 0] for content in tensor["values"]}
    cache.write_text(json.dumps(written, separators=(",", ":")), "utf-8")
    again = ckptkit.history(*steps, cache=cache)
    assert written["files"] and [t.measured for t in again.tensors] == [
        t.measured for t in before.tensors
    ]


def test_a_step_whose_scales_do_not_fit_is_passed_over(tmp_path: Path) -> None:
    steps = [of_litert(tmp_path / f"step-{at}", 0.5 + at) for at in range(3)]
    broken = Constant("w", 9, [8, 8], bytes(64), [0.5, 0.25], [0, 0])
    steps[1].write_bytes(litert_model(broken))
    run = ckptkit.history(*steps)
    assert [bool(step.problem) for step in run.steps] == [False, True, False]
    assert "a quantisation that does not fit the tensor" in run.steps[1].problem
    first = ckptkit.history(*steps, first_nan=True)
    assert [finding.code for finding in first.findings] == ["nan.none"]


def test_scales_of_what_two_ops_scale_differently_are_compared(tmp_path: Path) -> None:
    def written(name: str, scale: float) -> Path:
        scales = [np.array([value], "<f4").tobytes() for value in (0.5, scale)]
        tensors = [
            onnx_tensor("w", INT8, [300], bytes(range(100)) * 3),
            *(onnx_tensor(f"s{at}", SINGLE, [1], raw) for at, raw in enumerate(scales)),
        ]
        nodes = [
            b"".join(field(1, part) for part in (b"w", b"s%d" % at))
            + field(2, b"y%d" % at)
            + field(4, b"DequantizeLinear")
            for at in (0, 1)
        ]
        path = tmp_path / name
        path.write_bytes(onnx_model(*tensors, nodes=nodes))
        return path

    result = ckptkit.diff(written("a.onnx", 0.25), written("b.onnx", 0.75))
    assert [change.name for change in result.differences] == ["s1"]
