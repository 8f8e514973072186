"""The example runner of docs/examples, known here and in children without being installed."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest

from ckptkit.plugins import Registry
from ckptkit.runners import registry
from ckptkit.stores.registry import FORMATS
from support.places import ROOT

EXAMPLE = ROOT / "docs" / "examples" / "runner"


def linear_model(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str = "") -> Path:
    """Return a model that numpy runs, having made its format and its runner known.

    folder: where the model goes.  module: what runs it, of `folder`, in place of the example's own.
    """
    monkeypatch.syspath_prepend(str(EXAMPLE))
    example = importlib.import_module("ckptkit_linear")
    runtime = example.RUNTIME._replace(module=module) if module else example.RUNTIME
    for table, row in ((FORMATS, example.LINEAR), (registry.RUNNERS, runtime)):
        assert isinstance(table, Registry)
        monkeypatch.setitem(table.built_in, "linear", row)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(EXAMPLE)]))
    model = folder / "m.linear.json"
    model.write_text(json.dumps({"kernel": [[1.0, 2.0]], "bias": [0.0, 0.5]}))
    return model
