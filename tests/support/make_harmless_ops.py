"""Derives `harmless_ops.txt` and `path_inputs.txt` of the scan from the installed TensorFlow.

python tests/support/make_harmless_ops.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ckptkit.operations.scan import rule as _scan_rule
from ckptkit.operations.scan.rule import OpFacts, is_harmless, path_positions

TARGET = Path(_scan_rule.__file__).with_name("harmless_ops.txt")
PATHS = TARGET.with_name("path_inputs.txt")
_ANY, _STRING = 0, 7  # of the DataType enum


def registered() -> list[OpFacts]:
    """Return all ops that TensorFlow registers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return [
        OpFacts(
            op.name,
            op.is_stateful,
            tuple(item.name for item in (*op.input_arg, *op.output_arg, *op.attr)),
            tuple(
                item.type + (100 if item.is_ref else 0) for item in (*op.input_arg, *op.output_arg)
            ),
            tuple(_inputs(list(op.input_arg))),
        )
        for op in ops.op
    ]


def _inputs(arguments: list[Any]) -> Iterator[tuple[int, str]]:
    """Yield (position, name) of the inputs that may be strings."""
    after_list = False
    for at, item in enumerate(arguments):
        if item.type in (_ANY, _STRING):
            yield at - len(arguments) if after_list else at, item.name
        after_list = after_list or bool(item.number_attr or item.type_list_attr)


def paths() -> dict[str, tuple[int, ...]]:
    """Return which inputs are paths, of each op that has such and is not harmless."""
    found = {op.name: path_positions(op) for op in registered() if not is_harmless(op)}
    return {name: positions for name, positions in sorted(found.items()) if positions}


def derived() -> list[str]:
    """Return the names of the ops that the rule calls harmless, sorted."""
    return sorted(op.name for op in registered() if is_harmless(op))


def main() -> None:
    from importlib.metadata import version

    made_by = f"TensorFlow {version('tensorflow')}, by the rule in rule.py"
    names = derived()
    head = f"# {len(names)} ops of {made_by}"
    TARGET.write_text("\n".join([head, *names]) + "\n", encoding="utf-8")
    rows = [f"{name} {' '.join(map(str, positions))}" for name, positions in paths().items()]
    head = f"# positions of the inputs that are paths, of {len(rows)} ops of {made_by}"
    PATHS.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(names)} ops; {PATHS.name}: {len(rows)} ops")


if __name__ == "__main__":
    main()
