"""action.yml: its shell steps are run as a GitHub runner runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import ckptkit
from support.goldens import golden
from support.places import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

TEXT = (ROOT / "action.yml").read_text(encoding="utf-8")
EXPORT = golden("tf2.21.0/saved_model_export/model").path


class Step(NamedTuple):
    """One step: its environment, each value an expression, and its script."""

    name: str
    environment: dict[str, str]
    script: str


def steps() -> list[Step]:
    """Return the steps; of YAML only what action.yml uses is read."""
    found = []
    for block in re.split(r"(?m)^    - name: ", TEXT)[1:]:
        name, _, body = block.partition("\n")
        assert "shell: bash" in body
        environment = dict(re.findall(r"(?m)^        ([A-Z]+): (\$\{\{.*?\}\})$", body))
        one_line = re.search(r"(?m)^      run: (?!\|)(.*)$", body)
        script = one_line[1] if one_line else textwrap.dedent(body.partition("run: |\n")[2])
        found.append(Step(name, environment, script))
    return found


def defaults() -> dict[str, str]:
    """Return the inputs with their defaults; "" for one that is required."""
    section = TEXT.partition("\ninputs:\n")[2].partition("\noutputs:\n")[0]
    found = {}
    for name, body in re.findall(r"(?ms)^  ([\w-]+):\n(.*?)(?=^  [\w-]|\Z)", section):
        default = re.search(r"(?m)^    default: (.*)$", body)
        found[name] = default[1].strip('"') if default else ""
    return found


class Result(NamedTuple):
    code: int
    out: str
    outputs: str
    summary: str


def run(step: Step, tmp_path: Path, **inputs: str) -> Result:
    """Run a step with these inputs ("_" for "-"), in `tmp_path`."""
    given = defaults() | {name.replace("_", "-"): value for name, value in inputs.items()}
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: given[m[1]], value)
        for name, value in step.environment.items()
    }
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    script = tmp_path / "step.sh"
    script.write_text(step.script, encoding="utf-8")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=tmp_path,
        env={
            **os.environ,
            **environment,
            **{name: str(file) for name, file in files.items()},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_ACTION_PATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    texts = (files[name].read_text(encoding="utf-8") for name in files)
    return Result(done.returncode, done.stdout + done.stderr, *texts)


CHECK = steps()[-1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run with space") / "ckpt"
    ckptkit.convert(EXPORT, path, to="checkpoint", root="")
    return path


def test_steps_take_every_input_by_environment() -> None:
    """An input that stands in a script could be a script itself."""
    taken = {
        name
        for step in steps()
        for value in step.environment.values()
        for name in re.findall(r"inputs\.([\w-]+)", value)
    }
    assert taken == set(defaults()) - {"working-directory"}
    assert all("${{" not in step.script for step in steps())


def test_a_check_that_passes(checkpoint: Path, tmp_path: Path) -> None:
    done = run(CHECK, tmp_path, subject=str(checkpoint), like=str(EXPORT), junit="out file.xml")
    assert done.code == 0, done
    assert done.outputs == "exit-code=0\n"
    assert "::notice title=ckptkit check" in done.out
    assert "2 of 2 variables" in done.summary
    assert (tmp_path / "out file.xml").read_text().startswith("<?xml")


def test_a_check_that_fails(tmp_path: Path) -> None:
    other = golden("tf2.21.0/adam/ckpt").path
    done = run(CHECK, tmp_path, subject=str(other), like=str(EXPORT))
    assert done.code == 1 and done.outputs == "exit-code=1\n"
    assert "::error title=restore." in done.out and "::error title=ckptkit check" in done.out


def test_a_check_that_cannot_tell(checkpoint: Path, tmp_path: Path) -> None:
    done = run(CHECK, tmp_path, subject=str(EXPORT))
    assert done.code == 2 and done.outputs == "exit-code=2\n"
    assert "nothing to compare" in done.out


def test_wrong_inputs_are_told_and_passed_on(checkpoint: Path, tmp_path: Path) -> None:
    for wrong, said in (
        ({"on": "TPU:0"}, "TPU:0"),
        ({"tolerance": "no such file"}, "no such file"),
        ({"arguments": "--no-such-option"}, "--no-such-option"),
    ):
        done = run(CHECK, tmp_path, subject=str(checkpoint), like=str(EXPORT), **wrong)
        assert done.code == 2 and said in done.out, done
        assert done.outputs.endswith("exit-code=2\n") and "Traceback" not in done.out


def test_every_input_arrives(checkpoint: Path, tmp_path: Path) -> None:
    """All of them, odd ones too, as one argument each."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\n', encoding="utf-8")
    python.chmod(0o755)
    step = CHECK._replace(script=f'PATH="{python.parent}:$PATH"\n{CHECK.script}')
    done = run(
        step,
        tmp_path,
        subject="--my model; $(touch gone)",
        golden="a golden",
        against="b",
        on="CPU:0\nxla:CPU:0,threads=1\n",
        model="net.py:build?{}",
        like="c",
        tolerance="strict",
        arguments="--rename\nx=y z\n",
        junit="j.xml",
    )
    assert done.code == 0
    assert re.findall(r"<(.*)>", done.out) == [
        *("-m", "ckptkit_tf", "check", "--format", "github", "--tolerance", "strict"),
        *("--on", "CPU:0", "--on", "xla:CPU:0,threads=1", "--golden", "a golden"),
        *("--against", "b", "--model", "net.py:build?{}", "--like", "c", "--junit", "j.xml"),
        *("--rename", "x=y z", "--", "--my model; $(touch gone)"),
    ]
    assert not (tmp_path / "gone").exists()


