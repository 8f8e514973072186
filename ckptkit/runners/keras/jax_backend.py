"""Running Keras models on JAX; imported in the child process alone.

A call is compiled as a whole, or, with `eager`, runs op by op.  Its kernels are those of its jaxpr,
on the devices where the results lie.  Products are of full precision unless the spec asks for TF32:
on a GPU, "float32" is `lax.Precision.HIGHEST` and "tensorfloat32" is HIGH, for convolutions and
cuDNN's LSTM too (source: the docs of `lax.Precision`).
`threads` is the number of processors that the process may use, since JAX has no switch for it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UsageError
from ckptkit.runners.child.gpus import gpu_title
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.child.packages import installed, package
from ckptkit.runners.child.session import Request, Result, grouped, wanted
from ckptkit.runners.errors import missing
from ckptkit.runners.keras.isolate import values_of
from ckptkit.runners.keras.layers import LayerCall, watching
from ckptkit.runners.keras.model import CallableModel, Tensors
from ckptkit.runners.keras.session import Devices, Layers, actions_of
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


_PLATFORMS = {"gpu": "GPU", "cuda": "GPU", "rocm": "GPU", "cpu": "CPU"}


def jax() -> Any:
    """Return the jax module; raises MissingDependencyError."""
    return package("jax", "jax")


class Jax:
    """See `ckptkit.runners.keras.session.Backend`."""

    name = "jax"
    eager = False
    device: Any = None
    tracing: Any = None  # what traces the call that is under way; None where it runs op by op

    def configure(self, spec: RunnerSpec) -> None:
        flags = [os.environ.get("XLA_FLAGS", "")]
        if spec.device == "CPU":
            os.environ["JAX_PLATFORMS"] = "cpu"
            flags += [f"--xla_force_host_platform_device_count={spec.index + 1}"]
        if spec.deterministic:
            flags += ["--xla_gpu_deterministic_ops=true"]
        os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))
        if spec.threads is not None:
            _limit_processors(spec.threads)
        module = jax()
        precision = "tensorfloat32" if spec.tf32 else "float32"
        module.config.update("jax_default_matmul_precision", precision)
        self.eager = spec.eager
        self.device = _device(module, spec)

    def scope(self, keras: Any, spec: RunnerSpec) -> AbstractContextManager[Any]:
        del keras, spec
        return jax().default_device(self.device)  # type: ignore[no-any-return]

    def call(self, built: CallableModel, inputs: Arrays, devices: Devices | None) -> dict[str, Any]:
        state, arrays = self._placed(built), self._inputs(inputs)
        names: list[str] = []  # kept here, since what is compiled gives dicts sorted
        function = _listed(_stateless(built, built.call), names)
        run = function if self.eager else jax().jit(function)
        outputs = dict(zip(names, run(state, arrays), strict=True))
        if devices is not None:
            _count(devices, jax().make_jaxpr(function)(state, arrays), outputs)
        return outputs

    def _placed(self, built: CallableModel) -> list[Any]:
        """Return the values of all variables, on the device."""
        values = [variable.value for variable in built.model.variables]
        return jax().device_put(values, self.device)  # type: ignore[no-any-return]

    def _inputs(self, inputs: Arrays) -> dict[str, Any]:
        return jax().device_put(dict(inputs), self.device)  # type: ignore[no-any-return]

    def intermediates(
        self, keras: Any, built: CallableModel, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[tuple[Layers, dict[str, Any]]]:
        """Yield values in chunks, each compiled with the outputs."""
        state, arrays = self._placed(built), self._inputs(inputs)

        def inside(names: set[str] | None) -> Callable[[Any, Tensors], Any]:
            return _stateless(built, _watched(self, keras, built, globs, names))

        # traced once without computing: the names, and sizes to group them by
        shapes, _ = jax().eval_shape(inside(None), state, arrays)
        order = list(_orders.pop(id(built), ()))
        for names in grouped({name: _nbytes(shapes[name]) for name in order}):
            run = inside(names) if self.eager else jax().jit(inside(names))
            layers, outputs = run(state, arrays)
            self.tracing = None
            yield [(name, layers[name]) for name in order if name in names], outputs

    def is_value(self, item: Any) -> bool:
        # what a loop traces inside of itself has no value outside of it
        return hasattr(item, "dtype") and _trace(item) in (None, self.tracing)

    def array(self, tensor: Any) -> Array:
        import numpy as np

        return np.asarray(tensor)

    def versions(self) -> dict[str, str]:
        found = installed("keras", "jax", "jaxlib", "numpy")
        cuda = _cuda(self.device)
        return {**found, "cuda": cuda} if cuda else found

    def capability(self, spec: RunnerSpec) -> Sequence[int | str]:
        return _capability(self.device) if spec.device == "GPU" else ()

    def device_name(self, spec: RunnerSpec) -> str:
        return _name(self.device) if spec.device == "GPU" else cpu_name()

    def probe(self) -> Sequence[Mapping[str, str]]:
        module = jax()
        rows = [{"device": "CPU:0", "name": cpu_name()}]
        for number, device in enumerate(_gpus(module)):
            rows.append({"device": f"GPU:{number}", "name": _name(device)})
        return rows


def _limit_processors(count: int) -> None:
    """Leave the process that many processors; raises UsageError where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("JAX has no switch for threads, and this system cannot pin a process")
    there = sorted(os.sched_getaffinity(0))
    if count > len(there):
        raise missing(f"threads={count}: this process may use {len(there)} processors")
    os.sched_setaffinity(0, there[:count])


