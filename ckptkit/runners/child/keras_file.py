"""What a Keras file says of itself, before Keras builds anything of it.  Child process alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import MissingDependencyError
from ckptkit.runners.errors import safe_mode_refusal
from ckptkit.stores.keras.legacy_h5 import model_config_of_h5

_METADATA = "metadata.json"
_MAX_BYTES = 1 << 20  # of it; Keras writes three short entries


def written_by(path: str) -> str:
    """Return the version of Keras that wrote a file: "2.15.0"; "" where it does not say.

    An HDF5 file that does not say is one of Keras 1: "1".
    """
    if not zipfile.is_zipfile(path):
        producer = open_checkpoint(path).store.producer or ""
        return producer.removeprefix("Keras ") if producer.startswith("Keras ") else ""
    with zipfile.ZipFile(path) as archive:
        try:
            with archive.open(_METADATA) as member:
                found = json.loads(member.read(_MAX_BYTES))
        except (KeyError, ValueError):
            return ""
    version = found.get("keras_version") if isinstance(found, Mapping) else None
    return version if isinstance(version, str) else ""


def is_before_keras_3(version: str) -> bool:
    """Whether a version, as `written_by` gives it, is one of Keras 1 or 2."""
    return version.partition(".")[0] in ("1", "2")


def not_loaded(path: str, version: str, by: str, hint: str) -> MissingDependencyError:
    """Return the error for a file of an older Keras that the one here does not load."""
    return MissingDependencyError(
        f"{path}: written by Keras {version}; {by} does not load it", hint=hint
    )


def refuse_lambdas(path: str) -> None:
    """Raise RunnerError for Python code in a file: Keras 2 runs that of an HDF5 file.

    Its safe mode is one of `.keras` files alone.
    """
    if not zipfile.is_zipfile(path) and _has_lambda(model_config_of_h5(Path(path))):
        raise safe_mode_refusal(path)


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
