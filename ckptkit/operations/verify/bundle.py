"""Verifying a tensor bundle: its index, its data files, every checksum, its object graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.crc32c import crc_of_repeated
from ckptkit._io.file_states import is_local
from ckptkit._io.files import expect_whole, file_size
from ckptkit._io.places import can_list, entries_known
from ckptkit._io.pool import bounded_map
from ckptkit._io.progress import Progress
from ckptkit.dtypes import itemsize
from ckptkit.errors import ChecksumError, CkptkitError, UnsupportedError
from ckptkit.operations.findings import Check, Finding, Unit, is_damage, of_error
from ckptkit.operations.verify.data import (
    ShardPlan,
    plan_shard,
    range_checksums,
    ranges_by_shard,
)
from ckptkit.operations.verify.ranges import ChecksummedRange, Ranges
from ckptkit.operations.verify.sampling import TensorSample
from ckptkit.stores.base import ObjectGraph, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs, any_key_has, specs_having
from ckptkit.stores.registry import TENSOR_BUNDLE
from ckptkit.stores.tensor_bundle.attribute_keys import added_keys
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, TensorBundle
from ckptkit.stores.tensor_bundle.recovery import survey
from ckptkit.stores.tensor_bundle.slices import sliced_name
from ckptkit.stores.tensor_bundle.table import read_table
from ckptkit.text import count_text, lazy_pattern, list_text

if TYPE_CHECKING:
    from concurrent.futures import Executor

_TORN_HINT = (
    "the data file is newer than the index: it may be of a later save that was not finished; "
    "go back to an earlier checkpoint"
)
_DAMAGED_HINT = "the data file is damaged, or belongs to another save than the index"
MAX_ARRAY_RANK = 64  # numpy's NPY_MAXDIMS
MAX_ARRAY = (1 << 63) - 1  # bytes
MAX_LISTED = 20  # missing data files with a finding of their own
_DATA_FILE = lazy_pattern(r"\.data-\d{5}-of-\d{5}\Z")


def verify_bundle(
    prefix: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
    *,
    sample: TensorSample | None = None,
) -> tuple[Unit, TensorBundle]:
    """Return what is found in the checkpoint at `prefix`, and the store as far as it could be read.

    sample: of the tensors whose values are read; None for all, and what lies between.
    Raises PathNotFoundError, UnsupportedError, MissingDependencyError.
    """
    if sample is None:
        _begin(prefix)
    bundle, problems = survey(prefix)
    index = index_path(prefix)
    findings = (
        *(of_error(error, "index") for error in problems),
        *_entry_findings(bundle.specs, index),
        *_keys_that_are_no_text(bundle.specs, index),
    )
    size = (("tensor", len(bundle.specs)), ("byte", file_size(index)))
    plans, data_check = _data_files(bundle)
    if problems:
        plans = [_without_gaps(plan) for plan in plans]
    drawn = None if sample is None else sample.keys(bundle.specs)
    if drawn is not None:
        plans = [_with_pieces_of(plan, drawn) for plan in plans]
    else:
        expect_whole([plan.path for plan in plans if plan.pieces])
    graph = [*_graph(bundle)]  # while values that are elsewhere are on their way
    found, tensors, nbytes = checksum_findings(bundle, plans, executor, progress)
    sums = Check("checksums", (("tensor", tensors), ("byte", nbytes)), found)
    checks = (Check("index", size, findings), data_check, sums, *graph)
    not_checked = []
    if sample is not None and drawn is not None:
        not_checked.append(sample.left_out(len(bundle.specs)))
    if problems:
        not_checked.append("tensors that the damaged part of the index may have listed")
    if OBJECT_GRAPH_KEY in bundle.specs and len(checks) == 3:
        not_checked.append("the object graph against the tensors: the graph cannot be read")
    refusal = None
    if not bundle.specs and not any(check.findings for check in checks):
        refusal = UnsupportedError(
            "nothing in it to verify: it holds no tensors",
            where=str(prefix),
            hint="was it saved before the variables were made?",
        )
    if not can_list(prefix.parent):
        not_checked.append("what else lies beside it: the server lists no directories")
    unit = Unit(prefix, TENSOR_BUNDLE, checks, tuple(not_checked), tensors, nbytes, refusal)
    return unit, bundle


def _begin(prefix: Path) -> None:
    """Begin to fetch the values of a checkpoint elsewhere while its index is read.

    Most have one data file, which needs no index to be found.
    """
    if is_local(prefix):
        return
    first = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    with suppress(CkptkitError, OSError):  # which whoever reads it is told
        if first.is_file():
            expect_whole([first])


# --- entries -------------------------------------------------------------------------------------


def _entry_findings(specs: Mapping[str, TensorSpec], index: Path) -> Iterator[Finding]:
    """Yield an error per entry that lists well here, and that no TensorFlow could read."""
    for spec in specs_having(specs, _is_unreadable).values():
        where = f"{index.name}: {spec.key}"
        if spec.dtype.startswith("dtype#"):
            message = f"its dtype is number {spec.dtype[6:]}, which no TensorFlow known here has"
            hint = "TensorFlow ends the whole process when it lists this"
            yield Finding("error", "tensor.dtype", where, message, hint, key=spec.key)
        elif spec.dtype == "resource":
            message = "its dtype is resource: a handle, which cannot be stored"
            yield Finding("error", "tensor.dtype", where, message, key=spec.key)
        else:
            message = f"no array can have its shape, of {len(spec.shape)} axes"
            yield Finding("error", "tensor.shape", where, message, key=spec.key)


def _is_unreadable(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether no TensorFlow could read such a tensor.

    numpy refuses some shapes, of an empty tensor with huge axes too.
    """
    width = itemsize(dtype) or 8  # strings are pointers
    is_huge = prod(n or 1 for n in shape) * width > MAX_ARRAY
    is_unknown = dtype.startswith("dtype#") or dtype == "resource"
    return is_unknown or is_huge or len(shape) > MAX_ARRAY_RANK


