"""Who may import what: the floors of docs/design.md, and what starting a command costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ckptkit
from benchmarks.house import FLOORS, House, heights
from ckptkit.stores.registry import FORMATS
from support.goldens import golden
from support.places import ROOT

PACKAGE = Path(ckptkit.__file__).parent
HOUSE = House(PACKAGE)
MODULES = HOUSE.paths
EDGE = {"cli", "testing", "fixtures", "__main__"}


def room(module: str) -> str:
    """Return what of `ckptkit/` a module is or lies in."""
    return module.split(".")[1]


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the full names of all that a file imports, anywhere in it, and by import_module."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            argument = node.args[0]
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield str(argument.value)


def top_level(path: Path) -> set[str]:
    """Return the packages that a file imports, without what of them."""
    return {name.split(".")[0] for name in imports(path)}


def importers(*packages: str) -> set[str]:
    """Return the modules that import any of these packages."""
    return {
        module
        for module, path in MODULES.items()
        if "fixtures" not in module.split(".") and top_level(path) & set(packages)
    }


def inside(modules: set[str], *allowed: str) -> set[str]:
    """Return the modules that lie outside of `allowed` modules and packages."""
    prefixes = tuple(f"ckptkit.{name}" for name in allowed)
    return {
        m
        for m in modules
        if m not in prefixes and not m.startswith(tuple(f"{p}." for p in prefixes))
    }


# --- by reading -----------------------------------------------------------------------------------


def test_nothing_imports_in_a_circle() -> None:
    """Neither modules nor siblings, by imports in functions and for type checkers as little."""
    assert HOUSE.circles() == []


def test_nobody_imports_upward() -> None:
    assert HOUSE.rooms.keys() <= {name for floor in FLOORS for name in floor}
    assert HOUSE.upward() == []


def test_imports_are_absolute() -> None:
    for module, path in MODULES.items():
        assert not [name for name in imports(path) if name.startswith(".")], module


def test_the_house_stays_small() -> None:
    assert len(HOUSE.rooms.keys() - {"__init__"}) <= 24
    assert max(heights(HOUSE.rooms).values()) <= 12


def test_only_runners_import_tensorflow_and_keras() -> None:
    found = importers("tensorflow", "keras", "tf_keras")
    assert "ckptkit.runners.tensorflow.module" in found
    assert not inside(found, "runners")


def test_other_packages_have_one_door_each() -> None:
    assert not inside(importers("click"), "cli")
    assert not inside(importers("tabulate"), "reports")
    assert importers("h5py") == {"ckptkit.stores.hdf5.reader"}
    assert importers("google_crc32c") == {"ckptkit._io.crc32c"}
    assert importers("google") == {"ckptkit.stores.proto.messages"}
    assert importers("cramjam") == {
        "ckptkit.stores.orbax.codecs",
        "ckptkit.stores.tensor_bundle.table",
        "ckptkit.stores.tensor_bundle.table_writer",
    }


def test_nothing_can_run_what_a_file_says() -> None:
    banned = {"pickle", "marshal", "dill", "cloudpickle", "shelve", "runpy", "code"}
    # the conformance checks send stores through pickle themselves
    assert importers(*banned) <= {"ckptkit.testing.formats"}
    for module, path in MODULES.items():
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile"}, module


def test_nothing_below_the_edge_prints_or_exits() -> None:
    for module, path in MODULES.items():
        if room(module) in EDGE or module.startswith("ckptkit.runners"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "sys.exit", "exit", "os._exit"), module


def test_no_bare_or_blanket_except() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                handed_on = "set_exception(" in ast.unparse(node)  # to whoever waits for a result
                caught = ast.unparse(node.type) if node.type else ""
                is_blanket = caught in ("", "Exception", "BaseException")
                reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                passed_on = reraises or handed_on
                child = module.startswith("ckptkit.runners")  # reports what happened there
                edge = module == "ckptkit.cli.main"  # exits 2, with the traceback to report
                assert not is_blanket or passed_on or child or edge, f"{module}:{node.lineno}"


def test_no_pattern_is_compiled_by_an_import() -> None:
    """Compiling one takes as long as listing a hundred tensors: `text.lazy_pattern` waits."""
    for module, path in MODULES.items():
        if module.startswith("ckptkit.runners"):  # of children, which import far more
            continue
        waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while waiting:
            node = waiting.pop()
            if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                assert called != "re.compile", module
                waiting += ast.iter_child_nodes(node)


# --- by running -----------------------------------------------------------------------------------


def modules_after(*arguments: str) -> set[str]:
    """Return the top-level packages in sys.modules after a command of a fresh process."""
    program = (
        "import sys\n"
        "sys.argv[0] = 'ckptkit'\n"
        "from ckptkit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as exit_:\n    assert not exit_.code\n"
        "print('MODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


CHECKPOINT = str(golden("tf2.21.0/adam/ckpt").path)
SAVED_MODEL = str(golden("tf2.21.0/saved_model_export/model").path)
HEAVY = {"tensorflow", "keras", "h5py", "sklearn", "matplotlib", "pandas", "dask", "ssl"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["ls", "--help"],
        ["ls", CHECKPOINT],
        ["ls", CHECKPOINT, "--long"],
        ["ls", CHECKPOINT, "--tree"],
        ["ls", CHECKPOINT, "--patterns", "--role", "weight"],
        ["ls", CHECKPOINT, "--format", "json"],
        ["ls", CHECKPOINT, "--format", "csv"],
        ["ls", SAVED_MODEL],
    ],
    ids=" ".join,
)
def test_listing_needs_neither_tensorflow_nor_numpy(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & (HEAVY | {"numpy", "ml_dtypes", "tabulate"})


@pytest.mark.parametrize("target", ["safetensors", "npz", "checkpoint"])
def test_where_values_stay_as_they_are_numpy_is_not_needed(tmp_path: Path, target: str) -> None:
    """Nor where they are compared or checksummed, as the proof of a conversion does."""
    output = str(tmp_path / f"output.{target}")
    for arguments in (("convert", CHECKPOINT, output, "--to", target), ("verify", CHECKPOINT)):
        assert not modules_after(*arguments) & {"numpy", "ml_dtypes", "hashlib", "html"}
    assert list(tmp_path.iterdir())


BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}  # of one number


@pytest.mark.parametrize("dtype", BYTES)
def test_verifying_safetensors_needs_no_numpy(tmp_path: Path, dtype: str) -> None:
    header = f'{{"w":{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,{4 * BYTES[dtype]}]}}}}'
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4 * BYTES[dtype]))
    assert not modules_after("verify", str(file)) & {"numpy", "ml_dtypes"}


def test_starting_imports_nothing_of_files() -> None:
    """`--version`, a mistyped command: only what reads the command line."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ckptkit.cli.main; print(*sys.modules)"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    rooms = {name.split(".")[1] for name in done.stdout.split() if name.startswith("ckptkit.")}
    assert rooms.isdisjoint({"stores", "checkpoint", "operations", "align", "compare"})


