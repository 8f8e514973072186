"""What a person sees at a terminal: lines that fit, names that can be typed again, colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ckptkit
from ckptkit.reports.text import display_width
from support.command_line import ckptkit as run
from support.command_line import json_results, refused
from support.goldens import Golden, golden, goldens
from support.linear import linear_model
from support.terminal import printed_at

GAN = golden("tf2.21.0/gan/ckpt").path
ADAM = golden("tf2.21.0/adam/ckpt").path
READABLE = [g for g in goldens() if g.name.startswith("tf2.21.0/") and "pbtxt" not in g.kind]

_WIDTHS = [60, 80, *(pytest.param(n, marks=pytest.mark.slow) for n in (120, 200))]


def too_wide(out: str, columns: int) -> list[str]:
    """Return lines of more columns; a word that is wider, a path say, is not cut."""
    return [
        line
        for line in re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
        if display_width(line) > columns and len(line.split()) > 1 + line.startswith("  ")
    ]


@pytest.mark.parametrize("columns", _WIDTHS)
@pytest.mark.parametrize("command", ["ls", "diff", "verify", "show", "scan", "needs"])
def test_every_line_fits(command: str, columns: int) -> None:
    for case in READABLE:
        for arguments in _calls(command, case):
            out = run(command, *arguments, "--color", "never", columns=columns).out
            assert out, (case.name, arguments)
            assert not too_wide(out.replace(str(case.path), "FILE"), columns), (case.name, out)


def _calls(command: str, case: Golden) -> list[list[object]]:
    if command == "show":
        with ckptkit.open(case.path) as checkpoint:
            weights = [n.name for n in checkpoint.names.values() if n.role == "weight"]
        return [[case.path, name] for name in weights[:1]]
    if command == "diff":
        return [[case.path, ADAM, "--structure"], [case.path, case.path, "--full"]]
    return [[case.path]]


@pytest.mark.parametrize(
    "columns", [60, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 120, 200))]
)
def test_lines_fit_a_real_terminal(columns: int, tmp_path: Path) -> None:
    """Every command over every reference file, as the system tells the width."""
    commands: list[list[object]] = [
        [command, *arguments]
        for case in READABLE
        for command in ("ls", "diff", "verify", "show")
        for arguments in _calls(command, case)
    ]
    model = "m.linear.json"
    commands += [
        ["record", model, "-o", "golden", "--on", "linear", "--no-blind", "--no-noise"],
        ["check", model, "--golden", "golden", "--on", "linear"],
    ]
    texts = printed_at(columns, commands, tmp_path)
    assert any("hidden/kernel" in text for text in texts)
    for command, text in zip(commands, texts, strict=True):
        assert text and "Traceback" not in text, (command, text)
        for path in {str(c.path) for c in READABLE}:
            text = text.replace(path, "FILE")
        assert not too_wide(text, columns), (command, text)


@pytest.mark.slow  # it starts every runtime
@pytest.mark.parametrize("columns", [60, 80])
def test_what_doctor_says_fits_a_real_terminal(columns: int, tmp_path: Path) -> None:
    [text] = printed_at(columns, [["doctor", "-v"]], tmp_path)
    assert "RUNTIME" in text
    assert not too_wide(text, columns), text


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return linear_model(tmp_path, monkeypatch)


@pytest.mark.parametrize("columns", [60, 80])
def test_lines_of_runs_fit(linear: Path, columns: int) -> None:
    golden = linear.parent / "golden"
    commands: list[list[object]] = [
        ["record", linear, "-o", golden, "--on", "linear", "--no-blind", "--no-noise"],
        ["check", linear, "--golden", golden, "--on", "linear"],
        ["check", linear, "--against", linear, "--on", "linear", "-v"],
    ]
    for command in commands:
        result = run(*command, "--color", "never", columns=columns)
        assert result.code == 0, result
        assert not too_wide(result.out.replace(str(linear.parent), "DIR"), columns)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["ls", ADAM, "--sort", "siz"], "did you mean size?"),
        (["ls", ADAM, "--role", "weigh"], "did you mean weight?"),
        (["ls", ADAM, "--color", "allways"], "did you mean always?"),
        (["ls", ADAM, "-f", "markdwn"], "did you mean markdown?"),
        (["convert", ADAM, "x", "--to", "safetensor"], "did you mean safetensors"),
        (["upgrade", "a", "b", "--to", "savedmodel"], "did you mean saved-model?"),
        (["golden", "export", "g", "-o", "o", "--to", "polygraph"], "did you mean polygraphy?"),
        (["completion", "fsh"], "did you mean fish"),
        (["verfy"], "did you mean verify"),
    ],
)
def test_a_mistyped_choice_is_asked_about(command: list[object], said: str) -> None:
    assert said in refused(*command)


def test_a_neighbour_is_named_once() -> None:
    assert "html or html" not in refused("ls", ADAM, "-f", "htmll")


def test_a_choice_that_is_near_nothing_is_not_asked_about() -> None:
    assert "did you mean" not in refused("ls", ADAM, "--sort", "qqq")


def test_a_script_is_never_folded() -> None:
    assert run("completion", "bash", columns=60).out == run("completion", "bash").out


def test_a_shortened_name_can_be_typed_again() -> None:
    out = run("ls", GAN, "--color", "never", columns=60).out
    names = [line.split()[0] for line in out.splitlines() if "…" in line]
    assert names
    for name in names:
        assert run("show", GAN, name).code == 0
        assert ckptkit.open(GAN)[name] is not None
    whole = run("ls", GAN, "--wide", columns=60).out
    assert "…" not in whole and whole == run("ls", GAN).out
    assert "…" not in run("ls", GAN, "--long", columns=60).out


def test_a_shortened_name_that_fits_several_is_asked_about() -> None:
    result = run("show", GAN, "g…/kernel")
    assert result.code == 0  # one alone
    result = run("show", GAN, "…/kernel")
    assert result.code == 2 and "2 tensors are called" in result.err


def test_globs_fit_any_ending() -> None:
    names = [row["name"] for row in ckptkit.ls(GAN, names=["up/*"]).rows()]
    assert sorted(names) == sorted(n for n in ckptkit.open(GAN) if "/up/" in n)
    left = [row["name"] for row in ckptkit.ls(GAN, names=["!kernel*"]).rows()]
    assert set(left) < {n for n in ckptkit.open(GAN) if "/kernel" not in n}
    assert "generator/up/bias" in left
    result = run("ls", GAN, "--name", "krnel")
    assert result.code == 2 and "nearest: generator/up/kernel" in result.err


def test_errors_are_red_where_asked() -> None:
    assert run("ls", "nowhere", "--color", "always").err.startswith("\x1b[31mckptkit: ")
    assert "\x1b" not in run("ls", "nowhere").err


def test_help_and_version_by_every_name() -> None:
    assert run("help", "ls") == run("ls", "--help")
    assert run("help").out == run("--help").out
    assert run("version") == run("-V") == run("--version")
    assert run("help", "lss").code == 2


def test_several_names_are_shown_in_turn() -> None:
    both = run("show", ADAM, "hidden/kernel", "hidden/bias").out
    alone = [run("show", ADAM, f"hidden/{name}").out for name in ("kernel", "bias")]
    assert both == "\n".join(alone)
    documents = json_results("show", ADAM, "hidden/kernel", "hidden/bias")
    assert [d["tensor"]["name"] for d in documents] == ["hidden/kernel", "hidden/bias"]
    files = [f"{ADAM}.data-00000-of-00001", f"{ADAM}.index"]  # a shell's `ckpt*`
    assert run("show", *files, "hidden/bias").out.splitlines()[0] == alone[1].splitlines()[0]
    assert run("show", ADAM, "hidden/bias", "nothing").code == 2
    assert run("show", ADAM).code == 2


def test_patterns_that_the_shell_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ADAM.parents[1])
    out = run("ls", "*/ckpt.index", "--digest", "-f", "csv").out
    assert "adam/ckpt" in out and "lion/ckpt" in out
    assert "no such file" in run("ls", "nothing*").err


def test_files_of_one_checkpoint_are_verified_once() -> None:
    files = [f"{ADAM}.data-00000-of-00001", f"{ADAM}.index"]
    out = run("verify", *files).out
    assert out.count(": sound") == 1


@pytest.mark.parametrize("command", [["ls", ADAM], ["show", ADAM, "scores/bias"], ["scan", ADAM]])
def test_output_goes_to_a_file(command: list[object], tmp_path: Path) -> None:
    file = tmp_path / "o.txt"
    result = run(*command, "-o", file, columns=40)
    assert (result.code, result.out) == (0, "")
    assert file.read_text() == run(*command).out
    refused_ = run(*command, "-o", f"{ADAM}.index")
    assert refused_.code == 2 and "would be written over" in refused_.err
