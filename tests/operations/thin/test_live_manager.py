"""`thin` beside a training run that saves and removes checkpoints all the while."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, PathNotFoundError
from ckptkit.stores.tensor_bundle.state_file import read_state
from support.places import environment

pytestmark = [pytest.mark.needs_tf, pytest.mark.slow]

KEPT = 2
# Every weight of checkpoint N is N, every slot is N + 0.5, so that each byte of it can be told.
TRAIN = """
import itertools, os, random, sys, time
import keras, tensorflow as tf

saves, at_most = map(int, sys.argv[1:])
model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(64), keras.layers.Dense(8)])
optimizer = keras.optimizers.Adam()
optimizer.build(model.trainable_variables)
slots = [v for v in optimizer.variables if len(v.shape)]
checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
manager = tf.train.CheckpointManager(checkpoint, "run", max_to_keep=at_most)
pauses = random.Random(7)
for number in itertools.count(1):
    for variable in model.weights:
        variable.assign(tf.fill(variable.shape, float(number)))
    for variable in slots:
        variable.assign(tf.fill(variable.shape, number + 0.5))
    manager.save(checkpoint_number=number)
    time.sleep(pauses.uniform(0, 0.12))
    if number >= saves and (os.path.exists("enough") or number >= 20 * saves):
        break
open("saved", "w").close()
for _ in range(60_000):  # TensorFlow opens a checkpoint twice, and must find the same one
    if os.path.exists("thinned"):
        break
    time.sleep(0.01)
restored = []
for path in manager.checkpoints:  # what it has not removed is whole, thin or not
    checkpoint.restore(path).expect_partial()
    assert all((v.numpy() == int(path.rpartition("-")[2])).all() for v in model.weights), path
    restored.append(path)
print(*restored)
"""


class Seen(NamedTuple):
    """number: of the checkpoint.  has_slots: whether it has the state of its optimizer."""

    number: int
    has_slots: bool


def number_of(prefix: Path) -> int:
    return int(prefix.name.rpartition("-")[2])


def seen(prefix: Path) -> Seen:
    """Read a checkpoint whole; raises where it is damaged or not there, or a value is not its."""
    number = number_of(prefix)
    with ckptkit.open(prefix) as checkpoint:
        roles = {naming.name: naming.role for naming in checkpoint.names.values()}
        values = {name: checkpoint[name] for name in roles}
    weights = [values[name] for name, role in roles.items() if role == "weight"]
    slots = [values[name] for name, role in roles.items() if role == "slot"]
    assert len(weights) == 4 and all((value == number).all() for value in weights), prefix
    assert len(slots) in (0, 8) and all((value == number + 0.5).all() for value in slots), prefix
    return Seen(number, bool(slots))


def newest_in(run: Path) -> int:
    latest = read_state(run / "checkpoint")[0]
    return number_of(Path(latest)) if latest else 0


@pytest.mark.parametrize("at_most", [4, 12])
def test_a_manager_that_saves_and_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    outcomes: Counter[str] = Counter()
    with subprocess.Popen(
        [sys.executable, "train.py", "150", str(at_most)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as training:
        while training.poll() is None and not Path("saved").exists():
            if not (run / "checkpoint").exists():
                continue
            try:
                done = ckptkit.thin(run, f"last:{KEPT}")
            except CkptkitError as error:
                outcomes[error.message.partition(":")[0]] += 1
                continue
            numbers = {number_of(row.path): row.status for row in done.rows}
            old = [number for number, status in numbers.items() if status == "thinned"]
            later = [number for number in numbers if number > max(old, default=0)]
            assert not old or len(later) >= KEPT, numbers
            assert max(old, default=0) < newest_in(run)
            for row in done.rows:
                outcomes[row.status] += 1
                if outcomes["thinned"] > 10:
                    Path("enough").touch()  # however slow the machine is
                if row.status == "thinned":
                    try:
                        assert not seen(row.path).has_slots
                    except PathNotFoundError:
                        outcomes["removed since"] += 1
        Path("thinned").touch()
        assert training.stdout is not None
        restored = training.stdout.read().split()
    assert training.returncode == 0
    assert outcomes["thinned"] > 10, outcomes
    assert len(restored) == at_most
    whole = [seen(Path(prefix)) for prefix in restored]
    last = newest_in(run)
    assert [one.number for one in whole] == [*range(last + 1 - at_most, last + 1)]
    assert all(one.has_slots for one in whole[-KEPT:])
    # what a removal in the very moment of a thinning left is whole, or named as refused
    for row in ckptkit.thin(run, f"last:{KEPT}").rows:
        if row.status != "refused":
            seen(row.path)
