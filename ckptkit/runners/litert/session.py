"""Running `.tflite` models with LiteRT; imported in the child process alone.

Inputs and outputs go by the names of the signature; of a model without signatures, by those of its
tensors, under the signature "call".  A free batch axis is resized.  A model that was made for one
example (every input and output has a first axis of 1) is given them one by one, and so its batch
axis is described as free.  Quantised inputs and outputs stay integers, as the file has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import dtype_of_numpy
from ckptkit.errors import FormatError, UnsupportedError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.child.graph_parts import GraphOp, GraphParts, Regions
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.isolate import ReferenceValues, action
from ckptkit.runners.child.machine import cpu_name
from ckptkit.runners.child.packages import (
    DAMAGED,
    chunked,
    environment,
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
from ckptkit.runners.errors import refused
from ckptkit.runners.litert.flatbuffer import fitting, float_of, with_ops
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


CALL = "call"
PACKAGE = "ai-edge-litert"


def start(request: Request, spec: RunnerSpec) -> LiteRTSession:
    """Load the model of a request."""
    only_cpu_zero(spec)
    return LiteRTSession(spec, request["model_spec"]["path"])


def _interpreter(path: str, spec: RunnerSpec, *, keep: bool = False) -> Any:
    """Return an interpreter; keep: of every value, which turns XNNPACK off."""
    module = package("ai_edge_litert.interpreter", PACKAGE)
    try:
        return module.Interpreter(
            path, num_threads=spec.threads, experimental_preserve_all_tensors=keep
        )
    except ValueError as error:
        raise FormatError(path, f"LiteRT cannot load it: {error}", hint=DAMAGED) from error


@dataclass
class _SignatureTensors:
    """One way to call the model; by_name: {name: tensor details} of each side."""

    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]

    @property
    def one_by_one(self) -> bool:
        """Whether it was made for a batch of one."""
        shapes = [_shape(item) for side in (self.inputs, self.outputs) for item in side.values()]
        return bool(shapes) and all(shape[:1] == (1,) for shape in shapes)

    @property
    def model_signature(self) -> ModelSignature:
        sides = (self.inputs, self.outputs)
        return ModelSignature(
            *(tuple(self._info(*item) for item in side.items()) for side in sides)
        )

    def _info(self, name: str, details: Mapping[str, Any]) -> TensorInfo:
        shape = _shape(details)
        if self.one_by_one:
            shape = (None, *shape[1:])
        return TensorInfo(name, _dtype(details), shape)


def _shape(details: Mapping[str, Any]) -> tuple[int | None, ...]:
    signature = details.get("shape_signature")
    sizes = details["shape"] if signature is None or not len(signature) else signature
    return tuple(None if size < 0 else int(size) for size in sizes)


def _dtype(details: Mapping[str, Any]) -> str:
    import numpy as np

    dtype = np.dtype(details["dtype"])
    return "string" if dtype.kind in "SUO" else dtype_of_numpy(dtype)


@dataclass
class LiteRTSession:
    """See `ckptkit.runners.child.session.Session`."""

    spec: RunnerSpec
    path: str
    restored: Mapping[str, Any] | None = None
    skipped: str = ""
    _devices: dict[str, dict[str, int]] = field(default_factory=dict)

    @cached_property
    def _plain(self) -> Any:
        return _interpreter(self.path, self.spec)

    @cached_property
    def _keeping(self) -> Any:
        return _interpreter(self.path, self.spec, keep=True)

    @cached_property
    def _tensors(self) -> dict[str, Mapping[str, Any]]:
        """{name, made unique: details}."""
        found: dict[str, Mapping[str, Any]] = {}
        for item in self._plain.get_tensor_details():
            name, number = item["name"], 1
            while name in found:
                number += 1
                name = f"{item['name']}#{number}"
            found[name] = item
        return found

    @cached_property
    def _ops(self) -> list[GraphOp]:
        """The ops of the first subgraph, in the order of computation."""
        fresh = _interpreter(self.path, self.spec)  # before a delegate takes the ops over
        names = {item["index"]: name for name, item in self._tensors.items()}
        return [
            GraphOp(op["op_name"], *(_named(names, op[side]) for side in ("inputs", "outputs")))
            for op in fresh._get_ops_details()
        ]

    @cached_property
    def _signatures(self) -> dict[str, _SignatureTensors]:
        found = {}
        for key in self._plain.get_signature_list():
            runner = self._plain.get_signature_runner(key)
            found[key] = _SignatureTensors(runner.get_input_details(), runner.get_output_details())
        if not found:
            sides = (self._plain.get_input_details(), self._plain.get_output_details())
            found[CALL] = _SignatureTensors(
                *({item["name"]: item for item in side} for side in sides)
            )
        return found

    def describe(self) -> ModelFacts:
        return ModelFacts({key: item.model_signature for key, item in self._signatures.items()})

    def infer_signature(self, inputs: Arrays) -> str:
        raise AssertionError("a .tflite file always tells its inputs")

    def environment(self) -> dict[str, Any]:
        found = environment(self.spec, installed(PACKAGE, "numpy"))
        low, quantised = self._precision
        return {**found, "policy": low or "float32", "quantized": quantised}

    @cached_property
    def _precision(self) -> tuple[str, bool]:
        """(what lower precision weights are kept in, whether any tensor is quantised)."""
        details = self._plain.get_tensor_details()
        quantised = any(len(item["quantization_parameters"]["scales"]) for item in details)
        halves = any(_dtype(item) == "float16" for item in details)
        return ("float16 weights" if halves else ""), quantised

    def devices(self) -> dict[str, dict[str, int]]:
        return self._devices

    # -- running -----------------------------------------------------------------------------------

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        heavy = sum(is_heavy(op.kind) for op in self._ops)
        self._devices = {"CPU:0": {"ops": len(self._ops), "heavy": heavy}}  # it has no other device
        outputs = [
            self._invoke(self._plain, signature, part) for part in self._parts(signature, inputs)
        ]
        return _joined(outputs)

    def _parts(self, signature: str, inputs: Arrays) -> list[dict[str, Array]]:
        """Return what is given at a time: all of it, or example by example."""
        if not self._signatures[signature].one_by_one:
            return [dict(inputs)]
        rows = sorted({len(value) for value in inputs.values()})
        if len(rows) != 1 or rows == [0]:
            sizes = ", ".join(map(str, rows))
            raise refused(f"the model takes one example at a time; inputs have {sizes}")
        return [
            {name: value[row : row + 1] for name, value in inputs.items()} for row in range(rows[0])
        ]

    def _invoke(self, interpreter: Any, signature: str, inputs: Arrays) -> dict[str, Array]:
        values = {name: _to_runtime(value) for name, value in inputs.items()}
        if signature in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(signature)
            _fresh_state(interpreter)  # each case starts as a fresh model would
            outputs = runner(**values)
            order = self._signatures[signature].outputs
            return {name: _from_runtime(outputs[name]) for name in order}
        sides = self._signatures[signature]
        for name, value in values.items():
            interpreter.resize_tensor_input(sides.inputs[name]["index"], value.shape)
        interpreter.allocate_tensors()
        interpreter.reset_all_variables()
        for name, value in values.items():
            interpreter.set_tensor(sides.inputs[name]["index"], value)
        interpreter.invoke()
        tensors = {name: interpreter.get_tensor(o["index"]) for name, o in sides.outputs.items()}
        return {name: _from_runtime(value) for name, value in tensors.items()}

    # -- looking inside ----------------------------------------------------------------------------

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        self._check_first(signature)
        chosen = [name for op in self._ops for name in op.outputs if wanted(name, globs)]
        outputs, layers = [], []
        for part in self._parts(signature, inputs):
            outputs.append(self._invoke(self._keeping, signature, part))
            layers.append({name: self._value(name) for name in chosen})
        merged = _joined(outputs)
        for chunk in chunked(_joined(layers).items()):
            yield Intermediates(chunk, merged)

    def _check_first(self, signature: str) -> None:
        """Refuse a signature that has a subgraph of its own, whose values are not told apart."""
        if len(self._signatures) > 1 and signature not in self._first:
            raise UnsupportedError(
                f"values inside are looked at in a file's first subgraph, not in {signature!r}'s"
            )

    @cached_property
    def _first(self) -> set[str]:
        """The signatures whose tensors are those of the first subgraph."""
        runners = {key: self._plain.get_signature_runner(key) for key in self._signatures}
        return {key for key, runner in runners.items() if not runner._subgraph_index}

    def _value(self, name: str) -> Array | None:
        details = self._tensors[name]
        try:
            return float_of(_from_runtime(self._keeping.get_tensor(details["index"])), details)
        except ValueError:  # a value that no kernel wrote: a resource, or of another branch
            return None

    # -- each value alone --------------------------------------------------------------------------

    def subgraphs(self, signature: str, inputs: Arrays, reference: ReferenceValues) -> GraphParts:
        """Return the graph, cut where the reference has a value."""
        self._check_first(signature)
        self._keeping.allocate_tensors()  # else it tells no constants
        sides = self._signatures[signature]
        names = {item["index"]: name for name, item in self._tensors.items()}
        tensors = {names[sides.inputs[name]["index"]]: value for name, value in inputs.items()}
        made = [name for op in self._ops for name in op.outputs]
        rows = len(next(iter(inputs.values()))) if sides.one_by_one else None
        return GraphParts(
            Regions(self._ops, frozenset(tensors), reference),
            {name: _dtype(self._tensors[name]) for name in made},
            {name: names[item["index"]] for name, item in sides.outputs.items()},
            tensors,
            self._value,
            partial(self._run, rows),
        )

    def _run(
        self, rows: int | None, ops: Sequence[int], values: Arrays, names: Sequence[str]
    ) -> Arrays:
        """Run some ops; rows: how many examples are given one by one."""
        details = self._tensors
        indices = [[details[name]["index"] for name in side] for side in (values, names)]
        module = package("ai_edge_litert.interpreter", PACKAGE)
        part = module.Interpreter(
            model_content=with_ops(self._data, ops, *indices), num_threads=self.spec.threads
        )
        found = []
        for row in range(rows or 1):
            row_values = {
                name: value if rows is None else _one(value, row, details[name])
                for name, value in values.items()
            }
            for name, value in row_values.items():
                part.resize_tensor_input(details[name]["index"], value.shape)
            part.allocate_tensors()
            for name, value in row_values.items():
                part.set_tensor(details[name]["index"], _to_runtime(fitting(value, details[name])))
            part.invoke()
            outputs = {
                name: _from_runtime(part.get_tensor(details[name]["index"])) for name in names
            }
            found.append({name: float_of(value, details[name]) for name, value in outputs.items()})
        return _joined(found)

    @cached_property
    def _data(self) -> bytes:
        return Path(self.path).read_bytes()


def _named(names: Mapping[int, str], indices: Sequence[int]) -> tuple[str, ...]:
    """Return the names of tensors; -1 stands for an input that is left out."""
    return tuple(names[int(index)] for index in indices if int(index) in names)


def _one(value: Array, row: int, details: Mapping[str, Any]) -> Array:
    """Return one example's part of a value, as `_joined` put it in."""
    return value[row] if value.ndim > len(details["shape"]) else value[row : row + 1]


