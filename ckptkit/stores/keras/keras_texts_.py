"""The JSON texts that a Keras file keeps: what its model and training were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckptkit.stores.containers import strict_json as _json
from ckptkit.stores.containers import zip_archive as _zip
from ckptkit.stores.containers.window import whole_file
from ckptkit.stores.hdf5.reader import scan

MAX_JSON_BYTES = 256 << 20  # the config of the largest Keras models is a few MB
_ATTRIBUTES = ("model_config", "training_config")


def archive_configs(path: Path) -> dict[str, Any]:
    """Return every JSON member of a `.keras` archive by name, parsed; raises FormatError."""
    return {
        name: _json.loads(_zip.read_member(path, member, MAX_JSON_BYTES), f"{path}:{name}")
        for name, member in _zip.read_directory(path).items()
        if name.endswith(".json") and not name.startswith("assets/")
    }


def hdf5_configs(path: Path) -> dict[str, Any]:
    """Return the JSON attributes of an `.h5` file's root by name, parsed; raises FormatError."""
    root = scan(whole_file(path)).groups[""]
    found: dict[str, Any] = {}
    for name in _ATTRIBUTES:
        text = root.get(name)
        if isinstance(text, str):
            data = text.encode("utf-8", "surrogatepass")
            found[name] = _json.loads(data, f"{path}@{name}")
    return found
