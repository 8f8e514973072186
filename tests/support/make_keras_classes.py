"""Derives `keras_classes.txt` and `keras_functions.txt` of the scan from the installed Keras.

python tests/support/make_keras_classes.py
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from ckptkit.operations.scan import keras as _scan_keras

TARGET = Path(_scan_keras.__file__).with_name("keras_classes.txt")
FUNCTIONS = TARGET.with_name("keras_functions.txt")
_PUBLIC = (
    "activations",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "optimizers.schedules",
    "quantizers",
    "random",
    "regularizers",
)


def _public() -> Iterator[str]:
    """Yield the classes of Keras's public modules that a config can name."""
    for name in _PUBLIC:
        try:
            module = importlib.import_module(f"keras.{name}")
        except ModuleNotFoundError:
            continue
        for key, value in vars(module).items():
            if inspect.isclass(value) and hasattr(value, "from_config"):
                yield key


def _operations() -> Iterator[str]:
    """Yield the operations that a functional model's config names for `x + 1` and the like."""
    import keras
    from keras.src import ops
    from keras.src.ops.operation import Operation

    del keras
    for info in pkgutil.iter_modules(ops.__path__):
        if info.name.endswith("_test"):
            continue
        module = importlib.import_module(f"keras.src.ops.{info.name}")
        for key, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, Operation):
                yield key


def _of_applications() -> Iterator[str]:
    """Yield the layers that Keras's own applications define for themselves."""
    from keras.src import applications
    from keras.src.layers.layer import Layer

    for info in pkgutil.iter_modules(applications.__path__):
        if info.name.endswith("_test"):
            continue
        module = importlib.import_module(f"keras.src.applications.{info.name}")
        for key, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, Layer):
                yield key


def functions() -> list[str]:
    """Return the names of the functions that Keras finds by name alone, sorted."""
    from keras.src.saving.serialization_lib import BUILTIN_MODULES

    names = set()
    for name in BUILTIN_MODULES:
        module = importlib.import_module(f"keras.{name}")
        names |= {key for key, value in vars(module).items() if inspect.isfunction(value)}
    return sorted(names - {"get", "serialize", "deserialize"})


def derived() -> list[str]:
    """Return the names of all classes that only compute, sorted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    names = {*_public(), *_operations(), *_of_applications()}
    return sorted(name for name in names if _scan_keras.may_be_allowed(name))


def main() -> None:
    from importlib.metadata import version

    names = derived()
    head = f"# {len(names)} classes of Keras {version('keras')}, by the rule in keras.py"
    TARGET.write_text("\n".join([head, *names]) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(names)} classes")
    names = functions()
    head = f"# {len(names)} functions of Keras {version('keras')} that it finds by name"
    FUNCTIONS.write_text("\n".join([head, *names]) + "\n", encoding="utf-8")
    print(f"{FUNCTIONS.name}: {len(names)} functions")


if __name__ == "__main__":
    main()
