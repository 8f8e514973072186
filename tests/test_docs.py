"""What the docs show is what the tool prints: `pytest tests/test_docs.py --regen` rewrites it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import COMMANDS, cli
from ckptkit.errors import CkptkitError
from ckptkit.operations.verify.api import verify
from ckptkit.reports.explanations import explanations
from ckptkit.stores.registry import FORMATS
from support.damage import flip
from support.goldens import GOLDEN
from support.hostile_models import model_with, write_model
from support.killing_thin import make_run
from support.places import ROOT
from support.pytorch_files import write_pytorch

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
WALKED = (
    "audit.md",
    "transcripts.md",
    "tutorial.md",
    "clusters.md",
    "buckets.md",
)  # pages that have tests of their own, whose files they make themselves
# What the examples call their files, and the golden files that these are.
EXAMPLES = {
    "run": "tf2.21.0/adam",
    "train": "tf2.21.0/manager",
    "export": "tf2.21.0/saved_model_export/model",
    "model.keras": "tf2.21.0/files_nested/model.keras",
    "model.weights.h5": "tf2.21.0/files_nested/model.weights.h5",
    "old.keras": "tf2.15.1/files_nested/model.keras",
}
_SESSION = re.compile(r"(?ms)^```console\n(.*?)^```$")
_TABLE = re.compile(r"(?s)(<!-- formats -->\n).*?(<!-- /formats -->)")


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, golden in EXAMPLES.items():
        copy = shutil.copytree if (GOLDEN / golden).is_dir() else shutil.copy
        copy(GOLDEN / golden, tmp_path / name)
    for graph in tmp_path.glob("*/saved_model.pb"):
        graph.with_name("assets").mkdir(exist_ok=True)  # git keeps no empty directory
    monkeypatch.chdir(tmp_path)
    damaged_examples(tmp_path)
    make_run(tmp_path / "long-run", 4)
    torch_examples(tmp_path)
    (tmp_path / "release.toml").write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def torch_examples(directory: Path) -> None:
    """Make what docs/map.md maps: files of PyTorch, and a structure of another library."""
    rng = np.random.default_rng(27)
    linear = {"proj.weight": (4, 6), "proj.bias": (4,)}
    twins = {f"{name}.weight": (4, 4) for name in ("left", "right")}
    for name, shapes in (("net.pt", {**linear, "head.weight": (3, 4)}), ("twins.pt", twins)):
        arrays = {key: rng.normal(size=size).astype("float32") for key, size in shapes.items()}
        write_pytorch(directory / name, arrays)
    names = {"dense/kernel": (6, 4), "dense/bias": (4,), "head/kernel": (4, 3)}
    pair = {"first/kernel": (4, 4), "second/kernel": (4, 4)}
    for name, shapes in (("net.npz", names), ("twins.npz", pair)):
        zeros: dict[str, Any] = {key: np.zeros(size, "float32") for key, size in shapes.items()}
        np.savez(directory / name, **zeros)


POLICY = """[model]
formats = ["keras"]
max-parameters = 1_000_000
nonfinite = false

[verify]
[scan]

