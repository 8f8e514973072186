"""What the library's results say of themselves: short texts, `.ok`, and no truth value."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import ckptkit
import ckptkit.operations
from ckptkit.errors import UsageError
from ckptkit.reports import presentation
from ckptkit.results import Document, Result
from support.classes import is_class
from support.goldens import golden
from support.places import ROOT
from support.weights import write_bundle

ADAM = golden("tf2.21.0/adam/ckpt").path
EXPORT = golden("tf2.21.0/saved_model_export/model").path
VERDICTS = ("exit_code", "ok", "passed", "passes", "same", "sound")


def _modules(package: Any) -> Iterator[Any]:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__") and ".fixtures." not in found.name:
            yield importlib.import_module(found.name)


def _public_functions() -> dict[str, FunctionType]:
    """Return what `ckptkit` exports, and what modules of `ckptkit.operations` list in `__all__`."""
    places = [ckptkit, *_modules(ckptkit.operations)]
    members = [getattr(place, name) for place in places for name in getattr(place, "__all__", ())]
    functions = [each for each in members if isinstance(each, FunctionType)]
    return {f"{each.__module__}.{each.__name__}": each for each in functions}


@pytest.mark.parametrize("name", _public_functions())
def test_functions_return_results_or_plain_containers(name: str) -> None:
    function = _public_functions()[name]
    outermost = str(function.__annotations__["return"]).partition("[")[0]
    returned = eval(outermost, inspect.unwrap(function).__globals__)
    # Arrays by name, paths, sentences: these hold things and judge nothing.
    assert returned is None or issubclass(returned, Result | Mapping | list | Path)


def test_every_class_with_a_verdict_is_a_result() -> None:
    classes = {
        value
        for module in _modules(ckptkit)
        for value in vars(module).values()
        if is_class(value) and value.__module__.startswith("ckptkit.")
    }
    judging = {
        each for each in classes if any(isinstance(vars(each).get(v), property) for v in VERDICTS)
    }
    assert len(judging) > 10
    assert [each for each in judging if not issubclass(each, Result)] == []
    results = {each for each in classes if issubclass(each, Result)} - {Result, Document}
    assert judging <= {Result, Document, *results}
    for each in results:
        assert each.__bool__ is Result.__bool__ and not hasattr(each, "__len__"), each
        assert not inspect.isabstract(each), each


def test_no_result_has_a_truth_value(tmp_path: Path) -> None:
    same = ckptkit.diff(ADAM, ADAM)
    report_of_coverage = ckptkit.verify(ADAM)
    receipt = ckptkit.convert(ADAM, tmp_path / "w.npz", weights_only=True)
    results: list[Result] = [
        *(same, *same.changes, report_of_coverage, *report_of_coverage.units, receipt),
        *(ckptkit.ls(ADAM), ckptkit.show(ADAM, "hidden/kernel"), ckptkit.scan(EXPORT)),
    ]
    for result in results:
        assert result.ok
        with pytest.raises(TypeError, match=r"neither true nor false, ask \.ok"):
            bool(result)


def test_mappings_keep_the_truth_value_of_mappings() -> None:
    assert ckptkit.load(ADAM)
    assert ckptkit.open(ADAM)


def test_verifications(tmp_path: Path) -> None:
    result = ckptkit.verify(ADAM)
    assert result.sound and result.ok
    assert repr(result) == f"<Verification sound; {ADAM}>"
    copy = tmp_path / "c"
    for suffix in (".index", ".data-00000-of-00001"):
        data = Path(f"{ADAM}{suffix}").read_bytes()
        Path(f"{copy}{suffix}").write_bytes(data[:-9] if "data" in suffix else data)
    damaged = ckptkit.verify(copy)
    assert not damaged.sound and not damaged.ok
    assert repr(damaged).startswith("<Verification findings: ")
    for each in (result, damaged):
        with pytest.raises(TypeError, match=r"ask \.ok, or \.sound"):
            bool(each)


def test_scans() -> None:
    assert repr(ckptkit.scan(EXPORT)) == f"<Scan sound; {EXPORT}>"


def test_listings_and_tensors() -> None:
    assert len(repr(ckptkit.ls(ADAM))) < 300
    assert len(repr(ckptkit.show(ADAM, "hidden/kernel"))) < 300
    assert len(repr(ckptkit.open(ADAM))) < 300


# --- what a command prints ------------------------------------------------------------------------


def documents() -> dict[str, type[Document]]:
    """Return every class of results that a command prints."""
    found: dict[str, type[Document]] = {}
    for module in _modules(ckptkit):
        for value in vars(module).values():
            if is_class(value) and issubclass(value, Document) and value is not Document:
                found[value.__name__] = value
    return found


@pytest.mark.parametrize("name", documents())
def test_what_a_command_prints_is_exported_and_alike(name: str) -> None:
    document = documents()[name]
    assert name in ckptkit.__all__ and getattr(ckptkit, name) is document
    assert document.__doc__ and document.__doc__[0] != f"{name}("  # said by somebody
    for shared in ("records", "to_frame", "to_json", "ok", "exit_code"):
        assert hasattr(document, shared), shared
    # one meaning of a name over all of them
    assert isinstance(inspect.getattr_static(document, "ok"), property)
    for method in ("records", "to_frame", "to_json"):
        parameters = inspect.signature(getattr(document, method)).parameters
        assert [p for p in parameters.values() if p.default is p.empty] == [parameters["self"]]
    assert document.__str__ is Document.__str__
    assert document.__repr__ is not object.__repr__  # what a prompt of Python shows
    assert document._repr_html_ is Document._repr_html_
    assert any(each.__name__ in presentation._REPORTS for each in document.__mro__)


def attributes(document: type[Document]) -> Iterator[tuple[str, str]]:
    """Yield (name, type) of what a result has beside what all results have."""
    shared = {name for name in dir(Document) if not name.startswith("_")}
    for name, kind in document.__annotations__.items():
        if not name.startswith("_") and name not in shared and "ClassVar" not in str(kind):
            yield name, str(kind)
    for name, value in vars(document).items():
        if isinstance(value, property | cached_property) and name[0] != "_" and name not in shared:
            getter = value.fget if isinstance(value, property) else value.func
            assert getter is not None
            yield name, str(getter.__annotations__["return"])


@pytest.mark.parametrize("name", documents())
def test_attributes_are_documented(name: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
    documented = re.findall(r"^\| `(\w+)` \| `(.*?)` \| \S", section, re.M)
    inherited = [base for base in documents()[name].__mro__[1:] if base.__name__ in documents()]
    expected = [row for each in (documents()[name], *inherited) for row in attributes(each)]
    rows = [(row, kind.replace("|", r"\|")) for row, kind in dict(expected).items()]
    missing = [
        f"| `{row}` | `{kind}` | ... |" for row, kind in rows if (row, kind) not in documented
    ]
    assert documented == rows, f"docs/results.md, {name}: write rows {missing}"


def test_a_path_may_be_bytes(tmp_path: Path) -> None:
    (tmp_path / "caf\xe9").mkdir()
    path = write_bundle(tmp_path / "caf\xe9" / "ckpt", {"a": np.arange(3.0)})
    given: Any = os.fsencode(path)
    out: Any = os.fsencode(tmp_path / "out.npz")
    assert list(ckptkit.open(given)) == ["a"]
    ckptkit.convert([given], out, receipt=out + b".json")
    assert ckptkit.diff(out, given).ok
    with os.scandir(os.fsencode(path.parent)) as entries:
        entry: Any = next(entries)
    assert ckptkit.verify(entry).ok
    for function in (ckptkit.ls, ckptkit.load, ckptkit.needs, ckptkit.history):
        assert function(given) is not None


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "soon"])
def test_a_time_limit_is_a_number_above_none(seconds: Any) -> None:
    calls: list[Any] = [ckptkit.check, ckptkit.record, ckptkit.convert, ckptkit.upgrade]
    for call in calls:
        arguments = ["gone.keras"] if call is ckptkit.check else ["gone.keras", "out.keras"]
        with pytest.raises(UsageError, match=r"timeout_s: .* is not a number of seconds above 0"):
            call(*arguments, timeout_s=seconds)
