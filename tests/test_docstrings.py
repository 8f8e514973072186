"""What is exported says what it takes, returns and raises, and spells out its keywords.

Held by rule: whatever is exported later is under it too.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache, cached_property
from types import FunctionType, ModuleType
from typing import Any

import pytest

import ckptkit
import ckptkit.operations
import ckptkit.testing
from ckptkit.errors import CkptkitError
from ckptkit.operations.check.api import check, localize
from ckptkit.operations.diff.api import diff
from ckptkit.operations.record.api import record
from ckptkit.plugins import Registry
from ckptkit.results import Result
from ckptkit.stores.registry import FORMATS, Head, function_of
from ckptkit.testing.pytest_plugin import GoldenCheck
from support.classes import is_class

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
_HEADER = re.compile(rf"({'|'.join(SECTIONS)}):")
_NAMED = re.compile(r"\*{0,2}(\w+): \S")
_RAISED = re.compile(r"(\w+(?:, \w+)*): \S")


# --- what the rule is over ------------------------------------------------------------------------


@cache
def _modules(package: ModuleType) -> tuple[ModuleType, ...]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = (each.name for each in found)
    return (
        package,
        *(
            importlib.import_module(name)
            for name in names
            if not name.endswith("__main__") and ".fixtures." not in name
        ),
    )


def _listed(modules: Iterable[ModuleType]) -> Iterator[Any]:
    """Yield what modules list in `__all__`."""
    for module in modules:
        for name in getattr(module, "__all__", ()):
            yield getattr(module, name)


@cache
def _classes() -> tuple[type, ...]:
    """Return every class of the package, in a fixed order."""
    found = {
        value
        for module in _modules(ckptkit)
        for value in vars(module).values()
        if is_class(value) and value.__module__.partition(".")[0] == "ckptkit"
    }
    return tuple(sorted(found, key=lambda each: (each.__module__, each.__qualname__)))


@cache
def _row_types() -> tuple[type, ...]:
    """Return the types of the rows that other packages may add to tables of this one."""
    tables = (
        value
        for module in _modules(ckptkit)
        for value in vars(module).values()
        if isinstance(value, Registry)
    )
    return tuple({table.kind for table in tables if table.kind in _classes()})


def _public_classes() -> set[type]:
    exported = _listed([ckptkit, *_modules(ckptkit.testing)])
    return {
        *(each for each in exported if is_class(each)),
        *(each for each in _classes() if issubclass(each, Result)),
        *(each for each in _classes() if getattr(each, "_is_protocol", False)),
        *_row_types(),
        Registry,
        Head,
    }


def _public_members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (name, member) of what users call, also of what a class inherits from this package."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] == "ckptkit":
            for name, member in vars(base).items():
                # What a suite calls `test_` is called by pytest.
                if name == "__call__" or not name.startswith(("_", "test_")):
                    yield name, member


def _plain(member: Any) -> Any:
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def _functions() -> dict[str, FunctionType]:
    """Return every function and method that the rule is over, by its full name."""
    exported = _listed([ckptkit, *_modules(ckptkit.testing)])
    found: set[Any] = {each for each in exported if isinstance(each, FunctionType)}
    # A writer of another package is called as those are that the rows of this one name.
    found |= {function_of(row.writer) for row in FORMATS.built_in.values() if row.writer}
    for kind in _public_classes():
        found |= {
            _plain(member)
            for _, member in _public_members(kind)
            if not is_class(member) and callable(_plain(member))
        }
    functions = [each for each in found if isinstance(each, FunctionType)]
    return {f"{each.__module__}.{each.__qualname__}": each for each in functions}


def _properties() -> dict[str, Any]:
    return {
        f"{kind.__module__}.{kind.__qualname__}.{name}": member
        for kind in _public_classes()
        for name, member in _public_members(kind)
        if isinstance(member, property | cached_property)
    }


def _documented_in_class() -> dict[str, type]:
    """Return the classes whose docstring says what their `__init__` takes."""
    errors = {each for each in _classes() if issubclass(each, CkptkitError)}
    return {
        f"{each.__module__}.{each.__qualname__}": each
        for each in _public_classes() | errors
        if "__init__" in vars(each)
        and not is_dataclass(each)
        and not getattr(each, "_is_protocol", False)
    }


# --- how a docstring is read ----------------------------------------------------------------------


def _sections(documented: Any) -> dict[str, list[str]]:
    """Return the lines of each section, in order; "" is what stands before the first."""
    lines: dict[str, list[str]] = {"": []}
    section = ""
    for line in (inspect.getdoc(documented) or "").splitlines():
        header = _HEADER.fullmatch(line)
        if header:
            section = header[1]
            assert section not in lines, f"{section} twice"
            lines[section] = []
        elif not section or not line or line.startswith("    "):
            lines[section].append(line)
        else:
            raise AssertionError(f"text behind {section}: {line!r}")
    for name in SECTIONS:
        lines[name] = [line.removeprefix("    ") for line in lines.get(name, ()) if line]
    return lines


def _entries(lines: list[str]) -> list[str]:
    """Return the lines of a section that are not the continuation of another."""
    return [line for line in lines if not line.startswith(" ")]


def _names(lines: list[str]) -> list[str]:
    """Return the names that a section tells of; one without a meaning is an error."""
    matches = [(line, _NAMED.match(line)) for line in _entries(lines)]
    assert [line for line, match in matches if match is None] == []
    return [match[1] for _, match in matches if match is not None]


def _parameters(function: Callable[..., Any]) -> list[str]:
    names = list(inspect.signature(function).parameters)
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def _is_error(name: str) -> bool:
    known = [each for each in _classes() if issubclass(each, CkptkitError)]
    built_in = getattr(builtins, name, None)
    return any(each.__name__ == name for each in known) or (
        is_class(built_in) and issubclass(built_in, Exception)
    )


def _assert_first_line(lines: list[str]) -> None:
    assert lines and lines[0], "no docstring"
    assert lines[0].endswith("."), f"the first line is no sentence: {lines[0]}"


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_functions()))
def test_a_function_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = _functions()[name]
    lines = _sections(function)
    _assert_first_line(lines[""])
    assert _names(lines["Args"]) == _parameters(function)
    returns = function.__annotations__["return"] not in ("None", "NoReturn", None)
    yields = str(function.__annotations__["return"]).startswith("Iterator[") and lines["Yields"]
    assert bool(lines["Returns"]) == (returns and not yields)
    raised = [(line, _RAISED.match(line)) for line in _entries(lines["Raises"])]
    assert [line for line, match in raised if match is None] == []
    named = [n for _, match in raised if match is not None for n in match[1].split(", ")]
    assert [n for n in named if not _is_error(n)] == []
    present = [section for section in lines if lines[section] and section]
    assert present == sorted(present, key=SECTIONS.index)


@pytest.mark.parametrize("name", sorted(_properties()))
def test_a_property_says_what_it_is(name: str) -> None:
    _assert_first_line(_sections(_properties()[name])[""])


@pytest.mark.parametrize("name", sorted(_documented_in_class()))
def test_a_class_says_what_it_is_made_of(name: str) -> None:
    kind = _documented_in_class()[name]
    lines = _sections(kind)
    _assert_first_line(lines[""])
    assert _names(lines["Args"]) == _parameters(vars(kind)["__init__"])


@pytest.mark.parametrize("kind", sorted(_row_types(), key=str))
def test_a_row_says_what_each_of_its_fields_means(kind: Any) -> None:
    lines = _sections(kind)
    _assert_first_line(lines[""])
    assert _names(lines["Attributes"]) == list(kind._fields)


def test_the_rule_is_over_what_it_is_meant_for() -> None:
    functions = _functions().values()
    assert {ckptkit.check, ckptkit.open, ckptkit.Checkpoint.key} <= {*functions}
    assert len(functions) > 40 and len(_row_types()) > 1


# --- keywords -------------------------------------------------------------------------------------


def _listed_functions() -> dict[str, FunctionType]:
    """Return the functions that the library exports, and those that `operations` lists."""
    places = [ckptkit, *_modules(ckptkit.testing), *_modules(ckptkit.operations)]
    found = [each for each in _listed(places) if isinstance(each, FunctionType)]
    return {f"{each.__module__}.{each.__qualname__}": each for each in found}


@pytest.mark.parametrize("name", sorted(_listed_functions() | _functions()))
def test_every_keyword_is_spelled_out(name: str) -> None:
    """So that a misspelled one is found by a type checker."""
    function = (_listed_functions() | _functions())[name]
    parameters = inspect.signature(function).parameters.values()
    assert [each.name for each in parameters if each.kind is each.VAR_KEYWORD] == []


@pytest.mark.parametrize(
    ("function", "asked", "of_its_own"),
    [
        (ckptkit.testing.assert_same_weights, [diff], set()),
        (ckptkit.testing.assert_restores, [check], set()),
        (ckptkit.testing.assert_same_outputs, [check], set()),
        (localize, [check], set()),
        (GoldenCheck.__call__, [record, check], {"name"}),
    ],
)
def test_keywords_that_are_handed_on_are_those_of_the_function_asked(
    function: FunctionType, asked: list[FunctionType], of_its_own: set[str]
) -> None:
    theirs = [inspect.signature(each).parameters for each in asked]
    own = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.kind is each.KEYWORD_ONLY and each.name not in of_its_own
    ]
    assert own
    assert [each for each in own if not any(each == them.get(each.name) for them in theirs)] == []
