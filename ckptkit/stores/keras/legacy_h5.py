"""Legacy `.h5` files: whole models and weights of Keras 1 and 2, tf-keras, and by Keras 3 too.

Layout (keras/src/legacy/saving/legacy_h5_format.py, keras/saving/hdf5_format.py): a whole model has
    /                    attributes keras_version, backend, model_config, training_config (JSON)
    /model_weights       one group per layer, as below
    /optimizer_weights   attribute weight_names; optimizer state (Keras 2 and 3)
a weights file has the layers in the root.  The group that holds the layers has the attributes
`layer_names`, `keras_version`, `backend`; each layer's group has `weight_names`, the paths of its
datasets below it (`dense/kernel:0`); `top_level_model_weights` holds the model's own.  A list too
long for one attribute (64 KiB) is split into `layer_names0`, `layer_names1`, ….
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptkit.errors import FormatError
from ckptkit.stores.base import KerasStructure, KerasVariable, ModelInfo
from ckptkit.stores.containers import strict_json
from ckptkit.stores.containers.byte_range import whole_file
from ckptkit.stores.hdf5.reader import scan
from ckptkit.stores.hdf5.types import Attribute, H5Dataset, H5Tree
from ckptkit.stores.keras.config import LayerConfig, as_layer, custom_classes, layer_rows, layers_of
from ckptkit.stores.keras.h5_store import H5Store, spec_of
from ckptkit.stores.keras.legacy_names import layers_of_scopes
from ckptkit.stores.keras.optimizer_variables import optimizer_class
from ckptkit.text import count_text, lazy_pattern

TOP_LEVEL = "top_level_model_weights"
OPTIMIZER = "optimizer_weights"
_CONFIGS = ("model_config", "training_config")
_NAMELESS = lazy_pattern(r"Variable(_\d+)?")
# Slots in the order of an optimizer's `weights`, Keras 2.0 to 2.2 (keras/optimizers.py).
_NAMELESS_SLOTS = {
    "SGD": ("momentum",),
    "RMSprop": ("rms",),
    "Adagrad": ("accumulator",),
    "Adadelta": ("accum_grad", "accum_var"),
    "Adam": ("m", "v", "vhat"),
    "Adamax": ("m", "v"),
    "Nadam": ("m", "v"),
}
_SCALARS = {
    "iteration": "counter",
    "iter": "counter",
    "learning_rate": "config",
    "decay": "config",
    "beta_1": "config",
    "beta_2": "config",
    "rho": "config",
    "momentum": "config",
    "step_counter": "counter",
    "dynamic_scale": "config",
}


def open_legacy_h5(path: Path) -> H5Store:
    """Open a legacy `.h5` file; reads HDF5 headers and attributes only.

    Raises FormatError, TruncatedError, UnsupportedError, MissingDependencyError,
    PathNotFoundError.
    """
    byte_range = whole_file(path)
    tree = scan(byte_range)
    base = "model_weights" if "model_weights" in tree.groups else ""
    attributes = tree.groups.get(base, {})
    layers = listed_names(attributes, "layer_names")
    if layers is None:
        raise FormatError(
            str(path),
            "not a Keras weights file: no layer_names in it",
            hint="an HDF5 file of some other program",
        )
    config = _json_attribute(path, tree, "model_config")
    version = tree.groups[""].get("keras_version", attributes.get("keras_version"))
    scope = _root_scope(config, version)
    variables, params, stored = _weights(path, tree, base, layers, scope, config)
    variables |= _optimizer(path, tree, variables, stored)
    datasets = {key: _in_keras_dtype(d) for key, d in tree.datasets.items()}
    specs = {key: spec_of(key, d, byte_range, 0) for key, d in datasets.items()}
    stray = [key for key in specs if key not in variables]
    return H5Store(
        format="h5",
        path=path,
        shards=(path,),
        ranges=(byte_range,),
        specs=specs,
        datasets=datasets,
        structure=KerasStructure(variables),
        model=_model(config, params),
        producer=f"Keras {version}" if isinstance(version, str) else "Keras 1",
        opener=open_legacy_h5,
        notes=(f"in no layer's list: {count_text(len(stray), 'tensor')}",) if stray else (),
    )


def _in_keras_dtype(dataset: H5Dataset) -> H5Dataset:
    """Return a dataset with bfloat16, which HDF5 lacks, in the place of its two bytes.

    Nothing marks them here, as in `.weights.h5`; no other dtype of Keras is so wide and unknown
    to HDF5.
    """
    return dataset._replace(dtype="bfloat16", width=0) if dataset.dtype == "void16" else dataset


def hdf5_configs(path: Path) -> dict[str, Any]:
    """Return the JSON attributes of an `.h5` file's root by name, parsed; raises FormatError."""
    root = scan(whole_file(path)).groups[""]
    found: dict[str, Any] = {}
    for name in _CONFIGS:
        text = root.get(name)
        if isinstance(text, str):
            data = text.encode("utf-8", "surrogatepass")
            found[name] = strict_json.loads(data, f"{path}@{name}")
    return found


