"""Runs the exports of `support.make_v1_exports` as ckptkit does, all of them in one process.

python -m support.run_v1_exports FOLDER RESULT.json [make]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ckptkit.errors import CkptkitError
from ckptkit.runners.child.inputs import choose_signature, fit
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.graph_session import GraphSession
from ckptkit.runners.tensorflow.session import open_saved_model
from support.make_v1_exports import KINDS, make, make_refused

SPECS = {
    "CPU:0": RunnerSpec(),
    "CPU:1,threads=1": RunnerSpec(index=1, threads=1),
    "xla:CPU:0": RunnerSpec(xla=True),
}


def run(path: Path, spec: RunnerSpec) -> dict[str, Any]:
    """Return how far each output is from the recorded one, or why there is none."""
    given = np.load(path.with_name(f"{path.name}.inputs.npz"), allow_pickle=True)
    inputs = {n: a.astype(object) if a.dtype.kind == "S" else a for n, a in given.items()}
    try:
        session = open_saved_model(path, [], spec)
        facts = session.describe()
        key = choose_signature(facts.signatures, None)
        fitted = fit(inputs, facts.signatures[key], facts.optional.get(key, ()))
        outputs = session.call(key, fitted)
    except CkptkitError as error:
        return {"refused": str(error)}
    wanted = np.load(path.with_name(f"{path.name}.outputs.npz"), allow_pickle=True)
    found: dict[str, Any] = {
        "in_session": isinstance(session, GraphSession),
        "signatures": {k: s.to_json() for k, s in facts.signatures.items()},
        "optional": {k: list(names) for k, names in facts.optional.items()},
        "int_high": facts.int_high,
        "devices": session.devices(),
        "outputs": sorted(outputs),
        "wanted": sorted(wanted.files),
        "apart": {n: _apart(wanted[n], outputs[n]) for n in wanted.files if n in outputs},
    }
    return found


def _apart(one: Any, two: Any) -> float:
    if one.shape != two.shape or one.dtype != two.dtype:
        return float("inf")
    if one.dtype.kind == "f":
        return float(np.abs(one - two).max())
    return 0.0 if np.array_equal(one, two) else float("inf")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    setup.configure(RunnerSpec(index=1))
    if "make" in sys.argv[3:]:
        for name in KINDS:
            make(folder, name)
        make_refused(folder)
    results = {
        f"{path.name} {text}": run(path, spec)
        for path in sorted(folder.iterdir())
        if (path / "saved_model.pb").is_file()
        for text, spec in SPECS.items()
    }
    Path(sys.argv[2]).write_text(json.dumps(results))
