"""Verifying, against the bare rate: pread and crc32c of the same bytes through one buffer."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import CKPTKIT, Result, inside, processes
from benchmarks.inputs import path

GB, MB = 1e9, 1e6
_FUNCTIONS = "benchmarks.verifying:functions"


def functions(prefix: str) -> dict[str, Callable[[], object]]:
    """Return the bare loop and the operation, with one thread and with two."""
    from google_crc32c import extend

    from ckptkit._io.files import aligned_buffer
    from ckptkit.operations.verify.api import verify

    shard = f"{prefix}.data-00000-of-00001"

    def bare() -> int:
        buffer = aligned_buffer(1 << 18)
        fd = os.open(shard, os.O_RDONLY)
        offset = crc = 0
        try:
            while count := os.preadv(fd, [buffer.data], offset):
                crc = extend(crc, buffer[:count])
                offset += count
        finally:
            os.close(fd)
        return crc

    def threaded() -> object:
        with ThreadPoolExecutor(2) as executor:
            return _sound(verify(prefix, executor=executor))

    return {"bare": bare, "one": lambda: _sound(verify(prefix)), "two": threaded}


def _sound(result: Any) -> Any:
    if result.exit_code:
        raise RuntimeError(str(result.findings))
    return result


def verifying() -> list[Result]:
    """Throughput on 671 MB, cached."""
    prefix = path("dense", "ckpt")
    seconds = inside(_FUNCTIONS, str(prefix))
    nbytes = prefix.with_name("ckpt.data-00000-of-00001").stat().st_size
    rate = {label: nbytes / GB / time for label, time in seconds.items()}
    bare = "pread + crc32c, one buffer"
    return [
        Result("verify", "verify 671 MB, one thread", "GB/s", rate["one"], rate["bare"], bare, 0.7),
        Result("verify", "the same, two threads", "GB/s", rate["two"], rate["bare"], bare),
    ]


def verifying_much() -> list[Result]:
    """Peak memory on 21 GB, against that on 671 MB."""
    commands = {
        "small": (*CKPTKIT, "verify", str(path("dense", "ckpt"))),
        "large": (*CKPTKIT, "verify", str(path("zeros", "one"))),
    }
    costs = processes(commands, rounds=1)
    peak = {label: cost.peak_bytes / MB for label, cost in costs.items()}
    return [
        Result("verify-21gb", "verify 21 GB (sparse)", "MB", peak["large"], peak["small"],
               "the same on 671 MB", goal=0.8),
    ]  # fmt: skip


def many_variables() -> list[Result]:
    """Processor time and peak memory on 1,000,000 variables, as a checkpoint and as safetensors."""
    commands = {
        f"{command} 1,000,000 variables of {what}": (*CKPTKIT, command, str(source))
        for command in ("ls", "verify")
        for what, source in (
            ("a checkpoint", path("million", "ckpt")),
            ("safetensors", path("million", "weights.safetensors")),
        )
    }
    costs = processes(commands, rounds=1)
    return [
        row
        for work, cost in costs.items()
        for row in (
            Result("many", work, "CPU s", cost.cpu_seconds),
            Result("many", "the same", "MB", cost.peak_bytes / MB, goal=600,
                   goal_is_of_ratio=False),
        )
    ]  # fmt: skip


BENCHMARKS = {"verify": verifying, "verify-21gb": verifying_much, "many": many_variables}
