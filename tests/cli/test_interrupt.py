"""Ctrl-C while a process of ckptkit is starting, and what a call from Python leaves behind."""

from __future__ import annotations

import configparser
import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

import ckptkit
import ckptkit.cli.main as command_line
from ckptkit._io.progress import bytes_read
from ckptkit.cli.executors import threads
from ckptkit.cli.main import main
from support.command_line import ckptkit as run
from support.goldens import golden
from support.places import ROOT
from support.signals import default_signals, ignored_sigint

ADAM = golden("tf2.21.0/adam/ckpt").path
SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ of Linux, which fcntl names from Python 3.10 on there only


def importing(signals: Callable[[], None]) -> tuple[subprocess.Popen[str], IO[str]]:
    """Start `ckptkit ls`; it reports its imports to a pipe of few lines, so it cannot run ahead."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, SET_PIPE_SIZE, 4096)  # before anything is in it
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "ckptkit", "ls", ADAM],
        cwd=Path(ckptkit.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        preexec_fn=signals,
    )
    os.close(writing)
    return child, os.fdopen(reading)


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes that can be made small")
@pytest.mark.parametrize("module", ["click._compat", "click.types", "click.core", "ckptkit.errors"])
def test_an_interrupt_while_modules_are_imported(module: str) -> None:
    child, imports = importing(default_signals)
    for line in imports:
        if line.rpartition("|")[2].strip() == module:
            break
    child.send_signal(signal.SIGINT)
    with imports:
        said = [line for line in imports if not line.startswith("import time:")]
    out, _ = child.communicate(timeout=600)
    assert (child.returncode, out) == (130, "")
    assert "".join(said).strip() in ("", "ckptkit: interrupted")


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes that can be made small")
def test_an_ignored_interrupt_stays_ignored() -> None:
    """As `nohup` and `&` start a process; SIGTERM ends it, unless that is ignored as well."""
    child, imports = importing(ignored_sigint)
    for line in imports:
        if line.rpartition("|")[2].strip() == "click.core":
            child.send_signal(signal.SIGINT)
    imports.close()
    out, _ = child.communicate(timeout=600)
    assert child.returncode == 0 and "hidden/kernel" in out


def test_what_goes_with_the_process_goes_after_an_interrupt(tmp_path: Path) -> None:
    """Such as the directory of a model's values, which those who read them still hold."""
    held = tmp_path / "held"
    held.mkdir()
    program = (
        "import shutil, sys, weakref; from ckptkit_tf import main;"
        f"weakref.finalize(main, shutil.rmtree, {str(held)!r}); main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, "history", ADAM.parent, "--follow", "--no-cache"],
        cwd=Path(ckptkit.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    assert child.stdout is not None
    child.stdout.readline()  # it reads a checkpoint, and waits for another
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=600)
    assert (child.returncode, held.exists()) == (130, False)


def test_an_ignored_sigterm_stays_ignored() -> None:
    seen = []

    def look(*_: object, **__: object) -> int:
        seen.append(signal.getsignal(signal.SIGTERM))
        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command_line.cli, "main", look)
            with pytest.raises(SystemExit):
                command_line.main()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_IGN]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_compiled_code(number: signal.Signals) -> None:
    """Such as an import of protobuf, which raises a TypeError for what was raised in it."""
    program = (
        "import os, ckptkit.cli.main as command_line\n"
        "def swallowing(*_, **__):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {number:d})\n"
        "        os.listdir('.')\n"
        "    except BaseException:\n"
        "        raise TypeError('expected a message argument') from None\n"
        "command_line.cli.main = swallowing\n"
        "command_line.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        preexec_fn=default_signals,
    )
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_the_scripts_begin_where_interrupts_are_quiet() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")  # an sdist's has other white space
    scripts = metadata["options.entry_points"]["console_scripts"].split("\n")[1:]
    assert scripts == ["ckptkit = ckptkit_tf:main", "ckptkit-tf = ckptkit_tf:main"]


def test_a_call_from_python_leaves_the_process_as_it_was() -> None:
    def handler(_number: int, _frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, handler)
    thresholds = gc.get_threshold()
    try:
        assert run("ls", ADAM).code == 0
        assert run("ls", "/nowhere").code == 2
        assert signal.getsignal(signal.SIGTERM) is handler
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ckptkit", "--version"])
            main()
        assert gc.get_threshold() == thresholds
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_call_from_another_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("ls", ADAM).code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_an_interrupt_ends_what_threads_are_doing() -> None:
    """One tensor of some gigabytes is one task, for which nobody waits after Ctrl-C."""
    begun = threading.Event()

    def read() -> None:
        for _ in range(50_000_000):
            bytes_read(0)
            begun.set()

    with pytest.raises(KeyboardInterrupt), threads(2) as executor:
        assert executor is not None
        task = executor.submit(read)
        waiting = [executor.submit(read) for _ in range(3)]
        begun.wait()
        raise KeyboardInterrupt
    assert isinstance(task.exception(), KeyboardInterrupt)
    assert all(each.cancelled() or each.exception() for each in waiting)
    with threads(2) as executor:  # what comes after it is done as ever
        assert executor is not None
        assert executor.submit(bytes_read, 1).result() is None
