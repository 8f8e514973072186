"""What a Keras file says of itself, before Keras builds anything of it.  Child process alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from typing import Any

from ckptkit.errors import UnsupportedError

# {file inside of a `.keras` archive: the attribute of a legacy HDF5 file that says the same}
_METADATA, _CONFIG = ("metadata.json", "keras_version"), ("config.json", "model_config")


def written_by(path: str) -> str:
    """Return the version of Keras that wrote a `.keras` or HDF5 file; "" where it does not say."""
    found = _part(path, *_METADATA)
    found = found.get("keras_version") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) else ""


def refuse_lambdas(path: str) -> None:
    """Raise UnsupportedError for Python code in a file: Keras 2 runs that of an HDF5 file.

    Its safe mode is one of `.keras` files alone.
    """
    if _has_lambda(_part(path, *_CONFIG)):
        raise UnsupportedError(
            "a Lambda layer holds Python code, which is not run",
            where=path,
            hint="give the model as code, and the file as its weights",
        )


def _part(path: str, member: str, attribute: str) -> Any:
    """Return JSON of an archive's member or a file's attribute; None where neither is there."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if member not in archive.namelist():
                return None
            return json.loads(archive.read(member))
    import h5py

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        text = file.attrs.get(attribute)
    text = text.decode() if isinstance(text, bytes) else text
    return json.loads(text) if attribute == _CONFIG[1] and text is not None else text


def _has_lambda(config: Any) -> bool:
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            if item.get("class_name") == "Lambda":
                return True
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False
