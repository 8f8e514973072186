"""What an HDF5 file could do: links and storage that lead out of it, and configs of Keras in it.

The config of a model is an attribute of the root.  One of a type that is not read (a record, a
reference, opaque bytes) is a finding, since a loader may make text of it.
"""

from __future__ import annotations

from pathlib import Path

from ckptkit.errors import CkptkitError, FormatError, MissingDependencyError, UnsupportedError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.keras import text_findings
from ckptkit.stores.containers.byte_range import ByteRange, whole_file
from ckptkit.stores.hdf5.reader import scan as read_tree
from ckptkit.stores.hdf5.reader import scan_with_libhdf5
from ckptkit.stores.hdf5.types import BOMB, LEADS_OUT, Attribute, H5Tree
from ckptkit.stores.hdf5.user_block import start_of_hdf5
from ckptkit.text import lazy_pattern

# legacy_h5_format.py reads these two; a long text may be split over several, numbered ones
_CONFIG = lazy_pattern(r"(model|training)_config[0-9]*")


def scan_hdf5(path: Path) -> list[Check]:
    """Scan an HDF5 file; raises FormatError where libhdf5 would not read it either."""
    start = start_of_hdf5(path)
    whole = whole_file(path)
    if not start:
        return [hdf5_check(whole, path.name)]
    check = hdf5_check(ByteRange(path, start, whole.nbytes - start), path.name)
    message = f"{start} bytes before the HDF5 file, which libhdf5 skips"
    odd = Finding("note", "hdf5.odd", path.name, message)
    return [Check(check.name, check.counts, (odd, *check.findings))]


def hdf5_check(byte_range: ByteRange, label: str) -> Check:
    """Return what there is to say of an HDF5 file; raises FormatError for one that is damaged."""
    findings: list[Finding] = []
    tree = _tree(byte_range, label, findings)
    configs = 0
    if tree is not None:
        for name, value in tree.groups[""].items():
            if _CONFIG.fullmatch(name):
                configs += 1
                findings.extend(_config_findings(value, f"{label}@{name}"))
    counts = (("config", configs),) if configs else ()
    datasets = len(tree.datasets) if tree is not None else 0
    return Check("HDF5", (*counts, ("tensor", datasets)), tuple(findings))


def _tree(byte_range: ByteRange, label: str, findings: list[Finding]) -> H5Tree | None:
    """Return what is in the file; what keeps it from being read is a finding, or raised."""
    try:
        return read_tree(byte_range)
    except MissingDependencyError:
        raise
    except CkptkitError as error:
        if _note(error, label, findings):
            return None
        refusal = error
    try:  # what the strict reader calls damaged, the library may read all the same
        tree = scan_with_libhdf5(byte_range)
    except CkptkitError as error:
        if _note(error, label, findings):
            return None
        raise refusal from error
    message = f"read by libhdf5, as by every loader, though not in order: {refusal.message}"
    findings.append(Finding("note", "hdf5.odd", label, message))
    return tree


def _note(error: CkptkitError, label: str, findings: list[Finding]) -> bool:
    """Add the finding that a refusal comes to, if it is not one of damage."""
    if error.code in (LEADS_OUT, BOMB):
        findings.append(Finding("error", error.code, label, error.message, error.hint))
    elif isinstance(error, UnsupportedError) and not isinstance(error, FormatError):
        findings.append(Finding("warning", "hdf5.unknown", label, error.message, error.hint))
    else:
        return False
    return True


def _config_findings(value: Attribute, where: str) -> list[Finding]:
    parts = value if isinstance(value, tuple) else (value,)
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts) or not texts:
        message = "a config of a type that is not looked into"
        return [Finding("warning", "keras.unknown", where, message)]
    found = text_findings("".join(texts).encode("utf-8", "surrogatepass"), where)
    if isinstance(value, tuple):
        message = "a config in several parts, which no Keras writes"
        return [Finding("warning", "keras.unknown", where, message), *found]
    return list(found)
