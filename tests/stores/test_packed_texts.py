"""Texts that are kept compressed come back as they were, and are found."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.stores.packed_texts import PackedTexts
from support import places

TEXTS = st.lists(st.text(st.sampled_from("ab/\n\0é\ud800"), max_size=3), max_size=200)


@given(TEXTS)
def test_texts_come_back_and_are_found(texts: list[str]) -> None:
    packed = PackedTexts(texts)
    assert list(packed) == texts and len(packed) == len(texts)
    assert [packed[at] for at in range(len(texts))] == texts
    assert [texts[packed.find(text) or 0] for text in texts] == texts
    assert {text for text in texts if texts.count(text) > 1} == {*packed.repeated()}
    assert packed.find("other") is None


@given(TEXTS, st.integers(0, 200))
def test_texts_that_are_added_together_are_added_one_by_one(texts: list[str], cut: int) -> None:
    packed = PackedTexts(texts[:cut])
    packed.extend(texts[cut:])
    assert list(packed) == texts and len(packed) == len(texts)
    assert [packed[at] for at in range(len(texts))] == texts
    for part in "a/é\0", "ba":
        assert packed.any_has(part) == any(part in text for text in texts)


def test_texts_are_found_in_any_order() -> None:
    texts = [f"layer_{number}/kernel" for number in range(1000)]
    packed = PackedTexts(texts)
    for number in (0, 1, 63, 64, 65, 128, 999, 0, 512, 511):
        assert packed.find(texts[number]) == number
        assert packed.find(texts[number] + "x") is None
    assert [packed.find(text) for text in sorted(texts)] == [
        texts.index(text) for text in sorted(texts)
    ]


_FIND = """
import pickle, sys
texts = pickle.load(sys.stdin.buffer)
print(all(texts.find(text) == number for number, text in reversed([*enumerate(texts)])))
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_texts_are_found_in_a_process_with_other_hashes(seed: str) -> None:
    packed = PackedTexts(f"layer_{number}/kernel" for number in range(300))
    assert packed.find("layer_250/kernel") == 250  # by its hash, in this process
    child = subprocess.run(
        [sys.executable, "-c", _FIND],
        input=pickle.dumps(packed),
        env=places.environment(PYTHONHASHSEED=seed),
        capture_output=True,
        check=True,
    )
    assert child.stdout.split() == [b"True"]
