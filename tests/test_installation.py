"""Another distribution called `ckptkit` beside this one, over it, and removed again."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import ckptkit
import ckptkit_tf
from ckptkit._version import __version__
from ckptkit.installation import damage
from support.goldens import golden
from support.places import ROOT

ADAM = str(golden("tf2.21.0/adam/ckpt").path)
H5 = (
    "import h5py, sys\n"
    "h5py.File(sys.argv[1], 'w').create_dataset('w', (9,), 'f4', chunks=True).file.close()"
)
PACKAGE = Path(ckptkit.__file__).resolve().parent
SCRIPT = PACKAGE.parent / "ckptkit_tf.py"
OTHER = "ckptkit==0.3.0"
OTHERS_MODULES = (
    *("_types", "cli", "convert", "diff", "estimator", "gguf", "inspect", "merge", "metadata"),
    *("stats", "validate"),
)
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted((PACKAGE).rglob("*.py"))
}


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(*command: str | Path, **environment: str) -> Done:
    """Run a command outside of the checkout, with nothing of this process on its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        cwd="/",
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout, done.stderr)


# --- by reading -----------------------------------------------------------------------------------


def test_nothing_imports_from_the_root_of_the_package() -> None:
    """Such names would be those of the other distribution where that overwrote `__init__.py`."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "ckptkit", f"{module}:{node.lineno}"
            elif isinstance(node, ast.Import):
                plain = [alias for alias in node.names if alias.name == "ckptkit"]
                assert not plain, f"{module}:{node.lineno}"


def test_no_module_at_the_top_is_called_as_one_of_the_other() -> None:
    """A folder is fine: Python prefers it to a module of the same name."""
    own = {path.stem for path in (PACKAGE).glob("*.py")}
    assert not own & set(OTHERS_MODULES)


def test_the_version_stands_in_one_place() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config["metadata"]["version"] == "attr: ckptkit._version.__version__"
    assert ckptkit.__version__ == __version__
    [assignment] = ast.parse((PACKAGE / "_version.py").read_text(encoding="utf-8")).body[1:]
    assert isinstance(assignment, ast.Assign)  # read by setuptools without importing anything
    assert ast.literal_eval(assignment.value) == __version__


def test_this_installation_is_whole() -> None:
    assert damage(PACKAGE) == ""
    assert ckptkit_tf.claim_name() == PACKAGE
    assert sys.modules["ckptkit"] is ckptkit


# --- without an index -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the modules of this distribution, as pip installs them."""
    directory = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, directory / "ckptkit")
    shutil.copy(SCRIPT, directory)
    return directory


def removed(site: Path) -> None:
    (site / "ckptkit" / "__init__.py").unlink(missing_ok=True)


def overwritten(site: Path) -> None:
    """An `__init__.py` that cannot even be imported here."""
    (site / "ckptkit" / "__init__.py").write_text("import torch_that_nobody_has\n")


def beside(site: Path) -> None:
    shutil.copy(PACKAGE / "__init__.py", site / "ckptkit")
    (site / "ckptkit-0.3.0.dist-info").mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            removed,
            "__init__.py is gone, as another distribution called ckptkit leaves it; `ckptkit",
        ),
        (overwritten, "__init__.py is not that of ckptkit-tf; `ckptkit-tf` works, but"),
        (beside, "another distribution, ckptkit 0.3.0, is installed into the same directory (pip"),
    ],
)
def test_every_command_works_whatever_was_done_to_the_package(
    copy: Path, change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    change(copy)
    whole = run(sys.executable, SCRIPT, "ls", ADAM)
    assert whole.code == 0 and whole.err == ""
    done = run(sys.executable, copy / "ckptkit_tf.py", "ls", ADAM)
    assert (done.code, done.out) == (0, whole.out)
    assert done.err.count("\n") == 1 and words in done.err
    assert "install ckptkit-tf again" in done.err


@pytest.mark.parametrize("change", [removed, overwritten])
def test_child_processes_work_too(
    copy: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    """A runner's, and the one that libhdf5 runs in."""
    pytest.importorskip("h5py")
    change(copy)
    file = tmp_path / "x.h5"
    subprocess.run([sys.executable, "-c", H5, str(file)], check=True)
    (tmp_path / "runtime_for_test.py").write_text(
        "import sys\n"
        "ACTIONS = {'look': lambda _: {'from': sys.modules['ckptkit.errors'].__file__}}\n"
    )
    program = f"""
import sys
sys.path.insert(0, {str(copy)!r})
import ckptkit_tf
ckptkit_tf.claim_name()
from ckptkit.runners.process import run
from ckptkit.runners.registry import RUNNERS, Runtime
RUNNERS.built_in["test"] = Runtime("runtime_for_test")
print(run("test", {{"action": "look"}}, timeout_s=600)["from"])
from pathlib import Path
from ckptkit.stores.hdf5 import client
from ckptkit.stores.containers.byte_range import whole_file
print(len(client.scan(whole_file(Path({str(file)!r}))).datasets))
"""
    done = run(sys.executable, "-c", program, PYTHONPATH=str(tmp_path))
    assert done.out.split("\n")[:2] == [str(copy / "ckptkit" / "errors.py"), "1"], done.err


def test_the_other_script_says_what_is_wrong(copy: Path) -> None:
    """It asks `ckptkit.cli` for `main`, and finds ours, since a folder hides `cli.py`."""
    overwritten(copy)
    (copy / "ckptkit" / "__init__.py").write_text("")
    script = "import sys; from ckptkit.cli import main; sys.exit(main())"
    done = run(sys.executable, "-c", script, PYTHONPATH=str(copy))
    assert done.code == 2 and done.err.startswith("ckptkit: ") and done.err.count("\n") == 1


# --- with pip -------------------------------------------------------------------------------------


class Environment:
    """A new environment; packages that ours depends on are those of the tests' environment."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        self.bin = directory / ("Scripts" if os.name == "nt" else "bin")
        found = run(
            self.bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
        )
        self.site = Path(found.out.strip())
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def pip(self, *arguments: str | Path) -> Done:
        return run(sys.executable, "-m", "pip", "--python", self.bin / "python", *arguments)

    def install(self, *what: str | Path) -> None:
        done = self.pip("install", "--quiet", "--no-deps", *what)
        if done.code and OTHER in what:
            pytest.skip(f"pip cannot get {OTHER}: {done.err.strip().splitlines()[-1]}")
        assert done.code == 0, done.err

    def run(self, script: str, *arguments: str) -> Done:
        return run(self.bin / script, *arguments)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a git repository of what a distribution is built from."""
    if PACKAGE.parent != ROOT or shutil.which("git") is None:
        pytest.skip("needs the files of the repository, and git")
    directory = tmp_path_factory.mktemp("repository") / "ckptkit"
    ignore = shutil.ignore_patterns("__pycache__")
    directory.mkdir()
    shutil.copytree(PACKAGE, directory / "ckptkit", ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, directory)
    git = ("git", "-C", str(directory), "-c", "user.name=n", "-c", "user.email=n@localhost")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "x")):
        subprocess.run([*git, *command], check=True)
    return directory


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, checkout)
    if done.code and "No matching distribution found for setuptools" in done.err:
        pytest.skip("pip cannot get setuptools")
    assert done.code == 0, done.err
    [path] = directory.iterdir()
    # "any", or this platform where a compiler made the library
    assert path.name.startswith(f"ckptkit_tf-{__version__}-py3-none-")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("how", ["clone", "git URL", "action", "wheel"])