def _keys_that_are_no_text(specs: Mapping[str, TensorSpec], index: Path) -> Iterator[Finding]:
    """Yield an error per key that is not UTF-8, which ends a listing in Python's TensorFlow."""
    if not any_key_has(specs, "\\x"):  # how such bytes are spelled in a key
        return
    try:
        items = read_table(index)
    except CkptkitError:
        return  # that the index is damaged is a finding already
    for key, _value in items:
        try:
            if sliced_name(key) is None:  # the key of a slice is binary
                key.decode()
        except UnicodeDecodeError:
            message = f"the key {key!r} is not UTF-8: TensorFlow cannot list it in Python"
            yield Finding("error", "index.key", str(index), message)


# --- data files -----------------------------------------------------------------------------------


def _data_files(bundle: TensorBundle) -> tuple[list[ShardPlan], Check]:
    findings: list[Finding] = []
    plans: list[ShardPlan] = []
    index = index_path(bundle.path)
    present = _names_beside(index)
    if not can_list(index.parent):
        present = {path.name for path in bundle.shards if path.is_file()}
    lost: list[tuple[Path, Ranges]] = []
    for path, pieces in zip(bundle.shards, ranges_by_shard(bundle), strict=True):
        if path.name not in present:
            lost.append((path, pieces))
            continue
        try:
            plan = plan_shard(path, pieces)
        except CkptkitError as error:
            findings.append(_unreadable(path, pieces, error))
            continue
        plans.append(plan)
        findings.extend(plan.findings)
    findings.extend(_missing(lost))
    findings.extend(_extra_shards(bundle, present))
    total = sum(plan.size for plan in plans)
    return plans, Check("data files", (("file", len(plans)), ("byte", total)), tuple(findings))


def _with_pieces_of(plan: ShardPlan, keys: frozenset[str]) -> ShardPlan:
    """Return what there is to read of a data file for some of its tensors."""
    return plan._replace(pieces=Ranges.of(piece for piece in plan.pieces if piece.key in keys))


def _without_gaps(plan: ShardPlan) -> ShardPlan:
    """Return what there is to read where the index is damaged, and may have listed what is left."""
    return plan._replace(pieces=Ranges.of(piece for piece in plan.pieces if piece.key is not None))


def _names_beside(path: Path) -> set[str]:
    try:
        return {entry.name for entry in entries_known(path.parent)}
    except OSError:
        return set()


def _missing(lost: list[tuple[Path, Ranges]]) -> Iterator[Finding]:
    """Yield an error per missing data file; where there are very many, one for the rest."""
    hint = "copy all files of the checkpoint; the index alone holds no values"
    for path, pieces in lost[:MAX_LISTED]:
        message = f"is missing: {count_text(len(pieces), 'tensor')} cannot be read"
        yield Finding("error", "data.missing", str(path), message, hint)
    rest = lost[MAX_LISTED:]
    if rest:
        tensors = sum(len(pieces) for _path, pieces in rest)
        message = f"and {len(rest)} more data files, with {count_text(tensors, 'tensor')}"
        yield Finding("error", "data.missing", str(rest[0][0].parent), message, hint)


def _unreadable(path: Path, pieces: Ranges, error: CkptkitError) -> Finding:
    message = f"{error.message}: {count_text(len(pieces), 'tensor')} cannot be read"
    return Finding("error", "data.unreadable", str(path), message, error.hint)


