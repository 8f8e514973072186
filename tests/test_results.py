"""What the library's results say of themselves: short texts, `.ok`, and no truth value."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import ckptkit
import ckptkit.operations
from ckptkit.results import Document, Result
from support.goldens import golden

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
        if inspect.isclass(value) and value.__module__.startswith("ckptkit.")
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