def backend_of_h5(path: Path) -> str:
    """Return the backend that an `.h5` file says wrote it, such as "theano"; "" where it does not.

    Raises FormatError.
    """
    groups = scan(whole_file(path)).groups
    for name in ("", "model_weights"):
        found = groups.get(name, {}).get("backend")
        if isinstance(found, str):
            return found
    return ""


# --- weights --------------------------------------------------------------------------------------


def listed_names(attributes: Mapping[str, Attribute], name: str) -> list[str] | None:
    """Return a list of strings that may be split over `name0`, `name1`, …; None where absent."""
    if name in attributes:
        parts = [attributes[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in attributes:
            parts.append(attributes[f"{name}{len(parts)}"])
        if not parts:
            return None
    return [item for part in parts if isinstance(part, tuple) for item in part if _is_text(item)]  # type: ignore[misc]


def _is_text(item: object) -> bool:
    return isinstance(item, str)


def _weights(
    path: Path,
    tree: H5Tree,
    base: str,
    layers: list[str],
    scope: tuple[str, ...],
    config: LayerConfig | None,
) -> tuple[dict[str, KerasVariable], dict[tuple[str, ...], int | None], dict[str, str]]:
    """Return the variables that the lists name, the elements per layer, and the listed paths."""
    variables: dict[str, KerasVariable] = {}
    stored: dict[str, str] = {}
    params: dict[tuple[str, ...], int | None] = {}
    nested = {layer.name: layer for layer in layers_of(config)} if config else {}
    for layer in [*layers, TOP_LEVEL]:
        group = f"{base}/{layer}" if base else layer
        if group not in tree.groups:
            if layer == TOP_LEVEL:
                continue
            raise FormatError(str(path), f"layer {layer!r} is listed but has no group")
        listed = listed_names(tree.groups[group], "weight_names") or []
        plain_names = [re.sub(r":\d+$", "", name) for name in listed]
        owners = layers_of_scopes(layer, plain_names, nested.get(layer))
        for name, plain in zip(listed, plain_names, strict=True):
            key = f"{group}/{name}"
            dataset = tree.datasets.get(key)
            if dataset is None:
                raise FormatError(str(path), f"{key} is listed but not in the file")
            first, slash, rest = plain.partition("/")
            renamed = f"{owners[first]}/{rest}" if slash and first in owners else plain
            variables[key] = _variable(layer, renamed, scope)
            if renamed != plain:
                aliases = (*variables[key].aliases, plain)
                variables[key] = variables[key]._replace(aliases=aliases)
            stored[key] = plain if slash else ""
            _count(params, layer, renamed, dataset.size, nested.get(layer))
    return variables, params, stored


def _count(
    params: dict[tuple[str, ...], int | None],
    layer: str,
    name: str,
    size: int,
    config: LayerConfig | None,
) -> None:
    """Add a weight of `size` elements to its layer, and to the layer within it that it is of.

    A nested model's weights are listed as `dense/kernel:0` or `inner/dense/kernel`; where a name
    does not say the layer (`kernel`), those of the whole nested model cannot be told.
    """
    params[(layer,)] = (params.get((layer,)) or 0) + size
    scopes = [part for part in name.split("/")[:-1] if part != layer]
    here: tuple[str, ...] = (layer,)
    while config is not None and config.kind != "layer":
        inner = {c.name: c for c in layers_of(config) if c.class_name != "InputLayer"}
        while scopes and scopes[0] not in inner:
            scopes.pop(0)
        if not scopes and len(inner) == 1:  # whose else
            scopes = list(inner)
        if not scopes:
            params.update(dict.fromkeys(((*here, child) for child in inner), None))
            return
        config, here = inner[scopes[0]], (*here, scopes.pop(0))
        if params.get(here, 0) is not None:
            params[here] = (params.get(here) or 0) + size


def _variable(layer: str, plain: str, scope: tuple[str, ...]) -> KerasVariable:
    """Return what a listed name says: `dense/kernel`, `kernel` or, in Keras 1, `dense_1_W`.

    scope: what Keras 3.0 to 3.4, which list bare names, had before the layer's name.
    """
    *scopes, last = plain.split("/")
    aliases: list[str] = []
    if not scopes and layer != TOP_LEVEL:
        scopes, last = [*scope, layer], last.removeprefix(f"{layer}_")
        aliases = [f"{layer}/{last}"] if scope else []
    elif scopes and layer not in (scopes[0], TOP_LEVEL):
        aliases = [f"{layer}/{plain}"]
    return KerasVariable(tuple(scopes), last, tuple(aliases))


def _root_scope(config: LayerConfig | None, version: Attribute) -> tuple[str, ...]:
    """Return the name scope that a Sequential model opens in Keras 3."""
    if config is None or not isinstance(version, str) or not version.startswith("3."):
        return ()
    return (config.name,) if config.kind == "sequential" and config.name else ()


# --- optimizer ------------------------------------------------------------------------------------


def _optimizer(
    path: Path, tree: H5Tree, weights: Mapping[str, KerasVariable], stored: Mapping[str, str]
) -> dict[str, KerasVariable]:
    """Return the optimizer's variables, tied to the weights by what their names say.

    stored: paths of the weights as the file lists them, which is how their slots call them.
    """
    names = listed_names(tree.groups.get(OPTIMIZER, {}), "weight_names") or []
    by_path = {
        stored[key] or "/".join((*v.layers, v.name or "")): key for key, v in weights.items()
    }
    by_flat = {path.replace("/", "_"): key for path, key in by_path.items()}
    if len(by_flat) < len(by_path):
        by_flat = {}  # two weights would answer to one flat name
    optimizer = _optimizer_name(path, tree)
    variables: dict[str, KerasVariable] = {}
    for name in names:
        key = f"{OPTIMIZER}/{name}"
        dataset = tree.datasets.get(key)
        if dataset is not None:
            plain = re.sub(r":\d+$", "", name)
            variables[key] = _state(plain, optimizer, dataset, by_path, by_flat)
    _tie_nameless(tree, variables, weights)
    return variables


def _tie_nameless(
    tree: H5Tree, variables: dict[str, KerasVariable], weights: Mapping[str, KerasVariable]
) -> None:
    """Tie `training/Adam/Variable_7` of Keras 2.0 to 2.2 by order, where all shapes agree.

    These keep one list per slot, over the weights that are trained (keras/optimizers.py, 2.2:
    `self.weights = [self.iterations] + ms + vs`).  Adam's third list is empty but for a
    placeholder of one element each, unless `amsgrad` is set.
    """
    nameless = [k for k, v in variables.items() if _NAMELESS.fullmatch(v.name or "")]
    if not nameless or any(variables[key].slot_of for key in variables):
        return
    trained = [k for k, v in weights.items() if not (v.name or "").startswith("moving_")]
    shapes = [tree.datasets[key].shape for key in trained]
    count = len(shapes)
    arrays = [key for key in nameless if tree.datasets[key].shape != ()]
    if not count or len(arrays) % count:
        return
    runs = [arrays[at : at + count] for at in range(0, len(arrays), count)]
    stored = [[tree.datasets[key].shape for key in run] for run in runs]
    if len(runs) == 3 and stored[2] == [(1,)] * count and stored[2] != shapes:
        runs, stored = runs[:2], stored[:2]
    if any(found != shapes for found in stored):
        return
    known = _NAMELESS_SLOTS.get(optimizer_class(variables[nameless[0]].optimizer or "") or "", ())
    for number, run in enumerate(runs):
        slot = known[number] if number < len(known) else f"slot_{number}"
        for key, owner in zip(run, trained, strict=True):
            variables[key] = variables[key]._replace(slot=slot, slot_of=owner)


def _optimizer_name(path: Path, tree: H5Tree) -> str:
    """Return the optimizer's name (its class name before that) from `training_config`."""
    training = _json_attribute(path, tree, "training_config", key="optimizer_config")
    return (training.name or training.class_name) if training else "optimizer"


def _state(
    name: str,
    optimizer: str,
    dataset: H5Dataset,
    by_path: Mapping[str, str],
    by_flat: Mapping[str, str],
) -> KerasVariable:
    *scopes, last = name.split("/")
    optimizer = next((p for p in scopes if optimizer_class(p)), optimizer)
    plain = re.sub(r"_\d+$", "", last)
    slot, owner = _tie([*scopes, last], by_path, by_flat)
    if dataset.shape == () and (plain in _SCALARS or owner is None):
        role = "counter" if dataset.dtype.startswith(("int", "uint")) else "config"
        return KerasVariable(tuple(scopes), last, (), _SCALARS.get(plain, role), optimizer)
    role = "ema" if slot == "average" else "slot"
    aliases = (name,) if owner else ()
    return KerasVariable(tuple(scopes), last, aliases, role, optimizer, slot, owner)


def _tie(
    parts: list[str], by_path: Mapping[str, str], by_flat: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """Return (slot, key of the weight) from a name of one of three generations.

    Keras 3: `adam/dense_kernel_momentum`.  Keras 2.11 to 2.15: `Adam/m/dense/kernel`.  Before:
    `training/Adam/dense/kernel/m`, `Adam/dense/kernel/m`, `dense/kernel/momentum`.
    """
    for start in range(len(parts)):
        for stop, slot in ((len(parts), parts[start - 1]), (len(parts) - 1, parts[-1])):
            owner = by_path.get("/".join(parts[start:stop]))
            if owner is not None and (start or stop < len(parts)):
                return slot, owner
    flat = parts[-1]
    for cut in range(len(flat) - 1, 0, -1):
        if flat[cut] == "_" and flat[:cut] in by_flat:
            return flat[cut + 1 :], by_flat[flat[:cut]]
    return None, None


# --- config ---------------------------------------------------------------------------------------


def _json_attribute(
    path: Path, tree: H5Tree, name: str, key: str | None = None
) -> LayerConfig | None:
    """Return the serialized object in a JSON attribute of the root (at `key` of it), or None."""
    text = tree.groups[""].get(name)
    if not isinstance(text, str):
        return None
    value = strict_json.loads(text.encode("utf-8", "surrogatepass"), f"{path}@{name}")
    if key is not None:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, dict) and isinstance(value.get("config"), list):
        # Keras 1 and 2.0 wrote a Sequential's layers as the config itself
        value = {**value, "config": {"name": "", "layers": value["config"]}}
    return as_layer(value)


def _model(
    config: LayerConfig | None, params: dict[tuple[str, ...], int | None]
) -> ModelInfo | None:
    if config is None:
        return None
    custom = custom_classes(config)
    notes = (f"custom classes, needed to load the model: {', '.join(custom)}",) if custom else ()
    return ModelInfo(layers=layer_rows(config, params), notes=notes)


def model_config_of_h5(path: Path) -> Any:
    """Return the config of the model in an `.h5` file, None where it holds weights alone."""
    return hdf5_configs(path).get("model_config")
