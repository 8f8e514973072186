"""`doctor`: what is here, and what stands in the way."""

from __future__ import annotations

import importlib.metadata
import json
from types import SimpleNamespace
from typing import Any

import pytest

from ckptkit.operations import doctor
from ckptkit.runners.types import DeviceProbe
from support.command_line import ckptkit
from support.places import DOCS

CPU = DeviceProbe("tensorflow", "CPU:0", "some processor", {"tensorflow": "2.21.0"})
GONE = DeviceProbe("tensorflow", "", why_not="TensorFlow is not installed")


def entry(name: str, *scripts: str, top: str = "") -> Any:
    return SimpleNamespace(
        metadata={"Name": name},
        entry_points=[SimpleNamespace(group="console_scripts", name=script) for script in scripts],
        read_text=lambda file: top if file == "top_level.txt" else None,
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    installed = [entry("ckptkit-tf", "ckptkit", top="ckptkit\n"), entry("numpy", top="numpy")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed)
    monkeypatch.setattr(doctor, "probe", lambda _timeout: (CPU,))
    return installed


@pytest.mark.usefixtures("here")
def test_all_is_well() -> None:
    done = ckptkit("doctor")
    assert done.code == 0, done
    assert "tensorflow  CPU:0   some processor  tensorflow 2.21.0" in done.out
    assert done.out.endswith("models can be run on: CPU:0\n")


@pytest.mark.parametrize(
    "other", [entry("ckptkit"), entry("else", "ckptkit"), entry("more", top="ckptkit\n")]
)
def test_another_package_of_the_name_is_found(other: Any, here: list[Any]) -> None:
    here.append(other)
    done = ckptkit("doctor")
    assert done.code == 1
    assert f"error: {other.metadata['Name']}: another package" in done.out
    assert "pip uninstall" in done.out


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
