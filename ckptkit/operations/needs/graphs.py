"""What SavedModels, graphs and checkpoints of TensorFlow need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ckptkit._io.files import file_size, read_exact
from ckptkit._io.pointers import MAX_POINTER_BYTES, pointer_in
from ckptkit.errors import CkptkitError
from ckptkit.operations.needs.code_packages import package_of_op
from ckptkit.operations.needs.environment import Environment, fits, release
from ckptkit.operations.needs.keras_api import KerasApi
from ckptkit.operations.needs.keras_config import ConfigReader
from ckptkit.operations.needs.keras_files import training_needs
from ckptkit.operations.needs.tensorflow_ops import NEWEST, span_of
from ckptkit.operations.needs.types import Fact, Need, OpeningCall, unique
from ckptkit.operations.scan.graph import graph_findings
from ckptkit.operations.scan.rule import RANDOM
from ckptkit.stores.base import Store
from ckptkit.stores.containers.strict_json import loads
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.saved_model.graph import INIT_SIGNATURE, MetaGraph, read_graphs
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.v1_reader import open_checkpoint_v1
from ckptkit.text import lazy_pattern, list_text

_METADATA = "keras_metadata.pb"
_VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
# a boolean attribute that is true, as protobuf writes the entry of its map
_COMPILED = lazy_pattern(rb"_XlaMustCompile\x12\x02\x28\x01")
_ABSOLUTE = lazy_pattern(r"'(/[^']+|[A-Za-z]:\\[^']+)'")
_AT_LOADING = "when the model is loaded"
_ALL_OF_IT = "ops of TensorFlow are registered by importing it"


def saved_model(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return what a SavedModel says of itself, and what opens it; raises FormatError."""
    binary = path / "saved_model.pb"
    file = binary if binary.exists() else path / "saved_model.pbtxt"
    if (need := pointer_need(file)) is not None:
        return [], [_tensorflow_loader("tf.saved_model.load(PATH)", (need,))]
    graphs = read_graphs(file)
    facts = _facts(graphs, file)
    texts = _keras_metadata(path, graphs)
    keras = _keras_version(texts, path)
    if keras is not None:
        facts.insert(0, Fact("written by", f"Keras {keras or 2}", _METADATA))
    common = (
        environment.need("tensorflow", "", _ALL_OF_IT),
        *_op_needs(graphs, environment, file),
        *_file_needs(path, graphs, file),
    )
    loaders = [
        _tensorflow_loader("tf.saved_model.load(PATH)", (*_at_least_2(environment), *common)),
        *_session_loader(graphs, common),
    ]
    if keras is not None:
        loaders += _keras_2_loaders(environment, common, texts, path)
    endpoints = sorted(s.key for g in graphs for s in g.signatures if s.key != INIT_SIGNATURE)
    if endpoints:
        endpoint = "serving_default" if "serving_default" in endpoints else endpoints[0]
        need = environment.need("keras", ">=3", "TFSMLayer is a layer of Keras 3")
        call = f"keras.layers.TFSMLayer(PATH, call_endpoint={endpoint!r})"
        loaders.append(OpeningCall(call, "a layer, for inference alone", (need, *common)))
    return facts, loaders


