"""The script that checks goldens on a GPU: what becomes of its rows.  Needs no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks._gpu_models import MODELS
from benchmarks._gpu_page import page
from benchmarks._gpu_rows import BEYOND, FAILED, NAMES, NOT_RUN, RUNTIMES, WITHIN, Outcome, rows
from benchmarks.gpu import Measuring, judged, limited
from ckptkit.runners.registry import RUNNERS
from ckptkit.runners.spec import parse_runner
from support.places import ROOT

OUTPUT = {"output": "y", "ok": True, "needed": 2e-5, "atol": 1e-4, "rtol": 1e-3, "tier": "T4"}
RUN = {
    "environment": {
        "runtime": "keras-jax",
        "device_name": "NVIDIA H100 (compute capability 9.0)",
        "versions": {"jax": "0.11.2"},
    }
}


def measuring(folder: Path, seconds: float = 600.0) -> Measuring:
    """A run of a carried directory without models: every row is refused at once."""
    folder.mkdir(exist_ok=True)
    (folder / "prepared.json").write_text('{"tensorflow": "2.21.0"}')
    until = time.monotonic() + seconds
    return Measuring(folder, "GPU:0", folder / "gpu.json", until, 100.0, folder / "site")


def results(*outcomes: Outcome, device: str = "GPU:0") -> dict[str, Any]:
    rows = [outcome.to_json() for outcome in outcomes]
    return {"device": device, "recorded_with": {"tensorflow": "2.21.0"}, "rows": rows}


def test_every_row_is_a_runner_that_can_be_asked_for() -> None:
    planned = rows(tuple(RUNTIMES), True)
    assert len({row.key for row in planned}) == len(planned)
    assert {row.model for row in planned} == set(NAMES) == set(MODELS)
    for row in planned:
        spec = parse_runner(row.runner("GPU:0"))
        assert (spec.runtime, spec.device, spec.index) == (row.runtime, "GPU", 0)
        assert spec.tf32 is (row.way == "TF32")
    assert set(RUNTIMES) <= set(RUNNERS)


def test_what_matters_most_comes_first() -> None:
    planned = rows(tuple(RUNTIMES), True)
    first = [row.way for row in planned[: len(NAMES) * len(RUNTIMES)]]
    assert set(first) == {"float32"}
    assert not [row for row in rows(tuple(RUNTIMES), False) if row.switches == "tf32"]


def test_a_row_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    begun, alive = tmp_path / "begun", tmp_path / "alive"
    child = (
        f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(600); "
        f"pathlib.Path({str(alive)!r}).touch()"
    )
    hangs = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    limit_s = 0.5
    while not begun.exists():  # a slow machine takes longer until it hangs
        limit_s *= 2
        status, _, seconds = limited([sys.executable, "-c", hangs], limit_s, tmp_path)
        assert status is None
        assert judged("row", status, "", seconds).outcome == FAILED
    assert not alive.exists()  # what it prints to is closed: it has ended, before it came so far


@pytest.mark.parametrize(
    ("status", "printed", "outcome"),
    [
        (2, "error: no GPU:0 here: JAX sees 0", NOT_RUN),
        (-9, "", FAILED),
        (1, "Traceback", FAILED),
    ],
)
def test_what_gives_no_report_is_no_pass(status: int, printed: str, outcome: str) -> None:
    found = judged("row", status, printed, 1.0)
    assert (found.outcome, found.why, found.outputs) == (outcome, printed, ())


@pytest.mark.parametrize(
    ("status", "outputs", "outcome"),
    [
        (0, [OUTPUT], WITHIN),
        (1, [OUTPUT, {**OUTPUT, "ok": False}], BEYOND),
        (1, [], FAILED),  # it died, or found no memory
        (1, [OUTPUT], FAILED),  # all is well but where it ran
    ],
)
def test_a_report_is_judged(status: int, outputs: list[Any], outcome: str) -> None:
    findings = [{"severity": "error", "message": "on GPU:0: out of memory"}] if status else []
    report = {"outputs": outputs, "runs": [RUN], "findings": findings}
    found = judged("row", status, json.dumps(report), 1.0)
    assert found.outcome == outcome
    assert found.why == ("on GPU:0: out of memory" if status else "")


def test_one_row_that_cannot_run_does_not_lose_the_others(tmp_path: Path) -> None:
    run = measuring(tmp_path / "carried")
    planned = rows(("keras-jax",), True)[:3]
    run.note(Outcome(planned[1].key, WITHIN, outputs=(OUTPUT,), run=RUN))
    run.run(planned, jobs=2)
    written = json.loads(run.results.read_text())["rows"]
    assert {row["key"]: row["outcome"] for row in written} == {
        planned[0].key: NOT_RUN,
        planned[1].key: WITHIN,
        planned[2].key: NOT_RUN,
    }
    assert "no such file" in run.done[planned[0].key].why.lower()


def test_a_row_that_was_not_come_to_is_on_the_page(tmp_path: Path) -> None:
    run = measuring(tmp_path / "carried")
    run.note(Outcome("keras-jax recurrent float32", WITHIN, outputs=(OUTPUT,), run=RUN))
    run.plan(rows(("keras-jax",), False))
    run.note(Outcome("keras-jax multi_io float32", WITHIN, outputs=(OUTPUT,), run=RUN))
    written = json.loads(run.results.read_text())
    planned = [row.key for row in rows(("keras-jax",), False)]
    assert [row["key"] for row in written["rows"]] == planned
    text = page(written)
    assert f"`keras-jax`: {len(planned) - 2} rows: it was not come to" in text
    assert text.count("2.0e-05 (T4)") == 2


def test_rows_for_which_no_time_is_left_are_said(tmp_path: Path) -> None:
    run = measuring(tmp_path / "carried", seconds=0.0)
    run.run(rows(("keras-jax",), True)[:1], jobs=1)
    (outcome,) = run.done.values()
    assert (outcome.outcome, outcome.why) == (NOT_RUN, "no time was left")


def test_what_was_measured_is_taken_up_where_the_goldens_are_the_same(tmp_path: Path) -> None:
    run = measuring(tmp_path / "carried")
    run.note(Outcome("keras-jax recurrent float32", WITHIN, outputs=(OUTPUT,), run=RUN))
    again = measuring(tmp_path / "carried")
    again.resume()
    assert again.done == run.done
    golden = tmp_path / "carried" / "goldens" / "recurrent"
    golden.mkdir(parents=True)
    (golden / "manifest.json").write_text("{}")
    other = measuring(tmp_path / "carried")
    other.resume()
    assert other.done == {}


def test_the_page_says_first_what_was_not_run() -> None:
    text = page(
        results(
            Outcome("keras-jax recurrent float32", WITHIN, "", (OUTPUT,), RUN),
            Outcome("keras-jax multi_io float32", BEYOND, "y differs", ({**OUTPUT, "ok": False},)),
            Outcome("tensorflow recurrent float32", NOT_RUN, "tensorflow is not installed there"),
        )
    )
    assert text.index("Not run") < text.index("is not installed") < text.index("## Measured")
    assert "| float32 | recurrent | 2.0e-05 (T4) |" in text
    assert "| float32 | multi_io | **2.0e-05 (T4)** |" in text
    assert "NVIDIA H100 (compute capability 9.0): jax 0.11.2" in text
    assert "`keras-jax multi_io float32`: beyond: y differs" in text


def test_a_page_without_a_gpu_says_so_before_all_else() -> None:
    outcome = Outcome("keras-jax recurrent float32", WITHIN, "", (OUTPUT,), RUN)
    text = page(results(outcome, device="CPU:0"))
    assert text.index("Nothing ran on a GPU") < text.index("Recorded")
    assert "Nothing ran on a GPU" not in page(results(outcome))


def test_the_page_in_the_docs_is_that_of_the_numbers_beside_it() -> None:
    measured = json.loads((ROOT / "docs" / "gpu.json").read_text("utf-8"))
    assert (ROOT / "docs" / "gpu.md").read_text("utf-8") == page(measured)


def test_code_of_the_reference_models_needs_no_tensorflow() -> None:
    """What the models import of this package, but for Keras itself."""
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from ckptkit.fixtures import data, saving, training"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
