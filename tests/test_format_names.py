"""What a format is stands in its row: other rooms ask the row, and do not name formats."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import MissingDependencyError
from ckptkit.stores.registry import FORMATS, Format, open_format

PACKAGE = Path(ckptkit.__file__).parent
# Names that are also those of Python packages, or of things other than formats, tell nothing.
COMMON = {"keras", "onnx", "tflite", "checkpoint", ".ckpt", ".npz", ".pb"}
NAMES = {
    word
    for row in FORMATS.built_in.values()
    for word in (row.name, *row.aliases, *row.suffixes)
    if word not in COMMON
}
# At most eight modules outside stores/ spell the name of a format, each with its reason.
WITH_REASON = {
    "operations/convert/destination.py": "pickles, which nobody writes here, by their names",
    "operations/needs/other_files.py": "the package safetensors, which opens such files",
    "runners/registry.py": "which kinds of models each runtime runs",
    "runners/keras/restore.py": "the one file that Keras restores from whatever the source is",
    "runners/tensorflow/build.py": "keras.models.load_model takes this suffix alone",
    "runners/tensorflow/outputs.py": "a file whose loader follows from its suffix",
    "runners/tensorflow/variables.py": "the file through which Keras shows its paths",
}


def spelled(path: Path) -> list[str]:
    """Return the names of formats among the string literals of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in NAMES
    ]


def test_formats_are_named_in_few_modules() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("stores", "fixtures") and spelled(path)
    }
    assert found == set(WITH_REASON)
    assert len(WITH_REASON) <= 8


def test_fixtures_name_files_and_not_formats() -> None:
    """The forms of `fixtures.saving` are names of files and directories that it writes."""
    from_saving = spelled(PACKAGE / "fixtures" / "saving.py")
    assert set(from_saving) <= {"saved_model"}


def test_dispatch_on_an_unknown_format_raises() -> None:
    from pytest import raises

    from ckptkit.errors import UsageError
    from ckptkit.stores.registry import files_at, format_of, open_format

    for function in (
        format_of,
        lambda name: open_format(name, Path()),
        lambda n: files_at(n, Path()),
    ):
        with raises(UsageError, match=r"no format 'nothing' \(one of .*tensor-bundle"):
            function("nothing")


def test_a_package_that_a_format_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Format("rows", "", "", opener="no_such_package:open_rows", needs="ckptkit-rows")
    monkeypatch.setitem(FORMATS.built_in, "rows", row)
    with pytest.raises(MissingDependencyError, match=r"needs no_such_package.*ckptkit-rows\)"):
        open_format("rows", Path("x"))
