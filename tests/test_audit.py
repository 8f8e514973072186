"""Whatever a hostile file says, reading it runs nothing, starts nothing, fetches nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.places import ROOT, environment


def test_no_forbidden_event_over_the_hostile_corpus(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    done = subprocess.run(
        [sys.executable, "-m", "support.audit", str(tmp_path), "3"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["seen"] == {}
    assert result["files"] > 150


def test_the_hook_sees_what_it_should(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, pickle; from support import audit\n"
        "watch = audit.Watch(); watch.armed = True\n"
        "exec('1'); open('probe', 'w').close(); subprocess.run(['true'])\n"
        "pickle.loads(pickle.dumps(os.getcwd)); import this\n"
        "watch.armed = False; print(sorted({k.split()[0] for k in watch.seen}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    for event in ("exec", "compile", "import", "open", "subprocess.Popen", "pickle.find_class"):
        assert f"'{event}'" in done.stdout, (event, done.stdout, done.stderr)
