"""The pytest plugin, in pytest runs of its own, and the assertions of `ckptkit.testing`."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.testing import assert_restores, assert_same_outputs
from support.goldens import golden
from support.machine import Machine
from support.places import ROOT, environment

EXPORT = golden("tf2.21.0/saved_model_export/model").path
CONFTEST = """
import pytest
from support.machine import Machine

@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return Machine.replacing(monkeypatch)
"""
TEST = f"""
EXPORT = {str(EXPORT)!r}

def test_same(ckptkit_golden):
    where = ckptkit_golden(EXPORT, on=["CPU:0", "xla:CPU:0"], noise=False, seed=3)
    assert where.name == "test_same" and (where / "manifest.json").is_file()
"""
CHANGED = (
    TEST
    + """
def test_changed(ckptkit_golden, machine, request):
    if not request.config.getoption("--ckptkit-record"):
        machine.compute = lambda _s, _r, x: {"output_0": x["features"][:, :2] * 2.5}
    ckptkit_golden(EXPORT, name="named", noise=False)
"""
)


def pytest_in(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ckptkit.testing.pytest_plugin", *arguments],
        cwd=directory,
        env=environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_model.py").write_text(CHANGED)
    return tmp_path


def test_a_golden_that_is_not_there_fails(project: Path) -> None:
    done = pytest_in(project)
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "no golden at" in done.stdout and "--ckptkit-record" in done.stdout
    assert not (project / "goldens").exists()


def test_recorded_and_held_against(project: Path) -> None:
    assert pytest_in(project, "--ckptkit-record").returncode == 0
    assert {path.name for path in (project / "goldens").iterdir()} == {"test_same", "named"}
    done = pytest_in(project)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "AssertionError: failed: 0 of 1 output" in done.stdout
    assert "pytest_plugin.py" not in done.stdout.partition("short test summary")[0]


MANY = (
    TEST
    + """
import pytest

@pytest.mark.parametrize("on", ["CPU:0", "xla:CPU:0", "CPU:0,threads=1"])
def test_each(ckptkit_golden, on):
    ckptkit_golden(EXPORT, on=on, noise=False)

class TestClass:
    def test_inside(self, ckptkit_golden):
        ckptkit_golden(EXPORT, noise=False)
"""
)
TWICE = f"""
import pytest
EXPORT = {str(EXPORT)!r}

class TestA:
    def test_same(self, ckptkit_golden):
        ckptkit_golden(EXPORT, noise=False)

class TestB:
    def test_same(self, ckptkit_golden):
        ckptkit_golden(EXPORT, noise=False)

@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_named(ckptkit_golden, name):
    ckptkit_golden(EXPORT, name=f"named-{{ord(name[1])}}", noise=False)

def test_two_calls(ckptkit_golden):
    ckptkit_golden(EXPORT, noise=False)
    ckptkit_golden(EXPORT, noise=False, seed=4)
"""


@pytest.mark.slow
def test_each_parameter_has_a_golden_of_its_own_in_workers_too(project: Path) -> None:
    pytest.importorskip("xdist")
    (project / "test_model.py").write_text(MANY)
    workers = ("-p", "xdist.plugin", "-n", "2", "--strict-markers", "--strict-config")
    done = pytest_in(project, *workers, "--ckptkit-record")
    assert done.returncode == 0, done.stdout
    names = {path.name for path in (project / "goldens").iterdir()}
    assert names == {
        *("test_same", "test_inside", "test_each-CPU-0", "test_each-xla-CPU-0"),
        "test_each-CPU-0-threads=1",
    }
    done = pytest_in(project)
    assert "5 passed" in done.stdout and done.returncode == 0, done.stdout


def test_tests_that_would_keep_one_golden_are_refused(project: Path) -> None:
    (project / "test_model.py").write_text(TWICE)
    done = pytest_in(project, "--ckptkit-record", "-k", "not TestB")
    assert "2 failed, 2 passed, 1 deselected" in done.stdout, done.stdout
    both = "test_model.py::TestA::test_same and test_model.py::TestB::test_same would keep one"
    assert both in done.stdout and "this test has just recorded it" in done.stdout
    names = {path.name for path in (project / "goldens").iterdir()}
    assert names == {"named-47", "named-58", "test_two_calls"}


@pytest.mark.slow
def test_an_installed_plugin_loads_by_itself_and_can_be_left_out(project: Path) -> None:
    """By its entry point, as pytest finds it; -p no: takes the name of that."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    points = config["options.entry_points"]["pytest11"].strip()
    installed = project / "site" / "installed-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{points}\n")
    path = os.pathsep.join([str(installed.parent), str(ROOT), str(ROOT / "tests")])
    said = {}
    for options in ((), ("-p", "no:ckptkit")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *options],
            cwd=project,
            env=environment(PYTHONPATH=path),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 1
        said[options] = done.stdout
    assert "no golden at" in said[()]
    assert "fixture 'ckptkit_golden' not found" in said["-p", "no:ckptkit"]


def test_what_failed_is_in_the_report_and_the_junit_file(project: Path) -> None:
    assert pytest_in(project, "--ckptkit-record").returncode == 0
    done = pytest_in(project, "--junit-xml", "report.xml", "-rA")
    assert done.returncode == 1
    failure = ElementTree.parse(project / "report.xml").find(".//failure")
    assert failure is not None and "failed: 0 of 1 output" in failure.attrib["message"]
    assert "ckptkit_golden(EXPORT, name=" in (failure.text or "")  # the line of the test


def test_the_package_brings_the_plugin() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    points = dict(
        line.split(" = ")
        for line in config["options.entry_points"]["pytest11"].strip().splitlines()
    )
    assert hasattr(import_module(points["ckptkit"]), "ckptkit_golden")


def test_the_plugin_costs_next_to_nothing() -> None:
    program = "import sys, ckptkit.testing.pytest_plugin; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert not {"numpy", "tensorflow", "click", "ckptkit.operations"} & set(done.stdout.split())


# --- assertions -----------------------------------------------------------------------------------


def test_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.replacing(monkeypatch)
    assert_same_outputs(EXPORT, on=["CPU:0", "xla:CPU:0"])
    assert_same_outputs(EXPORT, against=EXPORT, on="CPU:0")
    machine.compute = lambda _s, spec, x: {"output_0": x["features"] + spec.xla}
    with pytest.raises(AssertionError, match="failed: 0 of 1 output as they should be"):
        assert_same_outputs(EXPORT, on=["CPU:0", "xla:CPU:0"])
    machine.compute = lambda _s, _r, _x: {}
    with pytest.raises(AssertionError, match="nothing was compared"):
        assert_same_outputs(EXPORT, on=["CPU:0", "xla:CPU:0"])
    with pytest.raises(UsageError, match="nothing to compare"):
        assert_same_outputs(EXPORT)


def test_restores(tmp_path: Path) -> None:
    checkpoint = tmp_path / "ckpt"
    ckptkit.convert(EXPORT, checkpoint, to="checkpoint", root="")
    assert_restores(checkpoint, like=EXPORT)
    with pytest.raises(AssertionError, match="1 of another shape"):
        assert_restores(golden("tf2.21.0/adam/ckpt").path, like=EXPORT)