def graph_file(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of a GraphDef or of the `.meta` file beside a checkpoint."""
    graphs = read_graphs(path)
    needs = (
        environment.need("tensorflow", "", _ALL_OF_IT),
        *_op_needs(graphs, environment, path),
    )
    call = "tf.compat.v1.import_graph_def(GRAPH_DEF)"
    if path.name.endswith(".meta"):
        call = "tf.compat.v1.train.import_meta_graph(PATH)"
    return _facts(graphs, path), [OpeningCall(call, "a graph", needs)]


def checkpoint(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of a checkpoint, which a model of code is restored from."""
    return _checkpoint(path, environment, open_bundle(path))


def checkpoint_v1(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of a checkpoint of the V1 format."""
    return _checkpoint(path, environment, open_checkpoint_v1(path))


def _checkpoint(
    path: Path, environment: Environment, store: Store
) -> tuple[list[Fact], list[OpeningCall]]:
    facts = [Fact("written by", store.producer, "layout")] if store.producer else []
    facts.append(Fact("holds", "variables alone: the model must be built by its own code"))
    needs = [environment.need("tensorflow", "", "reads checkpoints")]
    needs += _shards(store)
    loaders = [OpeningCall("tf.train.load_checkpoint(PATH)", "arrays by name", tuple(needs))]
    graph = index_path(path).with_name(index_path(path).name.removesuffix(".index") + ".meta")
    if graph.is_file() and pointer_need(graph) is None:
        try:
            graphs = read_graphs(graph)
        except CkptkitError:
            return facts, loaders
        facts += [fact for fact in _facts(graphs, graph) if fact.name != "tags"]
        ops = tuple(_op_needs(graphs, environment, graph))
        call = "tf.compat.v1.train.import_meta_graph(PATH + '.meta').restore(SESSION, PATH)"
        loaders.append(OpeningCall(call, "the graph that it was saved from", (*needs, *ops)))
    return facts, loaders


def pointer_need(file: Path) -> Need | None:
    """Return the need of a file's content, where a pointer of Git LFS lies in its place."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_POINTER_BYTES:
            return None
        with file.open("rb") as stream:  # `_io.files` refuses pointers
            pointer = pointer_in(stream.read(MAX_POINTER_BYTES))
    except OSError:
        return None
    if pointer is None:
        return None
    return Need("file", file.name, f"{pointer}", where=str(file), hint=pointer.command)


# --- loaders --------------------------------------------------------------------------------------


def _tensorflow_loader(call: str, needs: tuple[Need, ...]) -> OpeningCall:
    return OpeningCall(call, "an object with its functions", needs)


def _at_least_2(environment: Environment) -> Iterator[Need]:
    found = environment.version("tensorflow")
    if found and release(found) < (2,):
        yield environment.need("tensorflow", ">=2", "this call is of TensorFlow 2")


def _session_loader(graphs: Sequence[MetaGraph], common: tuple[Need, ...]) -> Iterator[OpeningCall]:
    tags = list(graphs[0].tags)
    pinned = [name for name in _devices(graphs) if "CPU" not in name.upper()]
    needs = [
        Need("device", name, "ops are pinned to it", met=None, hint="allow_soft_placement=True")
        for name in pinned
    ]
    call = f"tf.compat.v1.saved_model.load(SESSION, {tags!r}, PATH)"
    yield OpeningCall(call, "a graph in a session", (*common, *needs))


def _keras_2_loaders(
    environment: Environment, common: tuple[Need, ...], texts: Sequence[str], path: Path
) -> Iterator[OpeningCall]:
    """Yield the calls of Keras 2: it takes the graph for classes that it does not know."""
    keras, reason = environment.version("keras"), "the model's classes are Keras 2's"
    if keras and release(keras) < (3,):
        need, module, version = environment.need("keras", "<3", reason), "keras", keras
    else:
        need, module = environment.need("tf_keras", "", reason), "tf_keras"
        version = environment.version("tf_keras") or "2.21"
    reader = ConfigReader(KerasApi(version), environment, by_name=True)
    trained = next((text for text in texts if '"training_config"' in text), "{}")
    metadata = loads(trained.encode(), str(path))
    training = metadata.get("training_config") if isinstance(metadata, dict) else None
    compiling = unique(training_needs(reader, training))
    needs = (need, *common)
    yield OpeningCall(f"{module}.models.load_model(PATH)", "a Keras model", (*needs, *compiling))
    if compiling:
        call = f"{module}.models.load_model(PATH, compile=False)"
        yield OpeningCall(call, "a Keras model, not compiled", needs)


# --- needs ----------------------------------------------------------------------------------------


def _op_needs(graphs: Sequence[MetaGraph], environment: Environment, file: Path) -> Iterator[Need]:
    """Yield the need of each op that the TensorFlow that is there does not register."""
    tensorflow = environment.version("tensorflow")
    own = {function.name for graph in graphs for function in graph.functions}
    places: dict[str, str] = {}
    for graph in graphs:
        for scope, ops in [("graph", graph.ops), *((f.name, f.ops) for f in graph.functions)]:
            for op in ops:
                if op.op not in own:
                    places.setdefault(op.op, f"{file.name}: {scope}: {op.name}")
    for name, place in places.items():
        need = op_need(name, tensorflow, place, environment)
        if need is not None:
            yield need


def op_need(name: str, tensorflow: str, place: str, environment: Environment) -> Need | None:
    """Return the need of an op; None where the TensorFlow that is there registers it.

    tensorflow: its version, "" where none is there (which is a need of its own).
    """
    versions = span_of(name)
    if versions is not None:
        if not versions or not tensorflow or fits(tensorflow, versions):
            return None
        reason = f"TensorFlow {tensorflow} does not register the op"
        return Need("op", name, reason, version=versions, where=place, pip=f"tensorflow{versions}")
    package = package_of_op(name)
    if package is None:
        is_newer = release(tensorflow)[:2] > NEWEST
        hint = "load the library that registers it (tf.load_op_library) first"
        reason = "an op that neither TensorFlow nor a known package registers"
        return Need("op", name, reason, where=place, met=None if is_newer else False, hint=hint)
    found = environment.version(package.distribution)
    return Need(
        "op",
        name,
        f"an op of {package.distribution}",
        where=place,
        found=f"{package.distribution} {found}" if found else "",
        met=bool(found),
        hint=f"import {package.module} before loading",
        pip=package.distribution,
    )


def _file_needs(path: Path, graphs: Sequence[MetaGraph], file: Path) -> Iterator[Need]:
    """Yield files that are not there: variables, assets, files that the graph reads."""
    if any(op.op in _VARIABLES for graph in graphs for op in graph.ops):
        yield from _variables(path)
    for asset in {asset for graph in graphs for asset in graph.assets}:
        place = path / "assets" / asset.filename
        if not place.is_file():
            reason = "an asset of the model, which is read when it is loaded"
            yield Need("file", f"assets/{asset.filename}", reason, where=str(path))
        elif (pointer := pointer_need(place)) is not None:
            yield pointer
    for graph in graphs:
        for finding in graph_findings(graph, file):
            if finding.code == "graph.reads-files" and _AT_LOADING in finding.message:
                for name in _ABSOLUTE.findall(finding.message):
                    reason = "the graph reads it when the model is loaded"
                    is_there = Path(name).is_file()
                    yield Need("file", name, reason, where=finding.where, met=is_there)


def _variables(path: Path) -> Iterator[Need]:
    prefix = path / "variables" / "variables"
    index = index_path(prefix)
    if not index.is_file():
        reason = "the index of the model's variables"
        yield Need("file", "variables/variables.index", reason, where=str(path))
        return
    if (pointer := pointer_need(index)) is not None:
        yield pointer
        return
    yield from _shards(open_bundle(prefix))


def _shards(store: Store) -> Iterator[Need]:
    """Yield the data files of a checkpoint that are not there."""
    missing = set(store.missing_shards)
    for shard in store.shards:
        if shard in missing or not shard.is_file():
            reason = "holds values of the checkpoint"
            yield Need("file", shard.name, reason, where=str(store.path))
        elif (pointer := pointer_need(shard)) is not None:
            yield pointer


# --- facts ----------------------------------------------------------------------------------------


def _facts(graphs: Sequence[MetaGraph], file: Path) -> list[Fact]:
    """Return what graphs say of their writer, and what of them depends on a machine."""
    found: dict[Fact, None] = {}
    for graph in graphs:
        if graph.tensorflow_version:
            version = f"TensorFlow {graph.tensorflow_version}"
            found[Fact("written by", version, f"{file.name}: meta_info_def")] = None
    for graph in graphs:
        if graph.tags:
            found[Fact("tags", ", ".join(graph.tags), file.name)] = None
    for name in _devices(graphs):
        found[Fact("device", name, file.name)] = None
    names = {op.op for ops in _all_ops(graphs) for op in ops}
    random = sorted(n for n in names if RANDOM.search(n) and not n.startswith("Stateless"))
    if random:
        found[Fact("random numbers", list_text(random, 4), file.name)] = None
    compiled = sorted(name for name in names if name.startswith("Xla"))
    if not compiled and file.suffix == ".pb" and _COMPILED.search(_bytes(file)):
        compiled = ["functions with jit_compile=True"]
    if compiled:
        found[Fact("compiled by XLA", list_text(compiled, 4), file.name)] = None
    return list(found)


def _bytes(file: Path) -> bytes:
    return read_exact(file, 0, file_size(file))


def _all_ops(graphs: Iterable[MetaGraph]) -> Iterator[Sequence[Any]]:
    for graph in graphs:
        yield graph.ops
        yield from (function.ops for function in graph.functions)


def _devices(graphs: Iterable[MetaGraph]) -> list[str]:
    """Return the devices that ops are pinned to, each once, without their default."""
    return sorted({op.device for ops in _all_ops(graphs) for op in ops if op.device})


def _keras_metadata(path: Path, graphs: Sequence[MetaGraph]) -> list[str]:
    """Return what Keras 2 says of its objects in a SavedModel, as JSON; nothing where none is."""
    texts = [
        text for graph in graphs for name, text in graph.metadata if name.startswith("_tf_keras")
    ]
    file = path / _METADATA
    if file.is_file():
        nodes = parse("SavedMetadata", read_exact(file, 0, file_size(file)), str(file)).nodes
        texts += [node.metadata for node in nodes]
    return [text for text in texts if text]


def _keras_version(texts: Sequence[str], path: Path) -> str | None:
    """Return the version of the Keras 2 that wrote these; None where there are none."""
    for text in texts:
        if '"keras_version"' in text:
            found = loads(text.encode(), str(path))
            version = found.get("keras_version") if isinstance(found, dict) else None
            if isinstance(version, str):
                return version
    return "" if texts else None
