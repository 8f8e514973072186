"""Pictures of tensors show the values that are there, at the indices that they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.sampled_slices import MOST, POINTS, SampledSlice, sampled_slices
from support.places import ROOT
from support.weights import Array, write_bundle

INT8 = ROOT / "fixtures" / "deployed" / "keras3.15.1" / "int8.tflite"


@pytest.fixture(scope="module")
def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    found: dict[str, Array] = {
        "matrix": rng.standard_normal((7, 5)).astype("f4"),
        "large": rng.standard_normal((3, 2, 200, 101)),
        "vector": np.arange(130, dtype="i4"),
        "flags": np.array([[True, False]]),
        "one": np.array(3, "f4"),
        "none": np.zeros((0, 4), "f4"),
        "complex": np.ones((2, 2), "c8"),
    }
    found["matrix"][2, 3] = np.nan
    found["matrix"][3, 3] = -np.inf
    return found


@pytest.fixture(scope="module")
def bundle(arrays: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("sampled") / "b", arrays)


def assert_like(one: SampledSlice, values: Array) -> None:
    """Assert that a picture has the values of a tensor at the indices that it names."""
    fixed = [slice(None) if part == ":" else int(part) for part in one.title[1:-1].split(",")]
    shown = values[tuple(fixed)].astype("f8")
    wanted = shown[np.ix_(one.rows, one.columns)] if one.rows else shown[None, list(one.columns)]
    found = np.array([[float(value) for value in row] for row in one.values])
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["matrix", "large", "vector", "flags"])
def test_values_are_those_at_their_indices(
    name: str, bundle: Path, arrays: dict[str, Array]
) -> None:
    found = sampled_slices(ckptkit.show(bundle, name))
    assert 0 < len(found) <= MOST
    assert len({one.title for one in found}) == len(found)
    for one in found:
        assert_like(one, arrays[name])
        assert len(one.columns) <= POINTS and len(one.values) <= POINTS


def test_a_slice_that_was_asked_for(bundle: Path, arrays: dict[str, Array]) -> None:
    found = sampled_slices(ckptkit.show(bundle, "large", slice="1,:,5:9,3"))
    (one,) = found
    assert one.rows == (0, 1) and one.columns == (5, 6, 7, 8)
    wanted = arrays["large"][1, :, 5:9, 3]
    np.testing.assert_allclose(np.array(one.values, "f8"), wanted, rtol=1e-3)


@pytest.mark.parametrize("name", ["one", "none", "complex"])
def test_what_has_no_picture(name: str, bundle: Path) -> None:
    assert sampled_slices(ckptkit.show(bundle, name)) == []


def test_of_a_quantised_tensor_the_numbers_that_it_stands_for() -> None:
    name = "functional_1/hidden_1/MatMul"
    summary = ckptkit.show(INT8, name, slice=":,:")
    stored = ckptkit.show(INT8, name, slice=":,:", stored=True)
    assert summary.values is not None and stored.values is not None
    for each in (summary, stored):
        (one,) = sampled_slices(each)
        assert each.values is not None
        assert_like(one, np.asarray(each.values))
    assert not np.allclose(summary.values, stored.values)