def _device(module: Any, spec: RunnerSpec) -> Any:
    if spec.device == "CPU":
        return module.devices("cpu")[spec.index]
    try:
        there = list(module.devices("gpu"))
    except RuntimeError as error:
        raise missing(
            f"no GPU:{spec.index} here: JAX has no GPU platform: {error}",
            "pip install 'jax[cuda12]' or 'jax[cuda13]', as the driver has it",
        ) from error
    if len(there) <= spec.index:
        raise missing(
            f"no GPU:{spec.index} here: JAX sees {len(there)}", "`ckptkit doctor` lists them"
        )
    return there[spec.index]


def _gpus(module: Any) -> list[Any]:
    try:
        return list(module.devices("gpu"))
    except RuntimeError:  # no such platform
        return []


def _name(device: Any) -> str:
    return gpu_title(str(device.device_kind), _capability(device))


def _capability(device: Any) -> Sequence[str]:
    """Return ("9", "0") of a CUDA device; () of another."""
    found = str(getattr(device, "compute_capability", ""))
    return found.split(".") if re.fullmatch(r"\d+(\.\d+)*", found) else ()


def _cuda(device: Any) -> str:
    """Return the version of CUDA behind a device, "13.0" of the plugin's "cuda 13000"; else ""."""
    client = getattr(device, "client", None)
    found = re.search(r"\bcuda (\d{4,6})\b", str(getattr(client, "platform_version", "")))
    return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""


def _stateless(
    built: CallableModel, call: Callable[[Tensors], Any]
) -> Callable[[Sequence[Any], Tensors], Any]:
    """Return a call as a function of the variables' values and the inputs."""
    from keras import StatelessScope

    variables = list(built.model.variables)

    def function(state: Sequence[Any], inputs: Tensors) -> Any:
        with StatelessScope(state_mapping=list(zip(variables, state, strict=True))):
            return call(inputs)

    return function


def _listed(
    call: Callable[[Any, Tensors], Mapping[str, Any]], names: list[str]
) -> Callable[[Any, Tensors], list[Any]]:
    """Return a call that gives a list, and puts its names into `names` when it is traced."""

    def function(state: Any, inputs: Tensors) -> list[Any]:
        outputs = call(state, inputs)
        names[:] = outputs
        return list(outputs.values())

    return function


# -- looking inside --------------------------------------------------------------------------------

_orders: dict[int, list[str]] = {}  # names of layers in the order of computation, by model


def _watched(
    backend: Jax, keras: Any, built: CallableModel, globs: Sequence[str], names: set[str] | None
) -> Callable[[Tensors], tuple[dict[str, Any], dict[str, Any]]]:
    """Return a call that gives (layers, outputs); names: of the layers, None for all that fit."""

    def call(inputs: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
        layers: dict[str, Any] = {}
        backend.tracing = _trace(next(iter(inputs.values())))

        def keep(called: LayerCall) -> None:
            for name, tensor in values_of(backend, keras, called):
                if wanted(name, globs) if names is None else name in names:
                    layers[name] = tensor

        with watching(keras, built.model, keep):
            outputs = built.call(inputs)
        if names is None:
            _orders[id(built)] = list(layers)
        return layers, outputs

    return call


def _trace(value: Any) -> Any:
    """Return what traces a value; None for one that is computed."""
    return getattr(value, "_trace", None)


def _nbytes(item: Any) -> int:
    return int(math.prod(item.shape) * item.dtype.itemsize)


# -- what ran where --------------------------------------------------------------------------------


def _count(devices: Devices, jaxpr: Any, outputs: Mapping[str, Any]) -> None:
    """Add the primitives of a jaxpr to the devices where its results lie."""
    counts = {"ops": 0, "heavy": 0}
    for name in _primitives(jaxpr.jaxpr):
        counts["ops"] += 1
        counts["heavy"] += is_heavy(name)
    for device in {device for value in outputs.values() for device in value.devices()}:
        kind = _PLATFORMS.get(device.platform, device.platform.upper())
        row = devices.setdefault(f"{kind}:{device.id}", {"ops": 0, "heavy": 0})
        for key, number in counts.items():
            row[key] += number


def _primitives(jaxpr: Any) -> Iterator[str]:
    """Yield the names of all primitives, those inside of loops and calls once each."""
    for equation in jaxpr.eqns:
        inner = [part for value in equation.params.values() for part in _jaxprs(value)]
        if not inner:
            yield str(equation.primitive.name)
        for part in inner:
            yield from _primitives(part)


def _jaxprs(value: Any) -> Iterator[Any]:
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _jaxprs(item)


ACTIONS: Mapping[str, Callable[[Request], Result]] = actions_of(Jax())
