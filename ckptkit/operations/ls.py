"""`ls`: what is in a file, and how much of it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar

from ckptkit._io.files import taking_paths
from ckptkit._io.progress import phase
from ckptkit.align.cudnn_layouts import cudnn_layers, note_on
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.selection import Selection, Tensor, Tensors, tensor_json
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.results import Document
from ckptkit.stores.base import Signature
from ckptkit.stores.following import following_latest, opened_still
from ckptkit.text import natural
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit._io.progress import Progress
    from ckptkit.operations.statistics import Statistics

SCHEMA = "ckptkit.ls/2"
_WEIGHTS, _MODEL = "weights", "model"  # parts that have a digest
_VALUE_SORTS: dict[str, Callable[[Statistics], float]] = {
    "min": lambda s: s.minimum,
    "max": lambda s: -s.maximum,
    "mean": lambda s: -s.mean,
    "std": lambda s: -s.std,
    "norm": lambda s: -s.norm,
    "zeros": lambda s: -s.n_zero / s.n if s.n else 0.0,
    "nan": lambda s: -s.n_nan - s.n_inf,
}
SORTS = ("name", "size", "params", "offset", *_VALUE_SORTS)


@dataclass(frozen=True, repr=False)
class Listing(Document):
    """The tensors of a file that passed a filter, and totals over them.

    tensors: what to list.  hidden: housekeeping entries left out.  problems: missing or short
    shards; the list is whole all the same, since it comes from the index.
    digest: of the weights, when it was asked for.  digests: of all parts that were asked for; None
    of one that the file does not hold.  filtered: whether a filter was given.
    tags: of the graph of a SavedModel that was asked for; empty for all.
    statistics: of numeric tensors by key, when they were asked for.
    """

    ROWS: ClassVar[str] = "tensors"

    checkpoint: Checkpoint
    tensors: Sequence[Tensor]
    hidden: int
    problems: tuple[CkptkitError, ...]
    digest: str | None = None
    filtered: bool = False
    tags: frozenset[str] = frozenset()
    statistics: Mapping[str, Statistics] | None = None
    digests: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no data file is missing or too short for what lies in it."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0 the list is whole, and so are the files, 2 where some of it could not be told."""
        return 0 if self.ok else 2

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The signatures of a SavedModel, or of the graph with the tags that were asked for."""
        model = self.checkpoint.store.model
        signatures = model.signatures if model is not None else ()
        return tuple(s for s in signatures if not self.tags or self.tags == {*s.tags})

    @cached_property
    def totals(self) -> dict[str, Any]:
        """Counts, elements ("params": weights alone, each once) and bytes, by role and dtype."""
        # One item per kind of tensor: a file has many tensors, and few kinds of them.
        counts: dict[tuple[str, str, bool, tuple[int, ...]], list[int]] = {}
        untied = through_optimizer = 0
        for (spec, naming), number in _kinds(self.tensors):
            kind = naming.role, spec.dtype, naming.duplicate_of is not None, spec.shape
            count = counts.get(kind)
            if count is None:
                count = counts[kind] = [0, 0]
            count[0] += number
            count[1] += number * spec.nbytes
            through_optimizer += number * naming.only_through_optimizer
            untied += number * (naming.role == "slot" and naming.slot_of is None)
        by_role: dict[str, dict[str, int]] = {}
        dtypes: Counter[str] = Counter()
        params = model_bytes = stored_twice = stored_twice_bytes = 0
        for (role, dtype, is_repeated, shape), (number, nbytes) in counts.items():
            size = number * math.prod(shape)
            dtypes[dtype] += number
            row = by_role.setdefault(role, {"tensors": 0, "params": 0, "bytes": 0})
            row["tensors"] += number
            row["params"] += size
            row["bytes"] += nbytes
            if is_repeated:
                stored_twice += number
                stored_twice_bytes += nbytes
            elif role == "weight":
                params += size
                model_bytes += nbytes
        return {
            "tensors": len(self.tensors),
            "params": params,
            "bytes": sum(row["bytes"] for row in by_role.values()),
            "model_bytes": model_bytes,
            "by_role": by_role,
            "dtypes": dict(dtypes.most_common()),
            "stored_twice": stored_twice,
            "stored_twice_bytes": stored_twice_bytes,
            "only_through_optimizer": through_optimizer,
            "slots_without_variable": untied,
        }

    @cached_property
    def slots_of_missing_weights(self) -> int:
        """How many slots belong to no variable, and can belong to none of this file's by shape."""
        untied: dict[str, Counter[tuple[int, ...]]] = {}
        weights: Counter[tuple[int, ...]] = Counter()
        for key, naming in self.checkpoint.names.items():
            shape = self.checkpoint.specs[key].shape
            if naming.role == "weight" and naming.duplicate_of is None:
                weights[shape] += 1
            elif naming.role == "slot" and naming.slot_of is None:
                kind = naming.slot or naming.name.rpartition("/")[0]
                untied.setdefault(f"{naming.optimizer} {kind}", Counter())[shape] += 1
        return sum((shapes - weights).total() for shapes in untied.values())

    def __repr__(self) -> str:
        return f"<Listing of {len(self.tensors)} tensors of {self.checkpoint!r}>"

    def to_json(self) -> dict[str, Any]:
        """Return one of the `results` of schema ckptkit.ls/2 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {**self.heading(), "tensors": list(self.rows())}

    def streamed(self) -> Mapping[str, Any]:
        """Return the document; a large file has many tensors, so they come one at a time.

        Returns:
            As `to_json`, with an iterator under `tensors`.
        """
        return {**self.heading(), "tensors": self.rows()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the `tensors` of the document, one at a time, as a large file has many.

        Yields:
            The JSON object of a tensor, in the order of the listing.
        """
        if self.statistics is None:
            return (tensor_json(*tensor) for tensor in self.tensors)
        return (
            {**tensor_json(*tensor), "statistics": self._statistics_json(tensor.spec.key)}
            for tensor in self.tensors
        )

    def _statistics_json(self, key: str) -> dict[str, Any] | None:
        found = (self.statistics or {}).get(key)
        return {k: v for k, v in found.to_json().items() if k != "bins"} if found else None

    def heading(self) -> dict[str, Any]:
        """Return the document without its `tensors`.

        Returns:
            Plain values that JSON can hold.
        """
        store = self.checkpoint.store
        model = store.model
        return {
            "schema": SCHEMA,
            "path": str(store.path),
            "subtree": self.checkpoint.subtree,
            "format": store.format,
            "style": store.style or None,
            "producer": store.producer,
            "shards": {
                "expected": len(store.shards),
                "found": len(store.shards) - len(store.missing_shards),
            },
            "totals": self.totals,
            "digest": self.digest,
            "digests": dict(self.digests),
            "notes": list(self.checkpoint.notes),
            "problems": [str(problem) for problem in self.problems],
            "signatures": [
                {
                    "key": signature.key,
                    "method_name": signature.method_name,
                    "tags": list(signature.tags),
                    "inputs": [
                        {**_tensor_json(*item), **_default_json(signature, item[0])}
                        for item in signature.inputs
                    ],
                    "outputs": [_tensor_json(*item) for item in signature.outputs],
                }
                for signature in self.signatures
            ],
            "tags": [list(tags) for tags in model.tags] if model else [],
            "assets": list(model.assets) if model else [],
            "ops": list(model.ops) if model else [],
            "layers": [layer._asdict() for layer in model.layers] if model else [],
        }


