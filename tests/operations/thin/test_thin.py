"""`thin`: what goes, what stays bit for bit, and what is never touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, UnsupportedError, UsageError
from ckptkit.operations.thin.run import kept_count
from ckptkit.runners.fork_server import sharing_imports
from ckptkit.stores.base import ObjectGraph
from support import more_resumed_runs
from support.command_line import ckptkit as run_command
from support.command_line import refused
from support.damage import flip
from support.goldens import GOLDEN, golden
from support.killing_thin import ADAM, make_run, state
from support.places import environment
from support.scripts import run_script


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and time of every file."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in directory.iterdir()}


def statuses(thinning: ckptkit.Thinning) -> list[str]:
    return [row.status for row in thinning.rows]


def test_old_checkpoints_lose_their_slots_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    times = {n: (run / f"ckpt-{n}.index").stat().st_mtime_ns for n in (1, 2, 3, 4)}
    newest = contents(run)["ckpt-4.index"]
    done = ckptkit.thin(run, "last:2")
    assert done.exit_code == 0
    assert statuses(done) == ["thinned", "thinned", "kept", "kept"]
    assert [state(run / f"ckpt-{n}") for n in (1, 2, 3, 4)] == ["thin", "thin", "old", "old"]
    sizes = [sum(p.stat().st_size for p in run.glob(f"ckpt-{n}.*")) for n in (1, 2, 3, 4)]
    assert [row.bytes_after for row in done.rows] == sizes
    assert done.bytes_before == 4 * done.rows[3].bytes_before > done.bytes_after == sum(sizes)
    assert contents(run)["ckpt-4.index"] == newest
    # where neither names nor a state file tell, times say which is the newest
    assert times == {n: (run / f"ckpt-{n}.index").stat().st_mtime_ns for n in (1, 2, 3, 4)}
    assert ckptkit.verify(run, strict=True).ok


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    ckptkit.thin(run, "last:1")
    before = contents(run)
    again = ckptkit.thin(run, "last:1")
    assert again.ok and statuses(again) == ["no optimizer state", "no optimizer state", "kept"]
    assert contents(run) == before


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = contents(run)
    done = ckptkit.thin(run, "last:1", dry_run=True)
    assert statuses(done) == ["would be thinned", "would be thinned", "kept"]
    assert done.bytes_after < done.bytes_before and contents(run) == before


def test_the_graph_names_no_key_that_is_gone_and_no_object_without_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    ckptkit.thin(run, "last:1")
    old, new = ckptkit.open(ADAM), ckptkit.open(run / "ckpt-1")
    assert isinstance(old.structure, ObjectGraph) and isinstance(new.structure, ObjectGraph)
    slots = {key for key, naming in old.names.items() if naming.role == "slot"}
    assert new.specs.keys() == old.specs.keys() - slots
    named = {key for node in new.structure.nodes for _, _, key in node.attributes}
    assert named == new.specs.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert len(new.structure.nodes) == len(old.structure.nodes) - len(slots)
    kept = {key: (old.names[key].name, old.names[key].role) for key in new.specs}
    assert {key: (naming.name, naming.role) for key, naming in new.names.items()} == kept


WITH_SLOTS = [
    "tf2.15.1/legacy_adam/ckpt",  # slot variables of the graph itself
    "tf2.15.1/towers/ckpt",
    "tf2.15.1/loss_scale/ckpt",
    "tf2.21.0/ema/ckpt",  # averages are values of the model, and stay
    "tf2.21.0/gan/ckpt",
    "tf2.21.0/compiled/ckpt",
]


@pytest.mark.parametrize("name", WITH_SLOTS)
def test_every_kind_of_optimizer(name: str, tmp_path: Path) -> None:
    source = golden(name).path
    for file in source.parent.glob(f"{source.name}.*"):
        for step in (1, 2):
            shutil.copy(file, tmp_path / f"ckpt-{step}{file.name.removeprefix(source.name)}")
    assert statuses(ckptkit.thin(tmp_path, "last:1")) == ["thinned", "kept"]
    old, new = ckptkit.open(source), ckptkit.open(tmp_path / "ckpt-1")
    roles = {naming.role for naming in new.names.values()}
    assert "slot" not in roles and roles == {n.role for n in old.names.values()} - {"slot"}
    assert ckptkit.verify(tmp_path / "ckpt-1").ok


def test_a_role_that_names_alone_tell_is_not_enough(tmp_path: Path) -> None:
    source = golden("tf2.21.0/saver/model.ckpt").path
    for file in source.parent.glob("model.ckpt.*"):
        for step in (1, 2):
            shutil.copy(file, tmp_path / f"m-{step}{file.name.removeprefix('model.ckpt')}")
    before = contents(tmp_path)
    done = ckptkit.thin(tmp_path, "last:1")
    assert done.exit_code == 2 and statuses(done) == ["refused", "kept"]
    assert "by its name alone" in done.rows[0].why and contents(tmp_path) == before


def test_without_optimizer_state_there_is_nothing_to_do(tmp_path: Path) -> None:
    run = shutil.copytree(GOLDEN / "tf2.21.0" / "manager", tmp_path / "run")
    before = contents(run)
    done = ckptkit.thin(run, "last:1")
    assert done.ok and statuses(done) == ["no optimizer state", "kept"]
    assert contents(run) == before


# --- never the newest -----------------------------------------------------------------------------


def refuses(run: Path, words: str, keep: str = "last:1") -> None:
    """Assert that a run is refused with these words, and that nothing changes."""
    before = contents(run)
    with pytest.raises(CkptkitError, match=words):
        ckptkit.thin(run, keep)
    assert contents(run) == before


def test_two_answers_to_which_is_the_newest_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "checkpoint").write_text('model_checkpoint_path: "ckpt-2"\n', encoding="utf-8")
    refuses(run, "its state file says ckpt-2; by step it is ckpt-3")
    (run / "checkpoint").write_text('model_checkpoint_path: "ckpt-9"\n', encoding="utf-8")
    refuses(run, "ckpt-9, which is not complete")


def test_without_steps_the_state_file_tells_and_then_the_times(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2)
    (run / "checkpoint").unlink()
    for file in list(run.iterdir()):
        file.rename(run / file.name.replace("ckpt-1", "later").replace("ckpt-2", "first"))
    for name, at_s in (("first", 1_000), ("later", 1_000)):
        os.utime(run / f"{name}.index", (at_s, at_s))
    refuses(run, "of one time")
    os.utime(run / "later.index", (2_000, 2_000))
    assert [row.path.name for row in ckptkit.thin(run, dry_run=True).rows] == ["first", "later"]
    said = 'model_checkpoint_path: "first"\n'
    listed = "".join(f'all_model_checkpoint_paths: "{name}"\n' for name in ("later", "first"))
    (run / "checkpoint").write_text(said + listed, encoding="utf-8")
    assert [row.path.name for row in ckptkit.thin(run, dry_run=True).rows] == ["later", "first"]


def test_some_checkpoint_must_be_left_to_go_on_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    ckptkit.convert(ADAM, tmp_path / "last", to="checkpoint", weights_only=True)
    for file in tmp_path.glob("last.*"):
        shutil.copy(file, run / file.name.replace("last", "ckpt-4"))
    (run / "checkpoint").unlink()
    refuses(run, "training could go on from no checkpoint")
    assert statuses(ckptkit.thin(run, "last:2"))[:2] == ["thinned", "thinned"]


def test_what_is_kept_is_read_before_anything_else_is_thinned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    flip(run / "ckpt-3.data-00000-of-00001", 8 * 30)
    refuses(run, "ckpt-3")


def test_a_damaged_old_checkpoint_stays_and_the_others_are_thinned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 4)
    spec = next(s for k, s in ckptkit.open(ADAM).specs.items() if "_trainable_variables/0" in k)
    assert spec.offset is not None
    flip(run / "ckpt-1.data-00000-of-00001", 8 * spec.offset)
    (run / "ckpt-2.data-00000-of-00001").unlink()
    damaged = contents(run)["ckpt-1.data-00000-of-00001"]
    done = ckptkit.thin(run, "last:1")
    assert done.exit_code == 2
    assert {row.path.name: row.status for row in done.rows} == {
        "ckpt-1": "refused",
        "ckpt-2": "refused",
        "ckpt-3": "thinned",
        "ckpt-4": "kept",
    }
    assert contents(run)["ckpt-1.data-00000-of-00001"] == damaged
    assert not [path for path in run.iterdir() if "tmp" in path.name]


# --- never while a save is under way --------------------------------------------------------------

LEFT_BY_SAVES = [
    "ckpt-4.data-00000-of-00001",
    "ckpt-4.data-00000-of-00001.tempstate123",
    "ckpt-4_temp/part-00000-of-00001.data-00000-of-00001",
    "checkpoint.tmp0123456789abcdef0123456789abcdef",
]


@pytest.mark.parametrize("name", LEFT_BY_SAVES)
def test_not_while_a_save_is_under_way(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"begun")
    with pytest.raises(UsageError, match="a save is under way"):
        ckptkit.thin(run, "last:1")
    assert [state(run / f"ckpt-{n}") for n in (1, 2, 3)] == ["old"] * 3
    for path in (run / name, *([(run / name).parent] if "/" in name else [])):
        os.utime(path, (1_000, 1_000))  # of a save that was killed long ago
    assert ckptkit.thin(run, "last:1").ok


def test_an_index_that_is_being_written_is_a_save(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = (run / "ckpt-3.index").read_bytes()
    (run / "ckpt-4.index").write_bytes(whole[: len(whole) // 2])
    shutil.copy(run / "ckpt-3.data-00000-of-00001", run / "ckpt-4.data-00000-of-00001")
    refuses(run, "a save is under way")


def test_another_writer_of_a_checkpoint_is_waited_for_by_the_user(tmp_path: Path) -> None:
    from ckptkit._io.claims import claiming

    run = make_run(tmp_path / "run")
    with claiming(run / "ckpt-1.index"):
        done = ckptkit.thin(run, "last:1")
    assert statuses(done) == ["refused", "thinned", "kept"] and "is writing it" in done.rows[0].why
    assert statuses(ckptkit.thin(run, "last:1")) == ["thinned", "no optimizer state", "kept"]


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_leaves_every_checkpoint_whole(stride: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.killing_thin", str(tmp_path), str(stride)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"old", "thin"} == {*done.stdout.split()} and len(done.stdout.split()) > 50 / stride


# --- what is no training directory ----------------------------------------------------------------


def test_what_cannot_be_thinned_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a training directory"):
        ckptkit.thin(ADAM)
    with pytest.raises(UsageError, match="SavedModel"):
        ckptkit.thin(golden("tf2.21.0/saved_model_export/model").path)
    with pytest.raises(UnsupportedError, match=r"model\.keras.*not thinned in place"):
        ckptkit.thin(GOLDEN / "tf2.21.0" / "files_nested")
    with pytest.raises(CkptkitError, match="no checkpoint"):
        ckptkit.thin(tmp_path)
    with pytest.raises(CkptkitError, match="no such directory"):
        ckptkit.thin(tmp_path / "nowhere")
    run = make_run(tmp_path / "run", 2)
    for file in run.glob("ckpt-1.data*"):
        shutil.move(file, tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    done = ckptkit.thin(run)
    assert statuses(done) == ["refused", "kept"] and "link" in done.rows[0].why


def test_what_keep_slots_may_be() -> None:
    assert kept_count("last:12") == 12
    for wrong in ("last:0", "last:-1", "2", "last", "last:1.5", "first:2", ""):
        with pytest.raises(UsageError, match="last:2"):
            kept_count(wrong)


def test_the_command(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    dry = run_command("thin", run, "--keep-slots", "last:1", "--dry-run")
    assert dry.code == 0 and "2 of 3 checkpoints would be thinned" in dry.out
    done = run_command("thin", run, "--keep-slots", "last:1", "--format", "json")
    document = json.loads(done.out)
    assert done.code == 0 and document["schema"] == "ckptkit.thin/1"
    assert [row["status"] for row in document["checkpoints"]] == ["thinned", "thinned", "kept"]
    again = run_command("thin", run, "--keep-slots", "last:1")
    assert again.code == 0 and "nothing to take out of 3 checkpoints" in again.out
    assert "--keep-slots last:0" in refused("thin", run, "--keep-slots", "last:0")


# --- TensorFlow -----------------------------------------------------------------------------------

RESTORE = """
import sys
import tensorflow as tf
import ckptkit, keras, numpy as np

