"""`ls -r`: one row for each checkpoint and model below a directory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ckptkit.operations.inventory import inventory
from support.command_line import ckptkit as run
from support.command_line import json_results, refused
from support.goldens import GOLDEN, golden


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    for name in ("adam", "gan"):
        shutil.copytree(GOLDEN / "tf2.21.0" / name, top / "train" / name)
    shutil.copytree(golden("tf2.21.0/saved_model_export/model").path, top / "export")
    shutil.copy(GOLDEN / "tf2.21.0" / "files_text" / "model.keras", top)
    (top / "notes.txt").write_text("no model")
    return top


def test_a_row_for_each(run_directory: Path) -> None:
    found = inventory(run_directory)
    assert found.ok
    rows = {str(row.path.relative_to(run_directory)): row for row in found.rows}
    assert list(rows) == ["export", "model.keras", "train/adam/ckpt", "train/gan/ckpt"]
    adam = rows["train/adam/ckpt"]
    assert (adam.format, adam.step, adam.tensors) == ("tensor-bundle", 108, 22)
    assert (adam.params, adam.nbytes) == (42, 452)
    newest = (run_directory / "train" / "adam" / "ckpt.index").stat().st_mtime
    assert adam.modified == pytest.approx(newest, abs=60)


def test_counters_that_differ_are_no_step(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "tf2.21.0" / "gan", tmp_path / "gan")
    steps = [row["value"] for row in _counters(tmp_path / "gan" / "ckpt")]
    (row,) = inventory(tmp_path).rows
    assert row.step == (steps[0] if len(set(steps)) == 1 else None)


def _counters(prefix: Path) -> list[dict[str, int]]:
    import ckptkit

    with ckptkit.open(prefix) as ck:
        names = [n for n in ck if n.endswith("_iterations")]
        return [{"value": int(ck[name])} for name in names]


def test_what_is_damaged_is_a_row_and_exit_2(run_directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(run_directory, copy)
    (copy / "train/adam/ckpt.data-00000-of-00001").unlink()
    (copy / "model.keras").write_bytes(b"PK nothing")
    result = run("ls", "-r", copy)
    assert result.code == 2
    rows = {line.split()[0]: line for line in result.out.splitlines() if line}
    assert " no " in rows[f"{copy}/train/adam/ckpt"] and " no" in rows[f"{copy}/model.keras"]
    assert " yes " in rows[f"{copy}/train/gan/ckpt"]
    assert "data file is missing" in result.out


def test_orders_formats_and_digests(run_directory: Path) -> None:
    document = json.loads(run("ls", "-r", run_directory, "--digest", "-f", "json").out)
    assert document["schema"] == "ckptkit.inventory/1"
    digests = {row["path"]: row["digest"] for row in document["rows"]}
    for path, digest in digests.items():
        [one] = json_results("ls", path, "--digest")
        assert digest == one["digest"]
    csv = run("ls", "-r", run_directory, "--sort", "size", "-f", "csv").out.splitlines()
    sizes = [int(line.split(",")[5]) for line in csv[1:]]
    assert csv[0] == "path,format,step,tensors,params,bytes,complete,modified,digest"
    assert sizes == sorted(sizes, reverse=True)
    both = run("ls", "-r", run_directory / "train", run_directory / "export").out
    assert "3 checkpoints and models" in both
    assert "| PATH" in run("ls", "-r", run_directory, "-f", "markdown").out
    narrow = run("ls", "-r", run_directory, "--color", "never", columns=60).out
    assert all(len(line) <= 60 for line in narrow.splitlines() if str(run_directory) not in line)


def test_refusals(run_directory: Path, tmp_path: Path) -> None:
    assert "no such file" in refused("ls", "-r", tmp_path / "nowhere")
    assert "notes.txt" in refused("ls", "-r", run_directory / "notes.txt")
    assert "no checkpoint and no model" in refused("ls", "-r", tmp_path)
    assert "alone" in refused("ls", "-r", run_directory, "--tree")
    assert "cannot sort by 'step'" in refused("ls", run_directory / "model.keras", "--sort", "step")


@pytest.mark.skipif(os.getuid() == 0, reason="root may list everything")
def test_a_directory_that_cannot_be_listed(run_directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(run_directory, copy)
    (copy / "train").chmod(0)
    try:
        result = run("ls", "-r", copy)
    finally:
        (copy / "train").chmod(0o755)
    assert result.code == 2 and "Permission denied" in result.out
