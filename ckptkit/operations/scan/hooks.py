"""What is looked at in each format that can do something when it is loaded or run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.archives import (
    CONFIG,
    MAX_JSON,
    WEIGHTS,
    WEIGHTS_NPZ,
    is_keras_archive,
    scan_keras,
    scan_npz,
)
from ckptkit.operations.scan.graph import graph_findings
from ckptkit.operations.scan.hdf5 import scan_hdf5
from ckptkit.operations.scan.keras import revived_findings, text_findings
from ckptkit.operations.scan.links import directory_check, link_findings
from ckptkit.operations.scan.pickles import FRONT, array_finding, pickle_finding
from ckptkit.operations.scan.pytorch import scan_pytorch
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.base import Store
from ckptkit.stores.containers import strict_json
from ckptkit.stores.hdf5.user_block import start_of_hdf5
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.pytorch.detection import is_pytorch
from ckptkit.stores.registry import TENSOR_BUNDLE, Head, files_at
from ckptkit.stores.saved_model.graph import MetaGraph, read_graphs
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.state_file import STATE_FILE, read_state
from ckptkit.stores.tensor_bundle.v1_files import files_of_checkpoint_v1
from ckptkit.stores.tensor_bundle.v1_reader import open_checkpoint_v1

__all__ = ["scan_hdf5", "scan_keras", "scan_npz"]  # which the table of formats names here

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")  # of a SavedModel, binary and text
CHUNKED_GRAPH = "saved_model.cpb"  # and in pieces, for graphs of more than 2 GiB

# --- SavedModel, GraphDef, checkpoints ------------------------------------------------------------


def scan_saved_model(path: Path) -> list[Check]:
    """Scan the graphs of a SavedModel, in binary and text form, what Keras 2 keeps beside, links.

    Raises FormatError where no graph can be read.
    """
    found: list[Check] = []
    unread: list[FormatError] = []
    for name in GRAPH_FILES:
        if (path / name).exists():
            try:
                found.append(scan_graph_file(path / name))
            except FormatError as error:
                unread.append(error)
    if unread and not found:
        raise unread[0]
    for refusal in unread:  # a loader takes one of them
        finding = Finding("warning", "graph.unread", refusal.where, refusal.message, refusal.hint)
        found.append(Check("not read", (), (finding,)))
    metadata = path / "keras_metadata.pb"
    if metadata.exists():
        found.append(scan_metadata(metadata))
    if (path / CHUNKED_GRAPH).exists():
        message = "a graph in pieces, a form that is not looked into"
        finding = Finding("warning", "graph.unread", CHUNKED_GRAPH, message)
        found.append(Check(CHUNKED_GRAPH, (("file", 1),), (finding,)))
    return [*found, directory_check(path)]


def scan_frozen_graph(path: Path) -> list[Check]:
    """Scan a GraphDef; raises FormatError where it cannot be read."""
    return [scan_graph_file(path)]


def scan_graph_file(path: Path) -> Check:
    """Scan the graphs in one file; raises FormatError where it cannot be read."""
    graphs = read_graphs(path)
    findings = [finding for graph in graphs for finding in graph_findings(graph, path)]
    for graph in graphs:
        findings.extend(_assets(graph, path))
        for identifier, text in graph.metadata:
            if text and identifier.startswith("_tf_keras"):
                findings.extend(revived_findings(text.encode(), f"{path.name}: {identifier}"))
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
    try:
        nodes = parse("SavedMetadata", data, str(path)).nodes
    except FormatError as error:
        finding = Finding("warning", "keras.unknown", path.name, f"not read: {error.message}")
        return Check(path.name, (), (finding,))
    findings: list[Finding] = []
    for node in nodes:
        where = f"{path.name}: {node.node_path}"
        findings.extend(revived_findings(node.metadata.encode(), where))
    return Check(path.name, (("object", len(nodes)),), tuple(findings))


def scan_bundle(path: Path) -> list[Check]:
    """Scan a checkpoint: where its files lie, and the graph that TensorFlow 1 wrote beside it."""
    return _checkpoint(path, open_bundle(path), [*files_at(TENSOR_BUNDLE, path)])


def scan_checkpoint_v1(path: Path) -> list[Check]:
    """Scan a checkpoint of the V1 format, as `scan_bundle` does."""
    return _checkpoint(path, open_checkpoint_v1(path), files_of_checkpoint_v1(path))


def _checkpoint(path: Path, store: Store, files: list[Path]) -> list[Check]:
    findings = [f for file in files if file.exists() for f in link_findings(file, file.parent)]
    index = index_path(path)
    state = index.with_name(STATE_FILE)
    if state.is_file():
        findings.extend(_state(state))
    checks = [Check("tensors only", (("tensor", len(store.specs)),), tuple(findings))]
    graph = index.with_name(index.name.removesuffix(".index") + ".meta")
    if graph.exists():
        try:
            checks.append(scan_graph_file(graph))
        except CkptkitError as error:
            finding = Finding("warning", "graph.unread", graph.name, error.message)
            checks.append(Check(graph.name, (), (finding,)))
    return checks


def _state(path: Path) -> Iterator[Finding]:
    """Yield a finding if a training directory's state file leads TensorFlow out of it.

    An absolute path is often one of the machine that wrote it, where nothing lies here.
    """
    try:
        latest, _all = read_state(path)
    except FormatError as error:
        yield Finding("warning", "state.unread", path.name, error.message)
        return
    if not latest or "\0" in latest:
        return
    prefix = (path.parent / latest).resolve()
    inside = prefix.is_relative_to(path.parent.resolve())
    if not inside and (index_path(prefix).exists() or prefix.exists()):
        message = f"the latest checkpoint is said to be {latest!r}, out of the directory"
        yield Finding("warning", "state.path", path.name, message)


# --- Keras and weights files ----------------------------------------------------------------------


def scan_keras_directory(path: Path) -> list[Check]:
    """Scan a model of Keras 3 that lies unpacked in a directory; raises as for its files."""
    size = file_size(path / CONFIG)
    if size > MAX_JSON:
        raise FormatError(str(path / CONFIG), "is too large to be looked at")
    data = read_exact(path / CONFIG, 0, size)
    findings = tuple(text_findings(data, f"{path.name}/{CONFIG}"))
    checks = [Check(CONFIG, (("config", 1),), findings), directory_check(path)]
    for name, scan in ((WEIGHTS, scan_hdf5), (WEIGHTS_NPZ, scan_npz)):
        if (path / name).is_file():
            try:
                checks.extend(scan(path / name))
            except FormatError as error:
                finding = Finding("warning", "file.unread", name, error.message, error.hint)
                checks.append(Check(name, (), (finding,)))
    return checks


def scan_index(path: Path) -> list[Check]:
    """Scan an index of shards and the HDF5 files among them; a shard's name must be a name.

    Raises FormatError where the index cannot be read.
    """
    index = strict_json.load(path)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        raise FormatError(str(path), "not an index of weights: it has no weight_map")
    names: dict[str, None] = {}
    findings: list[Finding] = []
    for key, value in weights.items():
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not is_plain_name(name):
                message = f"the shard {name!r} leads out of the index's directory"
                findings.append(Finding("error", "index.path", f"{path.name}: {key}", message))
            else:
                names[name] = None
    checks = [Check("index", (("tensor", len(weights)),), tuple(findings))]
    for name in names:
        shard = path.parent / name
        links = tuple(link_findings(shard, path.parent)) if shard.exists() else ()
        if links:
            checks.append(Check(name, (("file", 1),), links))
        elif shard.is_file() and start_of_hdf5(shard) is not None:
            checks.extend(scan_hdf5(shard))
    return checks


# --- what loaders take a file for by its content --------------------------------------------------


def scan_zip(path: Path) -> list[Check]:
    """Scan a zip archive, as Keras reads it, or PyTorch, or numpy."""
    if is_keras_archive(path):
        return scan_keras(path)
    head = Head(path, read_exact(path, 0, 4))
    return scan_pytorch(path) if is_pytorch(head) else scan_npz(path)


def scan_array(path: Path) -> list[Check]:
    """Scan a single array (`.npy`)."""
    front = read_exact(path, 0, min(file_size(path), FRONT))
    finding = array_finding(front, path.name)
    return [Check("array", (("tensor", 1),), (finding,) if finding else ())]


def scan_config(path: Path) -> list[Check]:
    """Scan the config of a Keras model that lies alone, as `model.to_json` gives it."""
    data = read_exact(path, 0, file_size(path))
    return [Check("config", (("config", 1),), tuple(text_findings(data, path.name)))]


def scan_pickle(path: Path) -> list[Check]:
    """Return the finding on a file that is a pickle."""
    return [Check("pickle", (("file", 1),), (pickle_finding(path.name),))]
