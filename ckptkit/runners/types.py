"""What the parent and the child of a run both speak of: a model, and what it takes and gives.

None of these knows a runtime.  Everything here is a frozen value that goes through JSON, arrays
aside (`ckptkit.model_io.array_files`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.signature import ModelSignature
from ckptkit.model_io.tf_examples import Feature
from ckptkit.runners.limits import time_limit

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays

OUTPUT = "output:"  # before the name of an output, where it is a value inside of a model
MODEL = "(model)"  # the layer of what a model computes outside of its layers
_OWNED = " "  # between the path of an object and the op that its method made; no op has it


def owned_name(owner: str, op: str) -> str:
    """Return what to call a value inside of a model: `encoder/block/0 matmul_3`.

    Args:
        owner: attribute path of the object whose method computes it; "" of none.
        op: the op that gives it.
    """
    return f"{owner}{_OWNED}{op}" if owner else op


def owner_and_op(name: str) -> tuple[str, str]:
    """Return what `owned_name` was made of."""
    owner, _, op = name.rpartition(_OWNED)
    return owner, op


@dataclass(frozen=True)
class ModelSpec:
    """A model to be run.

    kind: `Format.model_kind` of the model's format, or CODE: a callable that builds a model, and a
        file of weights for it.
    path: of the model, or of the weights; None runs code with the values that it builds.
    code: `package.module:callable[?json]` or `file.py:callable[?json]`, for code.
    text: how the user called it.
    place: where in the weights' object graph the model lies, as the user said; "" leaves it open.
    tags: of the graph of a SavedModel that is run; none for the one that TensorFlow takes.
    """

    kind: str
    path: Path | None
    code: str | None = None
    text: str = ""
    place: str = ""
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text or str(self.path or self.code)


@dataclass(frozen=True)
class Limits:
    """Of one child: seconds of wall-clock time, bytes of resident memory (None: no limit)."""

    timeout_s: float = 600.0
    max_rss_bytes: int | None = None

    def __post_init__(self) -> None:
        time_limit(self.timeout_s)


@dataclass(frozen=True)
class Description:
    """What a model takes and gives.

    signatures: by key; that of a Keras model, and of what is called, is "call".  `outputs` is
    empty where they are not known before the model runs.
    environment: what ran it: see `environment` in docs/check.md.
    words: some of the vocabulary, for string inputs.  int_high: integers below it are safe as
    inputs; None where nothing says so.  optional: {signature: names of inputs that may be left out}
    examples: {signature: {input: features}} of inputs that are serialized tf.train.Example.
    """

    signatures: Mapping[str, ModelSignature]
    environment: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[bytes, ...] = ()
    int_high: int | None = None
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, tuple[Feature, ...]]] = field(default_factory=dict)

    @property
    def default(self) -> str | None:
        """The signature that is meant where none is named; None where that is open."""
        names = list(self.signatures)
        for name in ("serving_default", "call"):
            if name in names:
                return name
        return names[0] if len(names) == 1 else None


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did; `path` is a bundle of every variable afterwards.

    path: None where it could not be written.  Where Keras restored a file of its own, a
    `.weights.h5` that it wrote afterwards; else a bundle, whose root has the children that the
    file was restored into, and `weights`, below which every weight of the model lies by its
    path.  Variables that were not restored hold their mark (`ckptkit.runners.marks`).
    error, error_kind: what the restore raised, and its class; "" where it raised nothing.
    unrestored: paths of variables that hold their mark.  unmarked: paths of those whose dtype has
    none.  optimizer: whether the model has one.  root_children: names that were restored into.
    verdicts: {name of one of the runtime's own assertions: "" or what it raised}.  by: what
    restored: "TensorFlow", "Keras", or "ckptkit" where no framework loads such a file; then pairs
    has which tensor went into which weight: {name below `weights`: (key of the file, evidence)}.
    left_out: {name of a weight that Keras keeps in no such file: status of its row}.
    """

    path: Path | None
    error: str = ""
    error_kind: str = ""
    unrestored: tuple[str, ...] = ()
    unmarked: tuple[str, ...] = ()
    optimizer: bool = False
    root_children: tuple[str, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    by: str = "TensorFlow"
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResumeResult:
    """What going on from a checkpoint left behind.

    path: a directory of bundles: `N` after N steps, `0` after the restore.  error: what the restore
    raised; "" where it raised nothing.  unsaved: names of variables that training changed and no
    checkpoint keeps; unsaved_metrics: likewise, of metrics, and those that their owner
    sets aside.  generators: of random numbers, of the process, that were drawn from.
    """

    path: Path
    error: str = ""
    unsaved: tuple[str, ...] = ()
    unsaved_metrics: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExecutionResult:
    """What one model gave for every case.

    outputs: per case {name: array}; layers: per case {name: array} in the order of computation,
    read from disk when asked for.  devices: {device: {"ops": n, "heavy": n}}, counted over the
    kernels that were given to it for the first case; heavy ones multiply matrices or convolve.
    seconds: per case.  exposed_apart: per case, how far the outputs were from these when layers
    were looked at, as the tolerance that it needs; 0 to the bit, None where they were not.
    skipped: why nothing was run ("" where it was): variables of the model that got no value.
    """

    outputs: tuple[Arrays, ...]
    signature: str
    description: Description
    layers: tuple[Arrays, ...] = ()
    devices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    intermediates_gap: tuple[float | None, ...] = ()
    restored: RestoreResult | None = None
    skipped: str = ""

    @property
    def environment(self) -> Mapping[str, Any]:
        return self.description.environment


@dataclass(frozen=True)
class DeviceProbe:
    """One device of one runtime; device is "" where the runtime is not here, `why_not` says why."""

    runtime: str
    device: str
    name: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    why_not: str = ""
