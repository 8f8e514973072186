"""The command line as a process: exit codes, pipes, signals, closed or full outputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit.cli.main import COMMANDS
from support.command_line import ckptkit as run
from support.command_line import refused
from support.crafted import bundle_items, entry, write_index
from support.goldens import golden
from support.signals import default_signals
from support.weights import write_bundle

ADAM = golden("tf2.21.0/adam/ckpt").path
COMMAND = [sys.executable, "-m", "ckptkit"]


def process(
    *arguments: object, text: str = "", **options: object
) -> subprocess.CompletedProcess[str]:
    """Run ckptkit as a process of its own."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [*COMMAND, *map(str, arguments)],
        cwd=Path(ckptkit.__file__).parents[1],
        **{"capture_output": True, "text": True, "timeout": 600, **options},
    )


def shell(line: str, *values: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which $K is ckptkit and "$1" the first value; its exit code is theirs."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, values)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(ckptkit.__file__).parents[1],
        env={**os.environ, "K": " ".join(COMMAND), **environment},
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A listing of more than a pipe holds."""
    keys = {f"model/block_{n}/attention/kernel": entry() for n in range(20_000)}
    return write_index(tmp_path_factory.mktemp("large") / "c", bundle_items(**keys), bytes(8))


# --- help, versions, mistakes ---------------------------------------------------------------------


def test_help() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        result = run(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "Usage: ckptkit" in result.out
        for name, row in COMMANDS.items():
            assert f"  {name} " in result.out
            assert row.summary.split()[0] in result.out


@pytest.mark.parametrize("name", ["ls", "show"])
def test_help_of_commands_shows_how_they_are_called(name: str) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert f"  ckptkit {name} run/ckpt-3" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_version() -> None:
    assert run("--version").out == f"ckptkit, version {ckptkit.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["lst"], ["--colour"], ["ls"], ["show"], ["show", "x"], ["diff", "a", "b", "c"], [""]),
        *(["ls", ""], ["ls", "--"], ["ls", "-"], ["ls", "--format"], ["\x1b[31m"], ["ls", "\n"]),
    ],
)
def test_mistakes_are_one_line(arguments: list[str]) -> None:
    line = refused(*arguments)
    assert all(c.isprintable() for c in line.rstrip("\n"))


@pytest.mark.parametrize("command", ["convert", "upgrade"])
def test_of_sources_and_a_destination_the_one_that_is_missing_is_named(command: str) -> None:
    assert "'DST'" in refused(command, "one.npz")
    assert "'SRC...'" in refused(command)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["lst"], "did you mean ls?"),
        (["difff", "a", "b"], "did you mean diff?"),
        (["fixtures", "lits"], "did you mean list?"),
        (["fixtures", "gan", "x"], "did you mean `ckptkit fixtures make gan DIR`?"),
        (["fixtures", "functional_cn"], "did you mean functional_cnn?"),
        (["fixtures", "make", "gam", "x"], "did you mean gan?"),
        (["fixtures", "make", "zzzz", "x"], "`ckptkit fixtures list` lists them"),
    ],
)
def test_names_that_are_nearly_right(arguments: list[str], hint: str) -> None:
    assert hint in refused(*arguments)


def test_as_a_module_and_as_a_script() -> None:
    done = process("ls", ADAM)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("ls", ADAM).out
    script = Path(sys.executable).with_name("ckptkit")
    if script.exists():
        assert subprocess.check_output([script, "ls", ADAM], text=True) == done.stdout


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["table", "json", "csv"])
@pytest.mark.parametrize("reader", ["head -1", "head -c 10", "true"])
def test_a_reader_that_goes_away_is_no_error(large: Path, fmt: str, reader: str) -> None:
    done = shell(f'$K ls "$1" --format {fmt} | {reader}; echo ${{PIPESTATUS[0]}} >&2', large)
    assert done.stderr in ("141\n", "0\n")
    assert done.stderr == "141\n" or reader == "true"


def test_a_reader_of_errors_that_goes_away(tmp_path: Path) -> None:
    done = shell('$K ls "$1" 2> >(true) >/dev/null; echo $?', tmp_path / "none")
    assert done.stdout.strip() in ("2", "141")


@pytest.mark.parametrize("command", ["ls", "ls --format json", "show"])
def test_a_full_disk(large: Path, command: str) -> None:
    arguments = (ADAM, "hidden/kernel") if command == "show" else (large,)
    done = shell(f'$K {command} "$@" > /dev/full', *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_closed_outputs() -> None:
    assert shell('$K ls "$1" >&-', ADAM).stderr == ""
    assert shell('$K ls "$1" >&- 2>&-', ADAM).returncode == 0
    assert shell("$K ls /nowhere 2>&-").returncode == 2
    assert shell("$K ls /nowhere >&-").returncode == 2
    assert shell('$K ls "$1" <&-', ADAM).returncode == 0


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a child or a library prints would go into it; children without streams do not start."""
    script = tmp_path / "opens.py"
    script.write_text(
        "import atexit, os, pathlib, ckptkit_tf\n"
        "opened = lambda: str(os.open(os.devnull, os.O_RDONLY))\n"
        "atexit.register(lambda: pathlib.Path(__file__).with_name('number').write_text(opened()))\n"
        "ckptkit_tf.main()\n"
    )
    shell(f'{sys.executable} "$1" --version <&- >&- 2>&-', script)
    assert int((tmp_path / "number").read_text()) > 2


def test_a_report_to_a_file_called_as_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("ls", ADAM, "-o", "-") == run("ls", ADAM)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ('convert "$2" out.npz', ""),
        ("ls .", ".: "),
        ("verify -r .", ".: "),
        ("sample d", "d: "),
        ('record "$2" -o g', "g: "),
        ('diff "$2" "$2" --tol-file t', "t: "),
    ],
)
def test_a_current_directory_that_was_removed(command: str, named: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f'cd "$1" && rmdir "$1" && $K {command}', gone, ADAM)
    assert done.returncode == 2
    told = "the current directory no longer exists (cd to one that does)"
    assert done.stderr == f"ckptkit: {named}{told}\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("check gone --inputs no.npz", "no.npz: no such file (--inputs names it)"),
        ("check gone --tolerance no", "no: no such file (--tolerance names it)"),
        ("check gone --model no.py:f?{}", "no.py: no such file (--model names it)"),
        ("check gone --junit no/x", "no/x: no such directory: no (make it first)"),
        ("record gone -o g --import no.py", "no.py: no such file (--import names it)"),
        ("record gone -o g --html .", ".: is a directory (give a file name)"),
        ("diff gone gone --map-from s3://b/x", "s3://b/x: is elsewhere (download it: "),
        ("convert gone d --receipt no/x", "no/x: no such directory: no (make it first)"),
        # DST may become a directory, in which there is room then
        ("convert gone d --receipt d/x", "gone: no such file"),
    ],
)
def test_a_slip_in_a_file_of_an_option_is_told_before_the_operand_is_read(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run(*line.split())
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith(f"ckptkit: {told}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "URL"),
        ("convert", ADAM, "URL"),
        ("ls", ADAM, "-o", "URL"),
        ("sample", "URL"),
        ("check", ADAM, "--golden", "URL"),
        ("history", ADAM, "--cache", "URL"),
    ],
)
def test_a_url_of_a_file_of_this_machine(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/a%20b.npz"
    shown = run(*(url if argument == "URL" else argument for argument in arguments))
    assert shown.code == 2
    assert shown.err.endswith(f"b.npz: a URL, and no path (give {tmp_path}/a b.npz)\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.needs_tf
def test_a_demo_in_a_current_directory_that_was_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell('cd "$1" && rmdir "$1" && $K demo here', gone)
    assert done.returncode == 2
    told = "the current directory no longer exists (cd to one that does)"
    assert done.stderr == f"ckptkit: here: {told}\n"


def test_the_child_of_a_current_directory_that_was_removed(tmp_path: Path) -> None:
    request, result, gone = (tmp_path / name for name in ("request.json", "result.json", "gone"))
    request.write_text('{"runner": "ckptkit.runners.onnx.session", "action": "probe"}')
    gone.mkdir()
    code = "from ckptkit.runners.child.__main__ import main; from pathlib import Path; import sys; "
    code += "main(*map(Path, sys.argv[1:]))"
    line = 'cd "$1" && rmdir "$1" && "$2" -c "$3" "$4" "$5"'
    done = shell(line, gone, sys.executable, code, request, result)
    assert done.returncode == 0, done.stderr
    assert result.is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("options", ["", "--tree", "--patterns", "--format csv", "--long"])
def test_terminals_that_know_few_letters(tmp_path: Path, encoding: str, options: str) -> None:
    arrays = {"layer_é/𝔘1": np.zeros(2, np.float32), "layer_é/𝔘2": np.zeros(2, np.float32)}
    prefix = write_bundle(tmp_path / "c", arrays)
    done = subprocess.run(
        [*COMMAND, "ls", prefix, *options.split()],
        capture_output=True,
        cwd=Path(ckptkit.__file__).parents[1],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    # click takes ASCII for a mistake and writes UTF-8
    assert "layer" in done.stdout.decode("utf-8" if encoding == "ascii" else encoding)


def test_what_is_drawn_has_stand_ins(tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "old", {"dense/kernel": np.ones(3, np.float32)})
    new = write_bundle(tmp_path / "new", {"dense/kernel": np.ones(3, np.float32) * 1.5})
    for encoding in ("ascii", "latin-1"):
        line = '$K diff "$1" "$2"; $K ls "$1" --tree'
        done = shell(line, old, new, PYTHONIOENCODING=encoding)
        assert "[0] 1 -> 1.5" in done.stdout
        assert "`-- dense/" in done.stdout
        assert done.stdout.isascii() and "\\u" not in done.stdout


@pytest.mark.parametrize("columns", ["1", "-5", "x"])
def test_odd_widths_of_terminals(columns: str) -> None:
    for arguments in ('ls "$1"', 'ls "$1" --tree', 'show "$1" hidden/kernel', "--help"):
        done = shell(f"$K {arguments}", ADAM, COLUMNS=columns, LINES=columns)
        assert (done.returncode, done.stderr) == (0, "")


# --- signals --------------------------------------------------------------------------------------


def test_ctrl_c(tmp_path: Path) -> None:
    """Interrupted in the middle of a tensor of 1 TB (of holes), it says so and exits 130."""
    size = 1 << 40  # which no machine reads before it is interrupted
    prefix = write_index(tmp_path / "c", bundle_items(a=entry((size,), 4, size)))
    os.truncate(f"{prefix}.data-00000-of-00001", size)
    child = subprocess.Popen(
        [*COMMAND, "ls", prefix, "--digest"],
        cwd=Path(ckptkit.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    shard = f"{prefix}.data-00000-of-00001"
    while not any(
        os.path.realpath(f) == os.path.realpath(shard)
        for f in Path(f"/proc/{child.pid}/fd").iterdir()
    ):
        assert child.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=600)
    assert (child.returncode, out, err.lstrip()) == (130, "", "ckptkit: interrupted\n")


@pytest.mark.parametrize(
    "words",
    [
        *(["ls", ""], ["ls", "-r", ""], ["verify", "-r", ""], ["scan", ""], ["scan", "-r", ""]),
        *(["needs", ""], ["needs", "-r", ""], ["history", ""]),
        *(["thin", "", "--keep-slots", "last:2"], ["upgrade", "-r", "", "out"], ["sample", ""]),
        *(["ls", ADAM, "--html", ""], ["map", ADAM, ADAM, "-o", ""]),
        ["history", ADAM, "--cache", ""],
    ],
)  # fmt: skip
def test_a_variable_that_is_not_set_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "c", {"v": np.zeros(2)})
    before = sorted(tmp_path.iterdir())
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert "'': empty path" in result.err and result.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


# --- anything -------------------------------------------------------------------------------------


_WORDS = st.sampled_from(
    [
        *("--long", "--tree", "--depth", "--patterns", "--sort", "--role", "--name", "--dtype"),
        *("--digest", "--all", "--format", "--slice", "--help", "-l", "-a", "--", "-", "--npy"),
        *(
            "name",
            "size",
            "json",
            "csv",
            "markdown",
            "table",
            "weight",
            "slot",
            "*",
            "!*",
            "[",
            "0",
        ),
        *(
            "1",
            "-1",
            ":",
            "...",
            "0,0",
            "hidden/kernel",
            "hidden/bias",
            "float32",
            "#",
            "é",
            "\udcff",
        ),
    ]
)
_PATHS = st.sampled_from(
    [str(ADAM), f"{ADAM}#model", f"{ADAM}#x", f"{ADAM}.index", str(ADAM.parent), "/", ".", "none"]
)


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    command=st.sampled_from(["ls", "show"]),
    path=_PATHS | st.text(max_size=5),
    words=st.lists(_WORDS | st.text(max_size=6), max_size=5),
)
def test_no_arguments_end_in_a_traceback(
    command: str,
    path: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(command, path, *words)
    assert result.code in (0, 2)
    if result.code == 2:
        lines = result.err.splitlines()  # one per operand, where there are several
        assert all(line.startswith("ckptkit: ") for line in lines)
        assert 1 <= len(lines) <= 1 + len(words) * (command == "ls")
    else:
        assert result.err == ""


@pytest.mark.parametrize("content", ["index", "data"])
def test_files_that_change_under_a_listing(tmp_path: Path, content: str) -> None:
    """A writer that replaces the files all the time gives lists or errors, never a traceback."""
    prefix = write_bundle(tmp_path / "c", {f"v{n}": np.zeros(n) for n in range(50)})
    path = Path(f"{prefix}.index" if content == "index" else f"{prefix}.data-00000-of-00001")
    whole = path.read_bytes()
    for number in range(60):
        path.write_bytes(whole[: len(whole) * (number % 4) // 3])
        result = run("ls", prefix, "--digest")
        assert result.code in (0, 2)
        assert result.code == 0 or result.err.count("\n") == 1


@pytest.mark.parametrize("given", ["-1", "0", "nan", "soon"])
def test_a_time_that_is_none_is_refused(given: str) -> None:
    for command in (("check", "m"), ("record", "m", "-o", "g"), ("convert", "a", "b")):
        result = run(*command, f"--timeout={given}")
        assert result.code == 2
        assert f"'{given}' is not a number of seconds above 0" in result.err


@pytest.mark.parametrize("error", [EOFError, ValueError])
def test_a_bug_of_ours_is_no_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(_path: object) -> None:
        raise error("marshal data too short")

    monkeypatch.setattr("ckptkit.fixtures.sample.write_sample", fail)
    result = run("sample", tmp_path / "new")
    assert result.code == 2
    assert "internal error; please report this" in result.err
    assert result.err.rstrip().endswith(f"{error.__name__}: marshal data too short")