def _extra_shards(bundle: TensorBundle, present: set[str]) -> Iterator[Finding]:
    """Yield a warning per data file of this prefix that the index does not mention."""
    index = index_path(bundle.path)
    stem = index.name.removesuffix(".index")
    known = {path.name for path in bundle.shards}
    for name in sorted(present):
        rest = name[len(stem) :]
        if name.startswith(stem) and _DATA_FILE.fullmatch(rest) and name not in known:
            yield Finding(
                "warning",
                "data.extra",
                str(index.with_name(name)),
                "is a data file that the index does not mention",
                "left over from another save; it is never read",
            )


# --- checksums ------------------------------------------------------------------------------------


def checksum_findings(
    bundle: TensorBundle,
    plans: list[ShardPlan],
    executor: Executor | None,
    progress: Progress | None,
) -> tuple[tuple[Finding, ...], int, int]:
    """Compare every checksum; return (findings, tensors compared, bytes read)."""
    findings: list[Finding] = []
    count = whole = 0
    sliced: set[str] = set()  # keys of tensors of several pieces
    damaged: list[Finding] = []
    for some in range_checksums(plans, executor, progress):
        if some.hold():
            count, whole = count + len(some.crcs), whole + len(some.crcs)
            continue
        for piece, crc in some.each():
            if piece.key is None:
                findings.extend(_gap(some.plan, piece, crc))
                continue
            count += 1
            if piece.label == piece.key:
                whole += 1
            else:
                sliced.add(piece.key)
            if isinstance(crc, CkptkitError):
                damaged.append(_bad_read(some.plan, piece, crc))
            elif piece.crc32c is not None and crc != piece.crc32c:
                damaged.append(_mismatch(some.plan, piece, crc))
    strings = ((bundle, plan.path, piece) for plan in plans for piece in plan.pieces.decoded())
    for piece, finding in bounded_map(executor, _decoded, strings, lambda item: item[2].label):
        count += 1
        if piece.label == piece.key:
            whole += 1
        else:
            sliced.add(piece.key or "")
        damaged.extend(finding)
    torn = 2 * sum(one.code == "tensor.checksum" for one in damaged) >= count
    for one in damaged:
        is_sum = one.code == "tensor.checksum"
        findings.append(replace(one, hint=_hint(bundle, torn)) if is_sum else one)
    nbytes = sum(plan.pieces.nbytes for plan in plans)
    return tuple(findings), whole + len(sliced), nbytes


def _bad_read(plan: ShardPlan, piece: ChecksummedRange, error: CkptkitError) -> Finding:
    return Finding(
        "error",
        "tensor.unreadable",
        f"{plan.path.name}: {piece.label}",
        f"its bytes {piece.offset} to {piece.offset + piece.nbytes} cannot be read: "
        f"{error.message}",
        "the disk is failing: copy what can still be read",
        key=piece.key or "",
    )


def _gap(plan: ShardPlan, piece: ChecksummedRange, crc: int | CkptkitError) -> Iterator[Finding]:
    stop = piece.offset + piece.nbytes
    where = f"{plan.path.name} bytes {piece.offset} to {stop}"
    if isinstance(crc, CkptkitError):
        yield Finding("error", "data.unreadable", where, f"cannot be read: {crc.message}")
        return
    at_end = stop == plan.size
    code = "data.trailing" if at_end else "data.gap"
    place = "after the last tensor" if at_end else "between tensors"
    if crc != crc_of_repeated(b"\0", piece.nbytes):
        message = f"{piece.nbytes} bytes {place} that no checksum covers, not all of them zero"
        yield Finding("warning", code, where, message)
    else:
        yield Finding("note", code, where, f"{piece.nbytes} zero bytes {place}: padding")


def _mismatch(plan: ShardPlan, piece: ChecksummedRange, crc: int) -> Finding:
    return Finding(
        "error",
        "tensor.checksum",
        f"{plan.path.name}: {piece.label}",
        f"stored checksum {piece.crc32c:#010x}, that of its bytes {piece.offset} to "
        f"{piece.offset + piece.nbytes} is {crc:#010x}",
        key=piece.key or "",
    )


def _hint(bundle: TensorBundle, torn: bool) -> str:
    """Return why the bytes may be wrong: a torn save leaves an index older than all the data."""
    with suppress(OSError):
        saved = index_path(bundle.path).stat().st_mtime_ns
        if torn and any(path.stat().st_mtime_ns > saved for path in bundle.shards):
            return _TORN_HINT
    return _DAMAGED_HINT


