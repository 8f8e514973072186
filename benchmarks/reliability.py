"""`python -m benchmarks.reliability`: how damage fares here and in TensorFlow's own reader.

Every file is made anew, damaged, and read by `ckptkit.verify` (and `ls`) in this process and by
TensorFlow's checkpoint reader in a process of its own.  With --write the table goes into
docs/reliability.md.  With --quick the numbers are smaller by far.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEADERS = ("what", "files", "ckptkit", "TensorFlow's reader")


class Row(NamedTuple):
    """One line of the table."""

    what: str
    files: int
    ours: str
    theirs: str = ""


class Peer:
    """TensorFlow's reader, in a process that outlives what it reads."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._tf_verdicts"],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __call__(self, prefix: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(prefix)) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


def kind(verdict: dict[str, Any], clean: dict[str, Any]) -> str:
    """Return what TensorFlow made of a damaged file, beside the sound one."""
    if verdict["end"]:
        return f"ended by {verdict['end']}"
    if verdict["error"]:
        return "error"
    if verdict["list"] != clean["list"]:
        return "silently lists fewer or other tensors"
    return "same" if verdict["digest"] == clean["digest"] else "silently other values"


def told(counts: Counter[str]) -> str:
    """Return counts as text, most first."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.most_common())


def share(found: int, total: int) -> str:
    """Return how many of all were found."""
    return f"{found:,} of {total:,} found" + (" (100%)" if found == total else "  **MISSED SOME**")


# --- flipped bits ---------------------------------------------------------------------------------


def data_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every bit of a 64 KiB data file of ours."""
    import numpy as np
    from values import blocks_of, out_tensors

    from ckptkit.operations._verify_bundle import checksum_findings
    from ckptkit.operations._verify_data import pieces_by_shard, plan_shard
    from ckptkit.operations.verify import verify
    from ckptkit.stores.tensor_bundle import open_bundle
    from ckptkit.writers.tensor_bundle import write_tensor_bundle

    rng = np.random.default_rng(1)
    tensors = {
        f"layer_{i}/kernel": ("float32", rng.standard_normal((32, 32)).astype(np.float32))
        for i in range(15)
    }
    tensors["words"] = ("string", np.array([rng.bytes(200) for _ in range(20)], object))
    prefix = directory / "data" / "c"
    prefix.parent.mkdir()
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors, 1 << 20))
    path = prefix.with_name("c.data-00000-of-00001")
    content = path.read_bytes()
    clean = peer(prefix)
    bundle = open_bundle(prefix)
    pieces = pieces_by_shard(bundle)[0]
    bits = range(0, 8 * len(content), 97 if quick else 1)
    found = 0
    for bit in bits:
        _flip(path, content, bit)
        findings, _, _ = checksum_findings(bundle, [plan_shard(path, pieces)], None, None)
        found += any(finding.severity != "note" for finding in findings)
        _restore(path, content, bit)
    yield Row(
        "one flipped bit, every bit of a 64 KiB data file", len(bits), share(found, len(bits))
    )
    sample = random.Random(1).sample(range(8 * len(content)), 40 if quick else 400)
    found, theirs = 0, Counter[str]()
    for bit in sample:
        _flip(path, content, bit)
        found += verify(prefix).exit_code == 1
        theirs[kind(peer(prefix), clean)] += 1
        _restore(path, content, bit)
    yield Row("the same, a sample, every tensor read", len(sample), share(found, len(sample)),
              told(theirs))  # fmt: skip


