"""Putting a Keras 3 store together: datasets, names, layers, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ckptkit.errors import FormatError
from ckptkit.stores.base import KerasStructure, ModelInfo, TensorSpec
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.reader import scan
from ckptkit.stores.hdf5.types import Attribute, H5Dataset
from ckptkit.stores.keras.config import LayerConfig, custom_classes, layer_rows
from ckptkit.stores.keras.groups import LISTS, group_tree
from ckptkit.stores.keras.h5_store import H5Store, spec_of
from ckptkit.stores.keras.layer_tree import NamedModel, resolve
from ckptkit.stores.keras.slots import name_optimizers
from ckptkit.stores.reopening import Opener
from ckptkit.text import count_text


class Hdf5Source(NamedTuple):
    """One HDF5 file of a store: the file that holds it, and where."""

    path: Path
    byte_range: ByteRange


def make_store(
    format_name: str,
    path: Path,
    sources: Sequence[Hdf5Source],
    opener: Opener,
    *,
    config: LayerConfig | None,
    keras_version: str | None,
    assets: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> H5Store:
    """Scan the sources and name what they hold, for the function `opener`.

    Raises what `hdf5.reader.scan` raises.
    """
    specs: dict[str, TensorSpec] = {}
    datasets: dict[str, H5Dataset] = {}
    groups: dict[str, dict[str, Attribute]] = {}
    for shard, source in enumerate(sources):
        tree = scan(source.byte_range)
        for name, attributes in tree.groups.items():
            groups.setdefault(name, {}).update(attributes)
        for key, dataset in tree.datasets.items():
            if key in specs:
                raise FormatError(str(source.path), f"{key} is in more than one shard")
            specs[key] = spec_of(key, dataset, source.byte_range, shard)
            datasets[key] = dataset
    keras2 = _is_keras2(keras_version, groups, datasets)
    found = resolve(
        group_tree(groups, {key: (key, d) for key, d in datasets.items()}), config, keras2=keras2
    )
    shapes = {key: d.shape for key, d in datasets.items()}
    variables = found.variables | name_optimizers(found, shapes, keras2=keras2)
    return H5Store(
        format=format_name,
        path=path,
        shards=tuple(source.path for source in sources),
        ranges=tuple(source.byte_range for source in sources),
        specs=specs,
        datasets=datasets,
        structure=KerasStructure(
            variables,
            _layer_groups(groups),
            _order(found),
            _written(specs, datasets),
            is_nameless=found.unnamed > 0 and not _has_names(groups),
        ),
        model=_model_info(config, found, assets),
        producer=f"Keras {keras_version}" if keras_version else None,
        opener=opener,
        notes=(*notes, *_notes(config, found)),
    )


def _written(specs: Mapping[str, TensorSpec], datasets: Mapping[str, H5Dataset]) -> tuple[str, ...]:
    """Return the keys in the order in which they were written."""
    return tuple(sorted(specs, key=lambda key: (specs[key].shard or 0, datasets[key].header)))


def _layer_groups(groups: Iterable[str]) -> frozenset[str]:
    """Return the paths of the groups that stand for one object: those that have a `vars` group."""
    paths = (f"/{name}" for name in groups)
    return frozenset(p.removesuffix("/vars")[1:] for p in paths if p.endswith("/vars"))


def _order(found: NamedModel) -> tuple[tuple[str, bool | None], ...]:
    """Return the weights in the order of `Model.weights`, where that is certain."""
    if not found.certain_order:
        return ()
    return tuple((item.key, item.trainable) for item in found.order)


def _is_keras2(
    version: str | None,
    groups: dict[str, dict[str, Attribute]],
    datasets: dict[str, H5Dataset],
) -> bool:
    """Whether Keras 2 wrote the file; without its version, by what only Keras 2 writes."""
    if version is not None:
        return version.startswith(("2.", "1.", "0."))
    if _has_names(groups):
        return False
    if "metrics" in groups or LISTS[1] in groups:
        return True
    second = datasets.get("optimizer/vars/1")
    return second is not None and second.shape != ()


def _has_names(groups: Mapping[str, Mapping[str, Attribute]]) -> bool:
    """Whether groups of variables have names, which Keras 3 gives them."""
    return any(name.endswith("vars") and "name" in attrs for name, attrs in groups.items())


def _model_info(
    config: LayerConfig | None, found: NamedModel, assets: tuple[str, ...]
) -> ModelInfo | None:
    if config is None:
        return ModelInfo(assets=assets) if assets else None
    notes = []
    custom = custom_classes(config)
    if custom:
        notes.append(f"custom classes, needed to load the model: {', '.join(custom)}")
    return ModelInfo(
        assets=assets, layers=layer_rows(config, found.params, found.names), notes=tuple(notes)
    )


def _notes(config: LayerConfig | None, found: NamedModel) -> tuple[str, ...]:
    notes = []
    if config is None:
        notes.append("no config in the file: names come from its groups alone")
    if found.unnamed:
        notes.append(
            f"called by their group, since the file has no name for them: "
            f"{count_text(found.unnamed, 'layer')}"
        )
    return tuple(notes)
