"""Goldens in the files of other tools, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.dtypes import DTYPES, numpy_dtype
from ckptkit.errors import ChecksumError, FormatError, OutputError, UnsupportedError, UsageError
from ckptkit.golden.binding import Binding
from ckptkit.golden.golden import Case, Golden, read_golden, write_golden
from ckptkit.golden.tensor_protos import (
    from_onnx,
    from_tensor,
    read_records,
    records,
    to_onnx,
    to_tensor,
)
from ckptkit.model_io.sampling import sample
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.golden import FORMS, export_golden, import_golden
from ckptkit.stores.proto.messages import message_class
from support.command_line import ckptkit, refused

WORDS = np.array([b"good", b"", b"\xff"], object)
X = np.arange(6, dtype=np.float32).reshape(3, 2)
CASES = (
    Case("drawn0", {"x": X, "ids": np.array([1, -2, 3])}, {"y": X[:, :1] * 2, "ok": X[:, 0] > 1}),
    Case("drawn1", {"x": X + 1, "ids": np.array([0, 0, 1])}, {"y": X[:, :1], "ok": X[:, 0] > 2}),
)


def infos(arrays: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(n, a.dtype.name, (None, *a.shape[1:])) for n, a in arrays.items())


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    model_signature = ModelSignature(infos(CASES[0].inputs), infos(CASES[0].outputs))
    made = Golden(
        "m", "saved_model", "serve", model_signature, Binding("x", ""), {}, "CPU:0", CASES
    )
    write_golden(tmp_path / "golden", made)
    return tmp_path / "golden"


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_comes_back(golden: Path, tmp_path: Path, form: str) -> None:
    export_golden(golden, tmp_path / "out", form)
    import_golden(tmp_path / "out", tmp_path / "back", runtime="onnx")
    back = read_golden(tmp_path / "back")
    assert len(back.cases) == 2 and back.environment == {"runtime": "onnx"}
    for old, new in zip(CASES, back.cases, strict=True):
        for one, two in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
            assert one.keys() == two.keys()
            for name, array in one.items():
                assert two[name].dtype == array.dtype
                np.testing.assert_array_equal(two[name], array)
    assert back.signature == ("serve" if form == "warmup" else "call")


def test_the_commands_do_it(golden: Path, tmp_path: Path) -> None:
    assert ckptkit("golden", "export", golden, "--to", "onnx", "-o", tmp_path / "o").code == 0
    done = ckptkit("golden", "import", tmp_path / "o", "-o", tmp_path / "back")
    assert done.code == 0 and "2 cases, 2 outputs" in done.out


def test_refusals(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="not clear"):
        import_golden(tmp_path / "empty", tmp_path / "g")
    export_golden(golden, tmp_path / "served", "warmup")
    with pytest.raises(OutputError, match="exists"):
        export_golden(golden, tmp_path / "served", "warmup")
    export_golden(golden, tmp_path / "served", "warmup", overwrite=True)
    assert "nothing is there" in refused("golden", "import", tmp_path / "no", "-o", tmp_path / "g")


def test_a_sampled_output_is_not_exported(tmp_path: Path) -> None:
    big = sample(np.zeros(1 << 21, np.float32), 1)
    made = Golden(
        *("m", "saved_model", "call", ModelSignature((), ()), Binding("x", ""), {}, "CPU:0"),
        (Case("one", {"x": X}, {"y": big}),),
    )
    write_golden(tmp_path / "g", made)
    for form in ("npy", "onnx", "polygraphy"):
        with pytest.raises(UsageError, match="too large"):
            export_golden(tmp_path / "g", tmp_path / form, form)
        assert not (tmp_path / form).exists()


def test_text_is_kept_where_the_form_has_it(tmp_path: Path) -> None:
    model_signature = ModelSignature((TensorInfo("s", "string", (None,)),), ())
    case = Case("one", {"s": WORDS}, {"y": X})
    made = Golden("m", "keras", "call", model_signature, Binding("x", ""), {}, "CPU:0", (case,))
    write_golden(tmp_path / "g", made)
    for form in FORMS:
        export_golden(tmp_path / "g", tmp_path / form, form)
        back = import_golden(tmp_path / form, tmp_path / f"back-{form}")
        assert back.cases[0].inputs["s"].tolist() == WORDS.tolist()


FIXED = [
    n for n, row in DTYPES.items() if row.itemsize and row.enum and not n.startswith(("q", "f"))
]


@pytest.mark.parametrize("dtype", [*FIXED, "float32", "float16"])
def test_tensor_messages(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(numpy_dtype(dtype))
    back = from_tensor(to_tensor(array), "here")
    assert back.dtype == array.dtype and back.tolist() == array.tolist()
    if dtype.startswith(("int4", "uint4", "int2", "uint2")):
        with pytest.raises(UnsupportedError):
            to_onnx("t", array)
        return
    name, again = from_onnx(to_onnx("t", array), "here")
    assert name == "t" and again.dtype == array.dtype and again.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("field", "dtype", "number", "values"),
    [
        ("float_data", "float32", 1, [1.5, -2.0]),
        ("int32_data", "uint8", 2, [1, 255]),
        ("int32_data", "bool", 9, [1, 0]),
        ("int64_data", "int64", 7, [1, -2]),
        ("uint64_data", "uint32", 12, [1, 2]),
        ("double_data", "float64", 11, [0.5, 2]),
        ("int32_data", "float16", 10, [0x3C00, 0]),
    ],
)
def test_onnx_values_in_lists(field: str, dtype: str, number: int, values: list[float]) -> None:
    message = message_class("OnnxTensorProto")(name="t", data_type=number, dims=[2])
    getattr(message, field).extend(values)
    _, array = from_onnx(message.SerializeToString(), "here")
    expected = [1.0, 0.0] if dtype == "float16" else values
    assert array.dtype.name == dtype and array.tolist() == expected


def test_hostile_messages() -> None:
    tensor = message_class("OnnxTensorProto")
    for message in (
        tensor(data_type=1, dims=[3], raw_data=b"1234"),
        tensor(data_type=1, dims=[-1], raw_data=b"1234"),
        tensor(data_type=1, dims=[1 << 40]),
        tensor(data_type=8, dims=[2], string_data=[b"a"]),
    ):
        with pytest.raises(FormatError):
            from_onnx(message.SerializeToString(), "here")
    with pytest.raises(UnsupportedError):
        from_onnx(tensor(data_type=99).SerializeToString(), "here")
    huge = message_class("TensorProto")(dtype=1)
    huge.tensor_shape.dim.add(size=1 << 40)
    with pytest.raises(FormatError):
        from_tensor(huge, "here")


def test_damaged_records() -> None:
    data = b"".join(records([b"one", b"", b"three"]))
    assert list(read_records(data, "r")) == [b"one", b"", b"three"]
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises((ChecksumError, FormatError)):
            list(read_records(bytes(broken), "r"))
    for end in range(1, len(data)):
        if end not in (19, 35):  # between records
            with pytest.raises(FormatError):
                list(read_records(data[:end], "r"))


def test_polygraphy_reads_what_is_written(golden: Path, tmp_path: Path) -> None:
    comparator = pytest.importorskip("polygraphy.comparator", reason="Polygraphy is not installed")
    load_json = pytest.importorskip("polygraphy.json").load_json
    export_golden(golden, tmp_path / "out", "polygraphy")
    results = comparator.RunResults.load(str(tmp_path / "out" / "outputs.json"))
    np.testing.assert_array_equal(results["CPU:0"][1]["y"], CASES[1].outputs["y"])
    feeds = load_json(str(tmp_path / "out" / "inputs.json"))
    np.testing.assert_array_equal(feeds[0]["x"], X)


def test_polygraphy_json_that_is_none(golden: Path, tmp_path: Path) -> None:
    export_golden(golden, tmp_path / "out", "polygraphy")
    file = tmp_path / "out" / "outputs.json"
    for text in ("{", "[]", json.dumps({"lst": [["r", [{"outputs": {"y": 3}}]]]})):
        file.write_text(text)
        with pytest.raises(FormatError):
            import_golden(tmp_path / "out", tmp_path / "g")


def test_onnx_reads_what_is_written() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    for array in (X, np.array([1, 2]), X > 1, X.astype(np.float16), WORDS):
        message = onnx.TensorProto.FromString(to_onnx("t", array))
        assert message.name == "t"
        if array.dtype == object:
            assert list(message.string_data) == array.tolist()
        else:
            assert onnx.numpy_helper.to_array(message).tolist() == array.tolist()


def test_serving_reads_what_is_written(golden: Path, tmp_path: Path) -> None:
    served = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="no tensorflow-serving-api here"
    )
    tf = pytest.importorskip("tensorflow")
    file = export_golden(golden, tmp_path / "out", "warmup")
    [log, _] = [served.PredictionLog.FromString(r) for r in read_records(file.read_bytes(), "r")]
    request = log.predict_log.request
    assert request.model_spec.signature_name == "serve"
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["x"]), X)


@pytest.mark.needs_tf
def test_tensorflow_reads_the_records(golden: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    file = export_golden(golden, tmp_path / "out", "warmup")
    found = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    assert found == list(read_records(file.read_bytes(), "r")) and len(found) == 2
    tensor = tf.make_tensor_proto(X)
    assert to_tensor(X).SerializeToString() == tensor.SerializeToString()
    lists = tf.compat.v1.make_tensor_proto([1.0, 1.0])
    message = message_class("TensorProto").FromString(lists.SerializeToString())
    assert from_tensor(message, "here").tolist() == [1.0, 1.0]
