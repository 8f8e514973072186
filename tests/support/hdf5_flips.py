"""One flipped bit in the structure of an HDF5 file: what `verify` says, and what h5py does.

Structure is every byte that holds no value of a tensor.  An archive is packed anew around the
damaged file, under a checksum that holds.

`python -m support.hdf5_flips FILE COUNT SEED [--without]` prints one line of JSON: how many flips
there were of each kind, and those that `verify` calls sound though h5py cannot read the file
("error"), or reads other tensors ("otherwise").  --without: as where h5py is not installed.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support.hdf5_judge import Judge

WEIGHTS = "model.weights.h5"


class Flip(NamedTuple):
    """One flip.  judged: "error", "otherwise", "attributes" or "same"; code: of `verify`."""

    bit: int
    judged: str
    code: int
    why: str


def hdf5_of(path: Path) -> bytes:
    """Return the HDF5 data in a file, itself or its member."""
    if path.suffix != ".keras":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(WEIGHTS)


def packed(path: Path, data: bytes) -> bytes:
    """Return a file like `path` with other HDF5 data in it."""
    if path.suffix != ".keras":
        return data
    sink = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name == WEIGHTS else old.read(name))
    return sink.getvalue()


def structure_bits(data: bytes) -> list[int]:
    """Return every bit that is no value of a tensor that lies in one run of bytes."""
    import h5py

    values: set[int] = set()

    def note(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size and item.id.get_offset() is not None:
            start = item.id.get_offset()
            values.update(range(start, start + item.id.get_storage_size()))

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(note)
    return [8 * at + bit for at in range(len(data)) if at not in values for bit in range(8)]


def flips(path: Path, bits: list[int], judge: Judge) -> Iterator[Flip]:
    """Yield what comes of each flip of a sound file."""
    from ckptkit.errors import CkptkitError
    from ckptkit.operations.verify.api import verify

    data = hdf5_of(path)
    with tempfile.TemporaryDirectory(prefix="flips-") as scratch:
        bare = Path(scratch, WEIGHTS)
        whole = Path(scratch, path.name)
        bare.write_bytes(data)
        clean = judge(bare)
        assert "tensors" in clean, clean
        for bit in bits:
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            bare.write_bytes(damaged)
            if whole != bare:
                whole.write_bytes(packed(path, bytes(damaged)))
            try:
                code = verify(whole).exit_code
            except CkptkitError:  # as the command line has it
                code = 2
            verdict = judge(bare)
            why = verdict.get("error", "")
            yield Flip(bit, _kind(verdict, clean), code, why)


def _kind(verdict: dict[str, Any], clean: dict[str, Any]) -> str:
    if "error" in verdict:
        return "error"
    if verdict["tensors"] != clean["tensors"]:
        return "otherwise"
    return "same" if verdict["attributes"] == clean["attributes"] else "attributes"


def main() -> None:
    path, count, seed = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if "--without" in sys.argv:
        # h5py here is for where the values lie; ckptkit must not find it
        bits = structure_bits(hdf5_of(path))
        sys.modules["h5py"] = None  # type: ignore[assignment]
    else:
        bits = structure_bits(hdf5_of(path))
    chosen = random.Random(seed).sample(bits, min(count, len(bits)))
    judge = Judge()
    counts = Counter[str]()
    wrong: dict[str, list[Any]] = {"error": [], "otherwise": [], "attributes": []}
    for flip in flips(path, sorted(chosen), judge):
        counts[f"{flip.judged} {flip.code}"] += 1
        if flip.code == 0 and flip.judged in wrong:
            wrong[flip.judged].append([flip.bit // 8, flip.bit % 8, flip.why])
    judge.close()
    print(json.dumps({"counts": counts, "wrong": wrong}))


if __name__ == "__main__":
    main()
