"""Running `.onnx` models with ONNX Runtime; imported in the child process alone.

Inputs and outputs go by the names in the file, `:0` and all; the signature is "call".  On a GPU the
CUDA provider is asked for, and a session that comes up without it is refused.  What runs where is
read from the runtime's own profile of the first call.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError, FormatError, UnsupportedError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.child.graph_parts import GraphParts
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.isolate import ReferenceValues, action
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.child.packages import (
    DAMAGED,
    chunked,
    environment,
    gpu_name,
    installed,
    only_cpu_zero,
    package,
)
from ckptkit.runners.child.session import (
    Intermediates,
    ModelFacts,
    Request,
    Result,
    actions,
    wanted,
)
from ckptkit.runners.errors import missing
from ckptkit.runners.onnx.subgraph import OnnxGraph
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


CALL = "call"
PROVIDERS = {"CPU": "CPUExecutionProvider", "GPU": "CUDAExecutionProvider"}
FETCHED = 64  # values inside of the model that are asked for in one run
_DEVICES = {provider: device for device, provider in PROVIDERS.items()}
_DTYPES = {"float": "float32", "double": "float64"}
_QUANTISED = ("QLinear", "Quantize", "Dequantize", "Integer", "NBits")


def start(request: Request, spec: RunnerSpec) -> OnnxSession:
    """Load the model of a request; raises RunnerError("missing") where its device is not here."""
    only_cpu_zero(spec)
    runtime = package("onnxruntime", "onnxruntime")
    runtime.set_default_logger_severity(3)
    _check_provider(runtime, spec)
    return OnnxSession(spec, Path(request["model_spec"]["path"]))


def _check_provider(runtime: Any, spec: RunnerSpec) -> None:
    if PROVIDERS[spec.device] not in runtime.get_available_providers():
        raise missing(
            f"no {spec.device}:{spec.index} here: this onnxruntime was built without "
            f"{PROVIDERS[spec.device]}",
            "pip install onnxruntime-gpu in place of onnxruntime",
        )


def _session(spec: RunnerSpec, model: Path | bytes, folder: Path, profile: str = "") -> Any:
    """Return a session on the device that was asked for, and on no other.

    profile: where its profile is written.  folder: where weights outside of the model lie.
    """
    runtime = package("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.use_deterministic_compute = spec.deterministic
    if spec.threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = spec.threads
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    # a model from memory does not know where its external weights lie
    if isinstance(model, bytes):
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    provider = PROVIDERS[spec.device]
    settings = {}
    if spec.device == "GPU":
        settings = {"device_id": str(spec.index), "use_tf32": "1" if spec.tf32 else "0"}
    source = model if isinstance(model, bytes) else str(model)
    session = runtime.InferenceSession(source, options, providers=[(provider, settings)])
    # it would go on silently on another provider
    session.disable_fallback()
    there = session.get_providers()
    if provider not in there:
        raise missing(
            f"no {spec.device}:{spec.index} here: asked for {provider}, ONNX Runtime gave "
            f"{', '.join(there)}",
            "CUDA and cuDNN must be of the versions that this onnxruntime-gpu was built for",
        )
    return session


@dataclass
class OnnxSession:
    """See `ckptkit.runners.child.session.Session`."""

    spec: RunnerSpec
    path: Path
    restored: Mapping[str, Any] | None = None
    skipped: str = ""
    _events: list[Mapping[str, Any]] = field(default_factory=list)
    _ran: bool = False

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="ckptkit-onnx-")

    @cached_property
    def _plain(self) -> Any:
        prefix = str(Path(self._scratch.name, "profile"))
        try:
            return _session(self.spec, self.path, self.path.parent, prefix)
        except CkptkitError:
            raise
        except Exception as error:  # its errors have no base of their own
            message = f"ONNX Runtime cannot load it: {str(error).splitlines()[0]}"
            raise FormatError(str(self.path), message, hint=DAMAGED) from error

    def describe(self) -> ModelFacts:
        sides = (self._plain.get_inputs(), self._plain.get_outputs())
        return ModelFacts({CALL: ModelSignature(*(tuple(map(_info, side)) for side in sides))})

    def infer_signature(self, inputs: Arrays) -> str:
        raise AssertionError("an .onnx file always tells its inputs")

    def environment(self) -> dict[str, Any]:
        name = gpu_name(self.spec.index) if self.spec.device == "GPU" else cpu_name()
        names = ("onnxruntime", "onnxruntime-gpu", "numpy")
        found = environment(self.spec, installed(*names), device_name=name)
        kinds = list(map(_op_name, self._events))
        quantised = any(mark in kind for kind in kinds for mark in _QUANTISED)
        return {**found, "policy": self._policy(), "quantized": quantised}

    def _policy(self) -> str:
        """Return the dtype that products are computed in, where that is not float32."""
        for event in self._events:
            types = [key for item in event["args"].get("input_type_shape", ()) for key in item]
            if is_heavy(_op_name(event)) and "float16" in types:
                return "float16"
        return "float32"

    def devices(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for event in self._events:
            provider = str(event["args"].get("provider", ""))
            kind = _DEVICES.get(provider)
            index = self.spec.index if kind == self.spec.device else 0
            row = found.setdefault(f"{kind}:{index}" if kind else provider, {"ops": 0, "heavy": 0})
            row["ops"] += 1
            row["heavy"] += is_heavy(_op_name(event))
        return found

    # -- running -----------------------------------------------------------------------------------

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        del signature
        names = [item.name for item in self._plain.get_outputs()]
        outputs = self._fetch(self._plain, names, inputs)
        if not self._ran:
            self._ran = True
            self._events = _kernels(Path(self._plain.end_profiling()))
        return outputs

    @staticmethod
    def _fetch(session: Any, names: Sequence[str], inputs: Arrays) -> dict[str, Array]:
        values = {name: _to_runtime(value) for name, value in inputs.items()}
        return dict(zip(names, map(_from_runtime, session.run(list(names), values)), strict=True))

    # -- looking inside ----------------------------------------------------------------------------

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        del signature
        own = [item.name for item in self._plain.get_outputs()]
        model, inside = self._opened(globs)
        session = self._started(model)
        for begin in range(0, len(inside), FETCHED):
            names = inside[begin : begin + FETCHED]
            fetched = self._fetch(session, [*own, *names], inputs)
            outputs = {name: fetched[name] for name in own}
            for chunk in chunked((name, fetched[name]) for name in names):
                yield Intermediates(chunk, outputs)

    def _started(self, model: bytes) -> Any:
        return _session(self.spec, model, self.path.parent)

    def _loaded(self) -> Any:
        """Return the model as a message, but for values that lie in files of their own."""
        return package("onnx", "onnx").load(str(self.path), load_external_data=False)

    def _opened(self, globs: Sequence[str]) -> tuple[bytes, list[str]]:
        """Return the model with values inside of it as outputs, and their names in order."""
        onnx = package("onnx", "onnx")
        model = self._loaded()
        there = {item.name for item in model.graph.output}
        names = list(dict.fromkeys(name for node in model.graph.node for name in node.output))
        inside = [name for name in names if name and wanted(name, globs)]
        new = [onnx.ValueInfoProto(name=name) for name in inside if name not in there]
        model.graph.output.extend(new)
        return model.SerializeToString(), inside

    def subgraphs(self, signature: str, inputs: Arrays, reference: ReferenceValues) -> GraphParts:
        """Return the graph, cut where the reference has a value."""
        del signature

        def start(model: bytes) -> Callable[[Sequence[str], Arrays], Arrays]:
            return partial(self._fetch, self._started(model))

        return OnnxGraph(self._loaded(), start).parts(inputs, reference)


def _kernels(profile: Path) -> list[Mapping[str, Any]]:
    """Return the events of a profile that are kernels which ran."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    return [
        event
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    ]


