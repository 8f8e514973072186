"""What localising finds: layers, ranked by what each adds to the difference, and switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.model_io.results import OutputResult
from ckptkit.results import Result
from ckptkit.runners.types import MODEL, OUTPUT
from ckptkit.text import json_number


class Stats(NamedTuple):
    """Of the finite elements of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    lowest: float
    highest: float
    rms: float
    nonfinite: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        numbers = {name: json_number(getattr(self, name)) for name in ("lowest", "highest", "rms")}
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            **numbers,
            "nonfinite": self.nonfinite,
        }


def stats(value: Any) -> Stats:
    """Return the statistics of an array or a sample."""
    import numpy as np

    from ckptkit.dtypes import dtype_of_numpy, kind
    from ckptkit.model_io.sampling import Sample, norms_of

    if isinstance(value, Sample):
        norms = value.norms
        shape, dtype = value.shape, value.dtype
    else:
        array = np.asarray(value)
        shape, dtype = array.shape, dtype_of_numpy(array.dtype)
        norms = norms_of(array) if kind(dtype) not in ("string", "opaque") and array.size else None
    if norms is None:
        return Stats(tuple(shape), dtype, 0.0, 0.0, 0.0, 0)
    return Stats(tuple(shape), dtype, norms.lowest, norms.highest, norms.rms, norms.nonfinite)


class VariableGap(NamedTuple):
    """A variable that a layer reads; differs: whether it is another than the reference's.

    differs is None where that is not known; text says how it differs.
    """

    name: str
    differs: bool | None
    text: str = ""


@dataclass(frozen=True)
class Layer:
    """One value inside of the model, held against the reference's.

    name: of the value in the subject; reference: its name there.  path: of the layer.  kind: its
    class, or the kind of op.  policy: dtype policy, or dtype.  order: place in the computation.
    propagated: each side was fed with its own values.  isolated: the subject's layer was fed with
    the reference's.  inputs: names of the values that it reads, with what they are in the
    reference; output: what it gives there and here.  fused: other layers that a converter made one
    op with it.
    """

    name: str
    reference: str
    path: str
    kind: str
    policy: str
    order: int
    propagated: OutputResult | None
    isolated: OutputResult | None
    variables: tuple[VariableGap, ...] = ()
    inputs: Mapping[str, Stats | None] = field(default_factory=dict)
    output: tuple[Stats, Stats] | None = None
    hints: tuple[str, ...] = ()
    before: float = 0.0  # the largest propagated error of what it reads
    fused: tuple[str, ...] = ()

    @property
    def result(self) -> OutputResult | None:
        """The comparison that says most: isolated where that was measured, else propagated."""
        return self.isolated if self.isolated is not None else self.propagated

    @property
    def added(self) -> float:
        """What it adds to the difference, in the unit of `OutputResult.needed`.

        Isolated error where that was measured; else its propagated error above that of its inputs,
        which says less: a layer may amplify what it inherits.
        """
        if self.isolated is not None:
            return error_of(self.isolated)
        if self.propagated is None:
            return 0.0
        return max(0.0, error_of(self.propagated) - self.before)

    @property
    def is_beyond(self) -> bool:
        """Whether what it adds is more than the tolerance allows."""
        result = self.result
        return result is not None and not _passes(result) and self.added > 0

    @property
    def changed(self) -> tuple[VariableGap, ...]:
        """Its variables that differ."""
        return tuple(variable for variable in self.variables if variable.differs)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "reference": self.reference,
            "layer": self.path,
            "fused": list(self.fused),
            "kind": self.kind,
            "policy": self.policy,
            "order": self.order,
            "added": json_number(self.added),
            "beyond": self.is_beyond,
            "propagated": None if self.propagated is None else self.propagated.to_json(),
            "isolated": None if self.isolated is None else self.isolated.to_json(),
            "variables": [variable._asdict() for variable in self.variables],
            "inputs": {k: None if s is None else s.to_json() for k, s in self.inputs.items()},
            "output": None if self.output is None else [s.to_json() for s in self.output],
            "hints": list(self.hints),
        }


def error_of(result: OutputResult) -> float:
    """Return how far apart two tensors are: the tolerance that would be needed."""
    if result.status == "equal":
        return 0.0
    if result.needed is not None:
        return float(result.needed)
    return 0.0 if result.ok else float("inf")


def _passes(result: OutputResult) -> bool:
    return result.ok or result.status in ("meaningless", "empty")


