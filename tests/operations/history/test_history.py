"""`history`: real runs of TensorFlow, sound ones without a finding, others with just the right."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.operations.history.result import History
from support.command_line import ckptkit as run_command
from support.damage import flip
from support.places import environment
from support.scripts import run_script
from support.signals import default_signals
from support.training_runs import FAULT_AT, SAVES
from support.weights import Array, write_bundle

STEP = 4  # batches between two saves


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    run_script("-m", "support.training_runs", top)
    return top


def found(history: History, *, notes: bool = False) -> list[tuple[str, int | None]]:
    """Return code and step of all findings."""
    return [(f.code, f.step) for f in history.findings if notes or f.severity != "note"]


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", ["adam", "sgd", "momentum"])
def test_sound_runs_have_no_findings(runs: Path, name: str) -> None:
    history = ckptkit.history(runs / "sound" / name)
    assert found(history, notes=True) == []
    assert history.ok
    assert [step.number for step in history.steps] == [STEP * n for n in range(1, SAVES + 1)]
    assert history.steps[9].path.name == "ckpt-10"


@pytest.mark.needs_tf
def test_a_layer_that_is_frozen_by_design_is_a_note(runs: Path) -> None:
    history = ckptkit.history(runs / "sound" / "by_design")
    assert history.ok
    (note,) = history.findings
    assert (note.severity, note.code) == ("note", "layer.not-trained")
    assert [layer.rpartition("/")[2] for layer in note.layers] == ["frozen"]


FAULTS = {
    "frozen": ("layer.stopped", True),
    "never": ("layer.never-moved", True),
    "rate_of_zero": ("weights.stopped", False),
    "dead": ("units.dead", True),
    "exploding": ("norm.exploding", True),
    "made_anew": ("layer.reinitialised", True),
    "nan_in_slots": ("slot.nan", True),
}


@pytest.mark.needs_tf
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_the_only_finding(runs: Path, name: str) -> None:
    code, is_of_a_layer = FAULTS[name]
    history = ckptkit.history(runs / name)
    step = STEP if name == "never" else STEP * FAULT_AT
    assert found(history) == [(code, step)]
    (finding,) = [f for f in history.findings if f.severity != "note"]
    if is_of_a_layer:
        assert [layer.rpartition("/")[2] for layer in finding.layers] == ["second"]
    assert run_command("history", runs / name, "--no-cache").code == 1


@pytest.mark.needs_tf
def test_nan_is_named_where_it_begins_and_where_it_spreads(runs: Path) -> None:
    history = ckptkit.history(runs / "nan")
    first, *others = [f for f in history.findings if f.severity != "note"]
    assert (first.code, first.step, first.value) == ("weight.nan", STEP * FAULT_AT, 1.0)
    assert [name.rpartition("/")[2] for name in first.tensors] == ["kernel"]
    after = STEP * (FAULT_AT + 1)
    assert {(f.code, f.step) for f in others} == {("weight.nan", after), ("slot.nan", after)}


@pytest.mark.needs_tf
def test_the_first_nan_by_halving_reads_few_checkpoints(runs: Path) -> None:
    history = ckptkit.history(runs / "nan", first_nan=True)
    (finding,) = history.findings
    assert (finding.code, finding.step) == ("weight.nan", STEP * FAULT_AT)
    assert "5 of 12 checkpoints read" in finding.message
    assert "assumed" in finding.message
    none = ckptkit.history(runs / "sound" / "sgd", first_nan=True)
    assert none.ok
    assert [f.code for f in none.findings] == ["nan.none"]


@pytest.mark.needs_tf
def test_an_optimizer_that_was_not_restored(runs: Path) -> None:
    # its counter, and with it the training steps, begin again: the names tell the order
    history = ckptkit.history(runs / "optimizer")
    assert found(history) == [("optimizer.reset", FAULT_AT)]
    assert history.how == "number in the name"


@pytest.mark.needs_tf
def test_an_older_checkpoint_in_the_place_of_a_newer_one(runs: Path) -> None:
    history = ckptkit.history(runs / "older")
    assert found(history) == [("checkpoint.older", FAULT_AT)]
    assert history.findings[0].value == 3.0


@pytest.mark.needs_tf
def test_epochs_of_keras_files_and_a_checkpoint_are_one_run(runs: Path) -> None:
    epochs = runs / "epochs"
    files = [*sorted(epochs.glob("*.keras"), reverse=True)]
    history = ckptkit.history(*files)
    assert [step.path.name for step in history.steps] == [
        f"model.{epoch:02d}.keras" for epoch in range(1, 5)
    ]
    assert history.ok
    h5 = ckptkit.history(*epochs.glob("*.h5"))
    assert [step.path.name[:10] for step in h5.steps] == [f"weights.{n:02d}" for n in range(1, 5)]
    # the last file of all epochs and the checkpoint are of one step: one tells no order
    with pytest.raises(UsageError, match=r"ckpt-5.*model\.04\.keras.* training step"):
        ckptkit.history(epochs)
    mixed = ckptkit.history(*files[1:], epochs / "ckpt-5")
    assert [step.format for step in mixed.steps] == [*["keras"] * 3, "tensor-bundle"]
    assert mixed.ok
    kernels = [t for t in mixed.tensors if t.role == "weight" and t.name.endswith("kernel")]
    assert len(kernels) == 4
    assert all(len(t.measured) == 4 for t in kernels)


# --- numbers --------------------------------------------------------------------------------------


def series(directory: Path, steps: list[dict[str, Array]]) -> list[dict[str, Array]]:
    directory.mkdir(exist_ok=True)
    for number, arrays in enumerate(steps):
        write_bundle(directory / f"ckpt-{number}", arrays)
    return steps


@pytest.mark.parametrize("kernel", ["", "numpy"], ids=["compiled", "numpy"])
def test_numbers_are_those_of_numpy_in_float64(
    kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTKIT_KERNEL", kernel)
    rng = np.random.default_rng(1)
    matrix: Array = rng.standard_normal((300, 501)).astype(np.float32)
    wide: Array = 1e3 + rng.standard_normal((2, 70_000))
    small: Array = np.array([3, -(2**62) - 1, 2**62 + 1], np.int64)
    steps: list[dict[str, Array]] = []
    for _ in range(4):
        matrix = matrix + rng.standard_normal(matrix.shape).astype(np.float32)
        wide = wide + rng.standard_normal(wide.shape)
        matrix[0, :3] = 0.0
        steps.append({"a/kernel": matrix, "b/wide": wide, "c": small.copy()})
    series(tmp_path, steps)
    for tensor in ckptkit.history(tmp_path).tensors:
        arrays = [step[tensor.name] for step in steps]
        values = [array.astype(np.float64).ravel() for array in arrays]
        for at, stored in enumerate(arrays):
            s = tensor.measured[at].statistics
            assert (s.n, s.n_zero) == (stored.size, int((stored == 0).sum()))
            assert (s.minimum, s.maximum) == (stored.min(), stored.max())
            assert s.norm == pytest.approx(np.sqrt((values[at] ** 2).sum()), rel=1e-12)
            assert s.mean == pytest.approx(values[at].mean(), rel=1e-11)
            assert s.std == pytest.approx(values[at].std(), rel=1e-12)
            update = tensor.measured[at].update
            if tensor.name == "c" or not at:
                continue
            one = values[at] - values[at - 1]
            assert update is not None
            assert update.norm == pytest.approx(np.linalg.norm(one), rel=1e-12)
            if at > 1:
                two = values[at - 1] - values[at - 2]
                cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                assert update.turn == pytest.approx(cosine, abs=1e-12)


def test_nan_and_infinities_are_counted_and_left_out_of_sums(tmp_path: Path) -> None:
    first = np.arange(12, dtype=np.float32).reshape(3, 4)
    second = first + 1
    second[0, 0], second[1, 1] = np.nan, np.inf
    series(tmp_path, [{"w": first}, {"w": second}])
    (tensor,) = ckptkit.history(tmp_path).tensors
    m = tensor.measured[1]
    finite = second[np.isfinite(second)].astype(np.float64)
    s = m.statistics
    assert (s.n_nan, s.n_inf, s.minimum, s.maximum) == (1, 1, 2.0, 12.0)
    assert s.norm == pytest.approx(np.linalg.norm(finite), rel=1e-14)
    assert m.update is not None
    assert m.update.norm == pytest.approx(np.sqrt(10), rel=1e-14)


def test_every_executor_says_the_same(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from multiprocessing import get_context

    rng = np.random.default_rng(2)
    series(tmp_path, [{f"l{i}/k": rng.standard_normal((40, 30)) for i in range(9)} for _ in "abc"])
    plain = ckptkit.history(tmp_path)
    spawned = get_context("spawn")  # a fork would have locks that threads of this process hold
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, spawned) as processes:
        for executor in (threads, processes):
            assert ckptkit.history(tmp_path, executor=executor).to_json() == plain.to_json()


def test_what_changes_in_no_checksum_is_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frozen = rng.standard_normal((40, 30))
    steps = [{"frozen/k": frozen, "l/k": rng.standard_normal((40, 30))} for _ in "abcd"]
    series(tmp_path, steps)
    spec = ckptkit.open(tmp_path / "ckpt-2").specs["frozen/k"]
    assert spec.offset is not None
    flip(tmp_path / "ckpt-2.data-00000-of-00001", 8 * spec.offset)
    history = ckptkit.history(tmp_path)  # read, the damage would be seen
    assert [f.code for f in history.findings if f.severity != "note"] == []
    assert next(t for t in history.tensors if t.layer == "frozen").measured[3].update == (
        0.0,
        None,
        0,
    )


# --- order ----------------------------------------------------------------------------------------


def tiny(value: float, **more: int) -> dict[str, Array]:
    counters = {name: np.array(number, np.int64) for name, number in more.items()}
    return {"d/kernel": np.full((2, 2), value) + np.eye(2), **counters}


def test_steps_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (9, 10, 100):
        write_bundle(tmp_path / f"ckpt-{number}", tiny(number))
    assert [s.number for s in ckptkit.history(tmp_path).steps] == [9, 10, 100]


def test_without_numbers_in_names_counters_tell(tmp_path: Path) -> None:
    for name, step in (("a", 30), ("b", 10), ("c", 20)):
        write_bundle(tmp_path / name, tiny(step, global_step=step))
    history = ckptkit.history(tmp_path)
    assert [s.path.name for s in history.steps] == ["b", "c", "a"]
    assert history.how == "training step"


def test_two_orders_are_named_and_nothing_is_guessed(tmp_path: Path) -> None:
    for name in ("e1-s30", "e2-s20", "e3-s10"):
        write_bundle(tmp_path / name, tiny(1))
    with pytest.raises(UsageError, match="two numbers in the names"):
        ckptkit.history(tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    for name in ("gen-1", "gen-2", "disc-1", "disc-2"):
        write_bundle(tmp_path / name, tiny(1))
    with pytest.raises(UsageError, match=r"2 series.*disc-\* \(2\).*gen-\* \(2\)"):
        ckptkit.history(tmp_path)


def test_what_has_no_step_beside_a_series_is_left_out_and_said(tmp_path: Path) -> None:
    for name in ("ckpt-1", "ckpt-2", "best"):
        write_bundle(tmp_path / name, tiny(len(name)))
    history = ckptkit.history(tmp_path)
    assert [s.path.name for s in history.steps] == ["ckpt-1", "ckpt-2"]
    assert history.notes == ("left out best: nothing tells its step",)


# --- broken files ---------------------------------------------------------------------------------


@pytest.fixture
def five(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    kernel = rng.standard_normal((8, 5)).astype(np.float32)
    steps = []
    for _ in range(5):
        kernel = kernel + np.float32(0.01) * rng.standard_normal((8, 5)).astype(np.float32)
        steps.append({"d/kernel": kernel})
    series(tmp_path / "run", steps)
    return tmp_path / "run"


def test_damage_is_listed_and_passed_over(five: Path) -> None:
    flip(five / "ckpt-2.data-00000-of-00001", 77)
    history = ckptkit.history(five)
    assert found(history) == [("checkpoint.damaged", 2)]
    assert sorted(history.tensors[0].measured) == [0, 1, 3, 4]
    assert "crc32c" in history.steps[2].problem


def test_halving_passes_over_damage(five: Path) -> None:
    flip(five / "ckpt-4.data-00000-of-00001", 77)
    history = ckptkit.history(five, first_nan=True)
    assert found(history, notes=True) == [("checkpoint.damaged", 4), ("nan.none", 3)]


def test_sums_of_gradients_come_and_go(tmp_path: Path) -> None:
    steps: list[dict[str, Array]] = []
    for number in range(8):
        kernel = np.arange(12.0).reshape(3, 4) + 0.01 * number
        steps.append({"d/kernel": kernel, "d/kernel@sum": kernel * (number % 2)})
    series(tmp_path, steps)
    history = ckptkit.history(tmp_path)
    assert [t.role for t in history.tensors] == ["weight", "slot"]
    assert found(history) == []
    lost: Array = np.zeros((3, 4))
    series(tmp_path / "lost", [s | {"d/kernel@sum": s["d/kernel"]} for s in steps[:4]])
    write_bundle(tmp_path / "lost" / "ckpt-4", {**steps[4], "d/kernel@sum": lost})
    assert found(ckptkit.history(tmp_path / "lost")) == [("optimizer.reset", 4)]


def test_an_incomplete_checkpoint_is_listed_and_passed_over(five: Path) -> None:
    (five / "ckpt-1.data-00000-of-00001").unlink()
    (five / "ckpt-3.index").unlink()
    history = ckptkit.history(five)
    assert found(history) == [("checkpoint.incomplete", 1), ("checkpoint.incomplete", 3)]
    assert sorted(history.tensors[0].measured) == [0, 2, 4]


def test_a_checkpoint_saved_twice(five: Path) -> None:
    for suffix in ("index", "data-00000-of-00001"):
        shutil.copy(five / f"ckpt-2.{suffix}", five / f"ckpt-3.{suffix}")
    assert found(ckptkit.history(five)) == [("checkpoint.equal", 3)]


def test_weights_that_stop_where_nothing_counts_steps(five: Path) -> None:
    for number in (2, 3, 4):
        for suffix in ("index", "data-00000-of-00001"):
            shutil.copy(five / f"ckpt-1.{suffix}", five / f"ckpt-{number}.{suffix}")
    assert found(ckptkit.history(five)) == [("checkpoint.equal", 2), ("weights.stopped", 2)]


# --- what was measured before ---------------------------------------------------------------------


def test_a_second_run_reads_no_values_and_says_the_same(five: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    old = 1_700_000_000
    for file in five.iterdir():
        _settle(file, old)
    first = ckptkit.history(five, cache=cache)
    assert cache.is_file()
    script = (
        "import sys, ckptkit\n"
        "from ckptkit._io import file_states; file_states._SETTLED_NS = -(10**18)\n"
        f"h = ckptkit.history({str(five)!r}, cache={str(cache)!r})\n"
        "assert 'numpy' not in sys.modules, 'values were read'\n"
        "import json; print(json.dumps(h.to_json()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(json.dumps(first.to_json()))


def test_a_file_that_changed_is_read_again(five: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    for file in five.iterdir():
        _settle(file, 1_700_000_000)
    assert ckptkit.history(five, cache=cache).ok
    flip(five / "ckpt-2.data-00000-of-00001", 77)
    _settle(five / "ckpt-2.data-00000-of-00001", 1_700_000_000)  # the old time is set back
    assert found(ckptkit.history(five, cache=cache)) == [("checkpoint.damaged", 2)]


@pytest.mark.parametrize("content", [b'{"a": 1}', b"PK\x03\x04\x00", b"\x89HDF\r\n", b"[]", b'{"a'])
def test_a_cache_that_is_none_is_left_as_it_is(five: Path, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other"
    other.write_bytes(content)
    result = run_command("history", five, "--cache", other)
    assert result.code == 2
    assert "other: is no cache of a history" in result.err
    assert other.read_bytes() == content


def test_a_directory_whose_name_is_no_text(five: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        shutil.copytree(five, odd)
    except OSError:
        pytest.skip("this file system takes names of text alone")
    assert ckptkit.history(odd).ok  # with the cache that it has unless told otherwise


def test_a_cache_that_was_asked_for_and_is_not_written_is_told(five: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = ckptkit.history(five, cache=tmp_path / "file" / "cache.json")
    assert result.ok
    assert (
        "nothing is kept" in " ".join(result.notes) and str(tmp_path / "file") in result.notes[-1]
    )


def test_a_directory_is_no_cache(five: Path) -> None:
    assert run_command("history", five, "--cache", five).code == 2


@pytest.mark.parametrize("content", [b"", b'{"schema": "ckptkit.history-cache/1", "fil'])
def test_a_cache_that_is_cut_short_is_made_anew(five: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache.json"
    cache.write_bytes(content)
    assert ckptkit.history(five, cache=cache).ok
    assert json.loads(cache.read_text(encoding="utf-8"))["files"]


def _settle(file: Path, at_s: int) -> None:
    """Let a file be as old as one of another day: its times are not of this moment."""
    os.utime(file, (at_s, at_s))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe that no file changes twice within a tick of the clock."""
    from ckptkit._io import file_states

    monkeypatch.setattr(file_states, "_SETTLED_NS", -(10**18))


