"""`scan`: what a model file could do when it is loaded or run, found without doing either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit._io.files import file_size, os_error, read_exact
from ckptkit.errors import CkptkitError, PathNotFoundError, UnsupportedError
from ckptkit.operations.findings import Check, Finding, Unit, is_damage, of_error
from ckptkit.operations.scan.graph import graph_findings
from ckptkit.operations.scan.keras import config_findings
from ckptkit.operations.verify.api import Verification
from ckptkit.stores.assets import is_plain_name
from ckptkit.stores.containers import strict_json as _json
from ckptkit.stores.keras.archive import archive_configs
from ckptkit.stores.keras.legacy_h5 import hdf5_configs
from ckptkit.stores.locate import locate
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.registry import open_format
from ckptkit.stores.saved_model.graph import MetaGraph, read_graphs

__all__ = ["Scan", "scan"]

SCHEMA = "ckptkit.scan/1"
_TENSORS_ONLY = ("tensor-bundle", "safetensors", "safetensors-index", "weights.h5", "weights.json")
_KERAS_MEMBERS = ("metadata.json", "config.json", "model.weights.h5", "model.weights.json")


@dataclass(frozen=True, slots=True, repr=False)
class Scan(Verification):
    """What a scan of one operand found; the same shape as a verification.

    A finding of severity "error" is known to act on the outside, a "warning" is not known to be
    harmless.  No finding means that all ops and classes are on the allowlist, which is as much as
    can be said: whether the model is right, or safe to obey, is another question.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.scan/1 (docs/json.md)."""
        document = Verification.to_json(self)
        del document["tensors"], document["bytes"]
        return {**document, "schema": SCHEMA}


def scan(path: str | os.PathLike[str]) -> Scan:
    """Look for what a SavedModel, GraphDef, Keras or weights file could do when run.

    Nothing is loaded, built or executed.  A file that cannot be read for sure is a finding too.
    Raises PathNotFoundError where there is nothing.
    """
    path = Path(path)
    try:
        return Scan(path, tuple(_units(path)))
    except OSError as error:
        raise os_error(path, error) from error


def _units(path: Path) -> Iterator[Unit]:
    if path.is_dir() and any((path / f"saved_model.{kind}").exists() for kind in ("pb", "pbtxt")):
        yield _saved_model(path)
    elif path.is_file() and path.suffix in (".pb", ".pbtxt"):
        if path.stem == "saved_model":
            yield _saved_model(path.parent)
        elif path.name == "keras_metadata.pb":
            yield _guarded(path, "keras-metadata", lambda: [_metadata(path)])
        else:
            yield _guarded(path, "graph", lambda: [_graph_file(path)])
    else:
        yield _file(path)


def _guarded(path: Path, format_name: str, checks: Callable[[], list[Check]]) -> Unit:
    """Return the unit of these checks; what cannot be read is a finding."""
    try:
        return Unit(path, format_name, tuple(checks()), _UNSEEN)
    except UnsupportedError as error:
        return Unit(path, format_name, refusal=error)
    except PathNotFoundError:
        raise
    except CkptkitError as error:
        if not is_damage(error):
            return Unit(path, format_name, refusal=error)
        finding = of_error(error, "file")
        return Unit(path, format_name, (Check("structure", (), (finding,)),))


_UNSEEN = (
    "bugs of the loader itself, which a crafted file may reach without any such op or class",
)


# --- SavedModel, GraphDef -------------------------------------------------------------------------


def _saved_model(path: Path) -> Unit:
    def checks() -> list[Check]:
        found = []
        for name in ("saved_model.pb", "saved_model.pbtxt"):
            if (path / name).exists():
                found.append(_graph_file(path / name))
        if (path / "keras_metadata.pb").exists():
            found.append(_metadata(path / "keras_metadata.pb"))
        return found

    return _guarded(path, "saved-model", checks)


def _graph_file(path: Path) -> Check:
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


def _metadata(path: Path) -> Check:
    """Scan the configs in keras_metadata.pb, which Keras 2 wrote beside saved_model.pb."""
    data = read_exact(path, 0, file_size(path))
    nodes = parse("SavedMetadata", data, str(path)).nodes
    findings: list[Finding] = []
    for node in nodes:
        findings.extend(_text(node.metadata.encode(), f"{path.name}: {node.node_path}"))
    return Check(path.name, (("object", len(nodes)),), tuple(findings))


def _text(text: bytes, where: str) -> Iterator[Finding]:
    try:
        config = _json.loads(text, where)
    except CkptkitError as error:
        yield Finding(
            "warning", "keras.unknown", where, f"a config that is not read: {error.message}"
        )
        return
    yield from config_findings(config, where)


# --- Keras and weights files ----------------------------------------------------------------------


def _file(path: Path) -> Unit:
    try:
        located = locate(path)
    except UnsupportedError as error:
        return Unit(path, "unknown", refusal=error)
    except PathNotFoundError:
        raise
    except CkptkitError as error:
        return Unit(path, "unknown", (Check("structure", (), (of_error(error, "file"),)),))
    if located.format == "saved-model":
        return _saved_model(located.path)
    checks: dict[str, Callable[[Path], list[Check]]] = {
        "keras": _keras,
        "h5": _hdf5,
        "npz": _npz,
    }
    if located.format in checks:
        return _guarded(path, located.format, lambda: checks[located.format](located.path))
    assert located.format in _TENSORS_ONLY, located.format

    def opened() -> list[Check]:
        store = open_format(located.format, located.path)
        return [Check("tensors only", (("tensor", len(store.specs)),))]

    return _guarded(path, located.format, opened)


def _keras(path: Path) -> list[Check]:
    from ckptkit.stores.containers import zip_archive as _zip

    findings: list[Finding] = []
    count = 0
    for name, config in archive_configs(path).items():
        count += 1
        findings.extend(config_findings(config, f"{path.name}:{name}"))
    for name in _zip.read_directory(path):
        if name not in _KERAS_MEMBERS and not name.endswith(".json"):
            if not is_plain_name(name.rstrip("/")):
                message = "an archive member that leads out of the place it is unpacked in"
                findings.append(Finding("error", "archive.path", f"{path.name}:{name}", message))
            elif not name.startswith("assets/"):
                message = "an archive member that no Keras file has"
                findings.append(
                    Finding("warning", "archive.stranger", f"{path.name}:{name}", message)
                )
    open_format("keras", path)  # links out of the weights file are refused here
    return [Check("configs", (("config", count),), tuple(findings))]


def _hdf5(path: Path) -> list[Check]:
    configs = hdf5_configs(path)
    open_format("h5", path)
    findings = [
        finding
        for name, config in configs.items()
        for finding in config_findings(config, f"{path.name}@{name}")
    ]
    return [Check("configs", (("config", len(configs)),), tuple(findings))]


def _npz(path: Path) -> list[Check]:
    store = open_format("npz", path)
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
