"""Verifying a SavedModel beyond its variables: graph, signatures, assets, fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ckptkit._io.files import file_size, read_exact
from ckptkit._io.places import can_list, entries_known
from ckptkit._io.progress import Progress
from ckptkit.errors import CkptkitError, PathNotFoundError
from ckptkit.operations.findings import Check, Finding, Unit, of_error
from ckptkit.operations.verify.bundle import verify_bundle
from ckptkit.operations.verify.sampling import TensorSample
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.base import Store
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.registry import SAVED_MODEL, TENSOR_BUNDLE, open_format
from ckptkit.stores.saved_model.canonical_order import in_c_order
from ckptkit.stores.saved_model.farmhash import fingerprint64
from ckptkit.stores.saved_model.files import MODEL_FILE, VARIABLES
from ckptkit.stores.saved_model.graph import Asset, MetaGraph, Op, read_graphs
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

FINGERPRINT = "fingerprint.pb"
ASSETS = "assets"
_DAMAGED = "the model loads, and running it fails; copy it again"
MAX_FINGERPRINTED = 16 << 20  # bytes; the fingerprint is made at 7 MB/s
MIN_WITH_UUID = 4  # producer of a fingerprint
_KNOWN = {MODEL_FILE, "saved_model.pbtxt", FINGERPRINT, "keras_metadata.pb"}
_KNOWN_DIRECTORIES = {"variables", ASSETS, "assets.extra"}


def verify_saved_model(
    path: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
    *,
    sample: TensorSample | None = None,
) -> tuple[Unit, Store | None]:
    """Return what is found in the SavedModel at directory `path`, and its variables.

    sample: of the variables to read; None for all.
    Raises UnsupportedError, MissingDependencyError.
    """
    checks: list[Check] = []
    not_checked: list[str] = []
    graphs, graph_check = _graphs(path)
    checks.append(graph_check)
    unit, store = _variables(path, graphs, executor, progress, sample)
    checks.extend(unit.checks)
    not_checked.extend(unit.not_checked)
    if graphs:
        checks.append(_signatures(graphs, path))
        keys = None if store is None or unit.checks[0].findings else set(store.specs)
        if keys is not None:
            checks.append(_restored(graphs, keys, path))
        checks.append(_assets(path, graphs))
    checks.extend(_fingerprint(path, not_checked))
    checks.append(_layout(path))
    others = _without_checksum(path)
    if others:
        not_checked.append(f"the content of {list_text(others)}: no checksum is kept of it")
    if not can_list(path):
        not_checked.append("what else lies in it: the server lists no directories")
    not_checked.append("whether the graph computes what it should (nothing is run)")
    return (
        Unit(path, SAVED_MODEL, tuple(checks), tuple(not_checked), unit.tensors, unit.nbytes),
        store,
    )


# --- graph ----------------------------------------------------------------------------------------


def _graphs(path: Path) -> tuple[list[MetaGraph], Check]:
    file = path / MODEL_FILE
    name = MODEL_FILE
    if not file.exists() and (path / "saved_model.pbtxt").exists():
        file, name = path / "saved_model.pbtxt", "saved_model.pbtxt"
    try:
        graphs = read_graphs(file)
    except PathNotFoundError:
        finding = Finding(
            "error", "graph.missing", str(file), "is missing", "the export was never finished"
        )
        return [], Check(name, (), (finding,))
    except CkptkitError as error:
        return [], Check(name, (), (of_error(error, "graph"),))
    findings = [finding for graph in graphs for finding in _graph_findings(graph, str(file))]
    ops = sum(len(g.ops) + sum(len(f.ops) for f in g.functions) for g in graphs)
    counts = (("graph", len(graphs)), ("op", ops), ("byte", file_size(file)))
    return graphs, Check(name, counts, tuple(findings))


def _graph_findings(graph: MetaGraph, where: str) -> Iterator[Finding]:
    """Yield inputs and functions that are not there."""
    functions = {function.name for function in graph.functions}
    if len(functions) < len(graph.functions):
        yield Finding("error", "graph.duplicate", where, "two functions have one name")
    for owner, ops, known in [
        ("graph", graph.ops, {op.name for op in graph.ops}),
        *(
            (f"function {f.name}", f.ops, {*f.args, *(op.name for op in f.ops)})
            for f in graph.functions
        ),
    ]:
        missing = sorted({_node(name) for op in ops for name in op.inputs} - known)
        if missing:
            message = f"inputs that are not there: {list_text(missing)}"
            yield Finding("error", "graph.missing-op", f"{where}: {owner}", message)
        lost = sorted({call for op in ops for call in op.calls if call} - functions)
        if lost:
            message = f"calls functions that are not there: {list_text(lost)}"
            yield Finding("error", "graph.missing-function", f"{where}: {owner}", message)
        for op in ops:
            if op.flaw:
                message = f"constant {op.name} has no value: {op.flaw}"
                yield Finding("error", "graph.constant", f"{where}: {owner}", message, _DAMAGED)


def _node(tensor: str) -> str:
    """Return the name of the op that a tensor name refers to."""
    return tensor.removeprefix("^").partition(":")[0]


def _signatures(graphs: list[MetaGraph], path: Path) -> Check:
    findings: list[Finding] = []
    count = 0
    for graph in graphs:
        ops = {op.name for op in graph.ops}
        if not graph.signatures and not graph.object_functions:
            message = "has no signature and no function: nothing can be called"
            findings.append(Finding("note", "signature.none", str(path), message))
        for signature in graph.signatures:
            count += 1
            names = [*signature.inputs, *signature.outputs]
            lost = sorted({name for name in names if _node(name) not in ops})
            if lost:
                message = f"points at tensors that the graph lacks: {list_text(lost)}"
                where = f"{path}: signature {signature.key}"
                findings.append(Finding("error", "signature.missing-op", where, message))
        lost = [name for name in (*graph.saver, *graph.init_ops) if name and _node(name) not in ops]
        if lost:
            message = f"saver or initializer points at ops that the graph lacks: {list_text(lost)}"
            findings.append(Finding("error", "graph.missing-op", str(path), message))
    return Check("signatures", (("signature", count),), tuple(findings))


# --- variables ------------------------------------------------------------------------------------


def _variables(
    path: Path,
    graphs: list[MetaGraph],
    executor: Executor | None,
    progress: Progress | None,
    sample: TensorSample | None,
) -> tuple[Unit, Store | None]:
    prefix = path / VARIABLES
    if index_path(prefix).exists():
        return verify_bundle(prefix, executor, progress, sample=sample)
    wanted = [key for graph in graphs for key in _restored_keys(graph)]
    findings: tuple[Finding, ...] = ()
    if wanted or (can_list(path) and any(prefix.parent.glob("variables.data-*"))):
        message = f"is missing, and the graph restores {count_text(len(wanted), 'tensor')} from it"
        hint = "the export was not finished or not all files were copied"
        findings = (Finding("error", "index.missing", str(index_path(prefix)), message, hint),)
    elif graphs:
        frozen = _constants(path)
        if frozen is not None:
            return frozen, None
    return Unit(prefix, TENSOR_BUNDLE, (Check("index", (("tensor", 0),), findings),)), None


def _constants(path: Path) -> Unit | None:
    """Return how many constants stand in the graph for variables; None where there are none.

    Whether each has a value is a finding of the graph's.
    """
    try:
        store = open_format(SAVED_MODEL, path)
        specs = store.specs.values()
    except CkptkitError:  # the graph's findings say so
        return None
    if not specs:
        return None
    nbytes = sum(spec.nbytes for spec in specs)
    check = Check("constants", (("tensor", len(specs)), ("byte", nbytes)))
    return Unit(path, SAVED_MODEL, (check,), (), len(specs), nbytes)


def _restored(graphs: list[MetaGraph], keys: set[str], path: Path) -> Check:
    """Check that every tensor that the graph's restore ops read is in the bundle."""
    wanted = {key for graph in graphs for key in _restored_keys(graph)}
    lost = sorted(wanted - keys)
    findings = []
    if lost:
        message = f"the graph reads {count_text(len(lost), 'tensor')} that the variables lack: "
        findings.append(
            Finding(
                "error",
                "variables.missing-tensor",
                str(path / VARIABLES),
                message + list_text(lost),
                "graph and variables are of two saves",
            )
        )
    return Check("variables the graph reads", (("tensor", len(wanted)),), tuple(findings))


