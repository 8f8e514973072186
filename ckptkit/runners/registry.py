"""The runtimes that models are run with, and what is known of each without importing it.

To add a runtime: one module with `ACTIONS: Mapping[str, Callable[[request], result]]`, which
`ckptkit.runners.child.session.actions` makes of a `Session`, and one row in RUNNERS.  Another
package adds its row as an entry point of the group `ckptkit.runners` (docs/examples).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ckptkit.plugins import Registry


class Runtime(NamedTuple):
    """What this package knows of a runtime without importing it.

    Attributes:
        module: has `ACTIONS`.
        model_kinds: those that it runs, as `Format.model_kind` names them.
        devices: the kinds that it can run on, of "CPU" and "GPU".
        switches: of RunnerSpec, those that it has.
        environment: variables that must be set before it is imported.
        package: what must be installed; "" for nothing.
        extra: of this distribution, the extra that brings it; "" for none.
        introspection: what it can find out about the inside of a model
            (`ckptkit.runners.introspect`).
        imported_first: modules that every run imports before any code of a user, and that can be
            forked: several runs share the import (`ckptkit.runners.fork_server`).  () where they
            cannot, as JAX, which starts threads, or need not.
    """

    module: str
    model_kinds: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ("CPU",)
    switches: frozenset[str] = frozenset()
    environment: Mapping[str, str] = {}
    package: str = ""
    extra: str = ""
    introspection: frozenset[str] = frozenset({"isolate"})
    imported_first: tuple[str, ...] = ()


_BUILT_IN = {
    "tensorflow": Runtime(
        "ckptkit.runners.tensorflow.actions",
        frozenset({"saved_model", "keras", "code"}),
        ("CPU", "GPU"),
        frozenset({"xla", "deterministic", "tf32", "threads", "eager", "mirrored"}),
        {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "KERAS_BACKEND": "tensorflow"},
        "tensorflow",
        "tensorflow",
        frozenset({"isolate", "perturb", "audit", "float64_outputs"}),
        ("tensorflow",),
    ),
    # Keras 2, as it goes on beside Keras 3
    "tf-keras": Runtime(
        "ckptkit.runners.tensorflow.actions",
        frozenset({"keras", "code"}),
        ("CPU", "GPU"),
        frozenset({"xla", "deterministic", "tf32", "threads", "eager", "mirrored"}),
        {
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_USE_LEGACY_KERAS": "1",
            "CKPTKIT_KERAS": "tf_keras",
        },
        "tf_keras",
        introspection=frozenset({"isolate", "perturb", "audit"}),
        imported_first=("tensorflow",),
    ),
    "litert": Runtime(
        "ckptkit.runners.litert.session",
        frozenset({"tflite"}),
        switches=frozenset({"threads"}),
        package="ai-edge-litert",
        extra="runtimes",
    ),
    "onnx": Runtime(
        "ckptkit.runners.onnx.session",
        frozenset({"onnx"}),
        ("CPU", "GPU"),
        frozenset({"deterministic", "tf32", "threads"}),
        package="onnxruntime",
        extra="runtimes",
    ),
    "keras-jax": Runtime(
        "ckptkit.runners.keras.jax_backend",
        frozenset({"keras", "code"}),
        ("CPU", "GPU"),
        frozenset({"deterministic", "tf32", "threads", "eager"}),
        {"KERAS_BACKEND": "jax", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        "jax",
        "runtimes",
    ),
    "keras-torch": Runtime(
        "ckptkit.runners.keras.torch_backend",
        frozenset({"keras", "code"}),
        ("CPU", "GPU"),
        frozenset({"deterministic", "tf32", "threads"}),
        {"KERAS_BACKEND": "torch"},
        "torch",
        "runtimes",
    ),
}

RUNNERS = Registry("ckptkit.runners", Runtime, _BUILT_IN)


def installed_keras() -> str:
    """Return the version of Keras that is installed, without importing it; "" where none is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("keras")
    except PackageNotFoundError:
        return ""
