"""What whole models and weights in Keras files need: `.keras`, HDF5, weights of Keras 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptkit.operations.needs.environment import Environment, release
from ckptkit.operations.needs.keras_api import KerasApi
from ckptkit.operations.needs.keras_config import ConfigReader, code_need
from ckptkit.operations.needs.types import Fact, Need, OpeningCall, unique
from ckptkit.stores.containers.byte_range import whole_file
from ckptkit.stores.hdf5.reader import scan as read_tree
from ckptkit.stores.hdf5.types import H5Tree
from ckptkit.stores.keras.archive import CONFIG, METADATA, archive_configs
from ckptkit.stores.keras.legacy_h5 import hdf5_configs, listed_names
from ckptkit.stores.registry import FORMATS, KERAS, LEGACY_KERAS, model_format

BACKENDS = ("tensorflow", "jax", "torch")
_ONLY_TF = (  # of Keras 3: layers that need TensorFlow whatever the backend (tf.data, tf.lookup)
    *("StringLookup", "TextVectorization", "Hashing", "HashedCrossing", "IntegerLookup"),
    *("Discretization", "TFSMLayer"),
)
_MODEL, _WEIGHTS = "a model", "weights, into a model that is built"
_SPECIAL_METRICS = ("accuracy", "acc", "crossentropy", "ce")


def archive(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return what a `.keras` archive says of itself, and what opens it; raises FormatError."""
    members = archive_configs(path)
    metadata, config = members.get(METADATA), members.get(CONFIG)
    version = _text(metadata, "keras_version")
    facts = [_writer(version, METADATA)]
    if saved := _text(metadata, "date_saved"):
        facts.append(Fact("saved", saved, METADATA))
    facts += _config_facts(config, CONFIG)
    if not isinstance(config, Mapping):
        return facts, _weights_loaders(path, environment, facts)
    loaders: list[OpeningCall] = []
    named = _named(path, model_format(KERAS).suffixes)
    for calls in _kerases(environment, version):
        reader = ConfigReader(calls.api, environment, by_name=False)
        building = [*calls.needs, *named, *_unread(calls.api, version)]
        compiling = list(reader.needs(config.get("compile_config"), f"{CONFIG}:compile_config"))
        model = {key: value for key, value in config.items() if key != "compile_config"}
        building += reader.needs(model, CONFIG)
        building += _needs_tensorflow(model, environment, calls)
        loaders += _with_and_without_compile(calls, unique(building), unique(compiling))
    return facts, loaders


