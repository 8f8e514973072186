"""What is installed and what is shipped: the wheel and the sdist, built and put to use."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.places import ROOT, environment

LIGHT = "not needs_tf and not runtimes and not slow"
needs_git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no git checkout"
)


def run(*command: object, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command that must succeed, with these variables; return what it prints."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment(**variables), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def tracked(*below: str) -> set[str]:
    """Return the names of the files of the last commit."""
    names = run("git", "ls-tree", "-r", "-z", "--name-only", "HEAD", *below)
    return set(names.rstrip("\0").split("\0"))


LIBRARY = "ckptkit/compare/kernel.so.2"  # in a wheel, its sources in C are not
compiler = shutil.which("cc")
needs_compiler = pytest.mark.skipif(compiler is None, reason="no C compiler")


def shipped() -> set[str]:
    """Return the names of the files of the package that a wheel holds, but for the library."""
    return {name for name in tracked("ckptkit", "ckptkit_tf.py") if not name.endswith(".c")}


def build(kind: str, source: Path, out: Path, **variables: str) -> Path:
    """Build a "wheel" or an "sdist" as a frontend does, by the hook that PEP 517 names."""
    # What lies in `build` would be taken into the wheel.
    shutil.rmtree(source / "build", ignore_errors=True)
    program = (
        "import sys; from setuptools import build_meta\n"
        f"print(build_meta.build_{kind}(sys.argv[1]))"
    )
    printed = run(sys.executable, "-c", program, out, cwd=source, **variables)
    return out / printed.splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel by name, without those that describe it."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name
        }


def unpacked(sdist: Path, out: Path) -> Path:
    """Unpack an sdist below `out`; return its one folder."""
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(out)
    [folder] = out.iterdir()
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of the last commit, cloned without symbolic links."""
    out = tmp_path_factory.mktemp("built")
    run("git", "-c", "core.symlinks=false", "clone", "--quiet", ROOT, out / "clone")
    for kind in ("sdist", "wheel"):
        build(kind, out / "clone", out)
    return out


def wheel_of(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


def sdist_of(built: Path) -> Path:
    [path] = built.glob("*.tar.gz")
    return path


@needs_git
def test_no_file_is_a_symbolic_link() -> None:
    assert not [line for line in run("git", "ls-files", "-s").splitlines() if line[:6] == "120000"]


@pytest.mark.slow
@needs_git
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    compiled = {LIBRARY} if compiler else set()
    assert contents(wheel_of(built)).keys() == shipped() | compiled
    assert ("py3-none-any" in wheel_of(built).name) == (compiler is None)


def said_of_kernel(wheel: Path, folder: Path) -> str:
    """Return what the package of a wheel says of who measures differences."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    program = "from ckptkit.compare import kernel; print(kernel.description())"
    clean = {"PYTHONPATH": str(folder), "CKPTKIT_KERNEL": ""}
    return run(sys.executable, "-c", program, cwd=folder, **clean).strip()


@pytest.mark.slow
@needs_git
@needs_compiler
def test_the_wheel_of_this_platform_measures_by_compiled_code(built: Path, tmp_path: Path) -> None:
    assert said_of_kernel(wheel_of(built), tmp_path).startswith("compiled, ")


@pytest.mark.slow
@needs_git
def test_without_a_compiler_the_wheel_is_for_any_platform(built: Path, tmp_path: Path) -> None:
    wheel = build("wheel", built / "clone", tmp_path / "out", CC="/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel).keys() == shipped()
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        assert "Root-Is-Purelib: true" in archive.read(name).decode()
    said = said_of_kernel(wheel, tmp_path / "installed")
    assert said == "numpy: the compiled library was not built"


@pytest.mark.slow
@needs_git
@needs_compiler
@pytest.mark.parametrize("cc", ["cc", "/bin/false"])
def test_an_editable_install_leaves_git_as_it_was(built: Path, tmp_path: Path, cc: str) -> None:
    run("git", "clone", "--quiet", built / "clone", tmp_path / "clone")
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(
        *(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", "."),
        cwd=tmp_path / "clone",
        CC=cc,
    )
    assert (tmp_path / "clone" / LIBRARY).exists() == (cc == "cc")
    assert run("git", "status", "--porcelain", cwd=tmp_path / "clone") == ""


@pytest.mark.slow
@needs_git
def test_the_wheel_has_the_commands_and_the_plugin(built: Path) -> None:
    with zipfile.ZipFile(wheel_of(built)) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt")]
        points = configparser.ConfigParser()
        points.read_string(archive.read(name).decode())
    assert dict(points["console_scripts"]) == dict.fromkeys(
        ("ckptkit", "ckptkit-tf"), "ckptkit_tf:main"
    )
    assert dict(points["pytest11"]) == {"ckptkit": "ckptkit.testing.pytest_plugin"}


@pytest.mark.slow
@needs_git
def test_the_sdist_is_the_checkout_and_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    folder = unpacked(sdist_of(built), tmp_path / "sdist")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    made = {name for name in files if name == "PKG-INFO" or ".egg-info/" in name}
    assert files - made - {"setup.cfg"} == tracked() - {".gitignore", "setup.cfg"}
    again = build("wheel", folder, tmp_path)
    assert again.name == wheel_of(built).name
    one, two = contents(again), contents(wheel_of(built))
    assert one.keys() == two.keys()
    # a library that was compiled elsewhere may say where
    assert {name for name in one if one[name] != two[name]} <= {LIBRARY}


@pytest.mark.slow
@pytest.mark.needs_tf
@needs_git
def test_the_demo_walks_from_the_wheel_alone(built: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel_of(built)) as archive:
        archive.extractall(installed)
    path = {"PYTHONPATH": str(installed)}
    where = run(sys.executable, "-c", "import ckptkit; print(ckptkit)", cwd=tmp_path, **path)
    assert str(installed) in where
    shown = run(sys.executable, "-m", "ckptkit", "demo", "walk", cwd=tmp_path, **path)
    assert "% of the held-out digits" in shown


@pytest.mark.slow
@needs_git
def test_the_light_tests_of_the_sdist_pass_against_the_wheel(built: Path, tmp_path: Path) -> None:
    """In an environment of their own, without TensorFlow and without the sdist's own package."""
    folder = unpacked(sdist_of(built), tmp_path / "sdist")
    shutil.rmtree(folder / "ckptkit")
    (folder / "ckptkit_tf.py").unlink()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = str(tmp_path / "venv" / "bin" / "python")
    clean = {name: text for name, text in environment().items() if name != "PYTHONPATH"}
    wheel = f"{wheel_of(built)}[test-light]"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], env=clean, check=True)
    for module, found in (("tensorflow", "None"), ("ckptkit", str(tmp_path / "venv"))):
        program = f"import importlib.util as u; print(u.find_spec('{module}'))"
        done = subprocess.run(
            [python, "-c", program], cwd=folder, env=clean, capture_output=True, text=True
        )
        assert found in done.stdout, done
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", LIGHT],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