def test_each_way_to_install(how: str, checkout: Path, wheel: Path, tmp_path: Path) -> None:
    """As README and action.yml have it; without the packages that it depends on."""
    what: dict[str, str | Path] = {
        "clone": checkout,
        "git URL": f"git+file://{checkout}",
        "action": f"{checkout}[tensorflow]",
        "wheel": wheel,
    }
    environment = Environment(tmp_path / "venv")
    environment.install(what[how])
    for script in ("ckptkit-tf", "ckptkit"):
        done = environment.run(script, "ls", ADAM)
        assert done.code == 0 and done.err == "" and "hidden/kernel" in done.out
    # what messages advise: an extra of what is installed, for which the index need not have it
    done = environment.pip("install", "--no-deps", "--dry-run", "--no-index", "ckptkit-tf[hdf5]")
    assert done.code == 0 and "already satisfied: ckptkit-tf[hdf5]" in done.out, done
    listed = environment.pip("list", "--path", str(environment.site))
    assert ["ckptkit-tf", __version__] in [line.split()[:2] for line in listed.out.splitlines()]


def _works(environment: Environment, words: str) -> None:
    for command in (["ckptkit-tf"], ["python", "-m", "ckptkit"]):
        done = environment.run(*command, "ls", ADAM)
        assert done.code == 0 and "hidden/kernel" in done.out, done
        assert words in done.err and done.err.count("\n") == (1 if words else 0)
        assert words == "" or "install ckptkit-tf again" in done.err
    doctor = environment.run("ckptkit-tf", "doctor")
    assert doctor.code in (0, 2) if words == "" else doctor.code == 1, doctor
    assert ("error: ckptkit" in doctor.out) == bool(words)


@pytest.mark.slow
def test_the_other_installed_after_and_removed_again(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(wheel)
    _works(environment, "")
    environment.install(OTHER)
    _works(environment, "another distribution, ckptkit 0.3.0, is installed into the same directory")
    done = environment.run("ckptkit", "ls", ADAM)  # its script
    assert done.code == 2 and done.err.count("\n") == 1 and "pip uninstall ckptkit" in done.err
    environment.pip("uninstall", "--yes", "ckptkit")
    assert not (environment.bin / "ckptkit").exists()
    _works(environment, "__init__.py is gone, as another distribution called ckptkit leaves it")
    environment.install("--force-reinstall", wheel)
    _works(environment, "")
    assert environment.run("ckptkit", "ls", ADAM).code == 0


@pytest.mark.slow
def test_the_other_installed_before_and_removed_again(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install(OTHER)
    environment.install(wheel)
    _works(environment, "another distribution, ckptkit 0.3.0, is installed into the same directory")
    done = environment.run("ckptkit", "ls", ADAM)  # ours
    assert done.code == 0 and "pip uninstall ckptkit" in done.err
    environment.pip("uninstall", "--yes", "ckptkit")
    _works(environment, "__init__.py is gone")
