"""Writes one file or set of files over what lies there; forked and traced by `injecting`.

    python -m support.writing serve

reads lines of JSON, [kind, directory, fill], and for each forks a child, prints its process id,
waits for another line, lets the child write, and prints [exit code, what it said on stderr].
Exit code of a child: 0 done, 2 refused with one line on stderr.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from ckptkit.align.rules import write_rules
from ckptkit.cli.main import cli
from ckptkit.errors import CkptkitError
from ckptkit.golden.binding import Binding
from ckptkit.golden.golden import Case, Golden, write_golden
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.convert.api import convert
from ckptkit.operations.convert.receipt import write_receipt
from ckptkit.operations.verify.api import verify
from ckptkit.stores.registry import open_format
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support import killing
from support.goldens import GOLDEN
from support.values import blocks_of, out_tensors

KERAS = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"


def _keras(form: str) -> Callable[[Path, int], None]:
    def write(directory: Path, fill: int) -> None:
        from ckptkit.stores.keras.writer import write_keras, write_weights_h5

        like: Any = open_format("keras", KERAS)

        def blocks(key: str) -> Iterator[tuple[int, Any]]:
            for start, values in like.blocks(key):
                yield start, np.full_like(values, fill)

        writer = write_keras if form == "keras" else write_weights_h5
        writer(directory / f"m.{form}", like, blocks, overwrite=True)

    return write


def _exported(directory: Path, fill: int) -> Path:
    """Write a checkpoint with an export's tensors, all `fill`, beside the directory."""
    place = directory.parent / "exported"
    if not place.exists():
        place.mkdir()
        source = open_format("saved-model", MODEL)
        graph = source.read("_CHECKPOINTABLE_OBJECT_GRAPH")[0]
        specs = [s for s in source.specs.values() if s.dtype != "string"]
        tensors = [TensorToWrite(s.key, s.dtype, s.shape) for s in specs]
        for number in (1, 2):

            def blocks(key: str, number: int = number) -> Iterator[tuple[int, Any]]:
                for start, values in source.blocks(key):
                    yield start, np.full_like(values, number)

            write_tensor_bundle(place / f"c{number}", tensors, blocks, object_graph=graph)
    return place / f"c{fill}"


def saved_model(directory: Path, fill: int, *, check: bool = False) -> None:
    """Replace an export by one with other values, by way of a checkpoint of them."""
    source = _exported(directory, fill)
    convert(source, directory / "export", to="saved_model", like=MODEL, overwrite=True, check=check)


def _golden(directory: Path, fill: int) -> None:
    """Write what a model of one layer might compute."""
    values = {"x": np.full((2, 3), fill, np.float32)}
    infos = (TensorInfo("x", "float32", (None, 3)),)
    made = Golden(
        "m", "imported", "call", ModelSignature(infos, infos), Binding("imported", ""),
        {"runtime": "unknown"}, "", (Case("case-0", values, values),),
    )  # fmt: skip
    write_golden(directory / "golden", made, overwrite=True)


def _known(kind: str) -> Callable[[Path, int], None]:
    return lambda directory, fill: killing.KINDS[kind][0](directory, killing.tensors(fill))


def checkpoint(directory: Path, fill: int) -> Path:
    """Write the tensors of `fill` beside the directory, the same for all; return the prefix."""
    place = directory.parent / "values"
    if not place.exists():
        place.mkdir()
        for number in (1, 2):
            made = killing.tensors(number)
            write_tensor_bundle(place / f"ckpt{number}", out_tensors(made), blocks_of(made))
    return place / f"ckpt{fill}"


def _receipt(directory: Path, fill: int) -> None:
    receipt = convert(
        checkpoint(directory, fill), directory.parent / "values" / "out.npz",
        to="npz", overwrite=True, check=False,  # in one thread: calls are counted
    )  # fmt: skip
    # which packages took part depends on what else this process has imported
    receipt = replace(receipt, versions={})
    write_receipt(receipt, directory / "receipt.json", overwrite=True)


def _manifest(directory: Path, fill: int) -> None:
    verify(checkpoint(directory, fill), new_manifest=directory / "m.sha256")


def _map(directory: Path, fill: int) -> None:
    write_rules(directory / "rules.map", [(f"layer_{i}", f"block_{i * fill}") for i in range(500)])


def _command(*arguments: str) -> Callable[[Path, int], None]:
    """Return a writer that runs a command on the checkpoint of `fill`, output below DIRECTORY."""

    def write(directory: Path, fill: int) -> None:
        prefix = str(checkpoint(directory, fill))
        other = str(checkpoint(directory, 3 - fill))
        places = {"PREFIX": prefix, "OTHER": other, "OUT": str(directory / "report")}
        words = [places.get(word, word) for word in arguments]
        try:
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                cli.main(words, "ckptkit", standalone_mode=False)
        except click.exceptions.Exit as exit_:
            assert exit_.exit_code in (0, 1), exit_

    return write


# kind -> (what writes it, what to read)
WRITERS: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "bundle": (_known("bundle"), "ckpt"),
    "set": (_known("set"), "m.safetensors.index.json"),
    "file": (_known("file"), "m.safetensors"),
    "archive": (_known("archive"), "m.npz"),
    "directory": (_known("directory"), "dir/m.npz"),
    "keras": (_keras("keras"), "m.keras"),
    "weights": (_keras("weights.h5"), "m.weights.h5"),
    "saved-model": (saved_model, "export"),
    "receipt": (_receipt, "receipt.json"),
    "manifest": (_manifest, "m.sha256"),
    "golden": (_golden, "golden/case-0.outputs.npz"),
    "map": (_map, "rules.map"),
    "verify-report": (_command("verify", "PREFIX", "-v", "-o", "OUT"), "report"),
    "diff-page": (_command("diff", "PREFIX", "OTHER", "--format", "html", "-o", "OUT"), "report"),
    "npy": (_command("show", "PREFIX", "a", "--npy", "OUT", "--overwrite"), "report"),
}
TEXTS = ("receipt", "manifest", "map", "verify-report", "diff-page", "npy")  # no weights: bytes


def main(kind: str, directory: Path, fill: int) -> int:
    try:
        WRITERS[kind][0](directory, fill)
    except CkptkitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def serve() -> None:
    """Fork writers as asked until stdin ends."""
    for line in sys.stdin:
        kind, directory, fill = json.loads(line)
        begin, go = os.pipe()
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        child = os.fork()
        if not child:
            with suppress(OSError, AttributeError):  # PR_SET_PTRACER: strace is not its parent
                ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
            os.dup2(errors.fileno(), 2)
            os.close(go)
            os.read(begin, 1)
            try:
                code = main(kind, Path(directory), fill)
            except BaseException:
                traceback.print_exc()
                code = 3
            sys.stderr.flush()
            os._exit(code)
        os.close(begin)
        print(child, flush=True)
        sys.stdin.readline()
        os.write(go, b"g")
        os.close(go)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        print(json.dumps([code, errors.read().decode()]), flush=True)
        errors.close()


if __name__ == "__main__":
    assert sys.argv[1:] == ["serve"], __doc__
    serve()
