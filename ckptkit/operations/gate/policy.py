"""A policy: a TOML file of rules, each with the limit that it sets.

    [model]
    max-size = "500 MB"
    dtypes = ["float32", "bfloat16"]

    [verify]
    strict = true

A table switches the operation of its name on; what it does not say is as that operation has it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import DTYPES
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.operations.digests import PARTS
from ckptkit.stores.registry import format_of
from ckptkit.text import lazy_pattern, list_text, parse_size

MAX_POLICY = 1 << 20  # bytes
_BITS = lazy_pattern(r"\d")
_KIND_AND_BITS = lazy_pattern(r"(?P<kind>[a-z]+)(?P<bits>\d{1,6})(?:[a-z_]\w*)?", re.ASCII)
_BY_FORMAT = lazy_pattern(r"[a-z]+#.")


class Setting(NamedTuple):
    """What a key of a policy takes.  expected: in words; fits: whether a value is that."""

    expected: str
    fits: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_size(value: Any) -> bool:
    if _is_count(value):
        return True
    try:
        return isinstance(value, str) and parse_size(value) >= 0
    except (CkptkitError, ValueError):
        return False


def _is_formats(value: Any) -> bool:
    try:
        return _is_texts(value) and all(map(format_of, value))
    except UsageError:
        return False


def _is_dtypes(value: Any) -> bool:
    return _is_texts(value) and all(map(_may_be_dtype, value))


def _may_be_dtype(name: str) -> bool:
    """Whether a file may have a dtype of this name: formats add to those that are known here.

    One that is not known is a kind and its bits, `float6_e2m3fn` or `void24`, or what a format has
    for it, `zarr#>M8`.  What is near a known kind, but not one, is a slip of the hand.
    """
    from difflib import get_close_matches

    if name in DTYPES or _BY_FORMAT.match(name):
        return True
    found = _KIND_AND_BITS.fullmatch(name)
    if found is None or (int(found["bits"]) >= 8 and int(found["bits"]) % 8):
        return False
    kinds = {_BITS.split(known)[0] for known in DTYPES}
    return found["kind"] in kinds or not get_close_matches(found["kind"], kinds)


def _one_of(*choices: str) -> Setting:
    return Setting(f"one of {list_text([*map(repr, choices)], 9)}", lambda value: value in choices)


_SIZE = Setting('a size such as "500 MB", or bytes', _is_size)
_COUNT = Setting("a whole number", _is_count)
_TEXT = Setting("a text", _is_text)
_TEXTS = Setting("a list of texts", _is_texts)
_FORMATS = Setting("a list of formats, as `ckptkit ls` calls them", _is_formats)
_DTYPES = Setting('a list of dtypes such as "float32"', _is_dtypes)
_NO = Setting("false: true asks for nothing", lambda value: value is False)
_YES_OR_NO = Setting("true or false", lambda value: isinstance(value, bool))

# {table: {key: what it takes}}
SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "model": {
        "formats": _FORMATS,
        "max-size": _SIZE,
        "max-parameters": _COUNT,
        "dtypes": _DTYPES,
        "optimizer-state": _NO,
        "nonfinite": _NO,
    },
    "verify": {"strict": _YES_OR_NO},
    "scan": {"allow": _TEXTS},
    "baseline": {
        "config": _one_of("same"),
        "signature": _one_of("same", "compatible"),
        "vocabulary": _one_of("same"),
        "weights": _one_of("same"),
    },
    "golden": {"path": _TEXT, "on": _TEXTS, "tolerance": _TEXT, "model": _TEXT},
    "digest": {"part": _one_of(*PARTS), "listed": _TEXTS, "file": _TEXT},
}
# Of each of these there has to be one.
_NEEDED = {"golden": ("path",), "digest": ("listed", "file")}
# Tables whose keys are the rules: empty, they would ask for nothing.
_OF_KEYS = ("model", "baseline")


class Policy(NamedTuple):
    """The rules of a file.  tables: {table: {key: value}}, of `SETTINGS`."""

    path: Path
    tables: Mapping[str, Mapping[str, Any]]

    def beside(self, path: str) -> Path:
        """Return a path that the policy names: it begins where the policy lies."""
        return self.path.parent / path


def read_policy(path: Path) -> Policy:
    """Return the rules of a policy.

    Args:
        path: of the TOML file.

    Raises:
        PathNotFoundError: it is not there.
        UsageError: it is no TOML, has a table or key that there is none of, a value that a key does
            not take, lacks a key that a table needs, or has no rule at all.
    """
    size = file_size(path)
    if size > MAX_POLICY:
        raise UsageError(f"{size} bytes are no policy", where=str(path))
    try:
        text = read_exact(path, 0, size).decode("utf-8-sig")
        content = _toml().loads(text)
    except ValueError as error:  # of TOML, and of UTF-8
        raise UsageError(f"not a TOML file: {error}", where=str(path)) from None
    for table, settings in content.items():
        _check_table(str(path), table, settings)
    _check_needed(str(path), content)
    if not content:
        raise UsageError(
            "a policy without rules", where=str(path), hint=f"tables: {_names(SETTINGS)}"
        )
    return Policy(path, content)


def _check_table(where: str, table: str, settings: Any) -> None:
    known = SETTINGS.get(table)
    if known is None:
        raise UsageError(f"no table [{table}]", where=where, hint=_near(table, SETTINGS))
    if not isinstance(settings, dict):
        raise UsageError(
            f"{table!r} is a table of rules",
            where=where,
            hint=f"[{table}] on a line of its own, below it a line for each of {_names(known)}",
        )
    if not settings and table in _OF_KEYS:
        raise UsageError(f"[{table}] is empty", where=where, hint=f"its rules: {_names(known)}")
    for key, value in settings.items():
        setting = known.get(key)
        if setting is None:
            raise UsageError(f"no key {key!r} in [{table}]", where=where, hint=_near(key, known))
        if not setting.fits(value):
            raise UsageError(
                f"[{table}] {key} takes {setting.expected}, not {value!r}", where=where
            )


def _check_needed(where: str, content: Mapping[str, Any]) -> None:
    for table, keys in _NEEDED.items():
        if table in content and not any(key in content[table] for key in keys):
            raise UsageError(f"[{table}] needs `{'` or `'.join(keys)}`", where=where)


def _near(name: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {_names(known)}"


def _names(known: Mapping[str, Any]) -> str:
    return list_text(list(known), 20)


def _toml() -> Any:
    """Return the module that reads TOML: Python's own since 3.11."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli

    return tomli
