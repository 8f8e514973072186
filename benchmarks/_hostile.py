"""What `benchmarks.reliability` measures of hostile files, of killed writers, and of rate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks._rows import MB, ROOT, Row
from support.tf_reader import Peer

MAX_SECONDS, MAX_BYTES = 2.0, 256 << 20  # that a bomb may take


def bombs(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Small files that claim to be large."""
    del peer, quick
    from benchmarks.harness import CKPTKIT
    from support.bombs import BOMBS
    from support.measured import run

    slowest, largest, wrong = 0.0, 0, 0
    commands = ("verify", "ls", "scan")
    for name, maker in BOMBS.items():
        place = directory / name
        place.mkdir()
        path = maker(place)
        for command in commands:
            done = run([*CKPTKIT, command, str(path)])
            slowest = max(slowest, done.cpu_seconds)
            largest = max(largest, done.peak_bytes)
            wrong += "Traceback" in done.output or done.code not in (0, 1, 2)
        shutil.rmtree(place)
    yield Row(
        f"{len(BOMBS)} bombs (zip, npz, snappy, sparse HDF5, giant shapes, deep nesting), by "
        f"{', '.join(commands)}",
        len(commands) * len(BOMBS),
        f"at most {slowest:.2f} s of the processor and {largest / MB:.0f} MB; "
        f"{wrong} tracebacks or signals",
        "",
        slowest < MAX_SECONDS and largest < MAX_BYTES and not wrong,
    )


def audit(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Nothing is executed, fetched or started, whatever a file says."""
    del peer
    from support.places import environment

    done = subprocess.run(
        [sys.executable, "-m", "support.audit", str(directory), "20" if quick else "200"],
        cwd=ROOT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        "hostile corpus under an audit hook: code run, pickles loaded, processes started, sockets, "
        "imports off the list, files written or removed",
        result["files"],
        f"{result['forbidden']} such events",
        "",
        not result["forbidden"],
    )


def scanning(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Ops and classes that act on the outside, in every place; and plain exports."""
    del peer, quick
    from ckptkit.operations.scan.api import scan
    from support.goldens import GOLDEN, goldens
    from support.hostile_models import (
        HOSTILE_CONFIGS,
        HOSTILE_OPS,
        PLACES,
        keras_file,
        model_with,
        nested,
    )
    from support.hostile_models import write_model as write_saved_model

    found = total = 0
    for op in HOSTILE_OPS:
        for place in PLACES:
            for form in ("pb", "pbtxt"):
                model = directory / f"{op}-{place}-{form}"
                write_saved_model(model, model_with(op, place), form)
                found += scan(model).exit_code == 1
                total += 1
    what = f"{len(HOSTILE_OPS)} ops with side effects in {', '.join(PLACES)}; binary and text"
    yield Row(what, total, f"{found:,} of {total:,} reported", "", found == total)
    found = total = 0
    for name, config in HOSTILE_CONFIGS.items():
        for depth in (0, 1, 4):
            path = keras_file(directory / f"{name}-{depth}.keras", nested(config, depth))
            found += scan(path).exit_code == 1
            total += 1
    what = f"{len(HOSTILE_CONFIGS)} kinds of hostile Keras configs, nested 0, 1 and 4 deep"
    yield Row(what, total, f"{found:,} of {total:,} reported", "", found == total)
    from benchmarks.hostile_corpus import proofs

    acting = [proof for proof in proofs(directory / "corpus") if proof.acted]
    found = sum(scan(proof.path).exit_code == 1 for proof in acting)
    what = (
        "hostile files that are first proven to act, in numpy, h5py, Keras and both loaders of "
        "TensorFlow"
    )
    is_met = found == len(acting) >= 100
    yield Row(what, len(acting), f"{found:,} of {len(acting):,} reported", "", is_met)
    plain = [g for g in goldens("saved-model", "keras", "h5") if "Lambda" not in str(g)]
    alarms = [g.name for g in plain if scan(GOLDEN / g.name).exit_code != 0]
    yield Row("real exports and Keras files, by `scan`", len(plain),
              f"{len(alarms)} with findings: {', '.join(alarms) or 'none'}")  # fmt: skip


def injection(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Writers killed and refused at every write-class system call."""
    del peer
    from support.injecting import (
        Server,
        calls_of,
        failed_everywhere,
        flush_violations,
        killed_everywhere,
        why_not,
    )
    from support.writing import WRITERS

    if why_not():
        yield Row("writers under strace", 0, f"not measured: {why_not()}", "", False)
        return
    server = Server()
    killed, failed = Counter[str](), Counter[str]()
    violations = 0
    for kind in WRITERS:
        place = directory / f"writer-{kind}"
        place.mkdir()
        killed.update(killed_everywhere(server, kind, place, quick=quick))
        failed.update(failed_everywhere(server, kind, place, quick=quick))
        calls = calls_of(server, kind, place / "trace")
        violations += len(flush_violations(calls, place))
    server.close()
    names = ", ".join(WRITERS)
    at = "some write-class system calls" if quick else "every write-class system call"
    states = "left the old file: {old:,}, the new one: {new:,}, anything else: 0"
    yield Row(f"SIGKILL at {at} of {len(WRITERS)} writers ({names})", killed.total(),
              states.format(old=killed["old"], new=killed["new"]), "",
              set(killed) <= {"old", "new"})  # fmt: skip
    yield Row(f"ENOSPC, EIO or EDQUOT from {at.replace('some', 'some of the')} that can give it",
              failed.total(), states.format(old=failed["old"], new=failed["new"]), "",
              set(failed) <= {"old", "new"})  # fmt: skip
    yield Row("flush of a file before its final name, and of the directory after it",
              len(WRITERS), f"{violations} violations", "", not violations)  # fmt: skip


def rate(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """How fast `verify` is beside the bare work, and what memory it takes."""
    del directory, peer
    if quick:
        return
    from benchmarks.verifying import verifying, verifying_much

    for result in [*verifying(), *verifying_much()]:
        unit = result.measure
        ratio = f", {result.ratio:.2f} of it" if unit == "GB/s" and result.ratio else ""
        yield Row(result.work, 1, f"{result.ours:.3g} {unit}{ratio}",
                  f"{result.peer_name}: {result.peer:.3g} {unit}", result.is_met)  # fmt: skip
