"""Whether a Keras archive that was written is one that Keras loads."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.operations.convert.output_comparison import CPU
from ckptkit.operations.convert.plan import Plan
from ckptkit.results import Result
from ckptkit.stores.registry import KERAS

if TYPE_CHECKING:
    from ckptkit.operations.convert.proof import Proof


@dataclass(frozen=True)
class LoadedOutput(Result):
    """Whether the model that was written was loaded, by whom; why_not says why it was not.

    written_by: who wrote the structure that it has, where that is a Keras before 3; "" else.
    """

    by: str = ""
    why_not: str = ""
    written_by: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was loaded."""
        return bool(self.by)

    def __str__(self) -> str:
        return f"by {self.by}, in safe mode" if self.by else f"not loaded: {self.why_not}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {"by": self.by or None, "why_not": self.why_not}


def load_output(plan: Plan, output: Path, proof: Proof, timeout_s: float) -> LoadedOutput | None:
    """Load a Keras archive in safe mode, in a child process.

    Args:
        plan: what was done.
        output: the file that was written.
        proof: of it; where outputs were compared, it was loaded for that.
        timeout_s: for the run.

    Returns:
        What came of it; None where the output is no such archive.
    """
    row = plan.target.format
    if row.structure != KERAS or not row.holds_model:
        return None
    from ckptkit.operations.needs.api import needs  # here, since it knows every format

    found = needs(output)
    writer = found.writer if found.writer.startswith("Keras 2") else ""
    if proof.outputs is not None and proof.outputs.rows:
        versions = proof.outputs.versions or {}
        name = "tf_keras" if writer and "tf_keras" in versions else "keras"
        shown = f"{'Keras' if name == 'keras' else name} {versions.get(name, '')}".strip()
        return LoadedOutput(by=shown, written_by=writer)
    if found.exit_code == 1:
        return LoadedOutput(why_not=found.in_brief, written_by=writer)
    if importlib.util.find_spec("tensorflow") is None:
        return LoadedOutput(why_not="TensorFlow is not installed", written_by=writer)
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.process import run

    request = {"action": "load", "file": str(output), "options": {}}
    try:
        versions = run("tensorflow", request, timeout_s=timeout_s, environment=CPU)["versions"]
    except RunnerError as error:
        return LoadedOutput(why_not=str(error), written_by=writer)
    return LoadedOutput(by=f"Keras {versions['keras']}", written_by=writer)
