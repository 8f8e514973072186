"""JSON of untrusted files: one meaning, bounded, every refusal an error of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.errors import FormatError, PathNotFoundError
from ckptkit.stores.containers import strict_json as _json
from support.refused_json import REFUSED


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    ).filter(lambda value: "Infinity" not in json.dumps(value))
)
def test_ordinary_json_is_read(value: Any) -> None:
    assert _json.loads(json.dumps(value).encode(), "x") == value
    assert _json.loads(json.dumps(value, ensure_ascii=False, indent=1).encode(), "x") == value


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        _json.loads(text, "config.json")
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


def test_limits_are_inclusive() -> None:
    assert _json.loads(b"[" * 127 + b"]" * 127, "x")
    assert _json.loads(b"[[1]]", "x", max_bytes=5, max_depth=2) == [[1]]
    with pytest.raises(FormatError, match="expected at most 4 bytes, found 5"):
        _json.loads(b"[[1]]", "x", max_bytes=4)
    with pytest.raises(FormatError, match="nested deeper than 1 levels"):
        _json.loads(b"[[1]]", "x", max_depth=1)


def test_minus_zero_is_no_size() -> None:
    assert [type(value) for value in _json.loads(b"[-0, 0, -1, -0.5]", "x")] == [
        float,
        int,
        int,
        float,
    ]


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert _json.loads(b'"\\ud83d\\ude00 \\\\ud800"', "x") == "\U0001f600 \\ud800"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": [1, 2]}')
    assert _json.load(path) == {"a": [1, 2]}
    with pytest.raises(FormatError, match="too large"):
        _json.load(path, max_bytes=5)
    with pytest.raises(PathNotFoundError):
        _json.load(tmp_path / "none.json")
