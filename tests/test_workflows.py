"""Workflows, hooks and the site: what they call is there, and their shell parts do as they say."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import ckptkit as ckptkit_package
from benchmarks.versions import lowest, matrix, pythons
from ckptkit._version import __version__
from ckptkit.cli.main import COMMANDS
from support.command_line import ckptkit
from support.goldens import GOLDEN
from support.places import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_targets_that_there_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rules = re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(re.findall(r"run: make ([a-z][a-z-]*)", text)) <= set(rules)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_uses_is_named_by_its_commit(path: Path) -> None:
    for used in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8")):
        assert used.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used), used


def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def minor(version: str) -> int:
    return int(version.removeprefix("3."))


def test_the_matrix_has_every_version_that_setup_cfg_claims() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", metadata()["metadata"]["classifiers"])
    lowest = metadata()["options"]["python_requires"].removeprefix(">=")
    tried = matrix()
    assert tried == sorted(tried, key=minor) and tried[0] == lowest == claimed[0]
    assert set(claimed) <= set(tried)
    assert [minor(version) for version in tried] == [*range(minor(tried[0]), minor(tried[-1]) + 1)]
    used = re.findall(r'python-version: "([\d.]+)"', "".join(p.read_text() for p in WORKFLOWS))
    assert set(used) <= set(tried)


def test_the_changelog_has_this_version_with_its_day_and_what_breaks() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"(?m)^## (.*)$", text)
    assert titles[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", titles[1])
    section = text.partition(f"## {titles[1]}")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^### (.*)$", section)[:2] == ["What breaks", "Added"]


def test_linters_are_told_of_the_oldest_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'target-version = "py{matrix()[0].replace(".", "")}"' in text


def test_orders_of_bytes_are_said_which_python_3_10_has_no_default_for() -> None:
    """What linters that are told of 3.10 do not see; it shows on 3.10 alone."""
    package = Path(ckptkit_package.__file__).parent
    unsaid = [
        f"{path.name}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") in ("from_bytes", "to_bytes")
        and len(node.args) + len(node.keywords) < 2
    ]
    assert unsaid == []


def test_versions_that_are_not_here_are_told_with_the_reason(tmp_path: Path) -> None:
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\necho 'python3.99: no such version' >&2\nexit 127\n")
    shim.chmod(0o755)
    here = f"3.{sys.version_info.minor}"
    found = {row.version: row for row in pythons(["3.98", "3.99", here], str(tmp_path))}
    assert found["3.98"].why_not == "python3.98 is not on PATH"
    assert found["3.99"].why_not.endswith("does not start it: python3.99: no such version")
    assert found[here].path == sys.executable
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "python3.99"  # behind the shim
    real.write_text("#!/bin/sh\necho 3.99\n")
    real.chmod(0o755)
    [behind] = pythons(["3.99"], os.pathsep.join([str(tmp_path), str(real.parent)]))
    assert behind.path == str(real)


def test_every_bound_is_held_to_its_lowest_series() -> None:
    needed = metadata()["options"]["install_requires"]
    assert lowest("a>=1.2\nb >= 3; python_version < '3.11'\nc\nd==1.0\npkg[extra]") == [
        "a==1.2.*",
        "b==3.*",
    ]
    assert len(lowest(needed)) == len(needed.split("\n")) - 1  # its first line is empty


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("tag", "section", "code", "said"),
    [
        (f"v{__version__}", f"## [{__version__}] - 2030-01-01", 0, ""),
        ("v99.0.0", f"## [{__version__}]", 1, "the tag is v99.0.0, and the package is"),
        (f"v{__version__}", "## [Unreleased]", 1, f"no section [{__version__}]"),
    ],
)
def test_a_release_is_of_the_version_that_its_tag_says(
    tmp_path: Path, tag: str, section: str, code: int, said: str
) -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    found = re.search(r"(?ms)- name: Compare\n\s+run: \|\n(.*?)\n\n", text)
    assert found is not None
    (tmp_path / "ckptkit").mkdir()
    shutil.copy(Path(ckptkit_package.__file__).parent / "_version.py", tmp_path / "ckptkit")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{section}\n", encoding="utf-8")
    done = subprocess.run(
        ["bash", "-e", "-c", textwrap.dedent(found[1])],
        cwd=tmp_path,
        env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done


def hooks() -> list[tuple[str, str]]:
    """Return (entry, files) of each hook; "" where it says no files."""
    blocks = re.split(r"(?m)^- id: ", HOOKS)[1:]
    entries = [re.search(r"(?m)^  entry: (.*)$", block) for block in blocks]
    files = [re.search(r"(?m)^  files: '(.*)'$", block) for block in blocks]
    return [(e[1] if e else "", f[1] if f else "") for e, f in zip(entries, files, strict=True)]


def test_hooks_look_at_what_is_staged(tmp_path: Path) -> None:
    assert [entry.split()[1] in COMMANDS for entry, _ in hooks()] == [True] * 4
    run = GOLDEN / "tf2.21.0" / "adam"
    staged = [path for path in sorted(run.iterdir()) if path.is_file()]
    verify, scan, *_ = hooks()
    for entry, files in (verify, scan):
        given = [str(path) for path in staged if re.search(files, path.as_posix())]
        assert given, files
        found = ckptkit(*entry.split()[1:], *given)
        assert found.code == 0, found


def test_hooks_stop_what_is_damaged(tmp_path: Path) -> None:
    copy = tmp_path / "model.keras"
    data = bytearray((GOLDEN / "tf2.21.0/files_nested/model.keras").read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    assert ckptkit("verify", "--", copy).code == 1


def site() -> Any:
    """Return docs/site/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs/site/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_site() -> None:
    builder = site()
    places = builder.pages()
    assert places["README.md"] == "index.md"
    cases = {
        ("README.md", "[a](docs/diff.md#json)"): "[a](diff.md#json)",
        ("docs/diff.md", "[a](../README.md)"): "[a](index.md)",
        ("docs/examples/README.md", "[`a`](../cli.md)"): "[`a`](../cli.md)",
        ("docs/diff.md", "[the `a` code](../ckptkit/errors.py)"): "the `a` code",
        (
            "docs/diff.md",
            "[a](https://example.org/b) [c](#d)",
        ): "[a](https://example.org/b) [c](#d)",
        ("docs/diff.md", "`[a](../README.md)`"): "`[a](../README.md)`",
    }
    for (page, text), expected in cases.items():
        assert builder.moved(text, page, places) == expected


@pytest.mark.skipif(not (ROOT / "ckptkit").is_dir(), reason="the package is not beside the docs")
def test_every_page_of_the_site_is_in_its_contents(tmp_path: Path) -> None:
    builder = site()
    builder.gather(tmp_path)
    index = (tmp_path / "index.md").read_text(encoding="utf-8")
    names = {
        path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.md")
    }
    listed = re.findall(r"(?m)^[\w/]+$", index.partition("```{toctree}")[2])
    assert sorted({*listed, "index"}) == sorted(names)
    assert len(listed) == len(set(listed))
