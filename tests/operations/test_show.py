"""`ckptkit show`: finding a tensor, its statistics, its values, and `--npy`."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit.dtypes import DTYPES
from ckptkit.errors import UnknownTensorError, UsageError
from ckptkit.operations.show import MAX_SLICE_ELEMENTS, parse_slice, show
from support.command_line import ckptkit as run
from support.command_line import refused
from support.crafted import bundle_items, entry, write_index
from support.goldens import golden
from support.odd_bundles import write_odd_bundle
from support.values import FIXED_DTYPES, corpus, same_bits, values_of
from support.weights import write_bundle

TF_DTYPES = [name for name in FIXED_DTYPES if DTYPES[name].enum] + ["string"]
ADAM = golden("tf2.21.0/adam/ckpt").path
CUBE = np.arange(2 * 30 * 40, dtype=np.float32).reshape(2, 30, 40)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    arrays: dict[str, npt.NDArray[Any]] = {
        "cube": CUBE,
        "odd": np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 2.0, -6.0], np.float32),
        "scalar": np.array(2.5, np.float64),
        "empty": np.zeros((3, 0), np.int32),
        "words": np.array([[b"a", b"tail\0"], [b"\xff", "é".encode()]], object),
        "layer/kernel": np.ones((2, 2), np.int64),
        "other/kernel": np.ones((2, 2), np.int64),
        "other/bias": np.ones(2, np.int64),
    }
    return write_bundle(tmp_path / "c", arrays)


def document(*arguments: object) -> dict[str, Any]:
    result = run("show", *arguments, "--format", "json")
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out, parse_constant=pytest.fail)
    [found] = printed["results"]
    assert printed == {"schema": found["schema"], "results": [found], "refused": []}
    return dict(found)


# --- which tensor ---------------------------------------------------------------------------------


def test_a_tensor_by_any_of_its_names() -> None:
    keys = [
        show(ADAM, name).spec.key
        for name in (
            "hidden/bias",
            "optimizer/_trainable_variables/1/.ATTRIBUTES/VARIABLE_VALUE",
            "optimizer/_trainable_variables/1",
            "model/_operations/1/bias",
        )
    ]
    assert len(set(keys)) == 1
    assert show(ADAM, "gamma@velocity").naming.slot_of == "norm/gamma"
    shown = show(ADAM, "hidden/kernel")
    assert shown.slots == ("hidden/kernel@momentum", "hidden/kernel@velocity")


def test_a_suffix_that_one_tensor_has(prefix: Path) -> None:
    assert show(prefix, "bias").spec.key == "other/bias"
    line = refused("show", prefix, "kernel")
    assert "2 tensors are called 'kernel'" in line
    assert "layer/kernel, other/kernel" in line
    with pytest.raises(UnknownTensorError):
        show(prefix, "ias")


def test_a_miss_lists_the_nearest(prefix: Path) -> None:
    line = refused("show", prefix, "othr/kernl")
    assert "no tensor 'othr/kernl' (nearest: other/kernel" in line
    assert len(line.partition("nearest: ")[2].split(", ")) <= 5
    assert "nearest: " in refused("show", prefix, "ΩΩΩ")
    assert "nearest: " in refused("show", prefix, "")


def test_a_miss_among_many_is_quick(tmp_path: Path) -> None:
    keys = {f"model/layer_{n}/attention/kernel": entry() for n in range(20_000)}
    path = write_index(tmp_path / "c", bundle_items(**keys), bytes(8))
    checkpoint = ckptkit.open(path)
    with pytest.raises(UnknownTensorError, match="model/layer_777/attention/kernel"):
        checkpoint.key("model/layer_777/atention/kernel")


def test_a_miss_in_a_file_of_nothing(tmp_path: Path) -> None:
    assert "holds no tensors" in refused("show", write_index(tmp_path / "c", bundle_items()), "a")


# --- what is said ---------------------------------------------------------------------------------


def test_facts(prefix: Path) -> None:
    out = run("show", prefix, "cube").out
    assert "name       cube\n" in out
    assert "shape      2,30,40  (2,400 elements, 9.60 kB)" in out
    assert re.search(r"stored     c.data-00000-of-00001 @ \d+\n", out)
    assert re.search(r"crc32c     [0-9a-f]{8}\n", out)
    slot = run("show", ADAM, "hidden/bias@momentum").out
    assert "role       slot: momentum of hidden/bias, optimizer optimizer" in slot


def test_statistics_of_finite_elements(prefix: Path) -> None:
    found = show(prefix, "odd").statistics
    assert found is not None
    assert (found.n, found.n_nan, found.n_inf, found.n_zero) == (7, 1, 2, 2)
    assert (found.minimum, found.maximum, found.mean) == (-6, 2, -1)
    assert math.isclose(found.std, float(np.std([0, 0, 2, -6])))
    assert sum(found.bins) == 4
    assert (found.bins[0], found.bins[-1]) == (1, 1)
    out = run("show", prefix, "odd").out
    assert "nan, inf   1, 2" in out
    assert "zeros      2 (28.6%)" in out


@settings(max_examples=80)
@given(st.lists(st.floats(width=64), max_size=40))
def test_statistics_equal_numpy(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    array = np.array(values, np.float64)
    found = show(write_bundle(tmp_path_factory.mktemp("s") / "c", {"v": array}), "v").statistics
    assert found is not None
    finite = array[np.isfinite(array)]
    assert (found.n, found.n_nan) == (array.size, int(np.isnan(array).sum()))
    assert found.n_inf == int(np.isinf(array).sum())
    assert found.n_zero == int((array == 0).sum())
    if finite.size:
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())
        if np.abs(finite).max() < 1e150:
            assert math.isclose(found.mean, finite.mean(), rel_tol=1e-9, abs_tol=1e-290)
            assert math.isclose(found.std, finite.std(), rel_tol=1e-6, abs_tol=1e-290)
        assert sum(found.bins) in (0, finite.size)
    else:
        assert math.isnan(found.mean)


def test_statistics_of_several_blocks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    array[-1] = np.nan
    found = show(write_bundle(tmp_path / "c", {"v": array}), "v").statistics
    assert found is not None
    assert (found.n, found.n_nan) == (3_000_000, 1)
    assert math.isclose(found.std, float(np.nanstd(array.astype(np.float64))), rel_tol=1e-9)
    assert found.bins == tuple(np.histogram(array[:-1], 20)[0]) or sum(found.bins) == 2_999_999


def test_of_complex_numbers_the_moduli_count(tmp_path: Path) -> None:
    array = np.array([3 + 4j, 0, complex(math.nan, 1)], np.complex64)
    found = show(write_bundle(tmp_path / "c", {"v": array}), "v").statistics
    assert found is not None
    assert (found.minimum, found.maximum, found.n_nan, found.n_zero) == (0, 5, 1, 1)


def test_constants_and_neighbours_have_no_histogram_of_nonsense(tmp_path: Path) -> None:
    arrays = {
        "constant": np.full(9, 3.0),
        "neighbours": np.array([1.0, np.nextafter(1.0, 2)]),
        "huge": np.array([-1.7e308, 1.7e308]),
        "tiny": np.array([5e-324, 1e-323]),
    }
    path = write_bundle(tmp_path / "c", arrays)
    for name in arrays:
        result = run("show", path, name)
        assert (result.code, result.err) == (0, "")
    assert "histogram" not in run("show", path, "constant").out
    assert "histogram" in run("show", path, "neighbours").out


@pytest.mark.parametrize("big_endian", [False, True])
def test_every_dtype_and_shape_can_be_shown(tmp_path: Path, big_endian: bool) -> None:
    tensors = corpus(TF_DTYPES)
    path = write_odd_bundle(tmp_path / "c", tensors, big_endian=big_endian)
    for name, (_dtype, values) in tensors.items():
        for fmt in ("table", "json"):
            result = run("show", path, name, "--format", fmt)
            assert (result.code, result.err) == (0, ""), name
        shown = show(path, name, slice="...")
        assert shown.values is not None
        assert same_bits(shown.values.reshape(-1), values.reshape(-1))


def test_the_histogram_fits_a_terminal(prefix: Path) -> None:
    [line] = [x for x in run("show", prefix, "cube").out.splitlines() if "histogram" in x]
    assert len(line) < 80
    assert re.search(r"\|[▁▂▃▄▅▆▇█]{20}\|", line)  # every bin holds something


# --- slices ---------------------------------------------------------------------------------------


def test_values_are_all_there_or_counted(prefix: Path) -> None:
    out = run("show", prefix, "cube").out
    assert "cube[0,0:6,0:6] (36 of 2,400; 2,364 more not shown, see --slice):" in out
    assert "..." not in out
    whole = run("show", prefix, "cube", "--slice", ":").out
    assert "(2,400 of 2,400):" in whole
    numbers = re.findall(r"[\d.e+]+", whole.partition("(2,400 of 2,400):")[2])
    assert [float(number) for number in numbers] == CUBE.ravel().tolist()
    assert "(4 of 4)" in run("show", prefix, "layer/kernel").out


@pytest.mark.parametrize(
    "text",
    [
        *("0", "-1", ":", "::2", "1:", ":1", "0:2,:,3", "1,2,3", "...,3", "0,...", "...", "[0]"),
        *(
            "1,...,-1",
            " 0 , 1:3 ",
            "0:0",
            "5:",
            "-100:100",
            "::7,::11,::13",
            ":,29,::39",
            "-1:,-2:",
        ),
    ],
)
def test_slices_are_numpy_s(prefix: Path, text: str) -> None:
    expected = eval(f"CUBE[{text.strip('[]')}]")  # numpy's own reading of the text
    shown = show(prefix, "cube", slice=text)
    assert shown.values is not None
    assert shown.values.shape == expected.shape
    assert np.array_equal(shown.values, expected)
    assert np.array_equal(document(prefix, "cube", "--slice", text)["values"], expected.tolist())


@settings(max_examples=100)
@given(st.data())
def test_any_slice_of_any_store(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = data.draw(st.sampled_from(["int16", "string", "bfloat16"]))
    values = values_of(dtype, shape)
    tensors = {"v": (dtype, values)}
    parts = None
    if dtype != "string" and shape and shape[0] > 1:
        rows = [(0, 1), (1, shape[0] - 1)]
        parts = {"v": [[row, *((0, size) for size in shape[1:])] for row in rows]}
    path = tmp_path_factory.mktemp("s") / "c"
    write_odd_bundle(path, tensors, slices=parts)
    number = st.none() | st.integers(-7, 7)
    indices: list[Any] = []
    for size in shape[: data.draw(st.integers(0, len(shape)))]:
        if size and data.draw(st.booleans()):
            indices.append(data.draw(st.integers(-size, size - 1)))
        else:
            step = data.draw(st.none() | st.integers(1, 3))
            indices.append(slice(data.draw(number), data.draw(number), step))
    text = ",".join(
        str(i)
        if isinstance(i, int)
        else ":".join("" if part is None else str(part) for part in (i.start, i.stop, i.step))
        for i in indices
    )
    shown = show(path, "v", slice=text or None)
    assert shown.values is not None
    if text:
        expected: npt.NDArray[Any] = np.asarray(values[tuple(indices)])
        if dtype == "string" and expected.shape == ():
            expected = np.empty((), object)
            expected[()] = values[tuple(indices)]
        assert shown.values.shape == expected.shape
        assert shown.values.tobytes() == expected.tobytes() or same_bits(
            shown.values.reshape(-1), expected.reshape(-1)
        )


@pytest.mark.parametrize(
    "text",
    [
        *("x", "1,2,3,4", "2", "0,30", "0,0,-41", "::0", "::-1", "...,...", "0:1:2:3", ",", "0,,1"),
        *("9" * 5000, "1e3", "0x1", "None", ":;", "--", "[", "]", "1 2", "\x00", "١٢٣" * 30),
    ],
)
def test_slices_that_are_none(prefix: Path, text: str) -> None:
    refused("show", prefix, "cube", "--slice", text)
    with pytest.raises(UsageError):
        parse_slice(text, CUBE.shape)


def test_a_slice_of_a_scalar(prefix: Path) -> None:
    assert show(prefix, "scalar").values == 2.5
    assert "scalar (1 of 1):\n2.5\n" in run("show", prefix, "scalar").out
    refused("show", prefix, "scalar", "--slice", "0")
    assert document(prefix, "scalar")["values"] == 2.5


def test_a_slice_too_large_to_show(tmp_path: Path) -> None:
    path = write_index(tmp_path / "c", bundle_items(a=entry((1 << 25,), 4, 1 << 25)))
    os.truncate(f"{path}.data-00000-of-00001", 1 << 25)  # sparse
    assert MAX_SLICE_ELEMENTS < 1 << 25
    line = refused("show", path, "a", "--slice", ":")
    assert "--npy" in line


def test_a_small_slice_of_a_partitioned_tensor_is_read_once(tmp_path: Path) -> None:
    """Rows one by one would each walk the whole tensor."""
    values = values_of("float32", (6000, 2))
    parts = [[(0, 3000), (0, 2)], [(3000, 3000), (0, 2)]]
    tensors = {"v": ("float32", values)}
    path = write_odd_bundle(tmp_path / "c", tensors, slices={"v": parts})
    shown = show(path, "v", slice=":,0")
    assert shown.values is not None
    assert same_bits(shown.values, np.ascontiguousarray(values[:, 0]))


def test_a_corner_of_a_long_row_reads_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bundle(tmp_path / "c", {"v": np.zeros((2, 3_000_000), np.int8)})
    checkpoint = ckptkit.open(path)
    asked: list[int] = []
    read = type(checkpoint.store).read

    def failing_findings(self: Any, key: str, start: int = 0, stop: int | None = None) -> Any:
        asked.append((stop or 0) - start)
        return read(self, key, start, stop)

    monkeypatch.setattr(type(checkpoint.store), "read", failing_findings)
    assert show(path, "v").values is not None
    assert sum(asked) == 12


# --- JSON -----------------------------------------------------------------------------------------


def test_json_has_its_documented_keys(prefix: Path) -> None:
    found = document(prefix, "cube")
    assert set(found) == {
        *("schema", "path", "format", "tensor", "slots", "statistics", "slice", "values"),
        "quantisation",
    }
    assert found["schema"] == "ckptkit.show/2"
    assert found["slice"] == "0,0:6,0:6"
    assert found["tensor"]["name"] == "cube"
    assert set(found["statistics"]) == {
        *("n", "n_nan", "n_inf", "n_zero", "minimum", "maximum", "mean", "std", "norm"),
        "bins",
    }


def test_json_holds_numbers_that_are_not_finite_as_strings(prefix: Path) -> None:
    values = document(prefix, "odd")["values"]
    assert values == [0.0, -0.0, "NaN", "Infinity", "-Infinity", 2.0]
    assert str(values[1]) == "-0.0"
    assert document(prefix, "empty")["statistics"]["mean"] == "NaN"
    assert document(prefix, "empty")["values"] == [[], [], []]


def test_json_of_strings_and_complex_numbers(prefix: Path, tmp_path: Path) -> None:
    assert document(prefix, "words")["values"] == [["a", "tail\0"], ["\\xff", "é"]]
    assert document(prefix, "words")["statistics"] is None
    path = write_bundle(tmp_path / "z", {"z": np.array([1 + 2j, complex(math.inf, 0)])})
    assert document(path, "z")["values"] == [[1.0, 2.0], ["Infinity", 0.0]]


def test_long_strings_are_cut_with_a_count(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "c", {"s": np.array([b"x" * 5000], object)})
    assert "x… (4,000 more bytes" in run("show", path, "s").out.replace(" …", "…")
    assert document(path, "s")["values"] == ["x" * 5000]


def test_opaque_tensors_have_facts_alone(tmp_path: Path) -> None:
    path = golden("tf2.21.0/objects/ckpt").path
    found = document(path, "iterator/.ATTRIBUTES/ITERATOR_STATE")
    assert (found["values"], found["statistics"]) == (None, None)
    assert found["tensor"]["dtype"] == "variant"
    name = found["tensor"]["name"]
    out = tmp_path / "x.npy"
    assert "cannot be written as .npy" in refused("show", path, name, "--npy", out)


# --- --npy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [name for name in TF_DTYPES if name != "string"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3)])
def test_a_whole_tensor_as_npy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    values = values_of(dtype, shape)
    path = write_odd_bundle(tmp_path / "c", {"v": (dtype, values)}, big_endian=True)
    result = run("show", path, "v", "--npy", tmp_path / "v.npy")
    assert result.code == 0
    loaded = np.load(tmp_path / "v.npy", allow_pickle=False)
    assert ("holds the bits of" in result.err) == (loaded.dtype != values.dtype)
    assert loaded.shape == shape
    assert loaded.tobytes() == values.tobytes()
    assert loaded.dtype == values.dtype or loaded.dtype.kind == "u"


def test_the_whole_tensor_is_written_though_a_corner_is_shown(prefix: Path, tmp_path: Path) -> None:
    assert run("show", prefix, "cube", "--npy", tmp_path / "v.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), CUBE)


def test_a_slice_as_npy(prefix: Path, tmp_path: Path) -> None:
    for text, expected in (("1,2:9,::5", CUBE[1, 2:9, ::5]), ("0,0,0", CUBE[0, 0, 0])):
        out = tmp_path / f"{len(text)}.npy"
        assert run("show", prefix, "cube", "--slice", text, "--npy", out).code == 0
        assert np.array_equal(np.load(out), expected)


def test_an_existing_file_is_kept_unless_told(prefix: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    out.write_text("precious")
    assert "--overwrite" in refused("show", prefix, "cube", "--npy", out)
    assert out.read_text() == "precious"
    assert run("show", prefix, "cube", "--npy", out, "--overwrite").code == 0
    assert np.load(out).shape == CUBE.shape


def test_places_where_nothing_can_be_written(prefix: Path, tmp_path: Path) -> None:
    assert str(tmp_path) in refused("show", prefix, "cube", "--npy", tmp_path)
    missing = tmp_path / "no" / "v.npy"
    assert str(missing) in refused("show", prefix, "cube", "--npy", missing)
    refused("show", prefix, "cube", "--npy", "/proc/v.npy")
    refused("show", prefix, "words", "--npy", tmp_path / "words.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "c.data-00000-of-00001",
        "c.index",
    ]


def test_a_damaged_tensor_leaves_no_file(prefix: Path, tmp_path: Path) -> None:
    shard = Path(f"{prefix}.data-00000-of-00001")
    data = bytearray(shard.read_bytes())
    data[ckptkit.open(prefix).specs["cube"].offset or 0] ^= 1
    shard.write_bytes(data)
    assert "checksum" in refused("show", prefix, "cube", "--npy", tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists()
    shard.unlink()
    assert "no such file" in refused("show", prefix, "cube")


def test_statistics_of_complex_numbers_say_what_they_are_of(tmp_path: Path) -> None:
    arrays = {"z": np.array([3 + 4j, 6 + 8j], np.complex64), "x": np.array([1.0, 2.0])}
    prefix = write_bundle(tmp_path / "c", arrays)
    out = run("show", prefix, "z").out
    for label, number in (("min", "5"), ("max", "10"), ("mean", "7.5"), ("std", "2.5")):
        assert re.search(rf"(?m)^{label} +{number}  \(of the moduli\)$", out)
    assert "moduli" not in run("show", prefix, "x").out


def test_one_of_each(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "c", {"x": np.zeros(1, np.float32)})
    assert "(1 element, 4 B)" in run("show", prefix, "x").out
    line = refused("show", prefix, "x", "--slice", "0,0")
    assert "has 2 axes, the tensor 1" in line
    wide = write_bundle(tmp_path / "w", {"x": np.zeros((2, 2), np.float32)})
    assert run("show", wide, "x", "--slice", "0").code == 0


def test_all_files_of_a_checkpoint_are_one_path(prefix: Path) -> None:
    files = sorted(prefix.parent.iterdir())
    assert run("show", *files, "scalar") == run("show", prefix, "scalar")
    assert "one file and names of its tensors" in refused("show", prefix, ADAM, "scalar")


def test_an_axis_longer_than_any_array(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [0, 0]}})
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    result = run("show", path, "w", "--slice", "0:0,0:3")
    assert result.code in (0, 2) and "Traceback" not in result.err
    assert run("show", path, "w").code in (0, 2)
