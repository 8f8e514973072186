"""Keywords in messages: options at a shell, keywords in a program."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.cli.wording import as_options
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.operations.findings import Finding
from ckptkit.wording import (
    Speaker,
    as_keywords,
    labelled,
    operand,
    operands_called,
    say,
    spoken_by,
)

PACKAGE = Path(ckptkit.__file__).parent
EDGE = ("cli", "reports")
# The rest of what speaks of options: a recipe of commands, flags of other programs, of pytest.
NOT_OURS = {
    "fixtures/demo.py": "the commands that the demo runs",
    "installation.py": "an option of pip",
    "operations/gate/first_policy.py": "a file that says which command reads it",
    "operations/gate/rules.py": "whole commands that show more than a rule does",
    "operations/doctor.py": "an option of pip",
    "runners/child/packages.py": "options of nvidia-smi",
    "runners/keras/jax_backend.py": "flags of XLA",
    "testing/pytest_plugin.py": "an option of pytest",
}


@pytest.mark.parametrize(
    ("marked", "said"),
    [
        ("‹golden› is read", "golden is read"),
        ("‹on=CPU:0› twice", "on='CPU:0' twice"),
        ("‹record.float64› keeps them", "record(float64=True) keeps them"),
        ("‹record.layers=*› does", "record(layers='*') does"),
        ("no mark: ‹ › <a> {b}", "no mark: ‹ › <a> {b}"),
    ],
)
def test_a_program_reads_keywords(marked: str, said: str) -> None:
    assert say(marked) == said


def test_another_speaker_holds_for_a_block() -> None:
    with spoken_by(lambda function, keyword, value: f"[{function}|{keyword}|{value}]"):
        assert say("‹record.layers=*› ‹on›") == "[record|layers|*] [|on|None]"
    assert say("‹on›") == as_keywords("", "on", None)


def test_one_refusal_in_both_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^against and golden exclude each other$"):
        ckptkit.check("x", against="a", golden="b")
    done = CliRunner().invoke(cli, ["check", "x", "--against", "a", "--golden", str(tmp_path)])
    assert str(done.exception) == "--against and --golden exclude each other"


def test_errors_carry_a_code_and_the_keywords_that_they_name() -> None:
    with pytest.raises(UsageError) as caught:
        ckptkit.check("x", against="a", golden="b")
    assert (caught.value.code, caught.value.keywords) == ("usage", ("against", "golden"))
    with pytest.raises(UsageError) as caught:
        ckptkit.check("x", golden="g", seed=1, ranges={"a": (0.0, 1.0)})
    assert caught.value.keywords == ("inputs", "ranges")


def test_every_class_of_errors_has_a_code_of_its_own() -> None:
    classes, found = [CkptkitError], {}
    while classes:
        known = classes.pop()
        found[known.__name__] = known.code
        classes += known.__subclasses__()
    assert len(set(found.values())) == len(found)


def test_a_shell_reads_the_option_that_it_knows(tmp_path: Path) -> None:
    """`ranges` is typed as `--range`, which the command's own table tells."""
    golden = str(tmp_path)
    done = CliRunner().invoke(cli, ["check", "x", "--golden", golden, "--range", "a=0:1"])
    assert str(done.exception) == "a golden has its own inputs (leave out --inputs and --range)"


# Words of a usage line, which say nothing to whoever gave a file.
_PLACE = re.compile(r"(?<![\w‹.=])(SRC|DST|LIKE|OLD|NEW|SUBJECT|META|PATHS?)(?![\w›=.])")
# Calls in which PATH stands for the file until a report puts it there; words for `operand`.
_TEMPLATES = ("OpeningCall", "operand", "_tensorflow_loader")


