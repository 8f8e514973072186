"""What is read from the disk while it is written."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ckptkit._io import crc32c
from ckptkit._io import filling as filling_module
from ckptkit._io.filling import filling
from ckptkit.operations.convert import read_behind
from ckptkit.operations.convert.read_behind import FlushError, ReadBehind, flush
from ckptkit.operations.convert.second_look import DiskReading, read_from_disk
from support.injecting import why_not
from support.places import environment

MIB = 1 << 20
DATA = random.Random(0).randbytes(9 * MIB + 5)


def never() -> bool:
    return False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def behind() -> ReadBehind:
    return ReadBehind()


def is_dropped(path: Path) -> bool:
    """Whether the system here drops a file from its cache, and says so; one in memory it cannot."""
    reading = ReadBehind()
    reading.read_on(path, 4 * MIB, never)
    found = reading.found(path.stat())
    reading.close()
    return found[0] > 0


def test_whole_groups_of_pages_are_read(file: Path, behind: ReadBehind) -> None:
    if not is_dropped(file):
        pytest.skip("a file system in memory, or a system that cannot tell")
    for stop, done in ((MIB, 0), (5 * MIB, 4 * MIB), (5 * MIB + 1, 4 * MIB), (9 * MIB, 8 * MIB)):
        behind.read_on(file, stop, never)
        assert behind.found(file.stat()) == (done, crc32c.value(DATA[:done]) if done else 0)
    behind.close()
    assert behind.found(file.stat()) == (0, 0)


def test_what_stays_in_the_cache_counts_as_not_read(file: Path, behind: ReadBehind) -> None:
    """Pages that a process has mapped are not dropped: what is read of them is not the disk's."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[5 * MIB] == DATA[5 * MIB]  # one page of the third group
        behind.read_on(file, 8 * MIB, never)
        assert behind.found(file.stat()) == (0, 0)
    behind.read_on(file, 8 * MIB, never)  # the next time all of it is
    done, crc = behind.found(file.stat())
    assert done == (8 * MIB if is_dropped(file) else 0)
    assert crc == crc32c.value(DATA[:done])
    behind.close()


def test_reading_ends_when_it_is_told_to(file: Path, behind: ReadBehind) -> None:
    answers = iter((False, True))
    behind.read_on(file, 8 * MIB, lambda: next(answers))
    done, crc = behind.found(file.stat())
    assert done == (MIB if is_dropped(file) else 0)
    assert crc == crc32c.value(DATA[:done])
    behind.close()


def test_what_cannot_be_followed_is_not_read(
    file: Path, behind: ReadBehind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind.read_on(tmp_path / "gone", 8 * MIB, never)
    other = tmp_path / "other"
    other.write_bytes(DATA)
    monkeypatch.setattr(read_behind, "_MOST_FILES", 0)
    behind.read_on(file, 8 * MIB, never)
    assert behind.found(file.stat()) == behind.found(other.stat()) == (0, 0)


@pytest.mark.parametrize("announced", [0, len(DATA)])
def test_a_file_that_is_written_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: int
) -> None:
    """Part of it behind the writer, the rest at the end; small writes are flushed in time."""
    monkeypatch.setattr(filling_module, "_FLUSHED_BYTES", 2 * MIB)
    path = tmp_path / "file"
    path.touch()
    with DiskReading() as disk:
        with disk.following(), filling(path, announced) as out:
            for start in range(0, len(DATA), 100_003):
                out.write(DATA[start : start + 100_003])
        renamed = path.rename(tmp_path / "renamed")
        disk.start({"it": renamed})
        assert disk.checksums() == {"it": crc32c.value(DATA)}


def test_a_writer_that_fails_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_module, "_FLUSHED_BYTES", 2 * MIB)
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ZeroDivisionError), DiskReading() as disk, disk.following():
        with filling(path, len(DATA)) as out:
            out.write(DATA)
        _ = 1 // 0


@pytest.mark.parametrize(
    ("start", "stop"), [(0, len(DATA)), (0, 0), (4096, 4097), (512, 70_000), (5, len(DATA))]
)
def test_a_file_is_read_from_the_disk_from_any_byte_on(file: Path, start: int, stop: int) -> None:
    """A disk gives whole blocks; what begins within one is read with the cache emptied before."""
    read = b"".join(
        bytes(buffer.view[:count]) for buffer, count in read_from_disk(file, start, stop)
    )
    assert read == DATA[start:stop]


def test_what_cannot_be_flushed_is_told_and_what_needs_no_flushing_is_not() -> None:
    reading, writing = os.pipe()
    flush(reading)  # a pipe lies on no disk
    os.close(reading)
    os.close(writing)
    with pytest.raises(FlushError):
        flush(reading)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inject", "code"),
    [
        ("fdatasync:error=EIO", 2),  # told once, to whoever flushes first
        ("fdatasync:error=EOPNOTSUPP", 0),
        ("fadvise64:error=EINVAL", 0),
        ("mincore:error=ENOMEM", 0),
    ],
)
def test_a_disk_that_loses_what_is_written_is_not_called_proven(
    tmp_path: Path, inject: str, code: int
) -> None:
    if why_not():
        pytest.skip(why_not())
    call = inject.partition(":")[0]
    np.savez(tmp_path / "in.npz", a=np.arange(10 << 20, dtype=np.float32))
    done = subprocess.run(
        [
            *(
                "strace",
                "-f",
                "-qq",
                "-o",
                tmp_path / "calls",
                "-e",
                f"trace={call}",
            ),
            *("-e", f"inject={inject}", sys.executable, "-m", "ckptkit", "convert"),
            *("in.npz", "out.safetensors"),
        ],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "INJECTED" in (tmp_path / "calls").read_text()
    assert done.returncode == code, done.stderr
    left = {"in.npz", "calls"}
    if code:
        assert done.stderr == "ckptkit: out.safetensors: Input/output error\n"
    else:
        left.add("out.safetensors")
    assert {entry.name for entry in tmp_path.iterdir()} == left
