"""Converting a 553 MB checkpoint, proof included, against copying its bytes; and peak memory.

Both start without an output file, and both end when it is on the disk.  The 4 GB source is sparse,
the output is not.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import CKPTKIT, Result, processes
from benchmarks.inputs import CACHE, path, sparse

MB = 1e6
GIB = 1 << 30
_PEER = "cp; sync FILE"


def _after_removing(file: Path, *command: object) -> tuple[str, ...]:
    """Return a command that first removes a file."""
    words = " ".join(shlex.quote(str(word)) for word in command)
    return "sh", "-c", f"rm -f {shlex.quote(str(file))} && {words}"


def converting() -> list[Result]:
    """A checkpoint into safetensors and npz, with and without the proof."""
    prefix = path("vgg16", "ckpt")
    data = prefix.with_name("ckpt.data-00000-of-00001")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        out, copy = Path(scratch, "w.safetensors"), Path(scratch, "copy")
        archive = Path(scratch, "w.npz")
        copying = f"cp {shlex.quote(str(data))} {shlex.quote(str(copy))} && sync {copy}"
        costs = processes(
            {
                "convert": _after_removing(out, *CKPTKIT, "convert", prefix, out),
                "cp": ("sh", "-c", f"rm -f {shlex.quote(str(copy))} && {copying}"),
                "npz": _after_removing(archive, *CKPTKIT, "convert", prefix, archive),
                "unproven": _after_removing(out, *CKPTKIT, "convert", prefix, out, "--no-check"),
            },
            rounds=5,
        )
    peer = costs["cp"].seconds
    rows = (
        ("convert", "553 MB checkpoint to safetensors, proven", 0.5),
        ("npz", "553 MB checkpoint to npz, proven", None),
        ("unproven", "553 MB checkpoint to safetensors, --no-check", None),
    )
    found = [
        Result(name, work, "s", costs[name].seconds, peer, _PEER, goal) for name, work, goal in rows
    ]
    peak = costs["convert"].peak_bytes / MB
    return [*found, Result("convert", "the same, peak memory", "MB", peak)]


def convert_memory() -> list[Result]:
    """Peak memory on 4 GB."""
    if shutil.disk_usage(CACHE).free < 6 * GIB:
        return []
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        source, out = Path(scratch, "zeros.safetensors"), Path(scratch, "out.npz")
        sparse(source, tensors=16, nbytes=GIB // 4)
        command = (*CKPTKIT, "convert", str(source), str(out), "--overwrite")
        peak = processes({"convert": command}, rounds=1)["convert"].peak_bytes / MB
    return [
        Result("convert", "4.3 GB to npz, peak memory", "MB", peak, None, "", 300.0, False),
    ]


BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "converting": converting,
    "convert_memory": convert_memory,
}
