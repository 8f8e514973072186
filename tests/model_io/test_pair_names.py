"""Names of two models, paired."""

from __future__ import annotations

import pytest

from ckptkit.model_io.pair_names import pair_names
from ckptkit.model_io.signature import TensorInfo


def infos(*names: str, dtype: str = "float32", width: int = 4) -> list[TensorInfo]:
    return [TensorInfo(name, dtype, (None, width)) for name in names]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("image", "serving_default_image:0"),
        ("image", "image:0"),
        ("serving_default_image:0", "image"),
    ],
)
def test_what_converters_add_says_nothing(old: str, new: str) -> None:
    assert pair_names(infos("mask", old), infos(new, "mask"), {}) == {"mask": "mask", old: new}


def test_equal_names_come_first() -> None:
    assert pair_names(infos("a:0", "a"), infos("a", "a:0"), {}) == {"a": "a", "a:0": "a:0"}


def test_names_that_shorten_to_one_stay_apart() -> None:
    assert pair_names(infos("a", "b"), infos("a:0", "serving_default_a:0"), {}) == {}


def test_a_number_that_is_part_of_a_name_counts() -> None:
    old, new = infos("Identity", "Identity_1"), infos("Identity_1:0", "Identity:0")
    found = pair_names(old, new, {})
    assert found == {"Identity": "Identity:0", "Identity_1": "Identity_1:0"}


def test_positions_do_not_pair() -> None:
    assert pair_names(infos("output_0", "output_1"), infos("score", "risk"), {}) == {}


def test_what_is_left_alone_is_paired() -> None:
    assert pair_names(infos("output_0"), infos("score"), {}) == {"output_0": "score"}


def test_one_of_its_shape_is_paired() -> None:
    old = [*infos("a", "b"), *infos("c", dtype="int32")]
    new = [*infos("x", "y"), *infos("z", dtype="int32")]
    assert pair_names(old, new, {}) == {"c": "z"}


def test_the_user_decides() -> None:
    old, new = infos("a", "b"), infos("a", "b")
    assert pair_names(old, new, {"a": "b", "b": "a"}) == {"a": "b", "b": "a"}
    assert pair_names(infos("p", "q"), infos("x", "y"), {"p": "y"}) == {"p": "y", "q": "x"}
