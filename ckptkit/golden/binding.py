"""What a golden is bound to: the weights, files, constants and settings of the model it came from.

    digest      SHA-256 over names, dtypes, shapes and values of all weights
    variables   a sketch of each (`ckptkit.golden.sketch`), by readable name; optimizer slots too
    assets      vocabularies and the like, newlines at the end left out
    constants   data in the graph of a SavedModel: it stays when weights are replaced
    scalars     how often each single float occurs in that graph (a scale of 1/255, an epsilon)
    layers      settings of the layers of a Keras config that decide what is computed

All of it is read from the files without running anything.  Recorded with the outputs, it tells on
a failing check what changed in the model, by name; see `ckptkit.golden.changes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.files import file_sha256
from ckptkit._io.places import path_of
from ckptkit._io.progress import phase
from ckptkit.errors import FormatError
from ckptkit.golden.line_sketch import LineSketch, sketch_lines, split_text
from ckptkit.golden.sketch_types import Sketch
from ckptkit.stores.registry import format_of_name

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.checkpoint.naming import Naming
    from ckptkit.stores.base import Store

_BOUND_ROLES = frozenset({"weight", "table", "ema", "slot", "other"})
_DIGESTED_ROLES = frozenset({"weight", "table"})
_MAX_ALIASES = 4
_MAX_SCALARS = 1000  # kinds of single floats; a graph with more has data in them


class ConstantSketch(NamedTuple):
    """One constant of the graph; text is sketched by its lines."""

    dtype: str
    shape: tuple[int, ...]
    content: LineSketch
    captured: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {"dtype": self.dtype, "shape": list(self.shape), "captured": self.captured}
        return {**plain, **self.content.to_json()}

    @classmethod
    def from_json(cls, value: Any, where: str) -> ConstantSketch:
        """Return the constant that `to_json` described; raises FormatError."""
        content = LineSketch.from_json(value, where)
        shape, dtype = value.get("shape"), value.get("dtype")
        if not isinstance(dtype, str) or not isinstance(shape, list):
            raise FormatError(where, "no description of a constant")
        return cls(dtype, tuple(shape), content, bool(value.get("captured")))


@dataclass(frozen=True)
class Binding:
    """What a model's outputs depend on, by name: see the module.

    form: of the file.  digest: "" where nothing is bound (code, values of another tool).
    source, keys: the file itself and {variable: key in it}, where the binding was just made of
    one; neither is written or compared.
    """

    form: str
    digest: str
    variables: Mapping[str, Sketch] = field(default_factory=dict)
    assets: Mapping[str, LineSketch] = field(default_factory=dict)
    constants: Mapping[str, ConstantSketch] = field(default_factory=dict)
    scalars: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Checkpoint | None = field(default=None, compare=False, repr=False)
    keys: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, in order of names."""
        return {
            "form": self.form,
            "digest": self.digest,
            "variables": _json_of(self.variables),
            "assets": _json_of(self.assets),
            "constants": _json_of(self.constants),
            "scalars": dict(sorted(self.scalars.items())),
            "layers": {name: dict(layer) for name, layer in self.layers.items()},
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> Binding:
        """Return the binding that `to_json` described; raises FormatError."""
        if not isinstance(value, Mapping):
            raise FormatError(where, "the binding is no JSON object")
        parts = {}
        for name in ("variables", "assets", "constants", "scalars", "layers"):
            parts[name] = value.get(name, {})
            if not isinstance(parts[name], Mapping):
                raise FormatError(where, f"{name} is no JSON object")
        form, digest = value.get("form"), value.get("digest")
        if not isinstance(form, str) or not isinstance(digest, str):
            raise FormatError(where, "the binding lacks its form or digest")
        if not all(isinstance(layer, Mapping) for layer in parts["layers"].values()):
            raise FormatError(where, "a layer is no JSON object")
        if not all(type(n) is int for n in parts["scalars"].values()):
            raise FormatError(where, "a count of scalars is no number")
        return cls(
            form,
            digest,
            {k: Sketch.from_json(v, f"{where}: {k}") for k, v in parts["variables"].items()},
            {k: LineSketch.from_json(v, f"{where}: {k}") for k, v in parts["assets"].items()},
            {
                k: ConstantSketch.from_json(v, f"{where}: {k}")
                for k, v in parts["constants"].items()
            },
            parts["scalars"],
            parts["layers"],
        )


def _json_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item.to_json() for name, item in sorted(items.items())}


