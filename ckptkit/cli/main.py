"""The command line: a table of commands, and the one place where errors become exit codes.

Exit codes: 0 the same, sound, done; 1 differences or findings; 2 could not tell; 130 on Ctrl-C.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple, NoReturn, TextIO

import click

from ckptkit._version import __version__
from ckptkit.cli.groups import NearGroup
from ckptkit.cli.options import color_option, echo_error
from ckptkit.cli.progress import signs_of_life
from ckptkit.cli.wording import as_options
from ckptkit.errors import CkptkitError, ReaderGone
from ckptkit.plugins import Registry
from ckptkit.reports.screen import Screen, shown_on, shows_color, width_of
from ckptkit.wording import spoken_by

COMPLETE_VAR = "_CKPTKIT_COMPLETE"  # as click calls it after the name of the program
# A command makes many small objects that live until its end; looking for garbage finds little.
GC_THRESHOLDS = 1_000_000, 50, 100
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


class Command(NamedTuple):
    """One row of the table of commands; the module is imported when the command is called."""

    module: str
    summary: str


COMMANDS = {
    "ls": Command("ckptkit.cli.ls", "List the tensors of a checkpoint or model file."),
    "show": Command("ckptkit.cli.show", "Show one tensor: where it is stored, and its values."),
    "diff": Command("ckptkit.cli.diff", "Compare two sets of weights by value."),
    "history": Command("ckptkit.cli.history", "Show what happened to every layer in training."),
    "map": Command("ckptkit.cli.map", "Propose which tensor of one file is which of another."),
    "convert": Command("ckptkit.cli.convert", "Write weights in another format, and prove it."),
    "upgrade": Command("ckptkit.cli.upgrade", "Make models of Keras 1 and 2 load in Keras 3."),
    "thin": Command("ckptkit.cli.thin", "Remove optimizer state from old checkpoints."),
    "verify": Command("ckptkit.cli.verify", "Check every byte: structure and checksums."),
    "scan": Command("ckptkit.cli.scan", "Show what a model could do when it is run."),
    "needs": Command("ckptkit.cli.needs", "Show what is needed to open a model."),
    "record": Command("ckptkit.cli.record", "Record what a model computes, for `check`."),
    "check": Command("ckptkit.cli.check", "Run a model: does it compute what it should?"),
    "gate": Command("ckptkit.cli.gate", "Decide by rules whether a model may be released."),
    "golden": Command("ckptkit.cli.golden", "Exchange goldens with other tools."),
    "doctor": Command("ckptkit.cli.doctor", "Show which runtimes and devices are available."),
    "fixtures": Command("ckptkit.cli.fixtures", "Make real files from reference models."),
    "explain": Command("ckptkit.cli.explain", "Explain what a code means and what to do."),
    "completion": Command("ckptkit.cli.completion", "Print a completion script for your shell."),
    "sample": Command("ckptkit.cli.sample", "Write small sample files to try the tool on."),
    "demo": Command("ckptkit.cli.demo", "Train a small model and walk through the tool."),
}


# Commands of other packages; one that is called as one of ours is not asked.
ADDED = Registry("ckptkit.commands", click.Command, {})


class LazyGroup(NearGroup):
    """A group whose commands are imported on first use; `--help` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in ADDED if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return ADDED.get(cmd_name)
        command: click.Command = import_module(row.module).command
        return command

    def invoke(self, ctx: click.Context) -> object:
        def command_of(name: str) -> click.Command | None:
            return self.get_command(ctx, name or ctx.invoked_subcommand or "")

        with spoken_by(as_options(command_of)):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items()])
        added = {name: whose for name, whose in ADDED.added().items() if name not in COMMANDS}
        if added:
            with formatter.section("Commands of other packages"):
                formatter.write_dl([(name, f"from {whose}") for name, whose in added.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ckptkit")
@color_option
def cli() -> None:
    """Look inside TensorFlow and Keras checkpoints; compare, convert and verify them.

    PATH is a checkpoint prefix (run/ckpt-3), any of its files, a training directory, a SavedModel
    directory, or a .keras, .weights.h5, .h5, .safetensors, .npz, .pt, .onnx or .tflite file;
    PATH#SUBTREE narrows it.
    """


def main() -> NoReturn:
    """Run the command line and exit: the only place that turns errors into exit codes.

    Raises SystemExit; the process is left as it was found, for those who call this from Python.
    """
    with _settings() as signals, shown_on(_screen()), signs_of_life():
        _run(signals)


def _screen() -> Screen:
    """Return what the streams are; a closed one is nothing to be read."""
    colors = [stream is not None and shows_color(stream) for stream in (sys.stdout, sys.stderr)]
    return Screen(width_of(sys.stdout) if sys.stdout else None, *colors)


@contextmanager
def _settings() -> Iterator[list[int]]:
    """Set what suits a short-lived command, and put it back.

    Yields the numbers of the signals that asked the process to end, as they come.
    """
    came: list[int] = []

    def ended(number: int, _frame: object) -> NoReturn:
        """End as on Ctrl-C, so that temporary files are removed."""
        came.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    thresholds = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    # Other threads set no signals, and what the caller ignores stays ignored.
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):  # asked to end; the terminal is gone
            if signal.getsignal(number) != signal.SIG_IGN:
                handlers[number] = signal.signal(number, ended)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            handlers[signal.SIGINT] = signal.signal(signal.SIGINT, ended)
    hook, sys.unraisablehook = sys.unraisablehook, _raised_in_passing
    try:
        yield came
    finally:
        sys.unraisablehook = hook
        gc.set_threshold(*thresholds)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _run(signals: Sequence[int]) -> NoReturn:
    if sys.stdout is None:  # started with a closed standard output (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack the letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    if COMPLETE_VAR in os.environ:
        import_module("ckptkit.cli.completion")  # the shells that it knows
    try:
        status = cli.main(_arguments(sys.argv[1:]), "ckptkit", standalone_mode=False)
        sys.stdout.flush()
    except CkptkitError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # which click takes for Ctrl-D at a prompt
            _fail_of_ours(error.__cause__)
        _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ckptkit"
        _fail(f"{error.format_message()} (see `{command} --help`)", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (BrokenPipeError, ReaderGone):
        _drop(sys.stdout)
        sys.exit(BROKEN_PIPE)
    except OSError as error:
        _drop(sys.stdout)
        _fail(_said(error), 2)
    except MemoryError as error:
        _drop(sys.stdout)
        said = str(error)
        _fail(f"out of memory{': ' if said else ''}{said[:1].lower()}{said[1:]}", 2)
    except Exception as error:
        if signals:  # compiled code makes an error of its own of what a signal raises in it
            sys.exit(128 + signals[0])
        _fail_of_ours(error)
    sys.exit(status if isinstance(status, int) else 0)


def _fail_of_ours(error: BaseException) -> NoReturn:
    """End with a bug of ours: exit code 1 would read as a verdict."""
    import traceback

    told = "".join(traceback.format_exception(error))
    _fail(f"internal error; please report this:\n{told}", 2, raw=True)


def _arguments(given: list[str]) -> list[str]:
    """Return the arguments, with `help COMMAND` and `version` as the options that they mean."""
    if given[:1] == ["help"]:
        return [*given[1:], "--help"]
    return ["--version", *given[1:]] if given[:1] == ["version"] else given or ["--help"]


def _drop(stream: TextIO) -> None:
    """Send what is still buffered nowhere: nobody reads it, or it cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _raised_in_passing(told: sys.UnraisableHookArgs) -> None:
    """Let a signal come again that came while Python cleaned up, where no exception gets out."""
    code = getattr(told.exc_value, "code", None)
    if told.exc_type is KeyboardInterrupt:
        code = 128 + signal.SIGINT
    asked = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if told.exc_type not in (KeyboardInterrupt, SystemExit) or code not in asked:
        sys.__unraisablehook__(told)
        return
    threading.Thread(target=_send_again, args=(asked[code],), daemon=True).start()


def _send_again(number: int) -> None:
    """Send this process a signal as soon as the hook, out of which no exception gets, is left."""

    def in_hook() -> bool:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        while frame and frame.f_code is not _raised_in_passing.__code__:
            frame = frame.f_back
        return frame is not None

    while in_hook():
        time.sleep(0.001)
    os.kill(os.getpid(), number)


def _said(error: OSError) -> str:
    from ckptkit._io.file_states import GONE, GONE_HINT, is_left_behind

    if isinstance(error, FileNotFoundError) and is_left_behind(error.filename or ""):
        return f"{GONE} ({GONE_HINT})"
    return f"{error.filename or 'standard output'}: {error.strerror}"


def _fail(message: str, code: int, *, raw: bool = False) -> NoReturn:
    from ckptkit.reports.text import printable

    try:
        sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
    try:
        echo_error(message if raw else printable(message))
    except OSError:  # the exit code still tells
        _drop(sys.stderr)
    sys.exit(code)