def _restored_keys(graph: MetaGraph) -> Iterator[str]:
    """Yield the keys that RestoreV2 ops name by constants."""
    for ops in [graph.ops, *(function.ops for function in graph.functions)]:
        by_name: dict[str, Op] = {op.name: op for op in ops}
        for op in ops:
            if op.op == "RestoreV2" and len(op.inputs) > 1:
                names = by_name.get(_node(op.inputs[1]))
                if names is not None and names.op == "Const":
                    yield from (s.decode("utf-8", "backslashreplace") for s in names.strings)


# --- assets ---------------------------------------------------------------------------------------


def _assets(path: Path, graphs: list[MetaGraph]) -> Check:
    assets = list(dict.fromkeys(asset for graph in graphs for asset in graph.assets))
    findings = [finding for asset in assets for finding in _asset(path, asset, graphs)]
    listed_names = {PurePosixPath(asset.filename).parts[:1] for asset in assets}
    directory = path / ASSETS
    if directory.is_dir():
        for entry in entries_known(directory):
            if (entry.name,) not in listed_names:
                message = "no graph refers to it"
                findings.append(Finding("note", "asset.extra", str(entry), message))
    return Check("assets", (("asset", len(assets)),), tuple(findings))


def _asset(path: Path, asset: Asset, graphs: list[MetaGraph]) -> Iterator[Finding]:
    where = f"{path}: asset {asset.filename!r}"
    if not is_plain_name(asset.filename):
        yield Finding(
            "error",
            "asset.path",
            where,
            "its file name leads out of the directory of assets",
            "no exporter writes that: the model is forged",
        )
        return
    file = path / ASSETS / asset.filename
    root = (path / ASSETS).resolve()
    if not file.resolve().is_relative_to(root):
        yield Finding("error", "asset.path", where, f"is a link to {file.resolve()}, outside")
    elif not file.is_file():
        yield Finding("error", "asset.missing", where, "its file is missing", "copy assets/ too")
    tensor = _node(asset.tensor)
    if tensor and not any(op.name == tensor for graph in graphs for op in graph.ops):
        message = f"is fed to {asset.tensor!r}, which the graph lacks"
        yield Finding("error", "asset.missing-op", where, message)


