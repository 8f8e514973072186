"""What is installed and what is shipped: the wheel and the sdist, built and put to use."""

from __future__ import annotations

import configparser
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ckptkit as ckptkit_package
from support.places import ROOT, environment

LIGHT = "not needs_tf and not runtimes and not dask and not slow"
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


def described(folder: Path, url: str) -> str:
    """Return README as an index would show it, had setup.cfg this url."""
    for name in ("README.md", "setup.cfg", "setup.py"):
        shutil.copy(ROOT / name, folder)
    package = Path(ckptkit_package.__file__).parent
    (folder / "ckptkit").mkdir()
    shutil.copy(package / "_version.py", folder / "ckptkit")
    metadata = folder / "setup.cfg"
    text = re.sub(r"(?m)^url =.*$", f"url = {url}".rstrip(), metadata.read_text(encoding="utf-8"))
    metadata.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **_keywords: None)
        found = runpy.run_path(str(folder / "setup.py"))["description"]()
    assert isinstance(found, str)
    return found


def links(text: str) -> set[str]:
    """Return where the links and pictures of a page lead, but for places of the page itself."""
    return {target for target in re.findall(r"\]\(([^)\s]+)\)", text) if target[0] != "#"}


def test_links_of_the_readme_are_absolute_where_the_repository_is_known(tmp_path: Path) -> None:
    url, tag = "https://example.org/some/where", f"v{ckptkit_package.__version__}"
    text = described(tmp_path, f"{url}/")
    assert links(text) and all("://" in target for target in links(text))
    assert f"{url}/raw/{tag}/docs/terminal.svg" in links(text)
    assert f"{url}/blob/{tag}/docs/gate.md" in links(text)
    assert f"pip install git+{url} " in text and "HOST" not in text
    # Nothing but links changed: what a command prints is what it prints.
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(?ms)^```console.*?^```", text) == re.findall(
        r"(?ms)^```console.*?^```", readme
    )


def test_links_of_the_readme_stay_where_it_is_not(tmp_path: Path) -> None:
    assert described(tmp_path, "") == (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("url", "release", "code"),
    [("", "yes", 2), ("", "no", 0), ("https://example.org/a", "yes", 0)],
)
def test_no_release_is_built_whose_links_lead_nowhere(
    tmp_path: Path, url: str, release: str, code: int
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "setup.cfg").write_text(f"[metadata]\nurl = {url}".rstrip() + "\n")
    done = subprocess.run(
        ["make", "dist-address", f"RELEASE={release}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == code
    assert ("make dist RELEASE=no" in done.stdout) == (code == 2)


@pytest.mark.slow
@needs_git
def test_one_commit_is_the_same_bytes_whenever_it_is_built(built: Path, tmp_path: Path) -> None:
    """In another folder, later, with files of another time and under another mask of modes."""
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    found = []
    for name, mask in (("one", "022"), ("another", "077")):
        folder, out = tmp_path / name / "clone", tmp_path / name
        out.mkdir()
        clone = f"umask {mask}; git clone --quiet '{built}/clone' '{folder}'"
        subprocess.run(["sh", "-c", clone], check=True)
        for kind in ("sdist", "wheel"):
            build(kind, folder, out, SOURCE_DATE_EPOCH=epoch)
        found.append({path.name: path.read_bytes() for path in out.iterdir() if path.is_file()})
    one, another = found
    assert one.keys() == another.keys() and len(one) == 2
    assert [name for name in one if one[name] != another[name]] == []


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
@pytest.mark.timeout(3000)  # a suite, whose tests have limits of their own
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
    install = [python, "-m", "pip", "install", "-q", wheel]
    done = subprocess.run(install, env=clean, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr:
        pytest.skip("pip cannot get what the tests need")
    assert done.returncode == 0, done.stderr
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
