"""The sign of life: what a terminal shows of work that takes long, by clocks that tests set.

A command is silent while it neither prints nor draws its line.  Here the clock goes by what the
process has read from files, as if a slow disk had them, or by a step at each look.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from ckptkit._io.progress import ProgressMeter, bytes_read, numbered, phase
from ckptkit.cli import executors, progress
from ckptkit.cli.main import cli
from ckptkit.cli.options import echo_lines
from ckptkit.cli.progress import ProgressLine, shown_on_line, working
from support.command_line import ckptkit as run
from support.goldens import golden
from support.linear import linear_model
from support.places import environment
from support.signals import default_signals
from support.weights import write_bundle

SILENCE_S = 2.0


class Terminal(io.StringIO):
    """What was drawn, and when by a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.made = clock()
        self.times: list[float] = []
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        self.times.append(self.clock())
        self.lines.append(text.strip("\r").rstrip())
        return super().write(text)

    @property
    def shown(self) -> str:
        """The line as it looks now."""
        cells: list[str] = []
        place = 0
        for letter in self.getvalue():
            if letter == "\r":
                place = 0
            else:
                cells[place : place + 1] = [letter]
                place += 1
        return "".join(cells).rstrip()

    def longest_silence(self) -> float:
        """Return the longest time between two lines, up to now."""
        times = [self.made, *self.times, self.clock()]
        return max(after - before for before, after in pairwise(times))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def line() -> Iterator[tuple[Terminal, Clock]]:
    """Yield a terminal and the clock by which it is drawn upon; a tick is `moved`."""
    clock = Clock()
    terminal = Terminal(clock)
    with shown_on_line(ProgressLine(terminal, lambda: 60, clock)):
        yield terminal, clock


def _tick() -> None:
    assert progress._line is not None
    progress._line.moved()


# --- the line -------------------------------------------------------------------------------------


def test_nothing_is_shown_of_what_is_done_within_a_second(line: tuple[Terminal, Clock]) -> None:
    terminal, clock = line
    with working(), phase("digest", 10):
        clock.now = 0.9
        _tick()
    assert terminal.getvalue() == ""


def test_a_phase_says_how_much_is_done_how_fast_and_how_long_it_takes_yet(
    line: tuple[Terminal, Clock],
) -> None:
    terminal, clock = line
    with working(), phase("digest", 3_000_000_000):
        clock.now = 2.0
        bytes_read(1_000_000_000)
        assert terminal.shown == "digest 1.00 GB of 3.00 GB (33%), 500 MB/s, 4 s left"
        clock.now = 4.0
        bytes_read(1_400_000_000)
        assert terminal.shown == "digest 2.40 GB of 3.00 GB (80%), 600 MB/s, 1 s left"
    assert terminal.shown == ""


def test_what_takes_long_and_says_nothing_is_shown_all_the_same(
    line: tuple[Terminal, Clock],
) -> None:
    terminal, clock = line
    with working():
        for clock.now in np.arange(0, 130, progress.TICK_S).tolist():
            _tick()
        assert terminal.shown == "working, 2 min 10 s"
        assert terminal.longest_silence() <= SILENCE_S


def test_phases_lie_within_one_another(line: tuple[Terminal, Clock]) -> None:
    terminal, clock = line
    with working(), phase("run 2 of 5: xla:CPU:0"):
        with phase(lambda: "importing tensorflow"):
            clock.now = 4.0
            _tick()
            assert terminal.shown == "run 2 of 5: xla:CPU:0, importing tensorflow, 4 s"
        clock.now = 5.0
        _tick()
        assert terminal.shown == "run 2 of 5: xla:CPU:0, 5 s"


def test_items_are_numbered_where_there_are_several(line: tuple[Terminal, Clock]) -> None:
    terminal, clock = line
    with working():
        for clock.now, name in enumerate(numbered(["a", "b"]), 2):
            _tick()
            assert terminal.shown.startswith(f"{clock.now - 1} of 2: {name}, ")
        for _ in numbered(["alone"]):
            clock.now += 1
            _tick()
            assert terminal.shown == "working, 4 s"


def test_a_meter_that_is_given_up_makes_room_for_the_next(line: tuple[Terminal, Clock]) -> None:
    terminal, clock = line
    with working():
        clock.now = 1.0
        ProgressMeter(None, "read", 100).add(10)
        clock.now = 3.0
        meter = ProgressMeter(None, "values", 100)
        clock.now = 4.0
        meter.add(50)
        assert terminal.shown == "values 50 B of 100 B (50%), 50 B/s, 1 s left"
        meter.add(50)
        clock.now = 5.0
        _tick()
        assert terminal.shown == "working, 5 s"


def test_a_program_is_told_by_its_callback_alone() -> None:
    told: list[tuple[str, int, int]] = []
    meter = ProgressMeter(lambda *what: told.append(what), "compared", 10)
    meter.add(4)
    meter.add(40)
    assert told == [("compared", 4, 10), ("compared", 10, 10)]


