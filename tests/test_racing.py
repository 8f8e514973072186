"""Pairs of writers of one output: old or new, never a mixture, and exit codes that are true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.places import environment

# support.racing.RACES, which takes a second to import
FORMS = (
    "checkpoint", "checkpoint-sharded", "safetensors-sharded", "safetensors", "saved-model",
    "bundle", "set", "manifest", "golden", "npz", "keras", "weights.h5",
)  # fmt: skip
QUICK = ("checkpoint-sharded", "safetensors-sharded", "safetensors", "golden")


def wrong(form: str, pairs: int, directory: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "support.racing", form, str(pairs), "1", str(directory)],
        stdout=subprocess.PIPE, text=True, check=True, env=environment(),
    )  # fmt: skip
    result: list[str] = json.loads(done.stdout.splitlines()[-1])["wrong"]
    return result


@pytest.mark.parametrize("form", QUICK)
def test_two_writers_leave_no_mixture(tmp_path: Path, form: str) -> None:
    assert wrong(form, 10, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_hundred_pairs_leave_no_mixture(tmp_path: Path, form: str) -> None:
    assert wrong(form, 200, tmp_path) == []
