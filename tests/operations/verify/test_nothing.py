"""Where nothing was checked, the exit code is never 0."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from support.command_line import ckptkit as command
from support.command_line import json_results, refused
from support.crafted import header, write_index
from support.goldens import GOLDEN

PREFIX = GOLDEN / "tf2.21.0/adam/ckpt"


def test_a_checkpoint_of_no_tensors(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "c", {b"": header()})
    result = ckptkit.verify(prefix)
    assert result.exit_code == 2 and not result.ok
    assert "holds no tensors" in str(result.refusals[0])
    for verb in ("verify", "scan"):
        for words in ((prefix,), (tmp_path,), ("-r", tmp_path)):
            assert command(verb, *words).code == 2
    assert command("diff", prefix, prefix).code == 2
    assert command("convert", prefix, tmp_path / "o.npz").code == 2


def test_a_damaged_index_of_no_tensors_is_a_finding(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "c", {b"": header()})
    index = tmp_path / "c.index"
    index.write_bytes(index.read_bytes()[:-9])
    assert ckptkit.verify(prefix).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        ("ls", PREFIX, "--name", "no*such"),
        ("ls", PREFIX, "--dtype", "float8_e4m3fn"),
        ("diff", PREFIX, PREFIX, "--name", "no*such"),
        ("convert", PREFIX, "OUT.npz", "--name", "no*such"),
        ("verify", "no*such.keras"),
        ("scan", "no*such.pb"),
        ("ls", "no*such"),
        ("check", "no*such"),
    ],
)
def test_globs_that_fit_nothing(tmp_path: Path, words: tuple[object, ...]) -> None:
    out = tmp_path / "o.npz"
    assert refused(*(out if word == "OUT.npz" else word for word in words))
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".npz", ".pt", ".dat", ".sha256"])
def test_a_file_of_no_format_is_not_checked_and_hides_no_other(tmp_path: Path, suffix: str) -> None:
    """Where no format could be told, the file is named, and counts as one that is read."""
    file = tmp_path / f"m{suffix}"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4' * 64}\nsize 42\n")
    ran = command("verify", file)
    assert ran.code == 2 and "a Git LFS pointer" in ran.out + ran.err
    results = json_results("verify", PREFIX, file)
    assert [result["exit_code"] for result in results] == [0, 2]
    assert [unit["format"] for unit in results[1]["units"]] == ["unknown"]
    replaced = refused("verify", file, "-o", file)
    assert "reads or writes it already" in replaced and file.read_text().startswith("version ")
