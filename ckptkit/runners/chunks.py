"""The parent's side of arrays in files: inputs for a child, and what a child wrote.

The values inside of a model may be larger than memory: the child writes them in chunks, and the
files go away with the last mapping that reads them.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.array_files import load_arrays, save_arrays

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


def save_cases(cases: Sequence[Arrays], scratch: Path) -> list[dict[str, Any]]:
    """Write the inputs of cases to files of the folder `scratch`; return what a request says."""
    files = [scratch / f"case{number}.inputs.npz" for number in range(len(cases))]
    return [
        {"file": str(file), "described": save_arrays(file, dict(case))}
        for file, case in zip(files, cases, strict=True)
    ]


def load_written(written: Mapping[str, Any]) -> Arrays:
    """Return the arrays of a file that the child wrote, in its order."""
    arrays = load_arrays(Path(written["file"]), written["described"])
    return {name: arrays[name] for name in written["names"]}


class ChunkedArrays(Mapping[str, "Array"]):
    """Arrays in several files; one is read when an array of it is asked for, the last is kept."""

    def __init__(self, chunks: Sequence[Mapping[str, Any]]) -> None:
        self.chunks = chunks
        self._places = {
            name: number for number, chunk in enumerate(chunks) for name in chunk["names"]
        }
        self._last: tuple[int, Arrays] = (-1, {})

    def __getitem__(self, name: str) -> Array:
        number = self._places[name]
        if self._last[0] != number:
            self._last = (number, load_written(self.chunks[number]))
        return self._last[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _ScratchFolder:
    """A directory that goes away with the last of those that hold it."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)


def chunked_layers(
    scratch: Path, cases: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[Arrays, ...]:
    holder = _ScratchFolder(scratch)
    layers = [ChunkedArrays(chunks) for chunks in cases]
    for each in layers:
        each.scratch = holder  # type: ignore[attr-defined]
    return tuple(layers)
