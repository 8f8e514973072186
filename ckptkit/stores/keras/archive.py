"""The files of Keras 3: `.keras` archives, `.weights.h5`, and `.weights.json` indexes of shards.

`.keras` (also of Keras 2.12 to 2.15 with `save_format="keras"`) is a zip archive
(https://keras.io/guides/serialization_and_saving/) with
    metadata.json     {"keras_version", "date_saved"}
    config.json       the model: classes and settings, see `ckptkit.stores.keras.config`
    model.weights.h5  the values, HDF5, see `groups`; Keras can also write model.weights.npz
    assets/…          vocabularies and the like; listed, never opened
Nothing is extracted and nothing of the config is ever built.  A stored `model.weights.h5` (what
Keras writes) is read in place, as a range of the archive.

`.weights.h5` is that HDF5 file alone, as `model.save_weights` writes it: no config.  The index
(Keras >= 3.10) is JSON: {"metadata": {"total_size": bytes}, "weight_map": {"/layers/dense/vars":
"model_00000.weights.h5" or a list of such names}}; the shards lie beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptkit._io.file_states import is_file, unchanged_part
from ckptkit.errors import FormatError, PathNotFoundError, UnsupportedError
from ckptkit.stores.containers import strict_json
from ckptkit.stores.containers.byte_range import member_range, whole_file
from ckptkit.stores.containers.zip_archive import Member, read_directory, read_member
from ckptkit.stores.keras.config import LayerConfig, as_layer
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.keras_store import Hdf5Source, make_store

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
METADATA = "metadata.json"
MAX_JSON_BYTES = 256 << 20  # the config of the largest Keras models is a few MB
MAX_SHARDS = 10_000


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
    source = Hdf5Source(path, member_range(path, weights))
    return make_store(
        "keras", path, (source,), open_keras, config=config, keras_version=version, assets=assets
    )


def open_weights_h5(path: Path) -> H5Store:
    """Open a `.weights.h5` file; reads HDF5 headers only.

    Raises FormatError, TruncatedError, UnsupportedError, MissingDependencyError,
    PathNotFoundError.
    """
    source = Hdf5Source(path, whole_file(path))
    return make_store(
        "weights.h5", path, (source,), open_weights_h5, config=None, keras_version=None
    )


def open_weights_json(path: Path) -> H5Store:
    """Open the index of sharded weights and the headers of all its shards.

    Raises as `open_weights_h5` does; a missing shard is a PathNotFoundError that names it.
    """
    shards = _shards(path, strict_json.load(path))
    for shard in shards:
        if not is_file(shard):
            raise PathNotFoundError(
                f"shard {shard.name} is missing", where=str(path), hint="copy it beside the index"
            )
    sources = [Hdf5Source(shard, whole_file(shard)) for shard in shards]
    return make_store(
        "weights.json", path, sources, open_weights_json, config=None, keras_version=None
    )


def archive_configs(path: Path) -> dict[str, Any]:
    """Return every JSON member of a `.keras` archive by name, parsed; raises FormatError."""
    return {
        name: strict_json.loads(read_member(path, member, MAX_JSON_BYTES), f"{path}:{name}")
        for name, member in read_directory(path).items()
        if name.endswith(".json") and not name.startswith("assets/")
    }


def model_config_of_archive(path: Path) -> Any:
    """Return the config of the model in a `.keras` archive, None where it has none."""
    return archive_configs(path).get("config.json")


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
    return strict_json.loads(read_member(path, member, MAX_JSON_BYTES), f"{path}:{name}")


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


def _shards(path: Path, index: Any) -> list[Path]:
    """Return the shard files, sorted; a name that leads out of the directory is refused."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise FormatError(str(path), "not an index of Keras weights: it has no weight_map")
    names: dict[str, None] = {}
    for key, value in weight_map.items():
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
                raise FormatError(str(path), f"{key}: {name!r} is not a file name")
            names[name] = None
    if not names or len(names) > MAX_SHARDS:
        raise FormatError(str(path), "index of weights", expected="some shards", found=len(names))
    return [unchanged_part(path.with_name(name)) for name in sorted(names)]