# --- following ------------------------------------------------------------------------------------


def test_following_tells_each_step_once(five: Path, tmp_path: Path) -> None:
    from ckptkit.operations.history.follow import follow

    live = tmp_path / "live"
    live.mkdir()
    waiting = [0, 1, 2, 3, 4]

    def goes_on() -> bool:
        if not waiting:
            return False
        number = waiting.pop(0)
        for suffix in ("data-00000-of-00001", "index"):
            shutil.copy(five / f"ckpt-{number}.{suffix}", live / f"ckpt-{number}.{suffix}")
        if number == 3:  # as a manager that keeps two
            for file in (*live.glob("ckpt-0*"), *live.glob("ckpt-1*")):
                file.unlink()
        return True

    told = []
    for history, new in follow(live, look_every_s=0.0, goes_on=goes_on):
        told += [path.name for path in new]
        assert history.ok
        last = history
    assert told == [f"ckpt-{n}" for n in range(5)]
    assert [last.tensors[0].measured[at].update is not None for at in range(5)] == [
        False,
        *[True] * 4,
    ]


def test_a_run_is_watched_at_the_command_line(five: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ckptkit", "history", str(five), "--follow"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    ) as watcher:
        assert watcher.stdout is not None
        rows = [watcher.stdout.readline().split() for _ in range(6)]
        watcher.send_signal(signal.SIGINT)
        assert watcher.stdout.read() == ""
    assert watcher.returncode == 130
    assert rows[0][:3] == ["STEP", "CHECKPOINT", "NORM"]
    assert [row[1] for row in rows[1:]] == [f"ckpt-{number}" for number in range(5)]


def test_a_part_that_no_file_of_the_run_has(five: Path) -> None:
    for runs in ([f"{five}/ckpt-1#none"], [f"{five}/ckpt-{n}#none" for n in (1, 2)]):
        refused = run_command("history", *runs)
        assert refused.code == 2 and refused.err.count("\n") == 1
        assert "no tensor below 'none'" in refused.err


@pytest.mark.slow
@pytest.mark.needs_tf
@pytest.mark.in_use
def test_beside_a_training_loop_of_500_saves(tmp_path: Path) -> None:
    saves, live = 500, tmp_path / "live"
    live.mkdir()
    command = [sys.executable, "-m", "ckptkit", "history", str(live), "--follow", "-f", "jsonl"]
    with subprocess.Popen(
        [*command, "--jobs", "1"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    ) as watcher:
        training = [sys.executable, "-m", "support.training_runs", str(live), str(saves)]
        subprocess.run(
            training, env=environment(), check=True, timeout=1000, stderr=subprocess.DEVNULL
        )
        assert watcher.stdout is not None
        rows = []
        for line in watcher.stdout:
            rows.append(json.loads(line))
            if rows[-1]["name_number"] == saves:
                break
        watcher.send_signal(signal.SIGINT)
        watcher.stdout.read()
    numbers = [row["name_number"] for row in rows]
    assert numbers == sorted(set(numbers))  # each once, in order
    assert len(numbers) > 5  # more than are kept at the end: those that went are still part of it
    assert [row["findings"] for row in rows if row["findings"]] == []
    left = {int(path.name[5:-6]) for path in live.glob("*.index")}
    assert left <= set(numbers)


def test_formats_and_refusals(five: Path, tmp_path: Path) -> None:
    table = run_command("history", five, "--no-cache").out
    assert table.splitlines()[0].split()[:3] == ["LAYER", "PARAMS", "NORM"]
    assert table.splitlines()[-1].endswith("1 tensor: no findings")
    document = json.loads(run_command("history", five, "--no-cache", "-f", "json").out)
    assert document["schema"] == "ckptkit.history/1"
    (row,) = document["tensors"]
    assert len(row["norm"]) == len(document["steps"]) == 5
    csv = run_command("history", five, "--no-cache", "-f", "csv").out.splitlines()
    assert len(csv) == 6
    for arguments in (
        ["--cache", "x", "--no-cache"],
        ["--follow", "--full"],
        ["--first-nan", "--full"],
        ["--threshold", "growth"],
        ["--threshold", "nonsense=1"],
        ["--since", "99"],
        ["--name", "nothing*"],
    ):
        result = run_command("history", five, *arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
    assert run_command("history", tmp_path / "nowhere").code == 2


def test_every_and_since(five: Path) -> None:
    steps = [s.number for s in ckptkit.history(five, every=3).steps]
    assert steps == [0, 3, 4]
    assert [s.number for s in ckptkit.history(five, since=3).steps] == [3, 4]


def test_thresholds_can_be_set(five: Path) -> None:
    assert ckptkit.history(five, thresholds={"jump": 1e-9}).thresholds.jump == 1e-9
    with pytest.raises(UsageError, match="no threshold 'grwth'"):
        ckptkit.history(five, thresholds={"grwth": 2})
