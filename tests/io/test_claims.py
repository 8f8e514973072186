"""One writer at a time: claims, their owners, and what a killed owner leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ckptkit._io.atomic import is_temporary, replacing_directory, replacing_files
from ckptkit._io.claims import claiming, names_in_use
from ckptkit._io.output_paths import claim_name
from ckptkit.errors import OutputError
from support.places import environment

HOLDER = """
import sys, time
from pathlib import Path
from ckptkit._io.claims import claiming
with claiming(Path(sys.argv[1])) as claim:
    claim.temporary(Path(sys.argv[1])).write_text("half")
    claim.temporary(Path(sys.argv[1])).mkdir()
    print("held", flush=True)
    time.sleep(600)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the claim to a path, and has two temporary names."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def rewritten(file: Path, **changes: Any) -> None:
    """Change what a claim says, as one of another machine would."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with holder(out) as process:
        found = names_in_use(tmp_path)
        assert sorted(found) == names(tmp_path)
        assert {owner.pid for owner in found.values()} == {process.pid}
        (tmp_path / "link").symlink_to(out)
        for path in (out, tmp_path / "link", tmp_path / "." / "out"):
            with pytest.raises(OutputError) as caught, replacing_directory(path, overwrite=True):
                pytest.fail("the body must not run")
            said = str(caught.value)
            assert f"{path}: process {process.pid} is writing it (wait" in said
            assert "\n" not in said
        with claiming(tmp_path / "other"):
            pass  # another name beside it is free
        process.kill()
        process.wait()
    assert names_in_use(tmp_path) == {}


def test_what_a_killed_writer_left_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    others = [
        "out.data-00000-of-00001.tempstate123", "out_temp", ".out.ckptkit-tmp-01234567",
        "checkpoint.tmp0123456789abcdef0123456789abcdef",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("of another program")
    with holder(out) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len([name for name in names(tmp_path) if is_temporary(name)]) == 4
    with replacing_files([tmp_path / "out.data", out]) as files:
        for file in files:
            file.write_text("new")
    assert names(tmp_path) == sorted([*others, "out", "out.data"])


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    refused: list[str] = []

    def write() -> None:
        try:
            with claiming(tmp_path / "out"):
                pass
        except OutputError as error:
            refused.append(error.message)

    with claiming(tmp_path / "out"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert refused == [f"process {os.getpid()} is writing it"]
    assert names(tmp_path) == []


def test_a_forked_child_neither_keeps_nor_drops_the_claim(tmp_path: Path) -> None:
    with claiming(tmp_path / "out") as claim:
        child = os.fork()
        if not child:
            claim.release()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(OutputError, match="is writing it"), claiming(tmp_path / "out"):
            pytest.fail("the body must not run")
    with claiming(tmp_path / "out"):
        sleeper = os.fork()
        if not sleeper:
            signal.pause()
    try:
        with claiming(tmp_path / "out"):
            pass
    finally:
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere", "boot": "another"},
        {"boot": "another"},  # made after this machine was started: of another one of its name
        {"locked": False},
        {"token": 7},
    ],
    ids=["host", "boot", "unlocked", "nonsense"],
)
def test_what_cannot_be_known_is_not_guessed(tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "out"
    file = claim_name(out)
    with claiming(out):
        text = file.read_text()
    file.write_text(text)
    rewritten(file, **changes)
    with pytest.raises(OutputError, match="cannot be told from here") as caught, claiming(out):
        pytest.fail("the body must not run")
    assert f"if it does not, remove {file}" in caught.value.hint
    assert names(tmp_path) == [file.name]
    file.unlink()
    with claiming(out):
        pass


def test_a_claim_from_before_the_machine_was_started_is_over(tmp_path: Path) -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("the system does not say when it was started")
    out = tmp_path / "out"
    file = claim_name(out)
    with claiming(out):
        text = file.read_text()
    file.write_text(text)
    rewritten(file, boot="another")
    os.utime(file, (1, 1))
    with claiming(out):
        assert file.read_text() != text
    assert names(tmp_path) == []


def test_long_names_have_claims_of_their_own(tmp_path: Path) -> None:
    one, other = (tmp_path / ("x" * 249 + end) for end in ("-1", "-2"))
    with claiming(one), claiming(other):
        assert len(names(tmp_path)) == 2
    with pytest.raises(OutputError, match="File name too long"), claiming(tmp_path / ("x" * 300)):
        pytest.fail("the body must not run")