def _fresh_state(interpreter: Any) -> None:
    """Clear what a recurrent kernel kept of the call before."""
    try:
        interpreter.reset_all_variables()
    except (RuntimeError, ValueError):  # nothing is allocated yet, so nothing was kept
        return


def _to_runtime(value: Array) -> Array:
    """Return an input as LiteRT takes it: strings as numpy's fixed-width bytes."""
    import numpy as np

    return np.array(value.tolist(), dtype=bytes) if value.dtype == object else value


def _from_runtime(value: Array) -> Array:
    """Return an output with strings as object arrays of bytes."""
    return value.astype(object) if value.dtype.kind in "SU" else value


def _joined(parts: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return the values of all examples, those that any example lacks left out."""
    import numpy as np

    if len(parts) == 1:
        return {name: value for name, value in parts[0].items() if value is not None}
    found = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if all(value is not None for value in values):
            whole = all(value.shape[:1] == (1,) for value in values)
            found[name] = np.concatenate(values) if whole else np.stack(values)
    return found


def probe(request: Request) -> Result:
    """Return the one device that LiteRT has here."""
    del request
    package("ai_edge_litert.interpreter", PACKAGE)
    return {"devices": [{"device": "CPU:0", "name": cpu_name()}], "versions": installed(PACKAGE)}


ACTIONS: Mapping[str, Callable[[Request], Result]] = {
    **actions(start, probe),
    "isolate": action(start, LiteRTSession.subgraphs),
}