def test_phases_of_other_threads_are_not_shown_but_what_they_read_counts(
    line: tuple[Terminal, Clock],
) -> None:
    terminal, clock = line

    def work() -> None:
        with phase("elsewhere"):
            bytes_read(50)

    with phase("digest", 100):
        clock.now = 2.0
        thread = Thread(target=work)
        thread.start()
        thread.join()
        assert terminal.shown == "digest 50 B of 100 B (50%), 25 B/s, 2 s left"


def test_what_is_printed_takes_the_line_away_first(
    line: tuple[Terminal, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, clock = line
    monkeypatch.setattr(sys, "stdout", terminal)
    with working():
        clock.now = 2.0
        _tick()
        echo_lines(["a row"])
    assert terminal.getvalue() == "\rworking, 2 s\r            \ra row\n"


def test_the_line_fits_the_terminal_and_holds_no_escapes_of_a_name() -> None:
    clock = Clock()
    terminal = Terminal(clock)
    with shown_on_line(ProgressLine(terminal, lambda: 30, clock)), phase("run/\x1b[31m" + "x" * 90):
        clock.now = 2.0
        _tick()
        assert 20 < len(terminal.shown) < 30
        assert "\x1b" not in terminal.getvalue()


def test_a_terminal_that_goes_away_stops_nothing() -> None:
    clock = Clock()
    terminal = Terminal(clock)
    with shown_on_line(ProgressLine(terminal, lambda: 80, clock)), working():
        terminal.close()
        clock.now = 2.0
        _tick()


def test_an_interrupt_as_the_line_is_drawn_leaves_nothing_of_it() -> None:
    class Interrupted(Terminal):
        def write(self, text: str) -> int:
            super().write(text)
            if "importing" in text:
                raise KeyboardInterrupt
            return len(text)

    clock = Clock()
    terminal = Interrupted(clock)
    with (
        pytest.raises(KeyboardInterrupt),
        shown_on_line(ProgressLine(terminal, lambda: 60, clock)),
        working(),
    ):
        clock.now = 2.0
        _tick()
        assert terminal.shown == "working, 2 s"
        with phase("importing a_large_package"):
            clock.now = 4.0
            _tick()
    assert "importing a_large_package, 2 s" in terminal.lines
    assert terminal.shown == ""


def test_a_pipe_is_shown_nothing(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "c", {"w": np.zeros(4, np.float32)})
    result = run("verify", prefix, columns=80)  # standard output is a terminal, stderr is none
    assert result.err == ""


# --- commands that read files ---------------------------------------------------------------------


def _read_by_this_process() -> int:
    """Return the bytes of all reads of this process; Linux counts them."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _zeros(path: Path, nbytes: int) -> Path:
    """Write a file of one float32 tensor of zeros that takes no room on the disk."""
    fields = {"w": {"dtype": "F32", "shape": [nbytes // 4], "data_offsets": [0, nbytes]}}
    header = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)
    return path


READING = {
    "ls --digest": ["ls", "FILE", "--digest"],
    "ls --stats": ["ls", "FILE", "--stats"],
    "ls -r --digest": ["ls", "-r", "DIR", "--digest"],
    "show": ["show", "FILE", "w"],
    "show --npy": ["show", "FILE", "w", "--npy", "OUT.npy"],
    "diff": ["diff", "FILE", "OTHER"],
    "verify": ["verify", "FILE"],
    "verify --values": ["verify", "FILE", "--values"],
    "verify --write-manifest": ["verify", "FILE", "--write-manifest", "OUT.sha256"],
    "convert to npz": ["convert", "FILE", "OUT.npz"],
    "convert to a bundle": ["convert", "FILE", "OUT", "--to", "tensor-bundle"],
}
LEAST_S = 25  # seconds of the clock that any of these takes at least


def _longest_silence(arguments: list[str], bytes_a_second: float) -> tuple[float, Terminal]:
    """Return how long a command is silent on a terminal, where a disk gives so many bytes."""
    start = _read_by_this_process()

    def clock() -> float:
        return (_read_by_this_process() - start) / bytes_a_second

    terminal = Terminal(clock)
    with (
        pytest.MonkeyPatch.context() as patch,
        shown_on_line(ProgressLine(terminal, lambda: 80, clock)),
        working(),
    ):
        # threads that have read and not said so yet let this clock jump, on many cores far
        patch.setattr(executors, "_cores", lambda: 2)
        cli.main(arguments, "ckptkit", standalone_mode=False)
        silence = terminal.longest_silence()
    return silence, terminal


def _check_silence(name: str, nbytes: int, tmp_path: Path) -> None:
    places = {
        "FILE": _zeros(tmp_path / "a.safetensors", nbytes),
        "DIR": tmp_path,
    }
    if "OTHER" in READING[name]:
        places["OTHER"] = _zeros(tmp_path / "b.safetensors", nbytes)
        with places["OTHER"].open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(1).tobytes())
    arguments = [str(places.get(word, word)) for word in READING[name]]
    arguments = [str(tmp_path / word) if word.startswith("OUT") else word for word in arguments]
    # a conversion reads all twice at least, in several threads, each of which lets the clock jump
    times = 2 if name.startswith("convert") else 1
    silence, terminal = _longest_silence(arguments, times * nbytes / 30)
    assert terminal.clock() >= LEAST_S
    assert silence <= SILENCE_S, terminal.lines
    assert any(re.search(r"\d+%\), .*/s, .* left", line) for line in terminal.lines)
    assert terminal.shown == ""


needs_proc = pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="no /proc/self/io")


@needs_proc
@pytest.mark.parametrize("name", ["ls --digest", "verify", "convert to npz"])
def test_no_reading_command_is_silent(name: str, tmp_path: Path) -> None:
    """The others are slow only since their files are large: a file of few blocks tells nothing."""
    _check_silence(name, 160 << 20, tmp_path)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("name", READING)
def test_no_reading_command_is_silent_on_three_gigabytes(name: str, tmp_path: Path) -> None:
    _check_silence(name, 3 << 30, tmp_path)


# --- commands that run models ---------------------------------------------------------------------

WAITING = """
import os, time
from pathlib import Path
import ckptkit_linear
from ckptkit.model_io.signature import ModelSignature
from ckptkit.runners.child.session import actions
from ckptkit.runners.doing import importing

def start(request, spec):
    mark = Path({folder!r}, f"waiting-{{os.getpid()}}")
    with importing("a_large_package"):
        mark.touch()
        while mark.exists():
            time.sleep(0.01)
    return ckptkit_linear.start(request, spec)

ACTIONS = actions(start, ckptkit_linear.probe)
"""


class ChildrensTerminal(Terminal):
    """Lets a child go on once the line has said for some seconds what it is doing."""

    def __init__(self, clock: Callable[[], float], folder: Path) -> None:
        super().__init__(clock)
        self.folder = folder

    def write(self, text: str) -> int:
        found = re.search(r"importing a_large_package, (\d+) s", text)
        if found and int(found[1]) >= 3:
            for mark in self.folder.glob("waiting-*"):
                mark.unlink(missing_ok=True)
        return super().write(text)


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model of the example runner, whose children wait until they are let go."""
    (tmp_path / "waiting_linear.py").write_text(WAITING.format(folder=str(tmp_path)))
    return linear_model(tmp_path, monkeypatch, "waiting_linear")


def test_no_run_of_a_model_is_silent(linear: Path) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    def shown(*arguments: str) -> list[str]:
        terminal = ChildrensTerminal(clock, linear.parent)
        with shown_on_line(ProgressLine(terminal, lambda: 80, clock)), working():
            assert cli.main(list(arguments), "ckptkit", standalone_mode=False) in (None, 0)
            assert terminal.longest_silence() <= SILENCE_S, terminal.lines
        return terminal.lines

    golden = str(linear.parent / "golden")
    recorded = shown("record", str(linear), "-o", golden, "--on", "linear", "--no-blind")
    assert any(
        re.match(r"run 1 of 3: linear:CPU:0, importing a_large_package, \d+ s", text)
        for text in recorded
    ), recorded
    checked = shown("check", str(linear), "--against", str(linear), "--on", "linear")
    for number in (1, 2):
        start = f"run {number} of 2: linear:CPU:0, importing a_large_package, "
        assert any(text.startswith(start) for text in checked), checked


# --- a real terminal ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.needs_tf
@pytest.mark.parametrize("quiet", [False, True])
def test_control_c_leaves_a_clean_line(quiet: bool, tmp_path: Path) -> None:
    export = golden("tf2.21.0/saved_model_export/model").path
    ours, theirs = pty.openpty()
    words = ["record", str(export), "-o", str(tmp_path / "golden"), *["-q"] * quiet]
    child = subprocess.Popen(
        [sys.executable, "-m", "ckptkit", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", NO_COLOR="1"),
        preexec_fn=default_signals,
    )
    os.close(theirs)
    printed = b""
    while b"importing tensorflow" not in printed and not (quiet and _has_children(child.pid)):
        assert child.poll() is None, printed
        if select.select([ours], [], [], 0.1)[0]:
            printed += os.read(ours, 1 << 16)
    child.send_signal(signal.SIGINT)
    with suppress(OSError):  # its end, on Linux
        while part := os.read(ours, 1 << 16):
            printed += part
    os.close(ours)
    assert child.wait() == 130
    terminal = Terminal(lambda: 0.0)
    terminal.write(printed.decode().replace("\r\n", "\n").rpartition("\nckptkit: ")[0])
    assert terminal.shown == ""
    assert printed.endswith(b"\nckptkit: interrupted\r\n")
    assert quiet == (b"importing" not in printed)


def _has_children(pid: int) -> bool:
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().strip())
