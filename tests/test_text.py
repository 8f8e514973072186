"""Counts that agree with their nouns, natural order, and the one reading of sizes."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptkit.text import count_text, natural, naturals, parse_size


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (1, "tensor", "", "1 tensor"),
        (0, "tensor", "", "0 tensors"),
        (1024, "tensor", "", "1,024 tensors"),
        (2, "entry", "", "2 entries"),
        (1, "entry", "", "1 entry"),
        (2, "key", "", "2 keys"),
        (2, "axis", "axes", "2 axes"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, noun: str, plural: str, text: str) -> None:
    assert count_text(count, noun, plural) == text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1000000", 1_000_000),
        ("500MB", 500_000_000),
        ("500m", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2GiB", 2 << 30),
        (" 2 gib ", 2 << 30),
        ("1Ti", 1 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "0", "0.1", "MB", "ten", "1 PB", "-1", "1e9", "5 MB more", "5ib"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def _by_parts(name: str) -> list[str | int]:
    """Return what natural order is: text and numbers in turn, each compared as what it is."""
    parts: list[str | int] = list(re.split(r"(\d{1,18})", name))
    parts[1::2] = map(int, parts[1::2])
    return parts


@given(st.text(alphabet="a/_.-0129\0\1é٣ z", max_size=14), st.text("/01a\0\1٣", max_size=14))
@example("9" * 18 + "1", "9" * 19)
@example("a1", "a")
@example("a/1", "a-1")
def test_natural_order_is_that_of_text_and_numbers(one: str, other: str) -> None:
    expected = _by_parts(one) < _by_parts(other), _by_parts(one) == _by_parts(other)
    assert (natural(one) < natural(other), natural(one) == natural(other)) == expected


@given(st.lists(st.text(st.sampled_from("a/0127\0\1\n٣"), max_size=6), min_size=1))
def test_many_names_at_once_have_the_same_order(names: list[str]) -> None:
    assert naturals(names) == [natural(name) for name in names]