# What takes long to import, and the list of an ordinary checkpoint needs none of.
SLOW = {"google", "logging", "concurrent", "secrets", "hmac", "json", "importlib.metadata", "csv"}


@pytest.mark.parametrize("arguments", [["ls", CHECKPOINT], ["ls", CHECKPOINT, "--tree"]])
def test_listing_a_checkpoint_imports_little(arguments: list[str]) -> None:
    """No protobuf, no logging (of pools of threads), no HMAC (of `secrets`)."""
    assert not modules_after(*arguments) & SLOW


# Temporary copies, libhdf5's process and the checksums of checkpoints: few other files need them.
OF_FEW = {"tempfile", "subprocess", "google_crc32c", "numpy", "google"}


def test_listing_safetensors_imports_little(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert not modules_after("ls", str(file)) & OF_FEW


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_listing_files_of_keras_imports_little(name: str) -> None:
    file = golden(f"tf2.21.0/files_nested/{name}").path
    assert not modules_after("ls", str(file)) & (OF_FEW | {"zipfile"})


@pytest.mark.parametrize(
    "arguments", [["verify", CHECKPOINT], ["scan", SAVED_MODEL]], ids=["verify", "scan"]
)
def test_verifying_and_scanning_import_little(arguments: list[str]) -> None:
    """No arrays, and no clients of the web (which escape the XML of JUnit)."""
    assert not modules_after(*arguments) & {"numpy", "ssl", "xml", "subprocess"}


def test_formats_are_told_apart_without_their_readers() -> None:
    """A file is asked for by the rule of one format after the other: none may bring its reader."""
    program = (
        "import sys\n"
        "from ckptkit.stores.registry import FORMATS, function_of\n"
        "for row in FORMATS.built_in.values():\n"
        "    if row.detect and not row.is_directory:\n"
        "        function_of(row.detect)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    openers = {row.opener.partition(":")[0] for row in FORMATS.built_in.values()}
    assert len(openers) > 10
    assert openers.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", CHECKPOINT, "hidden/bias"],
        ["ls", CHECKPOINT, "--digest"],
        ["ls", CHECKPOINT, "--format", "markdown"],
        ["diff", CHECKPOINT, CHECKPOINT],
    ],
    ids=" ".join,
)
def test_other_commands_need_no_tensorflow(arguments: list[str]) -> None:
    assert not modules_after(*arguments) & HEAVY


