"""A Keras model on a backend other than TensorFlow, ready to run.  Child process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ckptkit.runners.child import isolate as _isolate
from ckptkit.runners.child import session as _session
from ckptkit.runners.child.packages import environment
from ckptkit.runners.child.quantised import quantisation_of
from ckptkit.runners.child.session import (
    Intermediates,
    ModelFacts,
    Request,
    Result,
    import_extras,
    spec_of,
)
from ckptkit.runners.keras import revive as _revive
from ckptkit.runners.keras.isolate import KerasParts, Values
from ckptkit.runners.keras.model import (
    BuiltModels,
    CallableModel,
    build_code,
    keras,
    layers_of,
    load_file,
    policy_of,
    rows_of,
)
from ckptkit.runners.keras.restore import lost_weights, restore_into
from ckptkit.runners.spec import RunnerSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


CALL = "call"

Devices = dict[str, dict[str, int]]
Layers = list[tuple[str, Any]]


class Backend(Values, Protocol):
    """What differs between the backends of Keras: what one implements to be a runner.

    name: as `keras.backend.backend()` has it.
    """

    name: str

    def configure(self, spec: RunnerSpec) -> None:
        """Set the switches of the spec, before Keras is imported.

        Args:
            spec: of the runner.
        Raises:
            MissingDependencyError: where the backend's package is not installed.
            RunnerError: of kind "missing", where the device is not here.
        """

    def call(self, built: CallableModel, inputs: Arrays, devices: Devices | None) -> dict[str, Any]:
        """Run the model on one case.

        Args:
            built: the model, as its file or code gave it.
            inputs: {name: array} of the model's inputs.
            devices: what the kernels of this call are added to; None of all calls but the first.
        Returns:
            {name: the backend's tensor}.
        """

    def intermediates(
        self, keras: Any, built: CallableModel, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[tuple[Layers, dict[str, Any]]]:
        """Yield what layers gave, in chunks of about CHUNK_BYTES.

        Args:
            keras: the imported package.
            built: the model.
            inputs: {name: array} of the model's inputs.
            globs: patterns; layers whose path fits one of them are given.
        Yields:
            (path, tensor) in the order of computation, with {name: tensor} of the outputs of the
            same computation.
        """

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that compute.

        Returns:
            {package: version}.
        """

    def capability(self, spec: RunnerSpec) -> Sequence[int | str]:
        """Return what the GPU of the spec can compute.

        Args:
            spec: of the runner.
        Returns:
            Its compute capability, such as (9, 0); () of a CPU, and where it is not known.
        """

    def device_name(self, spec: RunnerSpec) -> str:
        """Return what the device is called.

        Args:
            spec: of the runner.
        Returns:
            The name that its maker or driver gives it.
        """

    def probe(self) -> Sequence[Mapping[str, str]]:
        """List the devices here.

        Returns:
            {"device", "name"} of each, such as {"device": "GPU:0", "name": "NVIDIA ..."}.
        """


@dataclass
class KerasSession:
    """See `ckptkit.runners.child.session.Session`."""

    spec: RunnerSpec
    backend: Backend
    keras: Any
    built: CallableModel
    restored: Mapping[str, Any] | None = None
    skipped: str = ""
    _devices: Devices = field(default_factory=dict)
    _ran: bool = False

    def describe(self) -> ModelFacts:
        built = self.built
        signatures = {CALL: built.model_signature} if built.model_signature is not None else {}
        optional = {CALL: built.optional} if built.optional else {}
        return ModelFacts(signatures, (), rows_of(built.model), optional)

    def infer_signature(self, inputs: Arrays) -> str:
        del inputs
        return CALL

    def environment(self) -> dict[str, Any]:
        model = self.built.model
        quantised = quantisation_of(layers_of(model))
        found = {**described(self.backend, self.spec), "policy": policy_of(model)}
        return {**found, "quantized": quantised} if quantised else found

    def devices(self) -> Devices:
        return self._devices

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        del signature
        with self.backend.scope(self.keras, self.spec):
            outputs = self.backend.call(self.built, inputs, None if self._ran else self._devices)
            self._ran = True
            return {name: self.backend.array(value) for name, value in outputs.items()}

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        del signature
        with self.backend.scope(self.keras, self.spec):
            for layers, outputs in self.backend.intermediates(
                self.keras, self.built, inputs, globs
            ):
                yield Intermediates(
                    {name: self.backend.array(value) for name, value in layers},
                    {name: self.backend.array(value) for name, value in outputs.items()},
                )

    def subgraphs(
        self, signature: str, inputs: Arrays, reference: _isolate.ReferenceValues
    ) -> KerasParts:
        """Return the model, each of whose layers is given the reference's values."""
        del signature
        return KerasParts(self.backend, self.keras, self.spec, self.built, inputs, reference)


def described(backend: Backend, spec: RunnerSpec) -> dict[str, Any]:
    """Return the environment but for what the model adds."""
    return environment(
        spec,
        backend.versions(),
        device_name=backend.device_name(spec),
        capability=backend.capability(spec),
    )


def actions_of(backend: Backend) -> dict[str, Callable[[Request], Result]]:
    """Return the ACTIONS of a backend's module."""

    def start(request: Request, spec: RunnerSpec) -> KerasSession:
        module = _ready(request, spec)
        model_spec = request["model_spec"]
        with backend.scope(module, spec):
            if model_spec["kind"] == "keras":
                trusted = bool(request["options"].get("trust"))
                loaded = load_file(module, model_spec["path"], trusted=trusted)
                return KerasSession(spec, backend, module, loaded)
            built = build_code(module, model_spec["code"], model_spec["place"])
            session = KerasSession(spec, backend, module, built.callable_model())
            if request["action"] != "describe" and model_spec["path"]:
                _restored(session, built, model_spec, request.get("out"))
            return session

    def restore(request: Request) -> Result:
        spec = spec_of(request)
        module = _ready(request, spec)
        model_spec = request["model_spec"]
        with backend.scope(module, spec):
            built = build_code(module, model_spec["code"], model_spec["place"])
            restored = _fill(backend, module, built, model_spec, request["out"])
        return {"restored": {**restored, "environment": described(backend, spec)}}

    def probe(request: Request) -> Result:
        del request
        rows = [dict(row) for row in backend.probe()]
        return {"devices": rows, "versions": backend.versions()}

    def _ready(request: Request, spec: RunnerSpec) -> Any:
        backend.configure(spec)
        module = keras(backend.name)
        import_extras(request)
        return module

    isolate = _isolate.action(start, KerasSession.subgraphs)

    def ready(request: Request) -> Any:
        return _ready(request, spec_of(request))

    return {
        **_session.actions(start, probe),
        "restore": restore,
        "isolate": isolate,
        "revive": _revive.action(ready),
        "export_saved_model": _revive.export_action(ready),
    }


def _fill(
    backend: Backend, module: Any, built: BuiltModels, model_spec: Request, out: str | None
) -> Result:
    """Restore the file of a request into what its code built."""
    path, place = Path(model_spec["path"]), model_spec["place"]
    return restore_into(
        module, built, path, out, place, value_of=lambda item: backend.array(item.value)
    )


def _restored(
    session: KerasSession, built: BuiltModels, model_spec: Request, out: str | None
) -> None:
    """Fill the session's model; say in it what came of that."""
    restored = _fill(session.backend, session.keras, built, model_spec, out)
    session.restored = {**restored, "environment": described(session.backend, session.spec)}
    # a model with first values in it would give outputs that mean nothing
    lost = lost_weights(built, restored)
    if lost:
        session.skipped = f"{len(lost):,} variables got no value: {', '.join(lost[:3])}"
    elif restored["error"]:
        session.skipped = f"the restore failed: {restored['error']}"
