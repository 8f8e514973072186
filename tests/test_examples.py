"""The packages of docs/examples, installed beside ckptkit and used: no file of it is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.stores.npz.writer import write_npz
from support.values import blocks_of, out_tensors

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
VALUES = {
    "dense/kernel": ("float32", np.arange(6, dtype=np.float32).reshape(2, 3)),
    "dense/bias": ("float32", np.ones(3, np.float32)),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process that has the examples installed, by pip."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [
            *(*pip, "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)),
            *(str(_copy(EXAMPLES / name, tmp_path_factory)) for name in NAMES),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"pip cannot build a package here: {done.stderr[-300:]}")
    paths = [str(target), str(Path(ckptkit.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


NAMES = ("format", "command", "runner")


def _copy(source: Path, factory: pytest.TempPathFactory) -> Path:
    """Return a copy of an example, so that nothing is built in the working tree."""
    copy = factory.mktemp(source.name)
    for file in source.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def run(
    environment: dict[str, str], cwd: Path, *arguments: str, code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ckptkit", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def rows(installed: dict[str, str], tmp_path: Path) -> Path:
    """Return a `.rows` file that convert wrote."""
    write_npz(tmp_path / "source.npz", out_tensors(VALUES), blocks_of(VALUES))
    (tmp_path / "files").mkdir()
    run(installed, tmp_path, "convert", "source.npz", "files/w.rows")
    return tmp_path / "files" / "w.rows"


def test_every_command_takes_a_format_from_outside(
    installed: dict[str, str], rows: Path, tmp_path: Path
) -> None:
    assert "dense/kernel" in run(installed, tmp_path, "ls", str(rows)).stdout
    assert "rows" in run(installed, tmp_path, "ls", str(rows)).stdout.splitlines()[-1]
    assert "2,3" in run(installed, tmp_path, "show", str(rows), "dense/kernel").stdout
    run(installed, tmp_path, "diff", str(rows), "source.npz")
    run(installed, tmp_path, "verify", str(rows))
    assert "w.rows" in run(installed, tmp_path, "verify", str(rows.parent)).stdout
    run(installed, tmp_path, "scan", str(rows))
    run(installed, tmp_path, "convert", str(rows), "back.npz")
    run(installed, tmp_path, "diff", "back.npz", "source.npz")
    run(installed, tmp_path, "convert", "source.npz", "named", "--to", "rows", code=2)


def test_damage_in_a_format_from_outside_is_found(
    installed: dict[str, str], rows: Path, tmp_path: Path
) -> None:
    rows.write_bytes(rows.read_bytes()[:-1])
    done = run(installed, tmp_path, "verify", str(rows), code=1)
    assert "its size" in done.stdout
    assert "internal error" not in run(installed, tmp_path, "ls", str(rows), code=2).stderr


def test_the_conformance_suite_holds_for_it(installed: dict[str, str], tmp_path: Path) -> None:
    test = tmp_path / "test_rows.py"
    test.write_bytes((EXAMPLES / "format" / "test_rows.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        env=installed,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_command_from_outside(installed: dict[str, str], rows: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "--help").stdout
    assert "Commands of other packages" in listed
    assert "ckptkit-largest 0.1" in listed
    first, second = run(installed, tmp_path, "largest", "source.npz").stdout.splitlines()
    assert first.split() == ["24", "B", "66.7%", "dense/kernel"]
    assert second.split() == ["12", "B", "33.3%", "dense/bias"]
    assert "did you mean largest" in run(installed, tmp_path, "larges", code=2).stderr


@pytest.mark.slow
def test_a_runner_and_a_kind_of_model_from_outside(
    installed: dict[str, str], tmp_path: Path
) -> None:
    for name, bias in (("m", 0.5), ("same", 0.5), ("other", 0.75)):
        fields = {"kernel": [[1.0, 2.0], [3.0, 4.0]], "bias": [0.0, bias]}
        (tmp_path / f"{name}.linear.json").write_text(json.dumps(fields), encoding="utf-8")
    run(installed, tmp_path, "record", "m.linear.json", "-o", "golden")
    run(installed, tmp_path, "check", "m.linear.json", "--golden", "golden")
    run(installed, tmp_path, "check", "same.linear.json", "--golden", "golden", "--on", "linear")
    run(installed, tmp_path, "check", "same.linear.json", "--against", "m.linear.json")
    done = run(installed, tmp_path, "check", "other.linear.json", "--golden", "golden", code=1)
    assert "differs" in done.stdout


@pytest.mark.slow
def test_doctor_lists_what_is_added(installed: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ckptkit", "doctor", "--format", "json"],
        env=installed,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    added = {
        (row["group"], row["name"], row["package"]) for row in json.loads(done.stdout)["added"]
    }
    assert added == {
        ("ckptkit.formats", "rows", "ckptkit-rows 0.1"),
        ("ckptkit.formats", "linear", "ckptkit-linear 0.1"),
        ("ckptkit.commands", "largest", "ckptkit-largest 0.1"),
        ("ckptkit.runners", "linear", "ckptkit-linear 0.1"),
    }


def test_a_package_that_is_broken_stands_in_no_ones_way(tmp_path: Path, rows: Path) -> None:
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (tmp_path / "broken-1.0.dist-info" / "entry_points.txt").write_text(
        "[ckptkit.formats]\nbad = no_such_module:ROW\n[ckptkit.commands]\nbad = os:getcwd\n"
    )
    paths = [str(tmp_path), str(Path(ckptkit.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = run(environment, tmp_path, "ls", str(rows), code=2)  # a format that nobody here reads
    assert "no_such_module" not in done.stderr
    done = run(environment, tmp_path, "bad", code=2)
    assert "entry point ckptkit.commands: bad of broken 1.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_known_files_cost_no_look_for_packages(tmp_path: Path) -> None:
    write_npz(tmp_path / "source.npz", out_tensors(VALUES), blocks_of(VALUES))
    program = (
        "import sys; sys.argv[1:] = ['ls', 'source.npz']\n"
        "from ckptkit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as exit_:\n    assert not exit_.code\n"
        "assert 'importlib.metadata' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(ckptkit.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
