"""HDF5 files read twice: by ckptkit's own reader, and by libhdf5 in a process of its own.

HDF5 as Keras writes it has no checksums, so two readers that know nothing of one another are what
there is.  Both must find the same names, dtypes, shapes, places and attributes; values that lie in
one run of bytes are then the same too, and all others are read by libhdf5 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.beside import beside
from ckptkit.errors import CkptkitError, FormatError, MissingDependencyError, UnsupportedError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.verify.keras_groups import name_findings
from ckptkit.stores.base import KerasStructure
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5.bounded import LeftToLibhdf5
from ckptkit.stores.hdf5.classic import CloseScan, scan_closely
from ckptkit.stores.hdf5.reader import scan, scan_with_libhdf5
from ckptkit.stores.hdf5.types import Attribute, H5Dataset, H5Tree
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.registry import LEGACY_KERAS, format_of, model_config
from ckptkit.text import count_text, list_text

if TYPE_CHECKING:
    from concurrent.futures import Future

NOT_BY_LIBHDF5 = "whether libhdf5 reads the same (pip install 'ckptkit-tf[hdf5]')"


class _TwoReadings(NamedTuple):
    """What is seen in one file by ckptkit (None: it leaves the file to libhdf5), and by libhdf5.

    theirs: returns it, or raises why there is nothing; None where it was not asked.
    """

    close: CloseScan | None
    theirs: Callable[[], H5Tree] | None


def begin_readings(store: H5Store) -> Sequence[Future[_TwoReadings]]:
    """Begin to read each file of a store in both ways, beside what is done meanwhile."""
    return [beside(partial(_readings, byte_range)) for byte_range in store.ranges]


def _readings(byte_range: ByteRange) -> _TwoReadings:
    close = _closely(byte_range)
    if close is None or find_spec_of_h5py() is None:  # libhdf5 has read it already, or is not there
        return _TwoReadings(close, None)
    return _TwoReadings(close, beside(partial(scan_with_libhdf5, byte_range)).result)


def hdf5_checks(
    store: H5Store, readings: Sequence[Future[_TwoReadings]]
) -> tuple[list[Check], list[str]]:
    """Return the checks of a store's HDF5 data, and what was not checked.

    readings: what `begin_readings` returned.  Raises what `hdf5.reader.scan` raises.
    """
    row = format_of(store.format)
    try:
        config = model_config(store.format, store.path)
    except CkptkitError:
        config = None  # which is a finding of its own
    structure = store.structure if isinstance(store.structure, KerasStructure) else None
    groups: dict[str, Mapping[str, Attribute]] = {}
    names: list[Finding] = []
    seconds: list[Finding] = []
    not_checked: list[str] = []
    compared = 0
    for path, byte_range, reading in zip(store.shards, store.ranges, readings, strict=True):
        close, theirs = reading.result()
        tree = scan(byte_range) if close is None else close.tree
        for group, attributes in tree.groups.items():  # shards share the groups that they divide
            groups[group] = {**groups.get(group, {}), **attributes}
        if close is None:  # libhdf5 has read it already
            continue
        names += _oddities(str(path), close)
        if theirs is None:
            not_checked.append(NOT_BY_LIBHDF5)
            continue
        seconds += _compared(str(path), theirs, tree)
        compared += len(tree.datasets)
    whole = H5Tree(groups, store.datasets)
    legacy = row.structure == LEGACY_KERAS
    names += name_findings(str(store.path), whole, structure, config, legacy=legacy)
    checks = [Check("names", (("tensor", len(store.datasets)),), tuple(names))]
    if compared or seconds:
        checks.append(Check("libhdf5", (("tensor", compared),), tuple(seconds)))
    return checks, list(dict.fromkeys(not_checked))


def find_spec_of_h5py() -> object:
    """Return something where h5py is installed, None where it is not."""
    try:
        return find_spec("h5py")
    except ValueError:  # sys.modules says that there is none
        return None


def _closely(byte_range: ByteRange) -> CloseScan | None:
    try:
        return scan_closely(byte_range)
    except LeftToLibhdf5:
        return None


def _oddities(where: str, close: CloseScan) -> Iterator[Finding]:
    if close.stray:
        yield Finding(
            "warning",
            "data.stray",
            where,
            f"{count_text(close.stray, 'byte')} that nothing in the file leads to",
            "of what was deleted from it, or of a tensor whose place was damaged",
        )
    for path in close.foreign:
        yield Finding(
            "warning",
            "data.order",
            f"{where}: {path}",
            "is in the other byte order than most tensors of the file",
            "no machine writes both; one wrong bit does that",
            key=path,
        )


def _compared(where: str, read: Callable[[], H5Tree], ours: H5Tree) -> Iterator[Finding]:
    """Yield an error for each thing that libhdf5 reads otherwise."""
    hint = "one of the two is wrong, and the file may be damaged: do not trust either"
    try:
        theirs = read()
    except (UnsupportedError, MissingDependencyError):
        raise
    except FormatError as error:
        yield Finding(
            "error",
            "hdf5.unreadable",
            where,
            f"libhdf5 does not read what ckptkit does: {error.message}",
            error.hint or hint,
        )
        return
    for what, one, other in (
        ("groups", ours.groups.keys(), theirs.groups.keys()),
        ("tensors", ours.datasets.keys(), theirs.datasets.keys()),
    ):
        for reader, more in (("ckptkit", one - other), ("libhdf5", other - one)):
            if more:
                message = f"{what} that {reader} alone finds: {list_text(sorted(more))}"
                yield Finding("error", "hdf5.disagreement", where, message, hint)
    for path in sorted(ours.datasets.keys() & theirs.datasets.keys()):
        mine, his = ours.datasets[path], theirs.datasets[path]
        if mine != his:
            message = f"ckptkit reads {_told(mine)}, libhdf5 {_told(his)}"
            yield Finding("error", "hdf5.disagreement", f"{where}: {path}", message, hint, key=path)
    for path in sorted(ours.groups.keys() & theirs.groups.keys()):
        here, there = ours.groups[path], theirs.groups[path]
        for name in sorted(here.keys() | there.keys()):
            one_value, other_value = here.get(name), there.get(name)
            known = name in here and name in there and None in (one_value, other_value)
            if not known and repr(one_value) != repr(other_value):
                message = f"ckptkit reads {repr(one_value)[:60]}, libhdf5 {repr(other_value)[:60]}"
                at = f"{where}: {path or '/'}@{name}"
                yield Finding("error", "hdf5.disagreement", at, message, hint)


def _told(dataset: H5Dataset) -> str:
    at = "not in one run" if dataset.offset is None else f"at {dataset.offset}"
    return f"{dataset.dtype}{list(dataset.shape)}, {dataset.nbytes} bytes {at}"