def _kinds(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Yield tensors, and how many there are of each kind: a file has many, and few kinds."""
    if not isinstance(tensors, Tensors):
        return zip(tensors, repeat(1))
    return ((tensor, len(places)) for tensor, places in tensors.kinds())


def _default_json(signature: Signature, name: str) -> dict[str, str]:
    defaults = dict(signature.defaults)
    return {"default": defaults[name]} if name in defaults else {}


def _tensor_json(name: str, dtype: str, shape: Sequence[int | None] | None) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": None if shape is None else list(shape)}


def listing_of(checkpoint: Checkpoint) -> Listing:
    """Return the listing of a checkpoint that is open, without TensorFlow's own records."""
    tensors = Selection().of(checkpoint)
    shown = tensors.without_housekeeping().by_name()
    hidden = len(tensors) - len(shown)
    return Listing(checkpoint, shown, hidden, tuple(checkpoint.problems()))


@taking_paths
@following_latest
def ls(
    path: str | os.PathLike[str],
    *,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    sort: str = "name",
    everything: bool = False,
    digest: bool | Sequence[str] = False,
    tags: Sequence[str] = (),
    stats: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Listing:
    """List the tensors of a checkpoint or model file; only headers are read by default.

    Args:
        path: as `ckptkit.open` takes it.
        roles: which to list, of "weight", "slot", "ema", "counter", "metric", "table", "config",
            "other"; all by default.
        names: globs over readable names, keys and full names; "!GLOB" leaves out.
        dtypes: exact names of dtypes, such as "float32"; all by default.
        sort: "name" (natural order), "size" (bytes, largest first), "params" (elements, largest
            first) or "offset" (as they lie in the file); with `stats` also "min", "max", "mean",
            "std", "norm", "zeros" (their share) or "nan" (all that is not finite).
        everything: also list TensorFlow's own records.
        digest: also read all that passes the filter, for the digest of the weights; or the names of
            parts: "weights", "config", "signature", "vocabulary", "model" for all of these.
        tags: of one graph of a SavedModel, whose signatures are to be listed; all by default.
        stats: also read all that is listed, for statistics of every numeric tensor.
        executor: where values are read, for a digest or statistics; None reads them here.
        progress: is called with "statistics", and bytes done and in all.

    Returns:
        The tensors and totals over them; its `problems` name shards that are missing or cut short.

    Raises:
        UsageError: a filter leaves nothing, or there is no such role, order, graph or part, or a
            filter beside the digest of a model.
        TruncatedError, ChecksumError: values that are to be read are cut short or damaged.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    checkpoint, problems = opened_still(lambda: open_checkpoint(path))
    in_cudnn = cudnn_layers(checkpoint.specs, checkpoint.names)
    if in_cudnn:
        checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note_on(in_cudnn)))
    selection = Selection(roles, names, dtypes)
    selected = selection.of(checkpoint)
    shown = selected if everything else selected.without_housekeeping()
    if sort not in SORTS:
        raise UsageError(f"cannot sort by {sort!r}", hint=f"one of {', '.join(SORTS)}")
    if sort in _VALUE_SORTS and not stats:
        raise UsageError(f"{sort!r} is an order of values", hint=say("add ‹stats›"))
    found = None
    if stats:
        found = _statistics(checkpoint, shown, executor, progress, is_filtered=bool(selection))
    parts = (_WEIGHTS,) if digest is True else tuple(digest or ())
    digests = _digests(checkpoint, selected, parts, executor, is_filtered=bool(selection))
    return Listing(
        checkpoint,
        shown.by_name() if sort == "name" else shown.ordered(_order(sort, found or {})),
        len(selected) - len(shown),
        tuple(problems),
        digests.get(_WEIGHTS),
        bool(selection),
        _graph_tags(checkpoint, tags),
        found,
        digests,
    )


def _digests(
    checkpoint: Checkpoint,
    tensors: Sequence[Tensor],
    parts: Sequence[str],
    executor: Executor | None,
    *,
    is_filtered: bool,
) -> Mapping[str, str | None]:
    """Return the digest of each part; that of the weights is of the tensors that are listed."""
    if is_filtered and _MODEL in parts:
        raise UsageError(
            "a digest of the model is of all its tensors",
            where=str(checkpoint.path),
            hint="leave the filters out, or ask for the digest of the weights",
        )
    weights = _digest(checkpoint, tensors, executor) if {_WEIGHTS, _MODEL} & {*parts} else None
    if {*parts} <= {_WEIGHTS}:
        return dict.fromkeys(parts, weights)
    from ckptkit.operations.digests import digests_of  # reads configurations; most need none

    return digests_of(checkpoint, parts, weights=weights)


def _digest(checkpoint: Checkpoint, tensors: Sequence[Tensor], executor: Executor | None) -> str:
    from ckptkit.checkpoint.digest import DIGESTED, weights_digest  # here, since few ask for it

    with phase("digest", sum(t.spec.nbytes for t in tensors if t.naming.role in DIGESTED)):
        return weights_digest(checkpoint, tensors, executor)


def _statistics(
    checkpoint: Checkpoint,
    tensors: Sequence[Tensor],
    executor: Executor | None,
    progress: Progress | None,
    *,
    is_filtered: bool,
) -> dict[str, Statistics]:
    """Return the statistics of all numeric tensors, by key."""
    from ckptkit.operations.quantised import numbers_store  # most need none
    from ckptkit.operations.statistics import is_numeric, statistics_of_all
    from ckptkit.stores.archive_checksums import ArchiveChecksums
    from ckptkit.stores.constants import quantisations_of

    numeric = [t.spec for t in tensors if is_numeric(t.spec.dtype)]
    keys = [spec.key for spec in numeric]
    ArchiveChecksums().compare(checkpoint.store, keys, is_part=is_filtered)
    store = numbers_store(checkpoint.store, quantisations_of(checkpoint.store))
    return statistics_of_all(store, numeric, executor, progress)


def _order(sort: str, found: Mapping[str, Statistics]) -> Callable[[Tensor], Any]:
    """Return the key to sort by; what has no such value comes last."""
    if sort not in _VALUE_SORTS:
        return _ORDERS[sort]
    measure = _VALUE_SORTS[sort]

    def by_value(tensor: Tensor) -> tuple[bool, float, str]:
        statistics = found.get(tensor.spec.key)
        value = measure(statistics) if statistics is not None else math.nan
        is_none = math.isnan(value)
        return is_none, 0.0 if is_none else value, natural(tensor.naming.name)

    return by_value


def _graph_tags(checkpoint: Checkpoint, tags: Sequence[str]) -> frozenset[str]:
    """Return the tags of the one graph that they name; raises UsageError where there is none."""
    if not tags:
        return frozenset()
    from ckptkit.stores.saved_model.signatures import graph_with  # here, since most name none

    model = checkpoint.store.model
    return graph_with(tags, model.tags if model is not None else (), str(checkpoint.path))


_ORDERS: dict[str, Callable[[Tensor], Any]] = {
    "size": lambda t: (-t.spec.nbytes, natural(t.naming.name)),
    "params": lambda t: (-t.spec.size, natural(t.naming.name)),
    "offset": lambda t: (t.spec.shard or 0, t.spec.offset or 0, natural(t.naming.name)),
}
