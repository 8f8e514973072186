"""`ckptkit sample`: what it says one can try does what it says, without TensorFlow."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ckptkit.cli.sample import TRIALS
from ckptkit.fixtures.sample import write_sample
from support.command_line import ckptkit as run
from support.command_line import refused
from support.places import environment

EXIT_CODES = {"diff before.keras after.keras --role weight": 1}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    result = run("sample", tmp_path / "s")
    assert result.code == 0 and "11 files" in result.out
    return tmp_path / "s"


def test_what_it_offers_works(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample)
    for line, _ in TRIALS:
        result = run(*shlex.split(line))
        assert result.code == EXIT_CODES.get(line, 0), (line, result)
        assert result.out
    changed = run(*shlex.split(TRIALS[2][0])).out
    assert "2 changed, 0 removed, 0 added" in changed and "scores/kernel" in changed
    assert "same: 8 equal" in run(*shlex.split(TRIALS[3][0])).out


def test_nothing_is_replaced(sample: Path, tmp_path: Path) -> None:
    assert "is not empty" in refused("sample", sample)
    file = tmp_path / "f"
    file.write_text("")
    assert "is not a directory" in refused("sample", file)


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for place in (tmp_path / "new", kept):
        limited = (
            f"ulimit -f 4; {shlex.join([sys.executable, '-m', 'ckptkit', 'sample', str(place)])}"
        )
        # Python, too, would write no more than that: half of what it compiles, for all who come.
        env = environment(PYTHONDONTWRITEBYTECODE="1")
        done = subprocess.run(
            ["bash", "-c", limited], capture_output=True, text=True, check=False, env=env
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot write: File too large" in done.stderr
    assert list(tmp_path.rglob("*")) == [kept]


def test_it_is_small(tmp_path: Path) -> None:
    import ckptkit.fixtures

    archive = Path(ckptkit.fixtures.__file__).with_name("sample.zip")
    assert archive.stat().st_size < 40_000
    assert len(write_sample(tmp_path / "new")) == 11
