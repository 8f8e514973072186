"""JSON of untrusted files: bounded in size and depth, one meaning only.

Refused, beside what is no JSON at all: a key given twice (two readers would see two contents), NaN
and infinities, floats beyond float64, integers of thousands of digits, lone surrogates, nesting
deeper than `max_depth`.  "-0" is a float, as in serde_json, so that it never passes for a size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.text import lazy_pattern

MAX_BYTES = 256 << 20  # the config of the largest Keras models is a few MB
MAX_DEPTH = 127  # containers within each other; serde_json's limit, real configs stay under 30

_CONTAINERS = (dict, list, tuple)
_SURROGATE = lazy_pattern(r"\\u[dD][89a-fA-F]")

Pairs = list[tuple[str, Any]]


class _Refusal(ValueError):
    """What a parser hook found wrong."""


def loads(
    data: bytes, where: str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> Any:
    """Return the value of a JSON text in UTF-8; `where` names it in errors.  Raises FormatError."""
    if len(data) > max_bytes:
        raise FormatError(
            where, "JSON is too large", expected=f"at most {max_bytes} bytes", found=len(data)
        )
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer if "-0" in text else None,
            parse_float=_float,
            parse_constant=_constant,
        )
        _check_depth(value, max_depth)
        if _SURROGATE.search(text):
            _check_text(value)
    except RecursionError:
        raise FormatError(where, f"JSON is nested deeper than {max_depth} levels") from None
    except UnicodeDecodeError as error:
        raise FormatError(where, f"JSON is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FormatError(where, f"not JSON at character {error.pos}: {error.msg}") from None
    except ValueError as error:  # _Refusal, or int() of thousands of digits
        raise FormatError(where, f"JSON refused: {error}") from None
    return value


def load(path: Path, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of a JSON file; raises FormatError, PathNotFoundError."""
    size = file_size(path)
    if size > max_bytes:
        raise FormatError(
            str(path), "JSON is too large", expected=f"at most {max_bytes} bytes", found=size
        )
    data = read_exact(path, 0, size)
    return loads(data, str(path), max_bytes=max_bytes, max_depth=max_depth)


def _object(pairs: Pairs) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refusal(f"the key {_twice(pairs)!r} is given twice")
    return value


def _twice(pairs: Pairs) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            break
        seen.add(key)
    return key


def _integer(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refusal(f"number out of range: {text[:30]}")
    return value


def _constant(text: str) -> float:
    raise _Refusal(f"{text} is no JSON number")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if type(value) is dict else value


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(max_depth):
        if not level:
            return
        level = [
            child for item in level for child in _children(item) if isinstance(child, _CONTAINERS)
        ]
    if level:
        raise _Refusal(f"nested deeper than {max_depth} levels")


def _check_text(value: Any) -> None:
    """Refuse strings, keys included, that are no Unicode text."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and not _is_text(item):
            raise _Refusal(f"lone surrogate in {item[:30]!r}")
        if isinstance(item, _CONTAINERS):
            pending.extend(_children(item))
        if isinstance(item, dict):
            pending.extend(item)


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