# --- fingerprint ----------------------------------------------------------------------------------


def _fingerprint(path: Path, not_checked: list[str]) -> Iterator[Check]:
    """Compare fingerprint.pb with the files that it was made for."""
    file = path / FINGERPRINT
    if not file.exists():
        not_checked.append(f"{MODEL_FILE} has no checksum: there is no {FINGERPRINT}")
        return
    try:
        data = read_exact(file, 0, min(file_size(file), 1 << 16))
        stored = parse("FingerprintDef", data, str(file))
    except CkptkitError as error:
        yield Check(FINGERPRINT, (), (of_error(error, "fingerprint"),))
        return
    findings: list[Finding] = []
    if not _is_whole(stored):
        message = "lacks the fields that TensorFlow writes last: it was cut short or rewritten"
        findings.append(Finding("warning", "fingerprint.incomplete", str(file), message))
    compared = 0
    for field, target, what in (
        ("saved_model_checksum", path / MODEL_FILE, "the graph was changed or damaged since"),
        ("checkpoint_hash", index_path(path / VARIABLES), "the variables are of another save"),
    ):
        value = getattr(stored, field)
        if not value or not target.is_file():
            continue
        if file_size(target) > MAX_FINGERPRINTED:
            not_checked.append(f"{target.name} against {FINGERPRINT}: it is too large for that")
            continue
        content = read_exact(target, 0, file_size(target))
        try:
            found = fingerprint64(in_c_order(content) if target.name == MODEL_FILE else content)
        except CkptkitError as error:
            findings.append(of_error(error, "graph"))
            continue
        compared += 1
        if found != value:
            findings.append(
                Finding(
                    "warning",
                    "fingerprint.stale",
                    str(target),
                    f"is not the one that {FINGERPRINT} was made for: {field} is {value:#018x}, "
                    f"its own {found:#018x}",
                    f"{what}; tools that rewrite a SavedModel leave this too",
                )
            )
    yield Check(FINGERPRINT, (("file", compared),), tuple(findings))


def _is_whole(fingerprint: Any) -> bool:
    """Whether the last fields are there: `version` always, `uuid` since producer 4.

    A conversion leaves out both `checkpoint_hash` and `uuid`, which are of the old variables.
    """
    has_uuid = bool(fingerprint.uuid) or not fingerprint.checkpoint_hash
    return fingerprint.HasField("version") and (
        fingerprint.version.producer < MIN_WITH_UUID or has_uuid
    )


def _without_checksum(path: Path) -> list[str]:
    """Return what a loader reads and no fingerprint covers."""
    found = ["keras_metadata.pb"] if (path / "keras_metadata.pb").is_file() else []
    assets = path / ASSETS
    if assets.is_dir() and any(entries_known(assets)):
        found.append(f"{ASSETS}/")
    return found


def _layout(path: Path) -> Check:
    """Look for what an export does not contain."""
    findings = []
    names = [entry.name for entry in entries_known(path)]
    for name in _unknown(path, names):
        message = "is no part of a SavedModel"
        findings.append(Finding("note", "layout.extra", str(path / name), message))
    variables = path / VARIABLES.parent
    for entry in entries_known(variables) if variables.is_dir() else []:
        if "tempstate" in entry.name or "_temp" in entry.name:
            message = "was left by a save that was not finished"
            findings.append(Finding("warning", "layout.unfinished", str(entry), message))
    return Check("layout", (("entry", len(names)),), tuple(findings))


def _unknown(path: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        known = _KNOWN_DIRECTORIES if (path / name).is_dir() else _KNOWN
        if name not in known:
            yield name