def bind(path: Path | str, *, full: bool = True, executor: Executor | None = None) -> Binding:
    """Read what a golden of the model at `path` is bound to; runs nothing.

    Args:
        path: of any file of weights or model that this package opens.
        full: sketch every tensor, for recording.  Otherwise only SHA-256 sums are made; what
            differs is sketched when bindings are compared.
        executor: where the values are read; memory does not grow with the file.
    Returns:
        The binding, with its `source` open, so that changed values can be looked at.
    Raises:
        CkptkitError: what opening and reading the file raises: damage is never bound.
    """
    from ckptkit.checkpoint.checkpoint import open as open_checkpoint

    path = path_of(path)
    row = format_of_name(path.name)
    if row is not None and row.is_run_as_file and path.is_file():  # bound to its bytes
        return Binding(row.name, file_sha256(path))
    checkpoint = open_checkpoint(path)
    store = checkpoint.store
    names = _names(checkpoint)
    hidden = _hidden(store)
    with phase("hashing weights", sum(store.specs[key].nbytes for key in names)):
        variables = _variables(store, names, hidden, full, executor)
    constants, scalars = _constants(store)
    return Binding(
        store.format,
        _digest(variables),
        variables,
        dict(_assets(store)),
        constants,
        scalars,
        _layers(store),
        checkpoint,
        {naming.name: key for key, naming in names.items()},
    )


# --- variables ------------------------------------------------------------------------------------


def _names(checkpoint: Checkpoint) -> dict[str, Naming]:
    """Return the tensors that take part, by key; each once, though the file may repeat it."""
    from ckptkit.stores.saved_model.reader import SavedModel

    if isinstance(checkpoint.store, SavedModel) and checkpoint.store.bundle is None:
        return {}  # constants are bound as constants
    return {
        key: naming
        for key, naming in checkpoint.names.items()
        if naming.role in _BOUND_ROLES and naming.duplicate_of is None
    }


def _variables(
    store: Store,
    names: Mapping[str, Naming],
    hidden: frozenset[str],
    full: bool,
    executor: Executor | None,
) -> dict[str, Sketch]:
    from ckptkit._io.pool import batched_map

    tasks = [(store, key, full and naming.role != "slot") for key, naming in names.items()]
    made = batched_map(
        executor, _sketched, tasks, lambda task: store.specs[task[1]].nbytes, lambda task: task[1]
    )
    return {
        naming.name: sketch._replace(
            role=naming.role,
            full_name=naming.full_name if naming.full_name != naming.name else None,
            aliases=tuple(a for a in naming.aliases if a != naming.name)[:_MAX_ALIASES],
            slot_of=naming.slot_of,
            hidden=naming.only_through_optimizer or key in hidden,
        )
        for (key, naming), sketch in zip(names.items(), made, strict=True)
    }


def _sketched(task: tuple[Store, str, bool]) -> Sketch:
    from ckptkit.golden import sketch as _sketch
    from ckptkit.stores.digest import digest

    store, key, full = task
    if full:
        return _sketch.sketch(store, key)
    spec = store.specs[key]
    return Sketch(spec.dtype, spec.shape, digest(store, key))


def _hidden(store: Store) -> frozenset[str]:
    from ckptkit.stores.saved_model.reader import SavedModel
    from ckptkit.stores.saved_model.replaceable import list_members

    return frozenset(list_members(store)) if isinstance(store, SavedModel) else frozenset()


def _digest(variables: Mapping[str, Sketch]) -> str:
    total = hashlib.sha256()
    for name, sketch in sorted(variables.items()):
        if sketch.role in _DIGESTED_ROLES:
            line = f"{name}\0{sketch.dtype}\0{list(sketch.shape)}\0{sketch.sha256}\n"
            total.update(line.encode("utf-8", "surrogatepass"))
    return total.hexdigest()


# --- files, constants, settings -------------------------------------------------------------------


def _assets(store: Store) -> Iterator[tuple[str, LineSketch]]:
    from ckptkit.stores.assets import assets, small_asset

    for name, digest in sorted(assets(store).items()):
        if digest is None:
            yield name, LineSketch("")
            continue
        text = small_asset(store, name)
        if text is None:
            yield name, LineSketch(digest)
        else:
            yield name, sketch_lines(split_text(text))._replace(sha256=digest)


def _constants(store: Store) -> tuple[dict[str, ConstantSketch], dict[str, int]]:
    from ckptkit.stores.saved_model.reader import SavedModel

    if not isinstance(store, SavedModel):
        return {}, {}
    from ckptkit.stores.digest import digest_of
    from ckptkit.stores.saved_model.constants import constant_values

    found: dict[str, ConstantSketch] = {}
    scalars: dict[str, int] = {}
    seen: set[tuple[str, tuple[int, ...], str]] = set()
    for value in constant_values(store):
        if not value.large and not value.captured:
            number = repr(float(value.values.reshape(-1)[0]))
            scalars[number] = scalars.get(number, 0) + 1
            continue
        if value.dtype == "string":
            content = sketch_lines(value.values.reshape(-1).tolist())
        else:
            content = LineSketch(digest_of(value.values))
        identity = (value.dtype, value.shape, content.sha256)
        if identity not in seen:  # functions of training and of serving repeat each other's
            seen.add(identity)
            found[_free(value.name, found)] = ConstantSketch(
                value.dtype, value.shape, content, value.captured
            )
    return found, scalars if len(scalars) <= _MAX_SCALARS else {}


def _free(name: str, taken: Mapping[str, Any]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _layers(store: Store) -> Mapping[str, Mapping[str, Any]]:
    from ckptkit.golden.keras_config import read_config

    return read_config(store.path, store.format)
