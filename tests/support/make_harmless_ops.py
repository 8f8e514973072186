"""Derives `ckptkit/operations/scan/harmless_ops.txt` from the installed TensorFlow.

python tests/support/make_harmless_ops.py
"""

from __future__ import annotations

import os
from pathlib import Path

from ckptkit.operations.scan import rule as _scan_rule
from ckptkit.operations.scan.rule import OpFacts, is_harmless

TARGET = Path(_scan_rule.__file__).with_name("harmless_ops.txt")


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
        )
        for op in ops.op
    ]


def derived() -> list[str]:
    """Return the names of the ops that the rule calls harmless, sorted."""
    return sorted(op.name for op in registered() if is_harmless(op))


def main() -> None:
    from importlib.metadata import version

    names = derived()
    head = f"# {len(names)} ops of TensorFlow {version('tensorflow')}, by the rule in _scan_rule.py"
    TARGET.write_text("\n".join([head, *names]) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(names)} ops")


if __name__ == "__main__":
    main()
