"""Work that is fanned out: in order, in batches, and what a lost worker comes to."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptkit._io.pool import BATCH_BYTES, batched_map, bounded_map
from ckptkit.errors import WorkerLostError
from ckptkit.operations.verify.api import verify
from support.keras_files import write_keras


def _double(number: int) -> int:
    return 2 * number


def test_batches_come_in_order() -> None:
    numbers = list(range(1000))
    wanted = [2 * number for number in numbers]
    with ThreadPoolExecutor(2) as threads:
        for executor in (None, threads):
            assert list(batched_map(executor, _double, numbers, lambda n: n)) == wanted
            assert list(batched_map(executor, _double, numbers, lambda n: BATCH_BYTES)) == wanted
            assert list(batched_map(executor, _double, [], lambda n: n)) == []


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras")
    with ProcessPoolExecutor(1) as executor:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="a worker ended before its work was done"):
            for _ in range(100):
                list(bounded_map(executor, _double, [1, 2]))
        result = verify(path, executor=executor)
    assert result.exit_code == 2
    assert "BrokenProcessPool" in str(result.refusals[0])
    assert "\n" not in str(result.refusals[0])