def _flip(path: Path, content: bytes, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        file.write(bytes([content[bit // 8] ^ 1 << bit % 8]))


def _restore(path: Path, content: bytes, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        file.write(content[bit // 8 : bit // 8 + 1])


def index_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every bit of an index of several blocks of ours, by `verify` and by `ls`."""
    import numpy as np
    from values import blocks_of, out_tensors

    from ckptkit.writers.tensor_bundle import write_tensor_bundle

    tensors = {f"model/layer_{i}/kernel": ("float32", np.full(4, i, np.float32)) for i in range(24)}
    prefix = directory / "index" / "c"
    prefix.parent.mkdir()
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors), block_bytes=300)
    path = prefix.with_name("c.index")
    bits = range(0, 8 * path.stat().st_size, 31 if quick else 1)
    yield _index_row("one flipped bit, every bit of an index of several blocks", prefix, bits, peer,
                     30 if quick else 500)  # fmt: skip


def large_index_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """A sample of bits of an index that TensorFlow wrote, larger than one of its blocks."""
    prefix = directory / "large" / "c"
    prefix.parent.mkdir()
    count = 12_000
    script = (
        "import sys, tensorflow as tf; n = int(sys.argv[2]);"
        "names = [f'model/block_{i}/dense/kernel/.ATTRIBUTES/VARIABLE_VALUE' for i in range(n)];"
        "tf.raw_ops.SaveV2(prefix=sys.argv[1], tensor_names=names, shape_and_slices=[''] * n,"
        " tensors=[tf.constant([i]) for i in range(n)])"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(prefix), str(count)], check=True, capture_output=True
    )
    size = prefix.with_name("c.index").stat().st_size
    bits = sorted(random.Random(2).sample(range(8 * size), 20 if quick else 150))
    yield _index_row(
        f"one flipped bit in TensorFlow's own index of {count:,} variables", prefix, bits, peer, 40
    )


def _index_row(what: str, prefix: Path, bits: range | list[int], peer: Peer, sampled: int) -> Row:
    from ckptkit.errors import CkptkitError
    from ckptkit.operations.ls import ls
    from ckptkit.operations.verify import verify

    path = prefix.with_name("c.index")
    content = path.read_bytes()
    clean = peer(prefix)
    by_verify = by_ls = 0
    theirs = Counter[str]()
    compared = set(random.Random(3).sample(list(bits), min(sampled, len(bits))))
    for bit in bits:
        _flip(path, content, bit)
        by_verify += verify(prefix).exit_code == 1
        try:
            ls(prefix)
        except CkptkitError:
            by_ls += 1
        if bit in compared:
            theirs[kind(peer(prefix), clean)] += 1
        _restore(path, content, bit)
    ours = f"`verify`: {share(by_verify, len(bits))}; `ls`: {share(by_ls, len(bits))}"
    return Row(what, len(bits), ours, f"of {len(compared)}: {told(theirs)}")


# --- truncation -----------------------------------------------------------------------------------


def truncations(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every length of every kind of file."""
    from damage import write
    from values import blocks_of, corpus, out_tensors

    from ckptkit.fixtures.goldens import GOLDEN
    from ckptkit.writers.npz import write_npz
    from ckptkit.writers.safetensors import write_safetensors

    place = directory / "cut"
    place.mkdir()
    prefix = write(place / "c")
    clean = peer(prefix)
    for suffix in ("index", "data-00000-of-00001"):
        yield _cut_row(
            prefix.with_name(f"c.{suffix}"), prefix, quick, lambda: kind(peer(prefix), clean)
        )
    tensors = corpus(["float32", "int8"])
    for path, writer in (
        (place / "w.safetensors", write_safetensors),
        (place / "w.npz", write_npz),
    ):
        writer(path, out_tensors(tensors), blocks_of(tensors))
        yield _cut_row(path, path, quick, None)
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        path = place / name
        shutil.copy(GOLDEN / "tf2.21.0" / "files_nested" / name, path)
        yield _cut_row(path, path, quick, None, step=7)
    model = place / "model"
    shutil.copytree(GOLDEN / "tf2.21.0" / "lookup" / "model", model)
    yield _cut_row(model / "saved_model.pb", model, quick, None, step=13)


def _cut_row(
    path: Path, operand: Path, quick: bool, theirs: Callable[[], str] | None, step: int = 1
) -> Row:
    from ckptkit.operations.verify import verify

    content = path.read_bytes()
    step = step * 29 if quick else step
    lengths = sorted(
        {*range(0, len(content), step), *range(max(0, len(content) - 40), len(content))}
    )
    found, verdicts = 0, Counter[str]()
    for number, length in enumerate(lengths):
        path.write_bytes(content[:length])
        found += verify(operand).exit_code == 1
        if theirs is not None and number % 5 == 0:
            verdicts[theirs()] += 1
    path.write_bytes(content)
    every = "every length" if step == 1 else f"every {step}th length and the last 40"
    what = f"cut short: {path.name}, {every}"
    peers = f"of {sum(verdicts.values())}: {told(verdicts)}" if verdicts else ""
    return Row(what, len(lengths), share(found, len(lengths)), peers)


# --- mutants --------------------------------------------------------------------------------------


def mutants(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Checkpoints damaged below checksums that hold, judged by both."""
    import mutators

    from ckptkit.fixtures.goldens import GOLDEN
    from ckptkit.operations.verify import verify

    count = 150 if quick else 5_000
    cells = Counter[tuple[str, str]]()
    slowest = 0.0
    place = directory / "mutants"
    for seed in range(count):
        rng = random.Random(f"mutant {seed}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        files = mutators.golden_files(GOLDEN / rng.choice(MUTATED))
        for name, content in mutators.bundle(files, rng).items():
            (place / name).write_bytes(content)
        prefix = place / "c"
        start = time.process_time()
        result = verify(prefix)
        slowest = max(slowest, time.process_time() - start)
        ours = {0: "sound", 1: "findings", 2: "could not tell"}[result.exit_code]
        verdict = peer(prefix)
        theirs = (
            f"ended by {verdict['end']}"
            if verdict["end"]
            else "error"
            if verdict["error"]
            else "read"
        )
        cells[ours, theirs] += 1
    wrong = sum(n for (ours, theirs), n in cells.items() if ours == "sound" and theirs != "read")
    ours = Counter[str]()
    theirs_all = Counter[str]()
    for (one, other), number in cells.items():
        ours[one] += number
        theirs_all[other] += number
    yield Row(
        "mutants whose checksums hold (entries, keys, shapes, object graph, data)",
        count,
        f"{told(ours)}; no traceback, slowest {slowest:.2f} s of the processor",
        told(theirs_all),
    )
    yield Row("of these: ckptkit says sound, TensorFlow fails", count, f"{wrong}")
    quiet = cells["findings", "read"] + cells["could not tell", "read"]
    yield Row(
        "of these: TensorFlow reads without a word, ckptkit has findings", count, f"{quiet:,}"
    )


# --- bombs and hostile files ----------------------------------------------------------------------


def bombs(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Small files that claim to be large."""
    del peer, quick
    from bombs import BOMBS
    from measured import run

    from benchmarks.harness import CKPTKIT

    slowest, largest = 0.0, 0
    for name, maker in BOMBS.items():
        place = directory / name
        place.mkdir()
        path = maker(place)
        for command in ("verify", "ls", "scan"):
            done = run([*CKPTKIT, command, str(path)])
            slowest = max(slowest, done.cpu_seconds)
            largest = max(largest, done.peak_bytes)
        shutil.rmtree(place)
    yield Row(
        "bombs (zip, npz, snappy, sparse HDF5, giant shapes, deep nesting), by verify, ls and scan",
        3 * len(BOMBS),
        f"slowest {slowest:.2f} s of the processor, largest {largest / 1e6:.0f} MB",
    )


def audit(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Nothing is executed, fetched or started, whatever a file says."""
    del peer
    done = subprocess.run(
        [sys.executable, "tests/audit.py", str(directory), "20" if quick else "200"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        "hostile corpus under an audit hook: code run, pickles loaded, processes, sockets, "
        "imports off the list, files written",
        result["files"],
        f"{result['forbidden']} such events",
    )


# all of them read without an error by TensorFlow before they are damaged
MUTATED = (
    *("tf2.21.0/adam/ckpt", "tf2.15.1/legacy_adam/ckpt", "tf2.12.1/metrics/ckpt"),
    *("tf2.21.0/grid/ckpt", "tf2.12.1/saver/model.ckpt", "tf2.21.0/dtypes/ckpt"),
    *("tf2.18.1/list/ckpt", "tf2.21.0/gan/ckpt"),
)
SECTIONS = (data_flips, index_flips, large_index_flips, truncations, mutants, bombs, audit)


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/reliability.md.")
@click.option("--quick", is_flag=True, help="Smaller samples.")
@click.option("--only", multiple=True, metavar="NAME", help="These sections.")
def main(write: bool, quick: bool, only: tuple[str, ...]) -> None:
    """Damage files, and see who notices."""
    from ckptkit.reports.table import render

    peer = Peer()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="reliability-") as scratch:
        for section in SECTIONS:
            if only and not any(part in section.__name__ for part in only):
                continue
            start = time.monotonic()
            rows += section(Path(scratch), peer, quick)
            click.echo(f"{section.__name__}: {time.monotonic() - start:.0f} s", err=True)
    cells = [(row.what, f"{row.files:,}", row.ours, row.theirs) for row in rows]
    lines = list(render(cells, HEADERS, "markdown", ("left", "right", "left", "left")))
    click.echo("\n".join(lines))
    if write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        table = "\n".join(lines)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
