"""What `benchmarks.reliability` measures of writers and readers that run at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._rows import ROOT, Row
from support.tf_reader import Peer

SEED = 1


def pairs(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Two writers of one output, started together, and a reader beside them."""
    del peer
    from support.racing import RACES

    count = 10 if quick else 200
    for form in RACES:
        place = directory / form
        place.mkdir()
        result = child("support.racing", form, str(count), str(SEED), str(place))
        ends = result["ends"]
        yield Row(
            f"pairs of writers of one {form}, each with a reader beside it",
            count,
            f"both done, one after the other: {ends.get('both done', 0)}, one refused: "
            f"{ends.get('one refused', 0)}, mixtures or wrong exit codes: {len(result['wrong'])}",
            "",
            not result["wrong"],
        )


def training_loops(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Commands beside a loop that saves without a pause and keeps two checkpoints."""
    del peer
    count = 50 if quick else 500
    for options in ((), ("sharded",)):
        place = directory / "-".join(("loop", *options))
        place.mkdir()
        result = child("support.busy", str(count), str(SEED), str(place), *options)
        refused = sum(result["refusals"].values())
        shards = ", in several data files" if options else ""
        yield Row(
            f"ls, verify, diff, convert beside a tf.train.CheckpointManager that saves{shards}",
            count,
            f"wrong findings or advice to delete: {len(result['wrong'])}; refused since the named "
            f"checkpoint was removed: {refused}",
            "",
            not result["wrong"],
        )


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of tests/support; return the JSON that it prints last."""
    from support.places import environment

    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
