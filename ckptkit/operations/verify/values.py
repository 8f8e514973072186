"""What values say that checksums cannot: NaN, infinities, denormals, constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.pool import batched_map
from ckptkit._io.progress import ProgressMeter
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Selection, Tensor
from ckptkit.dtypes import kind
from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding, of_error
from ckptkit.stores.base import Store

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.dtypes import Array

_BLOCK = 1 << 18  # elements: small enough for a core's cache
_LEAST_CONSTANT = 16  # elements; a smaller tensor may well hold one value


class ValueCounts(NamedTuple):
    """Counts over one tensor.  constant: the one value that it holds, None otherwise."""

    size: int
    nan: int
    infinite: int
    denormal: int
    constant: float | None


def values_check(store: Store, executor: Executor | None, meter: ProgressMeter) -> Check:
    """Return what the values of all float tensors show; reads every one of them.

    meter: counts the bytes of the tensors that were read.
    """
    checkpoint = Checkpoint(store)
    tensors = [t for t in Selection().of(checkpoint) if kind(t.spec.dtype) in ("float", "complex")]
    findings: list[Finding] = []
    count = nbytes = 0
    items = [(store, tensor) for tensor in tensors]
    counted = batched_map(
        executor,
        _counted_values,
        items,
        lambda item: item[1].spec.nbytes,
        lambda item: item[1].naming.name,
    )
    for tensor, result in counted:
        meter.add(tensor.spec.nbytes)
        if isinstance(result, CkptkitError):
            found = of_error(result, "tensor")  # a checksum that fails is a finding already
            if found.code.endswith("checksum"):
                continue
            findings.append(found)
            continue
        count, nbytes = count + 1, nbytes + tensor.spec.nbytes
        findings.extend(_value_findings(tensor, result))
    return Check("values", (("tensor", count), ("byte", nbytes)), tuple(findings))


def _counted_values(item: tuple[Store, Tensor]) -> tuple[Tensor, ValueCounts | CkptkitError]:
    store, tensor = item
    try:
        return tensor, numbers(store, tensor.spec.key)
    except CkptkitError as error:
        return tensor, error


def numbers(store: Store, key: str) -> ValueCounts:
    """Return the counts over a float or complex tensor; raises what `Store.blocks` raises."""
    import numpy as np

    size = nan = infinite = denormal = 0
    first: Array | None = None
    constant = True
    with np.errstate(invalid="ignore"):  # comparing signalling NaNs is what this is about
        for _start, values in store.blocks(key, _BLOCK):
            flat = values.view(values.real.dtype) if values.dtype.kind == "c" else values
            tiny = _tiny(flat)
            # 8- and 16-bit floats have no fast loops of their own
            wide = flat.astype(np.float32) if flat.dtype.itemsize < 4 else flat
            size += len(values)
            nan += int(np.isnan(wide).sum())
            infinite += int(np.isinf(wide).sum())
            magnitude = np.abs(wide)
            denormal += int(((magnitude < tiny) & (magnitude > 0)).sum())
            if first is None:
                first = values[:1].copy()
            constant = constant and bool((values == first).all())
    value = complex(first[0]).real if constant and first is not None else None
    return ValueCounts(size, nan, infinite, denormal, value)


def _tiny(values: Array) -> float:
    """Return the smallest normal number of a float dtype."""
    import ml_dtypes  # whose finfo knows numpy's own floats too

    finfo: Any = ml_dtypes.finfo
    return float(finfo(values.dtype).tiny)


def _value_findings(tensor: Tensor, counts: ValueCounts) -> list[Finding]:
    name = tensor.naming.name

    def finding(severity: str, code: str, message: str, hint: str = "") -> Finding:
        return Finding(severity, f"values.{code}", name, message, hint, tensor.spec.key, name)

    findings = []
    for code, count, what in (
        ("nan", counts.nan, "NaN"),
        ("infinite", counts.infinite, "infinite"),
    ):
        if count:
            hint = "training diverged before this was saved" if code == "nan" else ""
            message = f"{count} of {counts.size} values are {what}"
            findings.append(finding("warning", code, message, hint))
    if counts.denormal:
        message = f"{counts.denormal} of {counts.size} values are denormal"
        findings.append(finding("note", "denormal", message, "slow on some processors"))
    shape = tensor.spec.shape
    if counts.constant is not None and counts.size >= _LEAST_CONSTANT:
        # biases and scales begin as constants, and so does all optimizer state
        odd = tensor.naming.role == "weight" and sum(axis > 1 for axis in shape) > 1
        message = f"all {counts.size} values are {counts.constant:g}"
        findings.append(finding("warning" if odd else "note", "constant", message))
    return findings