def strings_of_messages(path: Path) -> Iterator[str]:
    """Yield what a module may say: no docstrings, no help of options, no templates of calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    silent = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(id(node.value))
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("option", "argument", "report_options", *_TEMPLATES):
                silent |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in silent
        ):
            yield node.value


def test_messages_name_files_and_not_their_place_in_a_usage_line() -> None:
    """A word alone is a heading, or goes to `operand`; a mark is said by `say`."""
    found = [
        (path.relative_to(PACKAGE).as_posix(), text)
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in strings_of_messages(path)
        if _PLACE.search(text) and not text.isupper() and not text.startswith("#")
        if "(PATH" not in text
    ]
    assert not found


def test_operands_are_called_what_was_given() -> None:
    assert say("‹SRC› has none") == "SRC has none"
    with operands_called({"SRC": "run/ckpt"}):
        assert say("‹SRC› has none") == "run/ckpt has none" == f"{operand('SRC')} has none"
        with labelled({"run/ckpt": "before"}):
            assert operand("SRC") == "before"
        assert say("‹SRC›").keywords == ()


def test_options_are_spelled_at_the_edge_alone() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(tuple(f"{folder}/" for folder in EDGE)):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        spelled = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented
            and re.search(r"(?<![\w-])--[a-z]", node.value)
        ]
        if spelled and name not in NOT_OURS:
            found[name] = spelled
    assert not found


def test_what_is_marked_is_a_keyword_of_the_library() -> None:
    functions = [getattr(ckptkit, name) for name in ckptkit.__all__]
    known = {
        parameter
        for function in functions
        if callable(function) and not isinstance(function, type)
        for parameter in inspect.signature(function).parameters
    }
    # Functions below the exported ones that have options of their own at a shell.
    known |= {"npy", "names", "limit"}
    marked = {
        (path.relative_to(PACKAGE).as_posix(), mark)
        for path in PACKAGE.rglob("*.py")
        if path.name != "wording.py"
        for mark in re.findall(r"‹(?:\w+\.)?(\w+)(?:=[^›]*)?›", path.read_text(encoding="utf-8"))
        if not mark.isupper()
    }
    assert marked
    assert sorted((path, mark) for path, mark in marked if mark not in known) == []


def test_every_keyword_of_a_function_that_messages_name_is_an_option_of_its_command() -> None:
    """Else a message names an option that there is not, as `--new-manifest` once did."""
    named = {
        mark
        for path in PACKAGE.rglob("*.py")
        if path.name != "wording.py"
        for mark in re.findall(r"‹(\w+)(?:=[^›]*)?›", path.read_text(encoding="utf-8"))
    }
    context = click.Context(cli)
    lacking = []
    for command_name in cli.list_commands(context):
        command = cli.get_command(context, command_name)
        function = getattr(ckptkit, command_name, None)
        if command is None or not inspect.isfunction(function):
            continue
        speak = speaker_of(command)
        lacking += [
            (command_name, keyword)
            for keyword in named & set(inspect.signature(function).parameters)
            if speak("", keyword, None) is None and keyword not in operands(command)
        ]
    assert lacking == []


def speaker_of(command: click.Command | None) -> Speaker:
    """Return who speaks while a command is running."""
    return as_options(lambda _name: command)


def operands(command: click.Command) -> set[str | None]:
    return {item.name for item in command.params if isinstance(item, click.Argument)}


def test_every_option_of_another_command_that_messages_name_is_one() -> None:
    context = click.Context(cli)
    speak = as_options(lambda name: cli.get_command(context, name))
    named = {
        mark
        for path in PACKAGE.rglob("*.py")
        if path.name != "wording.py"
        for mark in re.findall(r"‹(\w+)\.(\w+)(?:=[^›]*)?›", path.read_text(encoding="utf-8"))
    }
    assert named and [mark for mark in named if speak(mark[0], mark[1], None) is None] == []


def test_advice_that_the_running_command_cannot_take_is_not_given() -> None:
    """`check` carries out conversions, and has not all of the options of `convert`."""
    context = click.Context(cli)
    hint = "‹allow_missing=GLOB› keeps the values of LIKE"
    said = {}
    for command_name in ("check", "convert", "golden"):
        command = cli.get_command(context, command_name)
        with spoken_by(speaker_of(command)):
            error = UsageError("missing", hint=say(hint))
            said[command_name] = error.hint
            assert (
                Finding("error", "tensor.checksum", "here", "missing", hint=say(hint)).hint
                == error.hint
            )
            assert str(error).startswith("missing") and "--" not in str(error).replace(
                error.hint, ""
            )
    assert said == {
        "check": "",
        "convert": "--allow-missing GLOB keeps the values of LIKE",
        "golden": "",
    }
    assert UsageError("missing", hint=say(hint)).hint  # to a program everything is a keyword
