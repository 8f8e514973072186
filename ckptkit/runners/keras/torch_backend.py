"""Running Keras models on PyTorch; imported in the child process alone.

Every kernel is seen as it is dispatched, with the device of what it gave.  TF32 is off for matrix
products and for cuDNN, which has it on by default, unless the spec asks for it.
Source of the switches: PyTorch's notes on CUDA semantics (TensorFloat-32) and on reproducibility.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from ckptkit.runners.child.gpus import gpu_title
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.child.packages import installed, only_cpu_zero, package
from ckptkit.runners.child.session import Request, Result, grouped, wanted
from ckptkit.runners.errors import missing
from ckptkit.runners.keras.isolate import tensors_of, values_of
from ckptkit.runners.keras.layers import LayerCall, watching
from ckptkit.runners.keras.model import CallableModel
from ckptkit.runners.keras.session import Devices, Layers, actions_of
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


_CUBLAS = ":4096:8"  # the workspace without which cuBLAS is not deterministic


def torch() -> Any:
    """Return the torch module; raises MissingDependencyError."""
    return package("torch", "torch")


class Torch:
    """See `ckptkit.runners.keras.session.Backend`."""

    name = "torch"

    def configure(self, spec: RunnerSpec) -> None:
        if spec.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS)
        module = torch()
        only_cpu_zero(spec)
        if spec.device == "GPU":
            _check_gpu(module, spec)
            # what Keras and a model put on "cuda" lies there, without a number
            module.cuda.set_device(spec.index)
            allow_tf32(module.backends, spec.tf32)
        module.backends.cudnn.benchmark = False
        if spec.threads is not None:
            module.set_num_threads(spec.threads)
            module.set_num_interop_threads(spec.threads)
        if spec.deterministic:
            module.use_deterministic_algorithms(True)

    def scope(self, keras: Any, spec: RunnerSpec) -> AbstractContextManager[Any]:
        scope = ExitStack()
        # Keras asks whether the device is "cuda", by that name, for what CUDA lacks
        scope.enter_context(keras.device("cuda" if spec.device == "GPU" else "cpu"))
        scope.enter_context(torch().no_grad())
        return scope

    def call(self, built: CallableModel, inputs: Arrays, devices: Devices | None) -> dict[str, Any]:
        with nullcontext() if devices is None else _counting(devices):
            return built.call(tensors_of(inputs))

    def intermediates(
        self, keras: Any, built: CallableModel, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[tuple[Layers, dict[str, Any]]]:
        """Yield values in chunks, each of a call of its own, since nothing else bounds memory."""
        sizes: dict[str, int] = {}
        tensors = tensors_of(inputs)

        def note(called: LayerCall) -> None:
            for name, tensor in values_of(self, keras, called):
                if wanted(name, globs):
                    sizes[name] = tensor.numel() * tensor.element_size()

        # a first call for the names and sizes, from which the chunks follow
        with watching(keras, built.model, note):
            built.call(tensors)
        for names in grouped(sizes):
            layers: Layers = []

            def keep(called: LayerCall, names: set[str] = names, layers: Layers = layers) -> None:
                layers.extend((n, t) for n, t in values_of(self, keras, called) if n in names)

            with watching(keras, built.model, keep):
                outputs = built.call(tensors)
            yield layers, outputs

    def is_value(self, item: Any) -> bool:
        return hasattr(item, "numel") and item.device.type != "meta"

    def array(self, tensor: Any) -> Array:
        return to_array(tensor)

    def versions(self) -> dict[str, str]:
        found = installed("keras", "torch", "numpy")
        module = torch()
        if module.version.cuda and module.cuda.is_available():
            found["cuda"] = str(module.version.cuda)
            found["cudnn"] = str(module.backends.cudnn.version())
        return found

    def capability(self, spec: RunnerSpec) -> Sequence[int | str]:
        found = torch().cuda.get_device_capability(spec.index) if spec.device == "GPU" else ()
        return tuple(found)

    def device_name(self, spec: RunnerSpec) -> str:
        return _gpu_name(spec.index) if spec.device == "GPU" else cpu_name()

    def probe(self) -> Sequence[Mapping[str, str]]:
        module = torch()
        count = module.cuda.device_count() if module.cuda.is_available() else 0
        gpus = [{"device": f"GPU:{number}", "name": _gpu_name(number)} for number in range(count)]
        return [{"device": "CPU:0", "name": cpu_name()}, *gpus]


def allow_tf32(backends: Any, allowed: bool) -> None:
    """Set TF32 of products, convolutions and recurrent cells; backends: `torch.backends`.

    PyTorch 2.9 gave each a `fp32_precision` beside the older `allow_tf32`, and refuses to read
    either where the two disagree, so both are set.  The older one alone leaves convolutions to a
    setting for all backends.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the older one will go
        for old in (backends.cuda.matmul, backends.cudnn):
            if hasattr(old, "allow_tf32"):
                old.allow_tf32 = allowed
    cudnn = (getattr(backends.cudnn, name, None) for name in ("conv", "rnn"))
    for new in (backends.cuda.matmul, *cudnn):
        if hasattr(new, "fp32_precision"):
            new.fp32_precision = "tf32" if allowed else "ieee"


def _check_gpu(module: Any, spec: RunnerSpec) -> None:
    if not module.cuda.is_available():
        built = module.version.cuda or module.version.hip
        why = "PyTorch sees none" if built else "this PyTorch was built without GPUs"
    elif module.cuda.device_count() <= spec.index:
        why = f"PyTorch sees {module.cuda.device_count()}"
    else:
        return
    raise missing(f"no GPU:{spec.index} here: {why}", "`ckptkit doctor` lists what is here")


def _gpu_name(index: int) -> str:
    cuda = torch().cuda
    return gpu_title(cuda.get_device_name(index), cuda.get_device_capability(index))


def to_array(tensor: Any) -> Array:
    """Return a tensor's values; bfloat16, which numpy lacks, bit for bit."""
    import numpy as np

    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    there = tensor.detach().cpu()
    if there.dtype == torch().bfloat16:
        import ml_dtypes

        bits = there.contiguous().view(torch().uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    return there.numpy()  # type: ignore[no-any-return]


def _counting(devices: Devices) -> Any:
    """Return a mode in which every kernel is counted by the device of its first result."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counting(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), options: Any = None
        ) -> Any:
            del types
            result = function(*args, **(options or {}))
            where = [item.device for item in tree_leaves(result) if hasattr(item, "device")]
            if where and where[0].type != "meta":
                row = devices.setdefault(_short(where[0]), {"ops": 0, "heavy": 0})
                row["ops"] += 1
                row["heavy"] += is_heavy(function.overloadpacket.__name__)
            return result

    return Counting()


def _short(device: Any) -> str:
    """Return `GPU:0` of `cuda:0`."""
    kind = "GPU" if device.type == "cuda" else device.type.upper()
    return f"{kind}:{device.index or 0}"


ACTIONS: Mapping[str, Callable[[Request], Result]] = actions_of(Torch())