directory = sys.argv[1]
keras.utils.set_random_seed(3)


def compiled():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def step(model):
    rng = np.random.default_rng(1)
    model.train_on_batch(rng.normal(size=(8, 3)), rng.normal(size=(8, 1)))


trained = compiled()
manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(model=trained, optimizer=trained.optimizer), directory, max_to_keep=3
)
weights = []
for _ in range(3):
    step(trained)
    manager.save()
    weights.append(trained.get_weights())
done = ckptkit.thin(directory, "last:1")
assert [row.status for row in done.rows] == ["thinned", "thinned", "kept"], done.rows
for number in (1, 2, 3):
    model = compiled()
    step(model)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    status = checkpoint.restore(f"{directory}/ckpt-{number}")
    status.expect_partial()
    for mine, kept in zip(model.get_weights(), weights[number - 1], strict=True):
        np.testing.assert_array_equal(mine, kept)
    assert int(model.optimizer.iterations) == int(checkpoint.save_counter) == number
    try:  # a slot that was not restored is no match: nobody goes on from it unaware
        status.assert_existing_objects_matched()
        assert number == 3
    except AssertionError as error:
        assert number < 3 and "8 Python objects that were not bound" in str(error), error
    alone = compiled()
    tf.train.Checkpoint(model=alone).restore(f"{directory}/ckpt-{number}").expect_partial()
    for mine, kept in zip(alone.get_weights(), weights[number - 1], strict=True):
        np.testing.assert_array_equal(mine, kept)
