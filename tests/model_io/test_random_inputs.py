"""Inputs drawn from a seed, and inputs that a user gives."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.dtypes import Array
from ckptkit.errors import CkptkitError, FormatError, PathNotFoundError, UsageError
from ckptkit.model_io.array_files import load_inputs
from ckptkit.model_io.random_inputs import CANDIDATE_SIZES, UNKNOWN_WORD, fit_inputs, random_inputs
from ckptkit.model_io.signature import InputPart, TensorInfo
from ckptkit.model_io.tf_examples import Feature, serialized

X = TensorInfo("x", "float32", (None, 3))
IDS = TensorInfo("ids", "int32", (None, None))
WORDS = TensorInfo("words", "string", (None,))


def test_the_same_numbers_on_every_machine_and_version() -> None:
    values = random_inputs([X], seed=20, batch=2)["x"]
    assert zlib.crc32(values.tobytes()) == 0x4CE4A6D8
    ids = random_inputs([IDS], seed=20, batch=2, size=4, int_high=100)["ids"]
    assert ids.tolist() == [[80, 51, 90, 45], [41, 52, 98, 42]]


def test_an_input_does_not_change_with_the_others() -> None:
    alone = random_inputs([X], seed=3)["x"]
    both = random_inputs([IDS, X], seed=3)["x"]
    assert np.array_equal(alone, both)
    assert not np.array_equal(alone, random_inputs([X], seed=4)["x"])
    other = random_inputs([X._replace(name="y")], seed=3)["y"]
    assert not np.array_equal(alone, other)


@settings(max_examples=60)
@given(
    st.sampled_from(
        ["float32", "float64", "float16", "bfloat16", "int32", "uint8", "int8", "bool"]
    ),
    st.lists(st.none() | st.integers(0, 5), max_size=4),
    st.integers(1, 6),
    st.sampled_from(CANDIDATE_SIZES),
)
def test_shapes_dtypes_and_bounds(
    dtype: str, shape: list[int | None], batch: int, attempt: tuple[int, int]
) -> None:
    size, high = min(attempt[0], 8), attempt[1]
    info = TensorInfo("v", dtype, tuple(shape))
    values = random_inputs([info], seed=1, batch=batch, size=size, int_high=high)["v"]
    wanted = tuple(
        n if n is not None else batch if axis == 0 else size for axis, n in enumerate(shape)
    )
    assert values.shape == wanted
    assert values.dtype.name == dtype
    if dtype in ("int32", "uint8", "int8") and values.size:
        assert values.min() >= 0
        assert values.max() < high


@settings(max_examples=60)
@given(st.integers(-1000, 1000), st.integers(0, 1000))
def test_a_range_is_kept_and_reached(low: int, width: int) -> None:
    info = [TensorInfo("f", "float64", (500,)), TensorInfo("i", "int64", (2000,))]
    ranges = {"f": (low, low + width), "i": (low, low + min(width, 3))}
    values = random_inputs(info, seed=1, ranges=ranges)
    assert values["f"].min() >= low
    assert values["f"].max() <= low + width
    assert set(values["i"].tolist()) == set(range(low, low + min(width, 3) + 1))


def test_floats_have_mean_0_and_variance_1() -> None:
    values = random_inputs([TensorInfo("f", "float64", (100_000,))], seed=5)["f"]
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("dtype", "limits", "said"),
    [
        ("float32", (2.0, 1.0), "LOWEST:HIGHEST"),
        ("uint8", (-1.0, 5.0), "0 to 255"),
        ("int32", (0.5, 2.0), "whole numbers"),
        ("float32", (0.0, float("nan")), "LOWEST:HIGHEST"),
    ],
)
def test_ranges_that_cannot_be(dtype: str, limits: tuple[float, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        random_inputs([TensorInfo("x", dtype, (2,))], seed=1, ranges={"x": limits})


def test_a_range_of_no_input_and_a_dtype_that_cannot_be_drawn() -> None:
    with pytest.raises(UsageError, match=r"'z', which is no input .there are: x"):
        random_inputs([X], seed=1, ranges={"z": (0, 1)})
    with pytest.raises(UsageError, match="give one with inputs"):
        random_inputs([TensorInfo("x", "variant", ())], seed=1)
    with pytest.raises(UsageError, match="elements"):
        random_inputs([TensorInfo("x", "float32", (1 << 15, 1 << 15))], seed=1)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 60))
def test_all_words_that_fit_and_always_the_last(count: int, known: int) -> None:
    words = [f"w{number}" for number in range(known)]
    texts = random_inputs([WORDS], seed=2, batch=count, words=words)["words"].tolist()
    assert len(texts) == count
    seen = {word for text in texts for word in text.decode().split(" ")}
    assert f"w{known - 1}" in seen
    if count >= known + 2:
        assert set(words) <= seen
        assert UNKNOWN_WORD in texts
        assert b"" in texts


def test_text_without_a_vocabulary() -> None:
    texts = random_inputs([WORDS._replace(shape=None)], seed=2, batch=6)["words"]
    assert texts.shape == (6,)
    assert all(isinstance(text, bytes) for text in texts)


# --- inputs that a user gives ---------------------------------------------------------------------


def test_given_inputs_are_cast_where_nothing_is_lost() -> None:
    fitted = fit_inputs({"x": np.array([[1.5, 2, 3]]), "ids": np.array([[1, 2]])}, [X, IDS])
    assert (fitted["x"].dtype, fitted["ids"].dtype) == (np.float32, np.int32)
    assert fitted["x"].tolist() == [[1.5, 2.0, 3.0]]
    assert fit_inputs({"": np.zeros((2, 3))}, [X])["x"].shape == (2, 3)
    assert fit_inputs({"words": np.array(["é", "b"])}, [WORDS])["words"][0] == "é".encode()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "no value for x"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(1)}, "no input is called 'y'"),
        ({"x": np.zeros((2, 4))}, r"shape \[2, 4\]"),
        ({"x": np.zeros(3)}, r"wanted: float32 \[\?, 3\]"),
        ({"x": np.array([["a", "b", "c"]])}, "holds object"),
        ({"x": np.full((1, 3), 1e300)}, "cannot"),
        ({"x": np.full((1, 3), 1j)}, "cannot"),
    ],
)
def test_given_inputs_that_do_not_fit(arrays: dict[str, Array], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit_inputs(arrays, [X])


@pytest.mark.parametrize("value", [1 << 40, -1])
def test_whole_numbers_must_fit(value: int) -> None:
    with pytest.raises(UsageError, match="int64 that uint8 cannot"):
        fit_inputs({"u": np.array([value])}, [TensorInfo("u", "uint8", (None,))])


def test_files_of_inputs(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, x=np.ones((2, 3)), words=np.array(["a", "né"]), raw=np.array([b"a", b"bc"]))
    found = load_inputs(path)
    assert found["words"].tolist() == [b"a", "né".encode()]
    assert found["raw"].tolist() == [b"a", b"bc"]
    for values in (np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2).T):
        np.save(tmp_path / "x.npy", values)
        assert np.array_equal(load_inputs(tmp_path / "x.npy")[""], values)
    np.save(tmp_path / "big.npy", np.arange(3, dtype=">i4"))
    assert load_inputs(tmp_path / "big.npy")[""].tolist() == [0, 1, 2]


def test_files_of_inputs_that_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], object))
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object))
    np.save(tmp_path / "dates.npy", np.zeros(2, "M8[s]"))
    np.save(tmp_path / "cut.npy", np.zeros(9))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    (tmp_path / "text.npz").write_text("x")
    refusals: list[tuple[str, type[CkptkitError], str]] = [
        ("gone.npz", PathNotFoundError, "no such file"),
        ("none.npz", UsageError, "no arrays"),
        ("objects.npz", UsageError, "never loaded"),
        ("objects.npy", UsageError, "never loaded"),
        ("dates.npy", UsageError, "no model takes"),
        ("cut.npy", FormatError, "bytes"),
        ("text.npz", FormatError, "zip"),
    ]
    for name, error, said in refusals:
        with pytest.raises(error, match=said):
            load_inputs(tmp_path / name)


# -- parts of sparse and ragged inputs, and examples -----------------------------------------------


def sparse_infos(shape: tuple[int | None, ...]) -> list[TensorInfo]:
    """Return the parts of a sparse input of float32."""
    rank = len(shape)
    return [
        TensorInfo("x/indices", "int64", (None, rank), InputPart("x", "sparse", "indices", shape)),
        TensorInfo("x/values", "float32", (None,), InputPart("x", "sparse", "values", shape)),
        TensorInfo("x/shape", "int64", (rank,), InputPart("x", "sparse", "dense_shape", shape)),
    ]


@pytest.mark.parametrize("shape", [(None, 4), (None, None), (3, 5, 2), (None,), (7, 1)])
def test_a_sparse_input_has_values_in_order_in_every_row(shape: tuple[int | None, ...]) -> None:
    drawn = random_inputs(sparse_infos(shape), seed=3, batch=8, size=6)
    dense = drawn["x/shape"]
    assert list(dense) == [n if n else (6 if axis else 8) for axis, n in enumerate(shape)]
    indices = [tuple(row) for row in drawn["x/indices"]]
    assert indices == sorted(set(indices))
    assert len(drawn["x/values"]) == len(indices)
    assert (drawn["x/indices"] < dense).all()
    assert {row[0] for row in indices} == set(range(dense[0]))


def test_the_rows_of_a_ragged_input_fit_into_each_other() -> None:
    def part(role: str) -> InputPart:
        return InputPart("x", "ragged", role)

    infos = [
        TensorInfo("x/values", "float32", (None, 3), part("values")),
        TensorInfo("x/row_splits", "int64", (None,), part("row_splits")),
        TensorInfo("x/row_splits_1", "int32", (None,), part("row_splits")),
    ]
    drawn = random_inputs(infos, seed=3, batch=8)
    outer, inner = drawn["x/row_splits"], drawn["x/row_splits_1"]
    assert (outer.dtype, inner.dtype) == (np.int64, np.int32)
    assert len(outer) == 9
    assert outer[-1] == len(inner) - 1
    assert drawn["x/values"].shape == (inner[-1], 3)
    assert (np.diff(outer) > 0).all()
    assert (np.diff(inner) > 0).all()


@pytest.mark.needs_tf
def test_examples_are_read_by_tensorflow() -> None:
    from tensorflow.core.example.example_pb2 import Example

    features = [Feature("a", "float32", 3), Feature("n", "int64", None), Feature("w", "string", 1)]
    infos = [TensorInfo("e", "string", (None,))]
    drawn = random_inputs(infos, seed=3, batch=8, examples={"e": features}, int_high=5)["e"]
    assert len(set(drawn)) == 8
    for text in drawn:
        found = Example.FromString(text).features.feature
        assert set(found) == {"a", "n", "w"}
        assert len(found["a"].float_list.value) == 3
        assert 1 <= len(found["n"].int64_list.value) <= 3
        assert all(0 <= number < 5 for number in found["n"].int64_list.value)
        assert len(found["w"].bytes_list.value) == 1


@pytest.mark.needs_tf
def test_numbers_of_examples_come_back() -> None:
    from tensorflow.core.example.example_pb2 import Example

    numbers = np.array([-1, 0, 127, 128, 2**40, -(2**63)], np.int64)
    found = Example.FromString(serialized({"n": numbers})).features.feature["n"]
    assert list(found.int64_list.value) == list(numbers)
