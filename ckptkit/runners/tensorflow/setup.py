"""TensorFlow's process-wide switches, set once in a child before any model is made.

Soft placement is off: what was asked for a device runs there, or not at all.  On a GPU no device is
asked for; TensorFlow itself places what has a GPU kernel there, as it does in production, and what
has none (strings, tables) on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ckptkit.runners.child.gpus import gpu_title, rounds_to_tf32
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.errors import missing
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.tensorflow.build import SEED, WHICH_KERAS, keras, versions
from ckptkit.runners.tensorflow.module import tensorflow


def configure(spec: RunnerSpec) -> None:
    """Set the switches; raises RunnerError("missing") where the device is not here."""
    tf = tensorflow()
    tf.config.set_soft_device_placement(False)
    tf.config.experimental.enable_tensor_float_32_execution(spec.tf32)
    if spec.threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(spec.threads)
        tf.config.threading.set_inter_op_parallelism_threads(spec.threads)
    if spec.device == "GPU":
        _choose_gpus(spec)
    else:
        _split_cpu(max(spec.index + 1, spec.replicas))
    if spec.deterministic:
        tf.config.experimental.enable_op_determinism()
    if spec.eager:
        tf.config.run_functions_eagerly(True)
    tf.random.set_seed(SEED)


def _choose_gpus(spec: RunnerSpec) -> None:
    """Make those GPUs visible that are asked for, so that index 0 is the one."""
    tf = tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    last = max(spec.index + 1, spec.replicas)
    if len(gpus) < last:
        built = tf.test.is_built_with_cuda() or tf.test.is_built_with_rocm()
        why = f"TensorFlow sees {len(gpus)}" if built else "this TensorFlow was built without GPUs"
        raise missing(f"no GPU:{last - 1} here: {why}", "`ckptkit doctor` lists what is here")
    chosen = gpus[: spec.replicas] if spec.replicas > 1 else [gpus[spec.index]]
    tf.config.set_visible_devices(chosen, "GPU")
    for gpu in chosen:
        tf.config.experimental.set_memory_growth(gpu, True)


def _split_cpu(count: int) -> None:
    tf = tensorflow()
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        one = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [one] * count)


def scope(spec: RunnerSpec) -> AbstractContextManager[Any]:
    """Return the device scope in which a model is made and called."""
    if spec.device == "GPU" or spec.replicas > 1 or spec.index == 0:
        return nullcontext()
    return tensorflow().device(f"/CPU:{spec.index}")  # type: ignore[no-any-return]


def strategy(spec: RunnerSpec) -> Any:
    """Return the MirroredStrategy that a spec asks for; None where it asks for none."""
    if spec.replicas == 1:
        return None
    devices = [f"/{spec.device}:{number}" for number in range(spec.replicas)]
    return tensorflow().distribute.MirroredStrategy(devices)


def environment(spec: RunnerSpec) -> dict[str, Any]:
    """Return what runs here, as plain values."""
    tf = tensorflow()
    gpus = tf.config.get_visible_devices("GPU") if spec.device == "GPU" else []
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    return {
        "runtime": "tensorflow",
        "runner": spec.text,
        "versions": {**versions(), **_gpu_libraries(bool(gpus))},
        "device": spec.device,
        "device_name": gpu_name(details) if gpus else cpu_name(),
        "tf32": rounds_to_tf32(spec, details.get("compute_capability") or ()),
        "xla": spec.xla,
        "deterministic": spec.deterministic,
        "threads": spec.threads,
        "onednn": has_onednn(),
        "replicas": spec.replicas,
        "eager": spec.eager,
        "policy": "float32",
    }


def gpu_name(details: Mapping[str, Any]) -> str:
    """Return a GPU's name and compute capability."""
    name = str(details.get("device_name", "GPU"))
    return gpu_title(name, details.get("compute_capability") or ())


def as_asked(spec: RunnerSpec, devices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ran where, with the number of the GPU that was asked for.

    It is the one that is visible, so TensorFlow calls it GPU:0 whatever its number on the machine.
    """
    if spec.device != "GPU" or spec.replicas > 1:
        return dict(devices)
    return {f"GPU:{spec.index}" if at == "GPU:0" else at: row for at, row in devices.items()}


def _gpu_libraries(wanted: bool) -> dict[str, str]:
    if not wanted:
        return {}
    built = tensorflow().sysconfig.get_build_info()
    rows = {"cuda": built.get("cuda_version"), "cudnn": built.get("cudnn_version")}
    return {name: str(value) for name, value in rows.items() if value}


def has_onednn() -> bool | None:
    """Whether oneDNN kernels, whose numbers differ, are on; None where TensorFlow does not tell."""
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:
        return None
    return bool(_pywrap_util_port.IsMklEnabled())


def probe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the devices that TensorFlow sees; raises MissingDependencyError without tf_keras.

    Of a runner that needs tf_keras.
    """
    del request
    if os.environ.get(WHICH_KERAS):
        keras()
    tf = tensorflow()
    rows = [{"device": "CPU:0", "name": f"{cpu_name()}, {os.cpu_count()} cores"}]
    for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
        details = tf.config.experimental.get_device_details(gpu)
        rows.append({"device": f"GPU:{number}", "name": gpu_name(details)})
    return {"devices": rows, "versions": versions()}
