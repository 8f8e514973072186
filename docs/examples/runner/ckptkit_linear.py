"""Models that are one line of JSON, `{"kernel": [[...]], "bias": [...]}`, run by numpy.

`LINEAR` says what such a file is, `RUNTIME` who runs it, and `ACTIONS` is the child's side: it is
imported in the process that runs the model, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ckptkit.errors import FormatError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.child.session import Intermediates, ModelFacts, Request, Result, actions
from ckptkit.runners.registry import Runtime
from ckptkit.runners.spec import RunnerSpec
from ckptkit.stores.registry import Format

LINEAR = Format(
    "linear",
    "an example of a model from outside: it is run, its tensors are not read",
    "model.linear.json",
    suffixes=(".linear.json",),
    model_kind="linear",
)
RUNTIME = Runtime("ckptkit_linear", frozenset({"linear"}), package="numpy")


class LinearSession:
    """A model that is ready to run; see `ckptkit.runners.child.session.Session`."""

    restored = None  # its values are its own
    skipped = ""

    def __init__(self, path: Path) -> None:
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            self.kernel = np.asarray(fields["kernel"], np.float32)
            self.bias = np.asarray(fields["bias"], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(str(path), f"no linear model: {error}") from error
        self.calls = 0

    def describe(self) -> ModelFacts:
        takes = TensorInfo("x", "float32", (None, len(self.kernel)))
        gives = TensorInfo("y", "float32", (None, len(self.bias)))
        return ModelFacts({"call": ModelSignature((takes,), (gives,))})

    def infer_signature(self, inputs: Mapping[str, Any]) -> str:
        return "call"

    def call(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return {"y": inputs["x"] @ self.kernel + self.bias}

    def intermediates(
        self, signature: str, inputs: Mapping[str, Any], globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        yield Intermediates({"product": inputs["x"] @ self.kernel}, self.call(signature, inputs))

    def devices(self) -> dict[str, dict[str, int]]:
        return {"CPU:0": {"ops": 2, "heavy": 1}}  # a product and a sum

    def environment(self) -> dict[str, Any]:
        return {"runtime": "linear", "device": "CPU:0", "versions": {"numpy": np.__version__}}


def start(request: Request, spec: RunnerSpec) -> LinearSession:
    """Open the model of a request."""
    return LinearSession(Path(request["model_spec"]["path"]))


def probe(request: Request) -> Result:
    """List the devices here."""
    versions = {"numpy": np.__version__}
    return {"devices": [{"device": "CPU:0", "name": "numpy"}], "versions": versions}


ACTIONS = actions(start, probe)
