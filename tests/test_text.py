"""Counts that agree with their nouns, and the one reading of sizes."""

from __future__ import annotations

import pytest

from ckptkit.text import count_text, parse_size


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