manager.save()
print(len(list(__import__("pathlib").Path(directory).glob("ckpt-1.*"))))
"""


@pytest.mark.needs_tf
def test_tensorflow_restores_a_thin_checkpoint(tmp_path: Path) -> None:
    # The last line: the manager removes a thin checkpoint as any other, all files of it.
    assert run_script("-c", RESTORE, tmp_path / "run").split()[-1] == "0"


@pytest.mark.slow
@pytest.mark.needs_tf
def test_runs_of_all_kinds_go_on_from_what_is_left(tmp_path: Path) -> None:
    run_script("-m", "support.more_resumed_runs", tmp_path)
    first, *_, start, end = (f"ckpt-{number}" for number in more_resumed_runs.KEPT)
    with sharing_imports():
        for name in more_resumed_runs.LOSSES:
            run = tmp_path / name
            was = ckptkit.load(run / first)
            planned = ckptkit.thin(run, "last:2", dry_run=True)
            done = ckptkit.thin(run, "last:2")
            assert planned.ok and done.ok and done.bytes_after < done.bytes_before, name
            left = ckptkit.load(run / first)
            slots = {key for key in was if "@" in key and not key.endswith("@ema")}
            assert {key for key in was if key not in left} == slots
            for key in left:
                assert key.startswith("_") or left[key].tobytes() == was[key].tobytes(), key
            report = ckptkit.check(
                run / start,
                resume=f"{more_resumed_runs.__file__}:{name}",
                steps=more_resumed_runs.KEPT[-1] - more_resumed_runs.KEPT[-2],
                against=run / end,
            )
            assert report.ok, name
            with ckptkit.open(run / first) as checkpoint:  # the place in the data is kept, too
                has_place = any("ITERATOR_STATE" in key for key in checkpoint.specs)
            assert has_place == (name == "iterator")