def _op_name(event: Mapping[str, Any]) -> str:
    return str(event["args"].get("op_name", ""))


def _info(item: Any) -> TensorInfo:
    """Return the info of an input or output; named axes are free."""
    kind, _, rest = item.type.partition("(")
    if kind != "tensor":
        raise UnsupportedError(f"{item.name!r} is a {item.type}: only dense tensors are run")
    dtype = rest.removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in item.shape)
    return TensorInfo(item.name, _DTYPES.get(dtype, dtype), shape)


def _to_runtime(value: Array) -> Array:
    """Return an input as ONNX Runtime takes it: strings as text."""
    import numpy as np

    if value.dtype != object:
        return value
    flat = [item.decode("utf-8") for item in value.reshape(-1)]
    return np.array(flat, object).reshape(value.shape)


def _from_runtime(value: Array) -> Array:
    """Return an output with strings as object arrays of bytes."""
    import numpy as np

    if value.dtype.kind not in "OU":
        return value
    flat = np.empty(value.size, object)
    flat[:] = [item.encode("utf-8") for item in value.reshape(-1)]
    return flat.reshape(value.shape)


def probe(request: Request) -> Result:
    """Return the devices whose providers this ONNX Runtime has."""
    del request
    runtime = package("onnxruntime", "onnxruntime")
    rows = [{"device": "CPU:0", "name": cpu_name()}]
    if PROVIDERS["GPU"] in runtime.get_available_providers() and gpu_name(0) != "GPU":
        rows.append({"device": "GPU:0", "name": gpu_name(0)})
    return {"devices": rows, "versions": installed("onnxruntime", "onnxruntime-gpu", "onnx")}


ACTIONS: Mapping[str, Callable[[Request], Result]] = {
    **actions(start, probe),
    "isolate": action(start, OnnxSession.subgraphs),
}
