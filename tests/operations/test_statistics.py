"""`ls --stats`: what numpy says of the same values, in one pass, for every dtype and size."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ckptkit
from ckptkit.errors import ChecksumError, UsageError
from ckptkit.operations.statistics import _Moments
from support.command_line import ckptkit as run
from support.command_line import json_results, refused
from support.goldens import golden
from support.weights import Array, write_bundle

_HEADINGS = "NAME DTYPE SHAPE MIN MAX MEAN STD NORM ZEROS NAN".split()  # noqa: SIM905
ADAM = golden("tf2.21.0/adam/ckpt").path


@given(
    hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_parts_add_up_to_what_numpy_says_of_the_whole(values: Array, cuts: list[int]) -> None:
    moments = _Moments()
    for part in np.split(values, sorted(min(c, len(values)) for c in cuts)):
        moments.add(part)
    found = moments.statistics(())
    assert found.n == len(values)
    if not len(values):
        assert math.isnan(found.mean)
        return
    scale = max(1.0, float(np.abs(values).max()))
    assert found.minimum == values.min() and found.maximum == values.max()
    assert found.mean == pytest.approx(values.mean(), abs=1e-9 * scale)
    assert found.std == pytest.approx(values.std(), abs=1e-7 * scale)
    assert found.norm == pytest.approx(np.linalg.norm(values), rel=1e-12)
    assert found.n_zero == (values == 0).sum()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    arrays: dict[str, Array] = {
        "a/large": rng.normal(3, 2, (1200, 900)).astype(np.float32),
        "b/holes": np.array([np.nan, np.inf, -np.inf, 1, -1, 0], np.float32),
        "c/int": np.arange(-5, 5, dtype=np.int64),
        "d/nothing": np.array([np.nan, np.nan]),
        "e/complex": np.array([3 + 4j, 0], np.complex64),
        "f/empty": np.zeros((0, 3), np.float32),
    }
    return write_bundle(tmp_path / "ckpt", arrays)


def test_values_of_a_file(mixed: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        found = ckptkit.ls(mixed, stats=True, executor=executor).statistics
    alone = ckptkit.ls(mixed, stats=True).statistics
    assert found is not None and repr(found) == repr(alone)  # NaN is not equal to itself
    with ckptkit.open(mixed) as ck:
        large = ck["a/large"].astype(np.float64)
    one = found["a/large"]
    assert (one.mean, one.std) == pytest.approx((large.mean(), large.std()), rel=1e-12)
    assert one.norm == pytest.approx(np.linalg.norm(large), rel=1e-12)
    holes = found["b/holes"]
    assert (holes.n, holes.n_nan, holes.n_inf, holes.n_zero) == (6, 1, 2, 1)
    assert (holes.minimum, holes.maximum, holes.mean) == (-1, 1, 0)
    assert found["e/complex"].maximum == 5
    assert math.isnan(found["d/nothing"].mean)
    assert found["f/empty"].n == 0


def test_rows_in_every_format(mixed: Path) -> None:
    table = run("ls", mixed, "--stats").out.splitlines()
    assert table[0].split() == [
        "NAME",
        "DTYPE",
        "SHAPE",
        "MIN",
        "MAX",
        "MEAN",
        "STD",
        "NORM",
        "ZEROS",
        "NAN",
    ]
    assert table[2].split()[3:] == ["-1", "1", "0", "0.8165", "1.414", "16.7%", "3"]
    assert table[4].split()[3:] == ["-", "-", "-", "-", "-", "0", "2"]
    [document] = json_results("ls", mixed, "--stats")
    by_name = {row["name"]: row["statistics"] for row in document["tensors"]}
    assert by_name["b/holes"]["n_nan"] == 1 and by_name["d/nothing"]["mean"] == "NaN"
    csv = run("ls", mixed, "--stats", "-f", "csv").out.splitlines()
    assert csv[0].endswith("n_nan,n_inf,n_zero,minimum,maximum,mean,std,norm,repeats")
    assert csv[3].startswith("c/int,int64,10,10,80,") and ",-5.0,4.0,-0.5," in csv[3]


@pytest.mark.parametrize(
    ("order", "first"),
    [("std", "c/int"), ("nan", "b/holes"), ("zeros", "e/complex"), ("min", "a/large")],
)
def test_rows_are_sorted_by_values(mixed: Path, order: str, first: str) -> None:
    rows = run("ls", mixed, "--stats", "--sort", order).out.splitlines()
    assert rows[1].split()[0] == first
    if order in ("std", "min"):  # what has no value comes last
        assert {row.split()[0] for row in rows[5:7]} == {"d/nothing", "f/empty"}


def test_what_cannot_be(mixed: Path) -> None:
    assert "add --stats" in refused("ls", mixed, "--sort", "std")
    assert "exclude each other" in refused("ls", mixed, "--stats", "--tree")
    with pytest.raises(UsageError):
        ckptkit.ls(mixed, sort="std")


def test_damage_is_found(mixed: Path) -> None:
    data = mixed.with_name("ckpt.data-00000-of-00001")
    raw = bytearray(data.read_bytes())
    raw[1000] ^= 1
    data.write_bytes(raw)
    with pytest.raises(ChecksumError):
        ckptkit.ls(mixed, stats=True)
    assert "checksum" in refused("ls", mixed, "--stats")


def test_strings_have_none() -> None:
    out = run("ls", ADAM, "--all", "--stats").out
    graph = next(line for line in out.splitlines() if line.startswith("_CHECKPOINTABLE"))
    assert graph.split()[-7:] == ["-"] * 7
