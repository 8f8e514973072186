"""What running an ONNX model could do: the ops that it takes from others, the files that it names.

Operators of ONNX and of ONNX Runtime only compute.  An op of another domain is code that whoever
runs the model has registered; `EPContext` hands compiled code to a device.  External data is read
from files that the model names: a path out of its directory is one that a loader must not follow
(CVE-2022-25882, CVE-2024-27318).
Source: onnxruntime/core/graph/constants.h, onnx/checker.cc (`resolve_external_data_location`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.links import link_findings
from ckptkit.stores.onnx.graph import OnnxContents, external_locations, read_graph
from ckptkit.stores.onnx.reader import open_onnx
from ckptkit.stores.onnx.values import external_path
from ckptkit.text import printable

# domains of operators that onnxruntime has by itself
KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"}
    | {"ai.onnx.preview", "com.microsoft.nchwc", "com.microsoft.experimental"}
    | {"com.ms.internal.nhwc"}
)
_COMPILED = ("com.microsoft", "EPContext")


def scan_onnx(path: Path) -> list[Check]:
    """Scan an ONNX model; raises FormatError where it cannot be read."""
    graph = read_graph(path)
    findings = [*_of_ops(graph, path.name), *_of_files(graph, path)]
    if not findings:
        open_onnx(path)  # what its tensors say of themselves
    counts = (("op", len(graph.ops)), ("tensor", len(graph.tensors)))
    return [Check("graph", counts, tuple(findings))]


def _of_ops(graph: OnnxContents, where: str) -> Iterator[Finding]:
    for domain, op in graph.ops:
        own = (domain, op) in graph.functions
        if (domain in KNOWN_DOMAINS or own) and (domain, op) != _COMPILED:
            continue
        message = f"the op {printable(f'{domain}.{op}')!r} is not known to be harmless"
        hint = "its code is in a library that whoever runs the model registers"
        yield Finding("warning", "graph.unknown-op", where, message, hint)


def _of_files(graph: OnnxContents, path: Path) -> Iterator[Finding]:
    for location in external_locations(graph):
        try:
            file = external_path(path, location)
        except CkptkitError as error:
            message = f"{error.message} ({printable(location)})"
            yield Finding("error", "file.external", path.name, message)
            continue
        if file.exists() or file.is_symlink():
            yield from link_findings(file, path.parent)
