"""`.weights.h5` files, and `.weights.json` indexes of sharded ones (Keras >= 3.10).

`.weights.h5` is the HDF5 file that `model.save_weights` writes: groups as in `_keras_groups`, no
config.  The index is JSON: {"metadata": {"total_size": bytes}, "weight_map": {"/layers/dense/vars":
"model_00000.weights.h5" or a list of such names}}; the shards lie beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptkit.errors import FormatError, PathNotFoundError
from ckptkit.stores.containers import strict_json as _json
from ckptkit.stores.containers.window import whole_file
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.keras_store import Source, make_store

MAX_SHARDS = 10_000


def open_weights_h5(path: Path) -> H5Store:
    """Open a `.weights.h5` file; reads HDF5 headers only.

    Raises FormatError, TruncatedError, UnsupportedError, MissingDependencyError,
    PathNotFoundError.
    """
    source = Source(path, whole_file(path))
    return make_store("weights.h5", path, (source,), config=None, keras_version=None)


def open_weights_json(path: Path) -> H5Store:
    """Open the index of sharded weights and the headers of all its shards.

    Raises as `open_weights_h5` does; a missing shard is a PathNotFoundError that names it.
    """
    shards = _shards(path, _json.load(path))
    for shard in shards:
        if not shard.is_file():
            raise PathNotFoundError(
                f"shard {shard.name} is missing", where=str(path), hint="copy it beside the index"
            )
    sources = [Source(shard, whole_file(shard)) for shard in shards]
    return make_store("weights.h5", path, sources, config=None, keras_version=None)


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
    return [path.with_name(name) for name in sorted(names)]