class Flip(NamedTuple):
    """One switch, flipped alone.  moves: whether that changes the verdict; error: why it did not
    run.  needed: the tolerance that would be needed; of the output that is worst.
    """

    switch: str
    runner: str
    moves: bool
    needed: float
    output: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self._asdict(), "needed": json_number(self.needed)}


@dataclass(frozen=True)
class Localization(Result):
    """Where two runs part.

    differs: whether the outputs do.  mode: "isolated" or "propagated", what `added` comes from.
    layers: every value that was compared, in order of computation.  switches: those flipped alone;
    starts: the runner that they were flipped from; passes: whether the outputs pass there.
    known: values that there are inside of the subject.  unseen: variables that differ
    and whose layers show nothing; owners: {variable: its layer}.  notes: what limits the answer.
    again: the keywords of `check`, beside the subject, that look at `point` again.
    """

    differs: bool
    mode: str
    layers: tuple[Layer, ...] = ()
    switches: tuple[Flip, ...] = ()
    starts: str = ""
    passes: bool = True
    known: int = 0
    unseen: tuple[VariableGap, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    again: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the outputs do not differ."""
        return not self.differs

    @property
    def compared(self) -> int:
        """How many of the values inside were compared, the outputs not counted."""
        return sum(not layer.name.startswith(OUTPUT) for layer in self.layers)

    @property
    def ranked(self) -> tuple[Layer, ...]:
        """The layers that add to the difference: those beyond the tolerance first, most first."""
        adding = [layer for layer in self.layers if layer.added > 0]
        return tuple(sorted(adding, key=lambda r: (not r.is_beyond, -r.added, r.order)))

    @property
    def beyond(self) -> tuple[Layer, ...]:
        """The ranked layers that alone add more than the tolerance."""
        return tuple(layer for layer in self.ranked if layer.is_beyond)

    @property
    def first(self) -> Layer | None:
        """The layer to look at first: that which adds most; None where none adds anything."""
        return next(iter(self.ranked), None)

    @property
    def suspects(self) -> tuple[str, ...]:
        """Paths of layers, the one to look at first first: by outputs, then by weights alone."""
        by_weights = (self.owners.get(gap.name, gap.name) for gap in self.unseen)
        return tuple(dict.fromkeys([*(layer.path for layer in self.beyond), *by_weights]))

    def neighbours(self, layer: Layer) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the layers around a value.

        Args:
            layer: the value.

        Returns:
            Paths of the layers that it reads, and of those that read it.
        """
        by_name = {known.name: known.path for known in self.layers}
        before = [by_name.get(name, "") for name in layer.inputs]
        after = [known.path for known in self.layers if layer.name in known.inputs]
        sides = ([path for path in side if path not in ("", MODEL)] for side in (before, after))
        first, second = (tuple(dict.fromkeys(side)) for side in sides)
        return first, second

    def blames(self, variable: str) -> bool:
        """Say whether the first suspect is the layer that reads a variable, or one around it.

        Args:
            variable: its readable name in the file, or the end of it.

        Returns:
            Whether it is; False where no layer is suspected.
        """
        first = self.beyond[0] if self.beyond else None
        names = [gap.name for gap in first.variables] if first is not None else []
        if any(name == variable or name.endswith(f"/{variable}") for name in names):
            return True
        path = self.suspects[0] if self.suspects else ""
        return bool(path) and f"/{variable}".find(f"/{path}/") >= 0

    @property
    def point(self) -> str | None:
        """The name of the value to look at first; None where no value differs."""
        return self.first.name if self.first is not None else None

    @property
    def diverges(self) -> Layer | None:
        """The first value, in the order of computation, that is beyond the tolerance."""
        for layer in self.layers:
            if layer.propagated is not None and not _passes(layer.propagated):
                return layer
        return None

    @property
    def blamed(self) -> tuple[Flip, ...]:
        """The switches that alone change the verdict."""
        return tuple(flip for flip in self.switches if flip.moves)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain values.

        Returns:
            Plain values that JSON can hold; layers are those that add to the difference.
        """
        first, diverges = self.first, self.diverges
        return {
            "differs": self.differs,
            "mode": self.mode,
            "first": None if first is None else first.name,
            "diverges": None if diverges is None else diverges.name,
            "compared": self.compared,
            "known": self.known,
            "layers": [layer.to_json() for layer in self.ranked],
            "switches": [flip.to_json() for flip in self.switches],
            "starts": self.starts,
            "unseen": [variable._asdict() for variable in self.unseen],
            "notes": list(self.notes),
            "again": dict(self.again),
        }
