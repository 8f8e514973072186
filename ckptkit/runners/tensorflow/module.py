"""The one place from which TensorFlow is imported."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from ckptkit.errors import MissingDependencyError
from ckptkit.runners.child.garbage import uncollected
from ckptkit.runners.doing import importing


def tensorflow() -> Any:
    """Return the tensorflow module, with its start-up chatter off unless the user asked for it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if "tensorflow" in sys.modules:
            return import_module("tensorflow")
        with importing("tensorflow"), uncollected():
            return import_module("tensorflow")
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise MissingDependencyError(
            "this needs TensorFlow, which is not installed",
            hint="pip install 'ckptkit-tf[tensorflow]'",
        ) from error