def _decoded(
    item: tuple[TensorBundle, Path, ChecksummedRange],
) -> tuple[ChecksummedRange, list[Finding]]:
    """Compare the checksums of strings or variants."""
    bundle, shard, piece = item
    assert piece.key is not None
    try:
        bundle.read_through(piece.key)
    except CkptkitError as error:
        finding = of_error(error, "tensor")
        where = f"{shard.name}: {piece.label}"
        found = Finding("error", finding.code, where, finding.message, finding.hint, key=piece.key)
        return piece, [found]
    return piece, []


# --- object graph ---------------------------------------------------------------------------------


def _graph(bundle: TensorBundle) -> Iterator[Check]:
    """Yield the check of the object graph, where there is one."""
    if OBJECT_GRAPH_KEY not in bundle.specs:
        return
    try:
        graph = bundle.structure
    except ChecksumError:
        return  # it is a tensor, whose checksum is a finding already
    except CkptkitError as error:
        if is_damage(error):  # else its data file cannot be read, which is a finding already
            yield Check("object graph", (), (of_error(error, "graph"),))
        return
    if not isinstance(graph, ObjectGraph):
        return  # its data file is missing, which is a finding already
    named = _AttributeKeys(graph, bundle.specs)
    findings = list(_missing_keys(graph, bundle.specs, named, str(bundle.path)))
    if not graph.nodes:
        message = "the object graph is empty: nothing could be restored by object"
        findings.append(Finding("error", "graph.empty", str(bundle.path), message))
    unnamed = _unnamed(bundle.specs, named)
    if unnamed:
        message = (
            f"{count_text(len(unnamed), 'tensor')} of the checkpoint belong to no object: "
            f"{list_text(unnamed)}"
        )
        findings.append(Finding("note", "graph.unnamed", str(bundle.path), message))
    yield Check("object graph", (("object", len(graph.nodes)),), tuple(findings))


def _missing_keys(
    graph: ObjectGraph, known: Mapping[str, TensorSpec], named: _AttributeKeys, where: str
) -> Iterator[Finding]:
    """Yield an error per tensor that the graph promises and the checkpoint lacks."""
    if isinstance(known, PackedSpecs) and not named.others:
        return
    added = added_keys(named.others_of(known), named)
    for number, node in enumerate(graph.nodes):
        for attribute, full_name, key in node.attributes:
            is_there = key in known or (attribute != "VARIABLE_VALUE" and key in added)
            if not is_there:
                yield Finding(
                    "error",
                    "graph.missing-tensor",
                    f"{where}: object {number}",
                    f"{attribute} of {full_name or 'an object'} should be at {key!r}, "
                    "which the checkpoint lacks",
                    "restoring would leave it at its initial value",
                    key=key,
                )
            elif attribute == "table" and key in added:
                lacking = [end for end in ("-keys", "-values") if f"{key}{end}" not in known]
                for end in lacking[: len(lacking) % 2]:  # one without the other
                    yield Finding(
                        "error",
                        "graph.missing-tensor",
                        f"{where}: object {number}",
                        f"the {end[1:]} of a table should be at {key + end!r}, which the "
                        "checkpoint lacks",
                        "the table cannot be restored",
                        key=f"{key}{end}",
                    )


class _AttributeKeys(Container[str]):
    """The keys that a graph's attributes have; those of packed specs are marked, not kept."""

    def __init__(self, graph: ObjectGraph, specs: Mapping[str, TensorSpec]) -> None:
        self._row = specs.row if isinstance(specs, PackedSpecs) else _no_row
        self._specs = specs
        self._is_named = bytearray(len(specs))  # of each row
        self.others: set[str] = set()  # which no spec has
        for node in graph.nodes:
            for _attribute, _name, key in node.attributes:
                row = self._row(key)
                if row is None:
                    self.others.add(key)
                else:
                    self._is_named[row] = True

    def __contains__(self, key: object) -> bool:
        if key in self.others:
            return True
        row = self._row(key) if isinstance(key, str) else None
        return row is not None and bool(self._is_named[row])

    def others_of(self, stored: Iterable[str]) -> list[str]:
        """Return the keys of a checkpoint that no attribute has."""
        if stored is self._specs and isinstance(stored, PackedSpecs):  # in the order of its rows
            pairs = zip(stored, self._is_named, strict=True)
            return [key for key, is_named in pairs if not is_named]
        return [key for key in stored if key not in self]


def _no_row(_key: str) -> int | None:
    return None


def _unnamed(specs: Mapping[str, TensorSpec], named: _AttributeKeys) -> list[str]:
    """Return the tensors that no object of the graph has."""
    keys = named.others_of(specs)
    added = {key for family in added_keys(keys, named).values() for key in family}
    return [key for key in keys if key != OBJECT_GRAPH_KEY and key not in added]
