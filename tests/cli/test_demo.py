"""`ckptkit demo`: every step runs on real files; what it needs and what it must not touch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptkit.cli import demo
from ckptkit.cli.main import COMMANDS
from ckptkit.fixtures import demo as fixtures_demo
from ckptkit.fixtures.demo import STEPS
from support.command_line import ckptkit, refused


@pytest.mark.needs_tf
@pytest.mark.slow  # trains, and runs a dozen commands each of which starts TensorFlow
def test_the_walk_ends_well(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ckptkit", "demo", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("$ ckptkit ")]
    assert len(shown) == len(STEPS)
    accuracy = float(done.stdout.split("% of the held-out digits")[0].split()[-1])
    assert accuracy > 95


@pytest.mark.needs_tf
def test_an_earlier_demo_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_train", lambda root: str((root / "new").write_text("")))
    monkeypatch.setattr(fixtures_demo, "STEPS", ())
    (tmp_path / demo.MARK).touch()
    (tmp_path / "old").touch()
    assert ckptkit("demo", tmp_path).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {demo.MARK, "new"}


def test_every_command_that_looks_or_writes_has_a_step() -> None:
    walked = {step.arguments[0] for step in STEPS}
    # what makes files to work on, or is of the shell; the demo trains no model of Keras 2
    assert set(COMMANDS) - walked == {
        "fixtures",
        "demo",
        "sample",
        "completion",
        "upgrade",
        "explain",
    }


@pytest.mark.needs_tf
def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert "is not empty, and no earlier demo" in refused("demo", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert "is not a directory" in refused("demo", tmp_path / "thesis.txt")


@pytest.mark.parametrize("module", ["tensorflow", "sklearn"])
def test_a_missing_package_is_named_with_the_command(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == module else object())
    line = refused("demo", tmp_path / "demo")
    assert f"needs {module}" in line and "pip install 'ckptkit-tf[fixtures]'" in line
    assert not (tmp_path / "demo").exists()
