"""`doctor`: what is here, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ckptkit.operations import doctor
from ckptkit.runners.types import DeviceProbe
from support.command_line import ckptkit
from support.places import DOCS

CPU = DeviceProbe("tensorflow", "CPU:0", "some processor", {"tensorflow": "2.21.0"})
GONE = DeviceProbe("tensorflow", "", why_not="TensorFlow is not installed")


class Installed:
    """A folder with the metadata of distributions, as pip writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, *scripts: str, top: str = "") -> None:
        """Add a distribution with scripts and, where `top` names it, a package."""
        metadata = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        points = "".join(f"{script} = module:main\n" for script in scripts)
        (metadata / "entry_points.txt").write_text(f"[console_scripts]\n{points}")
        (metadata / "top_level.txt").write_text(f"{top}\n")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installed:
    """Nothing is installed here but ckptkit-tf and numpy, and TensorFlow has a CPU."""
    find = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: find(path=[str(tmp_path)]))
    monkeypatch.setattr(doctor, "probe", lambda _timeout: (CPU,))
    installed = Installed(tmp_path)
    installed.add("ckptkit-tf", "ckptkit", "ckptkit-tf", top="ckptkit")
    installed.add("numpy", top="numpy")
    return installed


@pytest.mark.usefixtures("here")
def test_all_is_well() -> None:
    done = ckptkit("doctor")
    assert done.code == 0, done
    assert "tensorflow  CPU:0   some processor  tensorflow 2.21.0" in done.out
    assert done.out.endswith("models can be run on: CPU:0\n")


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_lines_fit_a_terminal(
    here: Installed, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    gpu = replace(CPU, device="GPU:0", name="a processor of a very long name, " * 4)
    monkeypatch.setattr(doctor, "probe", lambda _timeout: (CPU, gpu, GONE))
    here.add("ckptkit", "ckptkit", top="ckptkit")  # a finding, too
    for more in ([], ["-v"]):
        out = ckptkit("doctor", *more, "--color", "never", columns=columns).out
        assert "GPU:0" in out
        lines = out.replace(str(here.folder), "DIR").splitlines()
        assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []


@pytest.mark.usefixtures("here")
def test_it_says_what_measures_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTKIT_KERNEL", "numpy")
    assert "measured by: numpy: CKPTKIT_KERNEL says so\n" in ckptkit("doctor").out
    kernel = json.loads(ckptkit("doctor", "--format", "json").out)["kernel"]
    assert kernel == "numpy: CKPTKIT_KERNEL says so"
    monkeypatch.setenv("CKPTKIT_KERNEL", "quick")
    done = ckptkit("doctor")
    assert done.code == 2, done
    assert "CKPTKIT_KERNEL is 'quick'" in done.err


@pytest.mark.parametrize(
    ("name", "scripts", "top"), [("ckptkit", [], ""), ("a", ["ckptkit"], ""), ("b", [], "ckptkit")]
)
def test_another_package_of_the_name_is_found(
    name: str, scripts: list[str], top: str, here: Installed
) -> None:
    here.add(name, *scripts, top=top)
    done = ckptkit("doctor")
    assert done.code == 1
    assert f"error: {name}: another package" in done.out
    assert f"pip uninstall {name}" in done.out


@pytest.mark.usefixtures("here")
def test_what_another_package_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "damage", lambda package: f"{package}: __init__.py is gone")
    done = ckptkit("doctor")
    assert done.code == 1
    assert "error: ckptkit-tf: " in done.out and "__init__.py is gone" in done.out


@pytest.mark.usefixtures("here")
def test_without_a_runtime_nothing_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", lambda _timeout: (GONE,))
    done = ckptkit("doctor")
    assert done.code == 2
    assert "TensorFlow is not installed" in done.out and "[tensorflow]" in done.out
    assert done.out.endswith("no model can be run here\n")


@pytest.mark.usefixtures("here")
def test_json_has_the_documented_fields() -> None:
    document = json.loads(ckptkit("doctor", "--format", "json").out)
    page = DOCS / "json.md"
    section = page.read_text(encoding="utf-8").partition("## `ckptkit.doctor/1`")[2]
    rows = section.partition("\n## ")[0]
    assert [key for key in document if f"`{key}`" not in rows] == []
    assert document["runtimes"][0]["device"] == "CPU:0"


@pytest.mark.needs_tf
def test_this_machine() -> None:
    done = ckptkit("doctor", "--format", "json")
    document = json.loads(done.out)
    devices = [row["device"] for row in document["runtimes"] if row["runtime"] == "tensorflow"]
    assert devices[0] == "CPU:0"
    assert done.code in (0, 1)
