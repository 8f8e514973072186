"""What a format's own library reads of a file: `python _reference_reader.py FILE`.

Prints JSON: [[name, dtype, shape, digest], ...], the digest being the first 16 bytes of the SHA-256
of the elements.  How a file is read is what the goldens' own producers say (`fixtures/*/make.py`).
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"


def read(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield (name, [dtype, shape, digest])."""
    if path.suffix == ".onnx":
        import onnx

        maker = runpy.run_path(str(FIXTURES / "onnx" / "make.py"))
        graph = onnx.load(path, load_external_data=False).graph
        for name, tensor in maker["tensors_of"](graph):
            yield name, maker["told"](tensor, path.parent)
    elif path.suffix == ".tflite":
        maker = runpy.run_path(str(FIXTURES / "litert" / "make.py"))
        for name, row in maker["told"](path).items():
            yield name, row[:3]
    else:
        import torch

        maker = runpy.run_path(str(FIXTURES / "pytorch" / "make.py"))
        value = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in maker["tensors"](value):
            yield name, maker["row"](tensor)


if __name__ == "__main__":
    sys.stdout.write(json.dumps([[name, *row] for name, row in read(Path(sys.argv[1]))]))