def hdf5(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of an HDF5 file of Keras 1, 2 or 3; raises FormatError."""
    tree = read_tree(whole_file(path))
    groups = tree.groups
    root = groups[""]
    inner = groups.get("model_weights", {})
    version = _attribute(root, inner, "keras_version")
    configs = hdf5_configs(path)
    config = configs.get("model_config")
    facts = [_writer(version or "1", "keras_version" if version else "no keras_version")]
    if backend := _attribute(root, inner, "backend"):
        facts.append(Fact("backend", backend, "backend"))
    facts += _config_facts(config, "model_config")
    if not isinstance(config, Mapping):
        return facts, _weights_loaders(path, environment, facts)
    loaders: list[OpeningCall] = []
    rows = FORMATS.built_in.values()
    suffixes = next(row.suffixes for row in rows if row.structure == LEGACY_KERAS)
    named = _named(path, suffixes)
    for calls in _kerases(environment, version or "1"):
        reader = ConfigReader(calls.api, environment, by_name=True)
        building = [*calls.needs, environment.need("h5py", "", "reads HDF5")]
        building += named if calls.is_3 else ()  # Keras 2 goes by content
        building += reader.needs(config, "model_config")
        building += _needs_tensorflow(config, environment, calls)
        building += [*_opaque(tree), *_quantised_later(tree)]
        compiling = list(training_needs(reader, configs.get("training_config")))
        loaders += _with_and_without_compile(calls, unique(building), unique(compiling))
    return facts, loaders


def weights(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of weights of Keras 3 (`.weights.h5` and its index of shards)."""
    facts = [Fact("written by", "Keras", "layout")]
    return facts, _weights_loaders(path, environment, facts)


# --- loaders --------------------------------------------------------------------------------------


class Keras:
    """One Keras that may open a file.

    Attributes:
        module: as it is imported.
        api: its classes.
        needs: packages.
    """

    def __init__(self, module: str, version: str, needs: list[Need]) -> None:
        self.module = module
        self.api = KerasApi(version)
        self.needs = needs

    @property
    def is_3(self) -> bool:
        """Whether it is Keras 3."""
        return self.api.generation >= 3


def _kerases(environment: Environment, written_by: str) -> list[Keras]:
    """Return the Kerases that are here or would have to be: Keras 3 and Keras 2."""
    keras, tf_keras = environment.version("keras"), environment.version("tf_keras")
    is_3 = release(keras) >= (3,)
    three = keras if is_3 else "3.15"
    found = [
        Keras(
            "keras",
            three,
            [environment.need("keras", ">=3", "this call is of Keras 3"), _backend(environment)],
        )
    ]
    reason = "this call is of Keras 2"
    if keras and not is_3:
        needs = [environment.need("keras", "<3", reason)]
        found.append(
            Keras("keras", keras, [*needs, environment.need("tensorflow", "<2.16", reason)])
        )
    elif not keras and (inside := _inside_tensorflow(environment)):
        needs = [environment.need("tensorflow", "<2.6", reason)]
        found.append(Keras("tensorflow.keras", inside, needs))
    else:
        needs = [
            environment.need("tf_keras", "", reason),
            environment.need("tensorflow", "", reason),
        ]
        found.append(Keras("tf_keras", tf_keras or "2.21", needs))
    newest_first = release(written_by) >= (3,)
    return found if newest_first else found[::-1]


def _inside_tensorflow(environment: Environment) -> str:
    """Return the version of the Keras inside of TensorFlow 1 and 2.0 to 2.5; "" where none is."""
    number = release(environment.version("tensorflow"))[:2]
    return "2.4" if number and number < (2, 6) else ""


def _backend(environment: Environment) -> Need:
    here = [name for name in BACKENDS if environment.version(name)]
    first = here[0] if here else "tensorflow"
    reason = "Keras 3 computes with one of tensorflow, jax and torch"
    return environment.need(first, "", reason)


def _with_and_without_compile(
    keras: Keras, building: tuple[Need, ...], compiling: tuple[Need, ...]
) -> Iterator[OpeningCall]:
    """Yield the call that also compiles the model, and where that fails the one that does not."""
    function = (
        f"{keras.module}.saving.load_model" if keras.is_3 else f"{keras.module}.models.load_model"
    )
    imports = _imports(building)
    if compiling:
        call = f"{imports}{function}(PATH)"
        yield OpeningCall(call, f"{_MODEL}, compiled", unique([*building, *compiling]))
        yield OpeningCall(
            f"{imports}{function}(PATH, compile=False)", f"{_MODEL}, not compiled", building
        )
    else:
        yield OpeningCall(f"{imports}{function}(PATH)", _MODEL, building)


def _imports(needs: tuple[Need, ...]) -> str:
    """Return what is to be imported for its classes to be registered."""
    modules = [n.hint.split()[1] for n in needs if n.kind == "code" and n.met and n.hint]
    return "".join(f"import {module}; " for module in dict.fromkeys(modules))


def _weights_loaders(path: Path, environment: Environment, facts: list[Fact]) -> list[OpeningCall]:
    """Return what opens a file of weights alone: the model has to be built by code."""
    facts.append(Fact("holds", "weights alone: the model must be built by its own code"))
    h5py = environment.need("h5py", "", "reads HDF5")
    keras = environment.version("keras")
    loaders = []
    if release(keras) >= (3,) or not environment.version("tf_keras"):
        needs = [environment.need("keras", "", "has load_weights"), _backend(environment)]
        loaders.append(OpeningCall("MODEL.load_weights(PATH)", _WEIGHTS, (*needs, h5py)))
    if environment.version("tf_keras"):
        need = environment.need("tf_keras", "", "has load_weights")
        loaders.append(
            OpeningCall("MODEL.load_weights(PATH)  # of tf_keras", _WEIGHTS, (need, h5py))
        )
    loaders.append(OpeningCall('h5py.File(PATH, "r")', "arrays", (h5py,)))
    return loaders


def _opaque(tree: H5Tree) -> Iterator[Need]:
    """Yield the refusal of weights that HDF5 keeps as bytes without a meaning, as bfloat16."""
    opaque = [
        dataset
        for path, dataset in tree.datasets.items()
        if dataset.dtype.startswith("void") and not path.startswith("optimizer_weights/")
    ]
    if opaque:
        reason = "no Keras makes numbers of it: HDF5 has no bfloat16, and keeps its bytes alone"
        hint = "save it as .keras, or `ckptkit convert` it into one"
        yield Need("values", opaque[0].dtype, reason, where=opaque[0].path, hint=hint)


def _quantised_later(tree: H5Tree) -> Iterator[Need]:
    """Yield the refusal of a layer that `quantize("float8")` made one after it was built.

    Such a file has its weights in the order in which they were made, and Keras, which makes the
    scales of a layer of float8 before its kernel, reads them by their order.
    """
    for group, attributes in tree.groups.items():
        layers: dict[str, list[str]] = {}
        for name in listed_names(attributes, "weight_names") or ():
            layer, _, last = name.rpartition("/")
            layers.setdefault(layer, []).append(last)
        for layer, own in layers.items():
            if "kernel_amax_history" in own and not own[0].endswith("_scale"):
                reason = "its scales come after its kernel here, and before it where Keras loads it"
                hint = "save it as .keras"
                yield Need("values", "float8", reason, where=f"{group}/{layer}", hint=hint)
                return


def _named(path: Path, suffixes: tuple[str, ...]) -> list[Need]:
    """Return the need of another name: Keras goes by a file's suffix."""
    if path.name.endswith(suffixes):
        return []
    reason = f"Keras opens such a file only under a name that ends in {' or '.join(suffixes)}"
    return [Need("name", suffixes[0], reason, found=path.name, hint="copy it to such a name")]


def _unread(api: KerasApi, written_by: str) -> Iterator[Need]:
    """Yield the doubt about a file of a Keras that is newer than the one that is to read it."""
    newer, older = release(written_by)[:2], release(api.version)[:2]
    if api.generation >= 3 and newer > older:
        reason = f"written by a newer Keras ({written_by}) than {api.version}"
        yield Need(
            "version", "keras", reason, version=f">={written_by}", found=api.version, met=True
        )


def _needs_tensorflow(config: Any, environment: Environment, keras: Keras) -> Iterator[Need]:
    """Yield the need of TensorFlow for layers that need it beside another backend."""
    if not keras.is_3:
        return
    found = sorted({name for name in _class_names(config) if name in _ONLY_TF})
    if found:
        yield environment.need("tensorflow", "", f"{found[0]} computes with TensorFlow")


# --- compile arguments of an HDF5 file ------------------------------------------------------------


def training_needs(reader: ConfigReader, training: Any) -> Iterator[Need]:
    """Yield what compiling as a training_config says takes that is not there."""
    if not isinstance(training, Mapping):
        return
    place = "training_config"
    yield from _optimizer(reader, training.get("optimizer_config"), f"{place}.optimizer_config")
    for key in ("loss", "metrics", "weighted_metrics"):
        yield from _judged(reader, training.get(key), key, f"{place}.{key}")


def _optimizer(reader: ConfigReader, optimizer: Any, place: str) -> Iterator[Need]:
    """Yield what is missing of an optimizer.

    Keras 3 makes one of a class that it knows from its config, any other by its name alone
    (_resolve_compile_arguments_compat).
    """
    if not isinstance(optimizer, Mapping) or not isinstance(optimizer.get("class_name"), str):
        return
    config = optimizer.get("config")
    name = config.get("name", "") if isinstance(config, Mapping) else ""
    if reader.is_keras_3 and reader.api.path(f"keras.optimizers.{optimizer['class_name']}") is None:
        known = any(reader.api.path(f"keras.optimizers.{n}") for n in (name, str(name).title()))
        if not known and not reader.is_optimizer(str(name)):
            yield code_need(optimizer["class_name"], None, place, reader.environment, None)
        return
    yield from reader.needs({**optimizer}, place)


def _judged(reader: ConfigReader, value: Any, key: str, place: str) -> Iterator[Need]:
    """Yield what is missing of losses or metrics."""
    if isinstance(value, str):
        known = reader.is_function_of_some_keras(value)
        if key != "loss" and (known or value in _SPECIAL_METRICS):
            return
        if not reader.is_function(value):
            if known:
                reason = f"Keras {reader.api.version} does not find {value!r} in an HDF5 file"
                yield Need("layer", value, reason, where=place)
            else:
                yield code_need(value, None, place, reader.environment, None, "function")
    elif isinstance(value, Mapping) and "class_name" in value:
        yield from reader.needs(value, place)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _judged(reader, item, key, f"{place}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _judged(reader, item, key, f"{place}[{index}]")


# --- facts ----------------------------------------------------------------------------------------


def _writer(version: str, source: str) -> Fact:
    return Fact("written by", f"Keras {version}" if version else "Keras 3", source)


def _config_facts(config: Any, source: str) -> Iterator[Fact]:
    """Yield dtype policies other than float32, and files that layers open."""
    policies: dict[str, None] = {}
    files: dict[str, None] = {}
    for item in _objects(config):
        inner = item.get("config")
        if not isinstance(inner, Mapping):
            continue
        dtype = inner.get("dtype")
        if isinstance(dtype, Mapping):
            policy = dtype.get("config")
            dtype = policy.get("name") if isinstance(policy, Mapping) else None
        if isinstance(dtype, str) and dtype.startswith(("mixed", "bfloat16", "float16", "int8")):
            policies[dtype] = None
        for key in ("vocabulary", "idf_weights", "filepath"):
            if isinstance(value := inner.get(key), str) and value:
                files[value] = None
    for name in policies:
        yield Fact("dtype policy", name, source)
    for name in files:
        yield Fact("file", name, source)


def _objects(config: Any) -> Iterator[Mapping[str, Any]]:
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            if "class_name" in item:
                yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _class_names(config: Any) -> Iterator[str]:
    return (item["class_name"] for item in _objects(config) if isinstance(item["class_name"], str))


def _text(value: Any, key: str) -> str:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""


def _attribute(root: Mapping[str, Any], inner: Mapping[str, Any], name: str) -> str:
    value = root.get(name, inner.get(name))
    return value if isinstance(value, str) else ""
