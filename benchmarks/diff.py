"""`ckptkit diff` beside `cmp`, and beside TensorFlow with numpy: `python -m benchmarks.diff`.

Whole processes, start-up and all, on one machine and in one run: files of 500 MB, warm, the best of
several turns, the contenders taking turns so that noise meets all of them.  `--sparse-gb 20` also
compares two sparse files of that size, for the peak memory; it takes minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ckptkit._crc_combine import crc_of_repeated
from ckptkit.stores.tensor_bundle import open_bundle
from ckptkit.writers.base import OutTensor
from ckptkit.writers.tensor_bundle import index_items, write_tensor_bundle

Array = npt.NDArray[np.float32]
CACHE = Path(__file__).parent / ".cache" / "diff"
SHAPES = {
    "fc1/kernel": (25_088, 4_096),
    "fc2/kernel": (4_096, 4_096),
    **{f"conv{i}/kernel": (3, 3, 256, 512) for i in range(4)},
    **{f"conv{i}/bias": (512,) for i in range(4)},
}
ALLCLOSE = """
import sys, numpy as np, tensorflow as tf
one, two = (tf.train.load_checkpoint(p) for p in sys.argv[1:])
same = all(
    np.allclose(one.get_tensor(k), two.get_tensor(k), rtol=0, atol=0, equal_nan=True)
    for k in one.get_variable_to_shape_map()
)
sys.exit(not same)
"""


class Row(NamedTuple):
    """One contender: seconds of wall clock, bytes compared per file, peak resident MB."""

    name: str
    seconds: float
    nbytes: int
    peak_mb: float

    @property
    def rate(self) -> str:
        return f"{self.nbytes / self.seconds / 1e9:.2f} GB/s"


def save(prefix: Path, arrays: Mapping[str, Array]) -> None:
    """Write a name-based bundle."""

    def blocks(key: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        yield 0, arrays[key].reshape(-1)

    tensors = [OutTensor(key, "float32", array.shape) for key, array in arrays.items()]
    write_tensor_bundle(prefix, tensors, blocks)


def make_pair() -> int:
    """Write A, B (the same) and C (every element differs), once; return the bytes of each."""
    if not (CACHE / "C.index").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        old = {k: rng.standard_normal(s, dtype=np.float32) for k, s in SHAPES.items()}
        save(CACHE / "A", old)
        save(CACHE / "B", old)
        for array in old.values():
            array *= 1 + np.float32(1e-3) * rng.standard_normal(array.shape, dtype=np.float32)
        save(CACHE / "C", old)
    return sum(spec.nbytes for spec in open_bundle(CACHE / "A").specs.values())


def make_sparse(gigabytes: int) -> tuple[list[Path], int]:
    """Write two bundles of zeros, of ten tensors each, that take no room on the disk."""
    elements = gigabytes * 10**9 // 40
    crc = crc_of_repeated(bytes(4), 4 * elements)
    prefixes = [CACHE / "zeros1", CACHE / "zeros2"]
    for prefix in prefixes:
        tiny = np.zeros(1, np.float32)
        Path(f"{prefix}.index").unlink(missing_ok=True)
        Path(f"{prefix}.data-00000-of-00001").unlink(missing_ok=True)
        save(prefix, {f"t{i}": tiny for i in range(10)})  # a real bundle, to be grown
        tensors = [OutTensor(f"t{i}", "float32", (elements,)) for i in range(10)]
        _grow(prefix, tensors, crc)
    return prefixes, 40 * elements


def _grow(prefix: Path, tensors: Sequence[OutTensor], crc: int) -> None:
    """Write the index of a bundle of zeros over that of `prefix`, and stretch its data file."""
    from ckptkit.writers.leveldb_table import TableWriter
    from ckptkit.writers.tensor_bundle import _Entry

    size = 4 * tensors[0].size
    entries = {t.key: _Entry(0, i * size, size, crc) for i, t in enumerate(tensors)}
    with Path(f"{prefix}.index").open("wb") as file:
        table = TableWriter(file)
        for key, value in index_items(tensors, entries, 1):
            table.add(key, value)
        table.finish()
    os.truncate(f"{prefix}.data-00000-of-00001", size * len(tensors))


def measure(name: str, command: Sequence[str], nbytes: int, expected: int) -> Row:
    """Run a command once; raises AssertionError when it does not exit as expected."""
    code = (
        "import os, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "none = subprocess.DEVNULL\n"
        "done = subprocess.run(sys.argv[1:], stdout=none, stderr=none)\n"
        "print(time.perf_counter() - start, done.returncode,"
        " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    out = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    seconds, status, peak = out.stdout.split()
    assert int(status) == expected, f"{name}: exit {status}, not {expected}"
    return Row(name, float(seconds), nbytes, int(peak) / 1024)


def contenders(nbytes: int) -> dict[str, tuple[list[str], int, int]]:
    """Return {name: (command, bytes read per file, exit code expected)}."""
    tool = [sys.executable, "-m", "ckptkit", "diff", "--quiet"]
    a, b, c = (str(CACHE / name) for name in "ABC")
    data = ".data-00000-of-00001"
    allclose = [sys.executable, "-c", ALLCLOSE]
    return {
        "cmp, equal": (["cmp", a + data, b + data], nbytes, 0),
        "ckptkit diff, equal": ([*tool, a, b], nbytes, 0),
        "TensorFlow + np.allclose, equal": ([*allclose, a, b], nbytes, 0),
        "ckptkit diff, all differ, full metrics": ([*tool, a, c], nbytes, 1),
        "ckptkit diff --jobs 1, all differ": ([*tool, "--jobs", "1", a, c], nbytes, 1),
        "ckptkit diff --quick, all differ": ([*tool, "--quick", a, c], nbytes, 1),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sparse-gb", type=int, default=0, metavar="N")
    parser.add_argument("--no-tensorflow", action="store_true")
    options = parser.parse_args()
    nbytes = make_pair()
    best: dict[str, Row] = {}
    for _ in range(options.turns):
        for name, (command, size, expected) in contenders(nbytes).items():
            if options.no_tensorflow and "TensorFlow" in name:
                continue
            row = measure(name, command, size, expected)
            if name not in best or row.seconds < best[name].seconds:
                best[name] = row
    if options.sparse_gb:
        prefixes, size = make_sparse(options.sparse_gb)
        command = [sys.executable, "-m", "ckptkit", "diff", "--quiet", *map(str, prefixes)]
        name = f"ckptkit diff, two sparse files of {options.sparse_gb} GB"
        best[name] = measure(name, command, size, 0)
    print(f"| {nbytes / 1e6:.0f} MB per file, whole processes | wall | per file | peak memory |")
    print("|---|---:|---:|---:|")
    for row in best.values():
        print(f"| {row.name} | {row.seconds:.2f} s | {row.rate} | {row.peak_mb:.0f} MB |")


if __name__ == "__main__":
    main()
