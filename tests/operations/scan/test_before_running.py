"""What is said of a model before it runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.operations.scan.before_running import FlaggedModelWarning, flagged
from support.command_line import ckptkit as run
from support.hostile_models import keras_file, layer, model_with, write_model

LAMBDA = {
    "class_name": "Functional",
    "module": "keras",
    "config": {"layers": [layer("Lambda", function={"class_name": "__lambda__", "config": {}})]},
}


def test_what_an_op_does_is_said_in_one_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", model_with("WriteFile", "graph"), "pb")
    text = flagged(model)
    assert "WriteFile" in text
    assert "writes files" in text
    assert "\n" not in text
    assert len(text) < 600


def test_of_a_harmless_model_nothing_is_said(tmp_path: Path) -> None:
    assert not flagged(write_model(tmp_path / "m", model_with("Add", "graph"), "pb"))


def test_a_class_of_ones_own_is_no_alarm(tmp_path: Path) -> None:
    config = {
        "class_name": "Functional",
        "module": "keras",
        "config": {"layers": [layer("Mine", module="mine")]},
    }
    assert not ckptkit.scan(keras_file(tmp_path / "m.keras", config)).ok
    assert not flagged(tmp_path / "m.keras")


def test_what_cannot_be_scanned_is_told_by_what_loads_it(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 40)
    assert not flagged(tmp_path)
    assert not flagged(tmp_path / "nothing")


def test_the_library_warns_before_it_runs_and_trust_silences_it(tmp_path: Path) -> None:
    model = keras_file(tmp_path / "m.keras", LAMBDA)
    with pytest.warns(FlaggedModelWarning, match="Python code"), pytest.raises(CkptkitError):
        ckptkit.check(model, golden=tmp_path / "none")  # looked for when the model is resolved
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CkptkitError):
            ckptkit.check(model, golden=tmp_path / "none", trust=True)


def test_the_command_says_it_on_stderr(tmp_path: Path) -> None:
    model = keras_file(tmp_path / "m.keras", LAMBDA)
    arguments = ["check", str(model), "--golden", str(tmp_path)]
    said = run(*arguments)
    assert "note: " in said.err
    assert "--trust leaves this out" in said.err
    assert "flagged" not in run(*arguments, "--trust").err
