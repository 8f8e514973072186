"""docs/check.md: its commands run on real files, its table is that of the code.

This is also the walk of record and check through processes, from training to a failing check.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ckptkit.model_io.tiers import BOUNDS
from support.command_line import Result, ckptkit
from support.places import ROOT
from support.scripts import run_script

PAGE = ROOT / "docs" / "check.md"
NET = """
import keras

def build(classes=4):
    inputs = keras.Input((6,), name="features")
    x = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    outputs = keras.layers.Dense(classes, name="scores")(x)
    model = keras.Model(inputs, outputs, name="net")
    model.compile(keras.optimizers.Adam(0.05), loss="mse")
    return model
"""
TRAIN = """
import keras, numpy as np, tensorflow as tf
import net

keras.utils.set_random_seed(1)
model = net.build()
checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
manager = tf.train.CheckpointManager(checkpoint, "run", max_to_keep=2)
rng = np.random.default_rng(1)
for step in range(2):
    model.fit(rng.normal(size=(32, 6)), rng.normal(size=(32, 4)), verbose=0)
    manager.save()
model.export("export", verbose=False)
model.save("model.keras")
"""

pytestmark = [pytest.mark.needs_tf, pytest.mark.slow]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the page calls its files."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "net.py").write_text(NET)
    run_script("-c", TRAIN, directory=directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        converted = ckptkit(
            "convert", "run/ckpt-1", "export-1", "--like", "export", "--weights-only"
        )
    assert converted.code == 0, converted
    return directory


@pytest.fixture(scope="module")
def walked(project: Path) -> dict[str, Result]:
    """Run the commands of the page, in its order; each must exit as the page says."""
    [block] = re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for line in block.splitlines():
            command, _, comment = line.partition("#")
            expected = re.match(r" exits (\d)", comment)
            program, *arguments = shlex.split(command)
            assert program == "ckptkit"
            result = ckptkit(*arguments)
            assert result.code == (int(expected[1]) if expected else 0), (line, result)
            results[command.strip()] = result
    return results


def output_of(walked: dict[str, Result], start: str) -> str:
    return next(result.out for command, result in walked.items() if command.startswith(start))


def test_the_commands_of_the_page(walked: dict[str, Result]) -> None:
    restored = output_of(walked, "ckptkit check run/ckpt-2")
    assert "ok: restore: 14 of 14 variables with the file's bytes" in restored
    assert "bound to 4 variables" in output_of(walked, "ckptkit record")
    assert re.search(
        r"xla:CPU:0 +drawn +output_0 +(within|equal)",
        output_of(walked, "ckptkit check export --on"),
    )
    failed = output_of(walked, "ckptkit check export-1")
    assert "differs" in failed and "kernel" in failed and "input.scaled" not in failed


def test_another_model_gets_none_of_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    model = 'net.py:build?{"classes": 5}'
    done = ckptkit("check", "run/ckpt-2", "--model", model, "--format", "json")
    assert done.code == 1
    coverage = json.loads(done.out)["coverage"]
    assert coverage["counts"]["shape"] == 6
    shapes = {
        v["name"]: (v["shape"], v["file_shape"])
        for v in coverage["variables"]
        if v["status"] == "shape"
    }
    assert shapes["scores/kernel"] == ([6, 5], [6, 4])


@pytest.mark.usefixtures("cold_children")
def test_the_same_weights_in_another_form(
    project: Path, walked: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint restored by code computes what the export was recorded to compute."""
    del walked
    monkeypatch.chdir(project)
    done = ckptkit("check", "run/ckpt-2", "--model", "net.py:build", "--golden", "golden")
    assert done.code == 0, done
    assert "14 of 14 variables" in done.out and "1 of 1 output" in done.out


@pytest.mark.usefixtures("cold_children")
@pytest.mark.parametrize(
    ("body", "options", "code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", (), "run.died", "SIGSEGV"),
        ("time.sleep(600)", ("--timeout", "2"), "run.timeout", "2 s"),
        ("held = bytearray(9 << 30)", ("--max-memory", "60MB"), "run.memory", "memory"),
    ],
    ids=["crash", "hang", "memory"],
)
def test_a_process_that_ends_badly_is_a_finding(
    body: str,
    options: tuple[str, ...],
    code: str,
    words: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    Path(f"{code}.py").write_text(f"import os, signal, time\n\ndef build():\n    {body}\n")
    model = f"{code}.py:build"
    done = ckptkit("check", "run/ckpt-2", "--model", model, *options, "--format", "json")
    assert done.code == 1, done
    [finding] = json.loads(done.out)["findings"]
    assert finding["code"] == code
    assert words in finding["message"]


def test_the_table_of_tiers(request: pytest.FixtureRequest) -> None:
    dtypes = ("float64", "float32", "float16", "bfloat16")
    when = {
        "T1": "same device, versions and switches",
        "T2": "another device, compiler, version, processor, number of threads; full precision",
        "T3": "TensorFloat-32 or mixed precision on one side",
        "T4": "another runtime",
    }
    lines = [f"| tier | when | {' | '.join(dtypes)} |", "|---|---|---|---|---|---|"]
    for tier, words in when.items():
        cells = [" / ".join(f"{bound:g}" for bound in BOUNDS[tier][dtype]) for dtype in dtypes]
        lines.append(f"| {tier} | {words} | {' | '.join(cells)} |")
    text = PAGE.read_text(encoding="utf-8")
    table = "\n".join(lines)
    expected = re.sub(
        r"(?s)(<!-- tiers -->\n).*(<!-- /tiers -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text
    )
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected, "run: pytest --regen"


def test_documented_fields_are_those_of_the_report(
    project: Path, walked: dict[str, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    section = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    section = section.partition("## `ckptkit.check/1`")[2].partition("\n## ")[0]
    done = ckptkit(
        "check", "run/ckpt-2", "--like", "export", "--golden", "golden", "--format", "json"
    )
    document = json.loads(done.out)
    assert document["outputs"] and document["coverage"]["variables"]
    names = {
        *document,
        *document["outputs"][0],
        *document["coverage"]["variables"][0],
        *document["runs"][0],
        *document["coverage"],
    }
    assert [name for name in sorted(names) if f"`{name}`" not in section] == []
