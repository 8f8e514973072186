"""`.keras` archives of Keras 3 (and of Keras 2.12 to 2.15 with `save_format="keras"`).

A zip archive (https://keras.io/guides/serialization_and_saving/) with
    metadata.json     {"keras_version", "date_saved"}
    config.json       the model: classes and settings, see `_keras_config`
    model.weights.h5  the values, HDF5, see `_keras_groups`; Keras can also write model.weights.npz
    assets/…          vocabularies and the like; listed, never opened
Nothing is extracted and nothing of the config is ever built.  A stored `model.weights.h5` (what
Keras writes) is read in place through a window on the archive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptkit.errors import FormatError, UnsupportedError
from ckptkit.stores.containers import strict_json as _json
from ckptkit.stores.containers.window import window
from ckptkit.stores.containers.zip_archive import Member, read_directory, read_member
from ckptkit.stores.keras.config import LayerConfig, as_layer
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.keras_store import Source, make_store

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
METADATA = "metadata.json"
MAX_JSON_BYTES = 256 << 20  # the config of the largest Keras models is a few MB


def open_keras(path: Path) -> H5Store:
    """Open a `.keras` archive; reads its directory, both JSON files and HDF5 headers.

    Raises FormatError, TruncatedError, ChecksumError, UnsupportedError, MissingDependencyError,
    PathNotFoundError.
    """
    members = read_directory(path)
    weights = members.get(WEIGHTS)
    if weights is None:
        raise _no_weights(path, members)
    config = _config(path, members)
    version = _version(path, members)
    assets = tuple(sorted(m for m in members if m not in (WEIGHTS, CONFIG, METADATA)))
    source = Source(path, window(path, weights))
    return make_store("keras", path, (source,), config=config, keras_version=version, assets=assets)


def _no_weights(path: Path, members: dict[str, Member]) -> FormatError | UnsupportedError:
    if "model.weights.npz" in members:
        return UnsupportedError(
            "a .keras archive with its weights as npz",
            where=str(path),
            hint="load it in Keras and save it again with weights_format='h5'",
        )
    return FormatError(
        str(path),
        f"no {WEIGHTS} in the archive",
        hint=f"it holds {', '.join(sorted(members)[:4])}" if members else "it is empty",
    )


def _json_member(path: Path, members: dict[str, Member], name: str) -> Any:
    member = members.get(name)
    if member is None:
        return None
    return _json.loads(read_member(path, member, MAX_JSON_BYTES), f"{path}:{name}")


def _config(path: Path, members: dict[str, Member]) -> LayerConfig | None:
    value = _json_member(path, members, CONFIG)
    if value is None:
        return None
    config = as_layer(value)
    if config is None:
        raise FormatError(f"{path}:{CONFIG}", "not the config of a Keras model")
    return config


def _version(path: Path, members: dict[str, Member]) -> str | None:
    value = _json_member(path, members, METADATA)
    version = value.get("keras_version") if isinstance(value, dict) else None
    return version if isinstance(version, str) else None
