"""Who may import what: the layers of docs/design.md, and what starting a command costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ckptkit
from support.goldens import golden

PACKAGE = Path(ckptkit.__file__).parent
MODULES = {
    ".".join(("ckptkit", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.is_relative_to(PACKAGE) and "fixtures" not in path.relative_to(PACKAGE).parts
}

# From the bottom up: each layer may import from itself and those above it in this list.  A module
# of the package's root that is not named here belongs to the core.
GROUND = {
    *("errors", "dtypes", "_files", "_crc32c", "_crc_combine", "_pool", "_atomic", "_memory"),
    *("_numbers", "_printable", "_tf", "keras_variables", "keras_optimizers"),
}
LAYERS = ["ground", "stores", "writers", "core", "runners", "operations", "reports", "edge"]
EDGE = {"cli", "__main__", "__init__", "testing", "pytest_plugin", "commands", "fixtures"}


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    if module == "ckptkit":  # for its __version__
        return 0
    part = module.split(".")[1]
    name = "edge" if part in EDGE else "ground" if part in GROUND else part
    return LAYERS.index(name if name in LAYERS else "core")


@cache
def imports(module: str) -> frozenset[str]:
    """Return the full names of all that a module imports, anywhere in it, and by import_module."""
    return frozenset(_imports(ast.parse(MODULES[module].read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES or f"{full}.__init__" in MODULES else node.module
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            argument = node.args[0]
            if name in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield str(argument.value)


def importers(*packages: str) -> set[str]:
    """Return the modules that import any of these packages."""
    return {
        module
        for module in MODULES
        if any(name.split(".")[0] in packages for name in imports(module))
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


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_upward(module: str) -> None:
    own = layer(module)
    upward = {
        name
        for name in imports(module)
        if name.split(".")[0] == "ckptkit" and layer(name) > own and module != "ckptkit.__init__"
    }
    assert not upward, f"{LAYERS[own]} may import only {LAYERS[: own + 1]}"


def test_every_layer_has_modules() -> None:
    assert {layer(module) for module in MODULES} == set(range(len(LAYERS)))


def test_only_runners_import_tensorflow_and_keras() -> None:
    found = importers("tensorflow", "keras", "tf_keras")
    assert "ckptkit.runners.tensorflow.module" in found
    assert not inside(found, "_tf", "runners")


def test_other_packages_have_one_door_each() -> None:
    assert not inside(importers("click"), "cli", "commands")
    assert not inside(importers("tabulate"), "reports")
    assert importers("h5py") == {"ckptkit.stores.hdf5.reader"}
    assert importers("google_crc32c") == {"ckptkit._io.crc32c"}
    assert importers("google") == {"ckptkit.stores.proto.messages"}
    assert not inside(importers("cramjam"), "stores.leveldb_table", "writers.leveldb_table")
    assert not inside(importers("tqdm"), "commands", "reports", "cli")


def test_nothing_can_run_what_a_file_says() -> None:
    banned = {"pickle", "marshal", "dill", "cloudpickle", "shelve", "runpy", "code"}
    assert not importers(*banned)
    for module, path in MODULES.items():
        called = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile"}, module


def test_nothing_below_the_edge_prints_or_exits() -> None:
    for module, path in MODULES.items():
        if layer(module) >= LAYERS.index("edge") or module.startswith("ckptkit.runners"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("print", "sys.exit", "exit", "os._exit"), module


def test_no_bare_or_blanket_except() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                is_blanket = caught in ("", "Exception", "BaseException")
                reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                child = module.startswith("ckptkit.runners")  # reports what happened there
                edge = module == "ckptkit.cli.main"  # exits 2, with the traceback to report
                assert not is_blanket or reraises or child or edge, f"{module}:{node.lineno}"


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
    assert not modules_after(*arguments) & (HEAVY | {"numpy", "ml_dtypes", "tabulate", "tqdm"})


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


def test_importing_the_package_costs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ckptkit; print(*sys.modules)"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    loaded = {name for name in done.stdout.split() if name.startswith("ckptkit")}
    assert loaded == {"ckptkit"}


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