def test_a_difference_of_two_files_without_a_model_takes_no_reader_of_models() -> None:
    program = (
        "import sys, ckptkit\n"
        "assert ckptkit.diff(sys.argv[1], sys.argv[1], mode='quick').ok\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, CHECKPOINT],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "ckptkit.operations.diff.api" in loaded
    others = ("ckptkit.stores.hdf5.reader", "ckptkit.stores.saved_model.reader", "numpy")
    assert loaded.isdisjoint(("ckptkit.operations.diff.beside.comparison", *others))


def test_importing_the_package_costs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ckptkit; print(*sys.modules)"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    loaded = {name for name in done.stdout.split() if name.startswith("ckptkit")}
    assert loaded == {"ckptkit", "ckptkit._version"}


# --- exports --------------------------------------------------------------------------------------


def test_exports() -> None:
    assert ckptkit.__all__ == sorted(ckptkit.__all__)
    assert set(ckptkit.__all__) == set(ckptkit._EXPORTS)
    for name in ckptkit.__all__:
        assert getattr(ckptkit, name).__name__ == name
        assert name in dir(ckptkit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ckptkit.nothing  # noqa: B018


def test_exports_are_what_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == ckptkit._EXPORTS


# --- tests ----------------------------------------------------------------------------------------


def test_no_test_is_imported() -> None:
    """What two tests share lies in tests/support, or is asked of pytest by a fixture's name."""
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    tests = {path.stem for path in files if path.stem.startswith(("test_", "conftest"))}
    assert len(tests) > 50
    for path in files:
        assert not {part for name in imports(path) for part in name.split(".")} & tests, path


def test_the_folder_of_golden_files_is_no_package() -> None:
    """A package called `fixtures` is on the index: whoever imported that name might get it."""
    assert not (ROOT / "fixtures" / "__init__.py").exists()
    for folder in ("ckptkit", "fixtures", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "fixtures" not in top_level(path), path


def test_folders_of_tests_are_those_of_the_package() -> None:
    """A test of `ckptkit/operations/diff/` lies in `tests/operations/diff/`; `io` is `_io`."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.relative_to(ROOT / "tests").parent
        assert (PACKAGE / folder).is_dir() or (PACKAGE / f"_{folder}").is_dir(), path


def test_no_two_files_of_tests_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
