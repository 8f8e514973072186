"""Damage to the models of `benchmarks._architectures`: in weights, in settings, in code.

To be called where TensorFlow may start.  A base of the form "code" is a checkpoint and code; one of
the form "keras" a `.keras` file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _mutants
from benchmarks._mutants import Base, Mutant, Weight

FILE = Path(__file__).with_name("_architectures.py")
IMPORTS = ("benchmarks._architectures",)
KERAS, CODE = "keras", "code"


class CodeFault(NamedTuple):
    """What is wrong, in words, and the object path that is to be named; other ways to say it."""

    what: str
    path: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """What can go wrong with a model.

    form: "keras" (a `.keras` file, whose settings are damaged) or "code" (a checkpoint and code).
    faults: {name of a fault in its code: what it is}.
    """

    form: str
    faults: Mapping[str, CodeFault] = field(default_factory=dict)


ARCHITECTURES: Mapping[str, Architecture] = {
    "unet": Architecture("keras"),
    "separable": Architecture("keras"),
    "conv_lstm": Architecture("keras"),
    "siamese": Architecture("keras"),
    "many_outputs": Architecture("keras"),
    "text": Architecture("keras"),
    "normalised": Architecture("keras"),
    "custom": Architecture("keras"),
    "half": Architecture("keras"),
    "vae": Architecture("code", {
        "activation": CodeFault("activation changed", "decoder/widen"),
        "halves": CodeFault("mean and scale exchanged", "decoder", ("encoder", "split")),
        "dropout": CodeFault("dropout active at inference", "decoder/drop"),
    }),
    "ranker": Architecture("code", {
        "epsilon": CodeFault("epsilon changed", "norm", ("layer_normalization",)),
        "slope": CodeFault("slope of a leaky ReLU changed", "slope"),
        "exchanged": CodeFault("two layers exchanged", "query", ("item",)),
    }),
    "adapted": Architecture("code", {
        "activation": CodeFault("activation changed", "first"),
        "alpha": CodeFault("scale of the adapters doubled", "first", ("second",)),
    }),
    "nested_lists": Architecture("code", {
        "activation": CodeFault("activation changed", "blocks/1/0"),
        "scale": CodeFault("one layer's output scaled by 1.02", "blocks/0/1"),
        "exchanged": CodeFault("two layers of one shape exchanged", "blocks/0/0", ("blocks/0/1",)),
        "bias": CodeFault("bias left out", "head/out"),
    }),
    "flat": Architecture("code", {
        "activation": CodeFault("activation changed", "b2", ("w3",)),
        "scale": CodeFault("one layer's output scaled by 1.02", "b2", ("w3",)),
        "skip": CodeFault("skip connection dropped", "b2", ("w3",)),
        "bias": CodeFault("bias left out", "b3"),
        "axis": CodeFault("softmax over another axis", "b3"),
    }),
    "hand_rnn": Architecture("code", {
        "gates": CodeFault("two gates exchanged", "cell"),
        "forget": CodeFault("offset of the forget gate left out", "cell"),
        "mask": CodeFault("mask ignored", "cell"),
    }),
    "graph_attention": Architecture("code", {
        "slope": CodeFault("slope of a leaky ReLU changed", "rounds/1"),
        "axis": CodeFault("softmax over another axis", "rounds/0"),
        "loops": CodeFault("nodes no longer see themselves", "rounds/0"),
    }),
    "experts": Architecture("code", {
        "gate": CodeFault("temperature of the gate", "gate"),
        "order": CodeFault("two experts exchanged", "experts/0", ("experts/2", "(model)")),
        "activation": CodeFault("activation of one expert", "experts/1"),
    }),
    "keras_in_module": Architecture("code", {
        "epsilon": CodeFault("epsilon changed", "norm"),
        "activation": CodeFault("activation changed", "stages/1"),
        "skip": CodeFault("skip connection dropped", "stages/0", ("norm",)),
    }),
    "tied_decoder": Architecture("code", {
        "mask": CodeFault("causal mask left out", "blocks/0/attention"),
        "scale": CodeFault("scale of the scores left out", "blocks/0/attention"),
        "epsilon": CodeFault("epsilon of a normalisation", "final"),
        "positions": CodeFault("positions shifted by one", "positions", ("embed",)),
    }),
}  # fmt: skip


def make(name: str, folder: Path) -> tuple[list[Base], list[Mutant]]:
    """Make a model and its mutants below `folder`."""
    making = _Making(name, folder, _built(name))
    making.keras_file() if ARCHITECTURES[name].form == KERAS else making.code()
    return [making.base], making.mutants


def _built(name: str) -> Any:
    from benchmarks import _architectures

    return _architectures.build(name)


def code(name: str, fault: str = "") -> str:
    """Return what `ckptkit check --model` is given."""
    return f"{FILE}:build?{json.dumps({'name': name, 'fault': fault})}"


class _Making:
    base: Base

    def __init__(self, name: str, folder: Path, model: Any) -> None:
        self.name, self.folder, self.model = name, folder, model
        self.mutants: list[Mutant] = []

    def _path(self, kind: str, suffix: str = "") -> Path:
        return self.folder / f"{kind}-{len(self.mutants)}{suffix}"

    def _add(self, kind: str, out: Path, targets: tuple[str, ...], code: str | None = None) -> None:
        inside = tuple(name for target in targets[:1] for name in target.split("|"))
        self.mutants.append(Mutant(kind, self.base.name, str(out), targets, code, inside))

    # --- .keras -----------------------------------------------------------------------------------

    def keras_file(self) -> None:
        """Damage weights and settings of a `.keras` file."""
        import numpy as np

        file = self.folder / "model.keras"
        self.model.save(file)
        self.base = Base("keras", "keras", str(file), None, IMPORTS)
        sound = {w.path: np.array(w) for w in self.model.weights if w.dtype == "float32"}
        variables = {w.path: w for w in self.model.weights}
        weights = [
            Weight(path, path.split("/")[-2], "", path.rpartition("/")[2], value)
            for path, value in sound.items()
        ]
        for kind, values, targets in _damages(weights):
            for path, value in {**sound, **values}.items():
                variables[path].assign(value)
            out = self._path(kind, ".keras")
            self.model.save(out)
            self._add(kind, out, tuple(_around(t, values) for t in targets))
        for path, value in sound.items():
            variables[path].assign(value)
        for kind, config, targets in _mutants.settings(_mutants.config_of(file)):
            out = self._path(kind, ".keras")
            _mutants.with_config(file, out, config)
            self._add(kind, out, targets)
        self.base.twins["saved again (.keras)"] = str(self.folder / "again.keras")
        self.model.save(self.base.twins["saved again (.keras)"])
        self.base.twins["exported (SavedModel)"] = str(self.folder / "export")
        self.model.export(self.base.twins["exported (SavedModel)"], verbose=False)

    # --- code and its checkpoint ------------------------------------------------------------------

    def code(self) -> None:
        """Damage a checkpoint, and the code that it is restored into."""
        import tensorflow as tf

        prefix = self.folder / "ckpt"
        tf.train.Checkpoint(model=self.model).write(str(prefix))
        self.base = Base("code", "code", str(prefix), code(self.name))
        weights = [w for w in _mutants.weights_of(prefix) if w.value.dtype == "float32"]
        holders = _holders(prefix)
        for kind, values, targets in _damages(weights):
            out = self._path(kind) / "ckpt"
            out.parent.mkdir()
            _mutants.with_values(prefix, out, values)
            # where a full name tells no layer, the object that has the variable is as right
            if len(targets) == 1:
                objects = [holders.get(name) or name for name in values]
                # Keras puts a model's own name before those of its layers
                objects += [targets[0].removeprefix(f"{getattr(self.model, 'name', '')}/")]
                targets = ("|".join(dict.fromkeys([*targets, *objects])),)
            self._add(kind, out, targets, self.base.model)
        for fault, row in ARCHITECTURES[self.name].faults.items():
            target = "|".join((row.path, *row.others))
            self._add("fault", prefix, (target,), code(self.name, fault))
        again = self.folder / "again" / "ckpt"
        again.parent.mkdir()
        tf.train.Checkpoint(model=_built(self.name)).write(str(again))
        self.base.twins["saved again"] = str(again)


def _holders(prefix: Path) -> dict[str, str]:
    """Return {name of a weight: path of the object below the model that has it}."""
    import ckptkit

    found = {}
    for naming in ckptkit.open(prefix).names.values():
        for path in naming.aliases[:1]:
            found[naming.name] = path.removeprefix("model/").rpartition("/")[0]
    return found


def _around(owner: str, values: Mapping[str, Any]) -> str:
    """Return an owner with what may be said for it: the layers around it, of cells of an RNN."""
    if not owner.endswith("_cell"):
        return owner
    parts = next(path for path in values if f"/{owner}/" in f"/{path}").split("/")
    return "|".join([owner, *parts[parts.index(owner) - 1 :: -1][:1]])


def _damages(weights: list[Weight]) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    fresh = _fresh(weights)
    yield from _mutants.damages(weights, fresh)
    yield from _mutants.more_damages(weights)


def _fresh(weights: list[Weight]) -> dict[str, Any]:
    """Values as initialised: uniform kernels, biases of zero, others as they are."""
    import numpy as np

    rng = np.random.default_rng(8)
    found = {}
    for w in weights:
        if w.value.ndim > 1:
            width = np.sqrt(3 / np.prod(w.value.shape[:-1]))
            found[w.path] = rng.uniform(-width, width, w.value.shape).astype(w.value.dtype)
        else:
            found[w.path] = np.zeros_like(w.value)
    return found