POLICY = """\
[model]
formats = ["saved-model"]
nonfinite = false
[verify]
[baseline]
signature = "compatible"
"""


def test_a_policy(tmp_path: Path) -> None:
    (tmp_path / "my policy.toml").write_text(POLICY, encoding="utf-8")
    given = {"subject": str(EXPORT), "policy": "my policy.toml", "on": "CPU:0\n"}
    done = run(CHECK, tmp_path, **given, baseline=str(EXPORT), junit="out file.xml")
    assert done.code == 0, done
    assert done.outputs == "exit-code=0\n" and "::error" not in done.out
    assert 'failures="0"' in (tmp_path / "out file.xml").read_text(encoding="utf-8")
    untold = run(CHECK, tmp_path, **given)  # its [baseline] has nothing to compare with
    assert untold.code == 2 and untold.outputs.endswith("exit-code=2\n")
    assert "baseline" in untold.out


def test_a_policy_that_does_not_pass(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[model]\nformats = ["keras"]\n', encoding="utf-8")
    done = run(CHECK, tmp_path, subject=str(EXPORT), policy="p.toml", arguments="--verbose")
    assert done.code == 2 and "--verbose" in done.out  # which gate has not
    said = run(CHECK, tmp_path, subject=str(EXPORT), policy="p.toml", arguments="-o\nout.txt\n")
    assert said.code == 1 and said.outputs.endswith("exit-code=1\n")
    told = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert "::error" in told and "gate.format" in told


def test_a_policy_takes_no_inputs_of_a_check(tmp_path: Path) -> None:
    for other in ("golden", "against", "model", "like", "tolerance", "on"):
        given = {"subject": str(EXPORT), "policy": "p.toml", other: "else where"}
        done = run(CHECK, tmp_path, **given)
        assert done.code == 2 and "leave out 'else where'" in done.out
        assert done.outputs.endswith("exit-code=2\n")


def test_installing_takes_one_requirement(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nfor a in "$@"; do echo "<$a>"; done\n', encoding="utf-8")
    python.chmod(0o755)
    install = steps()[0]
    step = install._replace(script=f'PATH="{python.parent}:$PATH"\n{install.script}')
    for asked, requirement in (
        ({}, f"{ROOT}[tensorflow]"),  # the commit that the workflow names, and no other
        ({"install": "ckptkit-tf[runtimes] >= 0.1"}, "ckptkit-tf[runtimes] >= 0.1"),
    ):
        done = run(step, tmp_path, **asked)
        arguments = re.findall(r"<(.*)>", done.out)
        assert arguments[:3] == ["-m", "pip", "install"] and arguments[-1] == requirement