[baseline]
config = "same"
weights = "same"
"""


def damaged_examples(directory: Path) -> None:
    """Make what docs/verify.md calls damaged and hostile."""
    shutil.copytree(directory / "run", directory / "damaged")
    spec = ckptkit.open(directory / "run" / "ckpt").specs[
        "optimizer/_variables/2/.ATTRIBUTES/VARIABLE_VALUE"
    ]
    assert spec.offset is not None
    flip(directory / "damaged" / "ckpt.data-00000-of-00001", 8 * spec.offset)
    path = directory / "damaged.weights.h5"
    shutil.copy(directory / "model.weights.h5", path)
    verify(path, new_manifest=directory / "damaged.sha256")
    store = ckptkit.open(path).store
    offset = next(spec.offset for spec in store.specs.values() if spec.nbytes > 40)
    assert offset is not None
    flip(path, 8 * offset)
    write_model(directory / "hostile", model_with("WriteFile", "function"), "pb")


def printed(line: str) -> str:
    """Return what `line`, a command without its `$`, prints: stdout and stderr as they come."""
    arguments = shlex.split(line)
    assert arguments.pop(0) == "ckptkit", line
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if isinstance(result.exception, CkptkitError):
        return f"{result.output}ckptkit: {result.exception}\n"
    assert result.exception is None, (line, result.exception)
    return result.output


def run_session(session: str) -> str:
    lines = []
    for line in session.splitlines():
        if line.startswith("$ "):
            lines += [line, *printed(line[2:]).splitlines()]
        elif line.startswith("#"):
            lines.append(line)
    return "\n".join(text.rstrip() for text in lines) + "\n"


def test_every_code_has_its_place_in_troubleshooting(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "troubleshooting.md"
    parts = ["# What a code means", f"\n{_INTRODUCTION}"]
    group = ""
    for row in dict.fromkeys(explanations().values()):
        if row.group != group:
            group = row.group
            parts.append(f"\n## {group}")
        anchors = "".join(f'<a id="{code}"></a>' for code in row.codes)
        names = ", ".join(f"`{code}`" for code in row.codes)
        parts.append(f"\n{anchors}\n**{names}**: {row.text}")
    check(page, "\n".join(parts) + "\n", request.config.getoption("--regen"))


_INTRODUCTION = """Findings and refusals have codes; they stand in JSON, JUnit and SARIF, and in the
annotations of a pull request. `ckptkit explain CODE` prints what is said here."""


def check(path: Path, expected: str, regen: bool) -> None:
    if regen:
        path.write_text(expected, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == expected, "run: make docs"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in WALKED], ids=lambda page: page.name
)
@pytest.mark.usefixtures("examples")
def test_examples_print_what_is_shown(page: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    expected = _SESSION.sub(lambda m: f"```console\n{run_session(m[1])}```", text)
    check(page, expected, request.config.getoption("--regen"))


def test_readme_lists_the_formats(request: pytest.FixtureRequest) -> None:
    rows = ["| format | looks like | |", "|---|---|---|"]
    rows += [
        f"| {name} | `{row.looks_like}` | {row.description} |" for name, row in FORMATS.items()
    ]
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert _TABLE.search(text)
    expected = _TABLE.sub(lambda m: m[1] + "\n".join(rows) + "\n" + m[2], text)
    check(readme, expected, request.config.getoption("--regen"))


def commands() -> dict[str, click.Command]:
    """Return every command by what one types: "ckptkit", "ckptkit ls", "ckptkit fixtures make"."""
    found: dict[str, click.Command] = {"ckptkit": cli}
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[f"ckptkit {name}"] = command
        for sub, inner in getattr(command, "commands", {}).items():
            found[f"ckptkit {name} {sub}"] = inner
    return found


def test_every_command_has_its_help_in_the_reference(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "cli.md"
    parts = [page.read_text("utf-8").partition("\n\n## ckptkit\n")[0]]
    for name, command in commands().items():
        assert command.help, name
        output = CliRunner().invoke(cli, [*name.split()[1:], "--help"], prog_name="ckptkit").output
        parts.append(f"## {name}\n```\n{output.rstrip()}\n```")
    check(page, "\n\n".join(parts) + "\n", request.config.getoption("--regen"))


def test_links_lead_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.usefixtures("examples")
def test_documented_fields_of_verify_are_those_printed() -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition("## `ckptkit.verify/2`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    output = CliRunner().invoke(cli, ["verify", "damaged/ckpt", "--format", "json"]).output
    [document] = json.loads(output)["results"]
    (unit,) = document["units"]
    fields = {*document, *unit, *unit["checks"][0], *unit["findings"][0]}
    assert documented == fields


@pytest.mark.parametrize("command", ["ls", "show"])
@pytest.mark.usefixtures("examples")
def test_documented_fields_are_those_printed(command: str) -> None:
    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = text.partition(f"## `ckptkit.{command}/2`")[2].partition("\n## ")[0]
    documented = {
        name
        for row in re.findall(r"^\| (`.*?`) \|", section, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    arguments = ["export"] if command == "ls" else ["run/ckpt", "hidden/kernel"]
    output = CliRunner().invoke(cli, [command, *arguments, "--format", "json"]).output
    [document] = json.loads(output)["results"]
    tensors = document["tensors"] if command == "ls" else []
    assert documented == {*document, *(field for tensor in tensors for field in tensor)}


def test_security_names_every_command_that_runs_models() -> None:
    """Those that take code to build a model, or a place to run one."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    runs = [
        name
        for name in COMMANDS
        if any("--on" in p.opts or str(p.metavar).startswith("MODULE") for p in params_of(name))
    ]
    assert {"check", "record", "convert"} <= set(runs)
    for name in runs:
        assert f"`ckptkit {name}" in text, name


def params_of(name: str) -> list[Any]:
    from importlib import import_module

    return [p for p in import_module(COMMANDS[name].module).command.params if hasattr(p, "metavar")]
