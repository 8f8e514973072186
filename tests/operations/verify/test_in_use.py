"""`verify` of directories that a program writes into, and how old what lies there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptkit._io.claims import claiming
from ckptkit.operations.verify import api, in_use
from ckptkit.operations.verify.api import verify
from ckptkit.stores.directories import DirectoryContents, contents_of
from support.command_line import ckptkit
from support.damage import aged, data, index, still, write
from support.places import environment

pytestmark = pytest.mark.in_use

LEFT = ("ckpt-3.data-00000-of-00001.tempstate1234567", "checkpoint.tmp" + "0" * 32)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a directory be still after ten minutes, so that no slow machine takes it to be so."""
    monkeypatch.setattr(in_use, "STILL_S", 600.0)
    monkeypatch.setattr(in_use, "IN_USE_S", 600.0)
    monkeypatch.setattr(in_use, "time", SimpleNamespace(time=time.time, sleep=lambda _s: None))


@contextmanager
def between_looks(work: Callable[[], object]) -> Iterator[None]:
    """Do something once, while the body waits to look again."""
    left = [work]

    def sleep(_seconds: float) -> None:
        while left:
            left.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_use, "time", SimpleNamespace(time=time.time, sleep=sleep))
        yield
    assert not left


def state(directory: Path, latest: str, *others: str) -> None:
    lines = [f'model_checkpoint_path: "{latest}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in (*others, latest)]
    (directory / "checkpoint").write_text("\n".join(lines) + "\n")


# --- young and old --------------------------------------------------------------------------------


def test_what_a_save_leaves_is_a_note_while_it_may_go_on(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    for name in (*LEFT, "ckpt-5.data-00000-of-00001", ".ckpt-4.index.ckptkit-tmp-01234567"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x")
    for strict in (False, True):
        result = verify(tmp_path, strict=strict)
        assert result.exit_code == int(strict)
        assert {finding.severity for finding in result.findings} == {"note"}
        assert len(result.findings) == 5
        assert not any("delete" in finding.message + finding.hint for finding in result.findings)


def test_advice_is_given_where_nobody_writes(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    for name in LEFT:
        (tmp_path / name).write_bytes(b"x")
    aged(tmp_path)
    assert {f.hint for f in verify(tmp_path).findings} == {"it may be deleted"}
    # old ones beside a file that changes now: they are found, and nothing is advised
    (tmp_path / "events.out.tfevents").write_bytes(b"x")
    findings = verify(tmp_path).findings
    assert [finding.severity for finding in findings] == ["warning", "warning"]
    assert {finding.hint for finding in findings} == {""}
    # a directory is as young as what lies below it
    (tmp_path / "ckpt-9_temp" / "below").mkdir(parents=True)
    aged(tmp_path)
    (tmp_path / "ckpt-9_temp" / "below" / "part").write_bytes(b"x")
    (finding,) = (f for f in verify(tmp_path).findings if "ckpt-9_temp" in f.where)
    assert finding.severity == "note"


def test_a_clock_that_is_ahead_makes_nothing_old(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    now_s = time.time()
    for age_s, young in ((-86_400, True), (0, True), (3_500, True), (3_700, False)):
        os.utime(file, (now_s - age_s, now_s - age_s))
        assert in_use.is_young(file, now_s) is young


def test_a_writer_that_lives_is_named(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    with claiming(tmp_path / "ckpt-2.index") as claim:
        claim.temporary(tmp_path / "ckpt-2.index").write_bytes(b"x")
        aged(tmp_path)  # however long it takes
        findings = verify(tmp_path).findings
    assert len(findings) == 2
    for finding in findings:
        assert (finding.severity, finding.hint) == ("note", "")
        assert finding.message == f"process {os.getpid()} is writing it"


# --- looking twice --------------------------------------------------------------------------------


def test_what_passes_is_not_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write(run / "ckpt-1")
    write(tmp_path / "ckpt-2", 2)
    state(run, "ckpt-2")
    shutil.move(data(tmp_path / "ckpt-2"), run)
    with between_looks(lambda: shutil.move(index(tmp_path / "ckpt-2"), run)):
        assert verify(run).exit_code == 0
    # an old checkpoint goes, file by file
    data(run / "ckpt-1").unlink()
    with between_looks(index(run / "ckpt-1").unlink):
        result = verify(run)
    assert result.exit_code == 0
    assert [unit.path.name for unit in result.units] == ["run", "ckpt-2"]


@pytest.mark.parametrize("times", [1, 100])
def test_where_all_that_was_listed_went_it_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    run, empty = tmp_path / "run", tmp_path / "empty"
    run.mkdir()
    empty.mkdir()
    write(run / "ckpt-1")
    state(run, "ckpt-1")
    places = [empty] * times

    def listed(path: Path) -> DirectoryContents:
        return contents_of(places.pop() if places else path)

    monkeypatch.setattr(api, "contents_of", listed)
    result = ckptkit("verify", run)
    if times == 1:
        assert (result.code, result.err) == (0, "")
    else:
        assert result.code == 2 and "changed while it was read" in result.out


def test_an_index_that_is_being_written(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt-1")
    whole = index(prefix).read_bytes()
    for operand in (prefix, tmp_path, index(prefix)):
        index(prefix).unlink()
        index(prefix).write_bytes(b"")
        with between_looks(lambda: index(prefix).write_bytes(whole)):
            assert verify(operand).exit_code == 0, operand


def test_what_stays_is_said_and_a_still_directory_is_looked_at_once(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    data(write(tmp_path / "ckpt-2", 2)).unlink()
    for operand in (tmp_path, tmp_path / "ckpt-2"):
        assert [finding.code for finding in verify(operand).findings] == ["data.missing"]
    still(tmp_path)
    looks: list[str] = []
    verify(tmp_path, progress=lambda phase, done, total: looks.append(phase) if not done else None)
    assert len(looks) <= 2


def test_a_kept_checkpoint_that_was_just_removed_is_a_note(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-2")
    state(tmp_path, "ckpt-2", "ckpt-1")
    (finding,) = verify(tmp_path).findings
    assert (finding.severity, finding.code) == ("note", "state.kept")
    (finding,) = verify(still(tmp_path)).findings
    assert (finding.severity, finding.code) == ("warning", "state.stale")


def test_the_verdict_names_what_made_the_exit_code(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"ckpt-{number}")
    (tmp_path / LEFT[0]).write_bytes(b"x")
    aged(tmp_path)
    result = ckptkit("verify", tmp_path)
    assert result.code == 1
    verdict = f"1 finding in the directory itself: {LEFT[0]} [leftover.tensorflow]"
    assert f"{tmp_path}: 2 of 2 sound, {verdict} (" in result.out


# --- a real loop ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("sharded",)], ids=["whole", "sharded"])
def test_nothing_wrong_is_said_beside_a_training_loop(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.busy", "120", "1", str(tmp_path), *options],
        stdout=subprocess.PIPE, text=True, check=True, env=environment(),
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["wrong"] == []
