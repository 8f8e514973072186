"""See inside TensorFlow and Keras checkpoints, compare, convert and trust them.

    >>> import ckptkit
    >>> ck = ckptkit.open("run/ckpt-3")       # no TensorFlow needed
    >>> ck["conv1/kernel"].shape
    (3, 3, 1, 32)

Names are imported on first use, so that `import ckptkit` costs nothing.
"""

from __future__ import annotations

from ckptkit._version import __version__ as __version__

TYPE_CHECKING = False  # as typing has it; importing that takes longer than all the rest here

__distribution__ = "ckptkit-tf"  # told from another distribution of this name by it

if TYPE_CHECKING:
    from ckptkit._io.places import remote_path
    from ckptkit.checkpoint.checkpoint import Checkpoint, open
    from ckptkit.errors import CkptkitError
    from ckptkit.golden.golden import Golden
    from ckptkit.operations.check.api import check
    from ckptkit.operations.check.audit import ToleranceAudit
    from ckptkit.operations.check.report import Report
    from ckptkit.operations.convert.api import convert
    from ckptkit.operations.convert.plan import Plan
    from ckptkit.operations.convert.receipt import Receipt
    from ckptkit.operations.diff.api import diff
    from ckptkit.operations.diff.result import DiffResult
    from ckptkit.operations.doctor import Diagnosis
    from ckptkit.operations.gate.api import GateReport, gate
    from ckptkit.operations.history.api import history
    from ckptkit.operations.history.result import History
    from ckptkit.operations.inventory import Inventory
    from ckptkit.operations.load import load
    from ckptkit.operations.ls import Listing, ls
    from ckptkit.operations.map.api import map
    from ckptkit.operations.map.result import ProposedMap
    from ckptkit.operations.needs.api import Needs, needs
    from ckptkit.operations.record.api import record
    from ckptkit.operations.scan.api import Scan, scan
    from ckptkit.operations.show import TensorSummary, show
    from ckptkit.operations.thin.api import thin
    from ckptkit.operations.thin.result import Thinning
    from ckptkit.operations.upgrade.api import upgrade
    from ckptkit.operations.upgrade.report import UpgradeReport
    from ckptkit.operations.verify.api import Verification, verify
    from ckptkit.results import Document, Result

_EXPORTS = {
    "Checkpoint": "ckptkit.checkpoint.checkpoint",
    "CkptkitError": "ckptkit.errors",
    "Diagnosis": "ckptkit.operations.doctor",
    "DiffResult": "ckptkit.operations.diff.result",
    "Document": "ckptkit.results",
    "Golden": "ckptkit.golden.golden",
    "History": "ckptkit.operations.history.result",
    "Inventory": "ckptkit.operations.inventory",
    "Listing": "ckptkit.operations.ls",
    "Needs": "ckptkit.operations.needs.api",
    "Plan": "ckptkit.operations.convert.plan",
    "ProposedMap": "ckptkit.operations.map.result",
    "Receipt": "ckptkit.operations.convert.receipt",
    "Report": "ckptkit.operations.check.report",
    "Result": "ckptkit.results",
    "Scan": "ckptkit.operations.scan.api",
    "TensorSummary": "ckptkit.operations.show",
    "Thinning": "ckptkit.operations.thin.result",
    "ToleranceAudit": "ckptkit.operations.check.audit",
    "UpgradeReport": "ckptkit.operations.upgrade.report",
    "Verification": "ckptkit.operations.verify.api",
    "check": "ckptkit.operations.check.api",
    "convert": "ckptkit.operations.convert.api",
    "diff": "ckptkit.operations.diff.api",
    "history": "ckptkit.operations.history.api",
    "GateReport": "ckptkit.operations.gate.api",
    "gate": "ckptkit.operations.gate.api",
    "load": "ckptkit.operations.load",
    "ls": "ckptkit.operations.ls",
    "map": "ckptkit.operations.map.api",
    "needs": "ckptkit.operations.needs.api",
    "open": "ckptkit.checkpoint.checkpoint",
    "record": "ckptkit.operations.record.api",
    "remote_path": "ckptkit._io.places",
    "scan": "ckptkit.operations.scan.api",
    "show": "ckptkit.operations.show",
    "thin": "ckptkit.operations.thin.api",
    "upgrade": "ckptkit.operations.upgrade.api",
    "verify": "ckptkit.operations.verify.api",
}

__all__ = [
    "Checkpoint",
    "CkptkitError",
    "Diagnosis",
    "DiffResult",
    "Document",
    "GateReport",
    "Golden",
    "History",
    "Inventory",
    "Listing",
    "Needs",
    "Plan",
    "ProposedMap",
    "Receipt",
    "Report",
    "Result",
    "Scan",
    "TensorSummary",
    "Thinning",
    "ToleranceAudit",
    "UpgradeReport",
    "Verification",
    "check",
    "convert",
    "diff",
    "gate",
    "history",
    "load",
    "ls",
    "map",
    "needs",
    "open",
    "record",
    "remote_path",
    "scan",
    "show",
    "thin",
    "upgrade",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
