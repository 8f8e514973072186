"""What `benchmarks.reliability` measures of HDF5: one bit of structure, beside h5py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks._rows import ROOT, Row, told
from support.tf_reader import Peer

FILES = ("model.weights.h5", "model.h5", "model.keras")
SEED = "reliability"
_VERDICTS = {"0": "sound", "1": "findings", "2": "could not tell"}
_BY_H5PY = {
    "error": "error",
    "otherwise": "silently other tensors",
    "attributes": "silently other attributes",
    "same": "same",
}


def hdf5_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """One flipped bit in the structure of what Keras writes, with and without libhdf5."""
    del directory, peer
    from support.goldens import GOLDEN
    from support.places import environment

    count = 100 if quick else 2_500
    for name in FILES:
        path = GOLDEN / "tf2.21.0" / "files_nested" / name
        for options, how in (((), "with libhdf5"), (("--without",), "without libhdf5")):
            done = subprocess.run(
                [sys.executable, "-m", "support.hdf5_flips", str(path), str(count), SEED, *options],
                cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
            )  # fmt: skip
            answer = json.loads(done.stdout)
            ours, theirs = Counter[str](), Counter[str]()
            for cell, number in answer["counts"].items():
                judged, code = cell.split()
                ours[_VERDICTS[code]] += number
                theirs[_BY_H5PY[judged]] += number
            wrong = len(answer["wrong"]["error"]) + len(answer["wrong"]["otherwise"])
            yield Row(
                f"one flipped bit in the structure of `{name}`, a sample (seed `{SEED}`), by "
                f"`verify` {how}",
                count,
                f"{told(ours)}; sound where h5py errs or reads other tensors: {wrong}",
                f"h5py: {told(theirs)}",
                wrong == 0,
            )


def hdf5_alarms(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Sound HDF5 files: of Keras 2 and 3 as they are kept here, and as h5py can write them."""
    del peer, quick
    from ckptkit.operations.verify.api import verify
    from support.goldens import GOLDEN, goldens
    from support.hdf5_variants import write_variants

    files = [GOLDEN / g.name for g in goldens("keras", "h5", "weights.h5")]
    files += write_variants(directory)
    alarms = []
    for path in files:
        severities = {finding.severity for finding in verify(path).findings}
        if severities & {"error", "warning"}:
            alarms.append(path.name)
    yield Row(
        "sound `.keras`, `.h5` and `.weights.h5` of Keras 2.12 to 3, and all kinds of HDF5 that "
        "h5py writes, by `verify`",
        len(files),
        f"{len(alarms)} with errors or warnings{': ' if alarms else ''}{', '.join(alarms)}",
        "",
        not alarms,
    )
