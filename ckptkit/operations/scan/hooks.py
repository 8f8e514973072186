"""What is looked at in each format that can do something when it is loaded or run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.graph import graph_findings
from ckptkit.operations.scan.keras import config_findings
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.containers import strict_json
from ckptkit.stores.keras.archive import archive_configs, open_keras
from ckptkit.stores.keras.legacy_h5 import hdf5_configs, open_legacy_h5
from ckptkit.stores.npz.reader import open_npz
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.saved_model.graph import MetaGraph, read_graphs

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")  # of a SavedModel, binary and text
_KERAS_MEMBERS = ("metadata.json", "config.json", "model.weights.h5", "model.weights.json")

# --- SavedModel, GraphDef -------------------------------------------------------------------------


def scan_saved_model(path: Path) -> list[Check]:
    """Scan the graphs of a SavedModel, binary and in text form, and what Keras 2 keeps beside."""
    found = [scan_graph_file(path / name) for name in GRAPH_FILES if (path / name).exists()]
    metadata = path / "keras_metadata.pb"
    return [*found, scan_metadata(metadata)] if metadata.exists() else found


def scan_graph_file(path: Path) -> Check:
    graphs = read_graphs(path)
    findings = [finding for graph in graphs for finding in graph_findings(graph, path)]
    for graph in graphs:
        findings.extend(_assets(graph, path))
        for identifier, text in graph.metadata:
            if text and identifier.startswith("_tf_keras"):
                findings.extend(_text(text.encode(), f"{path.name}: {identifier}"))
    ops = sum(len(g.ops) + sum(len(f.ops) for f in g.functions) for g in graphs)
    functions = sum(len(graph.functions) for graph in graphs)
    return Check(path.name, (("op", ops), ("function", functions)), tuple(findings))


def _assets(graph: MetaGraph, path: Path) -> Iterator[Finding]:
    for asset in graph.assets:
        if not is_plain_name(asset.filename):
            message = f"the asset {asset.filename!r} leads out of the model's directory"
            yield Finding("error", "asset.path", path.name, message)


def scan_metadata(path: Path) -> Check:
    """Scan the configs in keras_metadata.pb, which Keras 2 wrote beside saved_model.pb."""
    data = read_exact(path, 0, file_size(path))
    nodes = parse("SavedMetadata", data, str(path)).nodes
    findings: list[Finding] = []
    for node in nodes:
        findings.extend(_text(node.metadata.encode(), f"{path.name}: {node.node_path}"))
    return Check(path.name, (("object", len(nodes)),), tuple(findings))


def _text(text: bytes, where: str) -> Iterator[Finding]:
    try:
        config = strict_json.loads(text, where)
    except CkptkitError as error:
        yield Finding(
            "warning", "keras.unknown", where, f"a config that is not read: {error.message}"
        )
        return
    yield from config_findings(config, where)


# --- Keras and weights files ----------------------------------------------------------------------


def scan_keras(path: Path) -> list[Check]:
    from ckptkit.stores.containers import zip_archive

    findings: list[Finding] = []
    count = 0
    for name, config in archive_configs(path).items():
        count += 1
        findings.extend(config_findings(config, f"{path.name}:{name}"))
    for name in zip_archive.read_directory(path):
        if name not in _KERAS_MEMBERS and not name.endswith(".json"):
            if not is_plain_name(name.rstrip("/")):
                message = "an archive member that leads out of the place it is unpacked in"
                findings.append(Finding("error", "archive.path", f"{path.name}:{name}", message))
            elif not name.startswith("assets/"):
                message = "an archive member that no Keras file has"
                findings.append(
                    Finding("warning", "archive.stranger", f"{path.name}:{name}", message)
                )
    open_keras(path)  # links out of the weights file are refused here
    return [Check("configs", (("config", count),), tuple(findings))]


def scan_hdf5(path: Path) -> list[Check]:
    configs = hdf5_configs(path)
    open_legacy_h5(path)
    findings = [
        finding
        for name, config in configs.items()
        for finding in config_findings(config, f"{path.name}@{name}")
    ]
    return [Check("configs", (("config", len(configs)),), tuple(findings))]


def scan_npz(path: Path) -> list[Check]:
    store = open_npz(path)
    findings = [
        Finding(
            "error",
            "npz.pickle",
            f"{path.name}: {key}",
            "pickled Python objects: numpy runs them with allow_pickle=True",
        )
        for key, spec in store.specs.items()
        if spec.dtype == "object"
    ]
    return [Check("arrays", (("tensor", len(store.specs)),), tuple(findings))]
