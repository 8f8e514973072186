"""Models of Keras 2 upgraded for good: built by Keras 3, written, read again, loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.errors import CkptkitError, OutputError, UsageError
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import GOLDEN

NESTED = GOLDEN / "tf2.15.1" / "files_nested"


def digest(path: Path) -> Any:
    return ckptkit.ls(path, digest=True).digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with old models in `old` and what became of them in `new`."""
    top = tmp_path_factory.mktemp("upgrades")
    (top / "old" / "deep").mkdir(parents=True)
    shutil.copy(NESTED / "model.keras", top / "old" / "deep" / "model.keras")
    shutil.copy(GOLDEN / "tf2.12.1/files_nested/weights_only.h5", top / "old" / "weights.h5")
    shutil.copy(GOLDEN / "tf2.16.2/files_nested/model.keras", top / "old" / "three.keras")
    result = CliRunner().invoke(
        cli, ["upgrade", "-r", str(top / "old"), str(top / "new"), "--format", "json"]
    )
    (top / "report.json").write_text(result.output, encoding="utf-8")
    assert result.exit_code == 1, result.output
    return top


@pytest.mark.needs_tf
def test_a_folder_has_a_row_for_each_model(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text("utf-8"))
    rows = {Path(row["source"]).name: row for row in report["rows"]}
    assert rows["model.keras"]["status"] == "upgraded"
    assert rows["weights.h5"]["status"] == "refused"
    assert "holds weights and no model" in rows["weights.h5"]["error"]
    assert rows["three.keras"]["status"] == "current"
    assert not report["ok"]


@pytest.mark.needs_tf
def test_every_weight_is_what_it_was(folder: Path) -> None:
    new = folder / "new" / "deep" / "model.keras"
    result = ckptkit.diff(NESTED / "model.keras", new)
    assert result.ok
    report = json.loads((folder / "report.json").read_text("utf-8"))
    [receipt] = [row["receipt"] for row in report["rows"] if row["receipt"]]
    assert receipt["proof"]["ok"]
    assert receipt["loaded"]
    assert receipt["weights"]["tensors"] == len(ckptkit.open(new).specs)
    changes = {change["what"] for change in receipt["changes"]}
    assert any("BatchNormalization is 3" in what for what in changes)
    assert any("set aside" in what for what in changes)


@pytest.mark.needs_tf
def test_what_was_done_is_not_done_again(folder: Path) -> None:
    new = folder / "new" / "deep" / "model.keras"
    before = new.stat().st_mtime_ns
    report = ckptkit.upgrade(folder / "old", folder / "new", recursive=True)
    assert [row.status for row in report.rows if row.path == new] == ["kept"]
    assert new.stat().st_mtime_ns == before
    assert (NESTED / "model.keras").read_bytes() == (folder / "old/deep/model.keras").read_bytes()


@pytest.mark.needs_tf
@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_lines_fit_a_terminal(folder: Path, columns: int) -> None:
    for more in ([], ["-v"]):
        result = run("upgrade", "-r", folder / "old", folder / "new", *more, columns=columns)
        assert result.code == 1 and "kept" in result.out
        lines = result.out.splitlines()
        assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
        # why a model is refused is said whole, however narrow the screen is
        assert "holds weights and no model" in " ".join(result.out.split())


@pytest.mark.needs_tf
def test_no_report_takes_the_place_of_a_model_below(folder: Path) -> None:
    model = folder / "new" / "deep" / "model.keras"
    receipt = model.with_name("model.keras.upgrade.json")
    for path in (model, receipt, folder / "old" / "deep" / "model.keras"):
        before = path.read_bytes()
        said = refused("upgrade", "-r", folder / "old", folder / "new", "-o", path)
        assert "would be written over" in said
        assert path.read_bytes() == before


@pytest.mark.needs_tf
def test_what_stands_there_is_not_replaced_unasked(folder: Path) -> None:
    with pytest.raises(OutputError):
        ckptkit.upgrade(NESTED / "model.h5", folder / "new" / "deep" / "model.keras")


def test_a_model_of_keras_3_needs_no_upgrade(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to upgrade"):
        ckptkit.upgrade(GOLDEN / "tf2.16.2/files_nested/model.keras", tmp_path / "new.keras")


@pytest.mark.parametrize("name", ["new.h5", "new", "new.weights.h5"])
def test_the_new_model_is_called_keras(name: str, tmp_path: Path) -> None:
    with pytest.raises(CkptkitError):
        ckptkit.upgrade(NESTED / "model.h5", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_takes_recursive(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(UsageError, match="no SavedModel"):
        ckptkit.upgrade([tmp_path / "models", NESTED / "model.h5"], tmp_path / "out")


def test_a_refused_model_leaves_no_directory(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "old" / "deep").mkdir(parents=True)
    shutil.copy(NESTED / "model.h5", tmp_path / "old" / "deep")
    with h5py.File(tmp_path / "old" / "deep" / "model.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"Dense"', '"Unknown"')
    report = ckptkit.upgrade(tmp_path / "old", tmp_path / "new", recursive=True)
    assert [row.status for row in report.rows] == ["refused"]
    assert not (tmp_path / "new").exists()


def test_a_refusal_at_a_shell_exits_2(tmp_path: Path) -> None:
    source = GOLDEN / "tf2.12.1/files_nested/weights_only.h5"
    done = CliRunner().invoke(cli, ["upgrade", str(source), str(tmp_path / "new.keras")])
    assert isinstance(done.exception, CkptkitError) or done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
