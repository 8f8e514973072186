"""`ckptkit diff` against `cmp`, and against TensorFlow with numpy; whole processes, warm files."""

from __future__ import annotations

from benchmarks.harness import CKPTKIT, PYTHON, Result, processes
from benchmarks.inputs import path
from ckptkit.compare import kernel

MB, GB = 1e6, 1e9
_DATA = ".data-00000-of-00001"
_DIFF = (*CKPTKIT, "diff", "--quiet")
_TOLERANCE = ("--rtol", "1e-6", "--atol", "1e-8")
_NUMPY = ("env", f"{kernel.VARIABLE}=numpy")
_WITHOUT = f"ckptkit by numpy; here {kernel.description()}"
_ALLCLOSE = """
import sys, numpy as np, tensorflow as tf
one, two = (tf.train.load_checkpoint(p) for p in sys.argv[1:])
sys.exit(not all(
    np.allclose(one.get_tensor(k), two.get_tensor(k), rtol=0, atol=0, equal_nan=True)
    for k in one.get_variable_to_shape_map()
))
"""


def diffing() -> list[Result]:
    """Throughput per file on two checkpoints of 497 MB, equal or different in every element."""
    a, b, c = (str(path("pair", name)) for name in "ABC")
    nbytes = path("pair", f"A{_DATA}").stat().st_size
    commands = {
        "equal": (*_DIFF, a, b),
        "cmp": ("cmp", a + _DATA, b + _DATA),
        "allclose": (PYTHON, "-c", _ALLCLOSE, a, b),
        "differ": (*_DIFF, a, c),
        "one-thread": (*_DIFF, "--jobs", "1", a, c),
        "numpy": (*_NUMPY, *_DIFF, a, c),
        "tolerant": (*_DIFF, *_TOLERANCE, a, c),
        "numpy-tolerant": (*_NUMPY, *_DIFF, *_TOLERANCE, a, c),
        "quick": (*_DIFF, "--quick", a, c),
    }
    same = ("equal", "cmp", "allclose")
    costs = processes(commands, codes={label: 1 for label in commands if label not in same})
    rate = {label: nbytes / GB / cost.seconds for label, cost in costs.items()}
    peak = {label: cost.peak_bytes / MB for label, cost in costs.items()}
    peer, numpy = "cmp", "TensorFlow, np.allclose"
    equal, differ = "diff two equal files of 497 MB", "diff two that differ in every element"
    return [
        Result("diff", equal, "GB/s", rate["equal"], rate["cmp"], peer, goal=0.9),
        Result("diff", equal, "GB/s", rate["equal"], rate["allclose"], numpy),
        Result("diff", equal, "MB", peak["equal"], peak["allclose"], numpy),
        Result("diff", f"{differ}, all metrics", "GB/s", rate["differ"], rate["allclose"],
               f"{numpy} on equal files", goal=0.9, goal_is_of_ratio=False),
        Result("diff", "the same", "GB/s", rate["differ"], rate["numpy"], _WITHOUT),
        Result("diff", "the same, one thread", "GB/s", rate["one-thread"]),
        Result("diff", f"{differ}, tolerances", "GB/s", rate["tolerant"], rate["numpy-tolerant"],
               _WITHOUT),
        Result("diff", f"{differ}, --quick", "s", costs["quick"].seconds,
               goal=0.3, goal_is_of_ratio=False),
    ]  # fmt: skip


def diffing_much() -> list[Result]:
    """Peak memory on two sparse checkpoints of 21 GB."""
    one, two = (str(path("zeros", name)) for name in ("one", "two"))
    cost = processes({"ours": (*_DIFF, one, two)}, rounds=1)["ours"]
    return [
        Result("diff-21gb", "diff two equal files of 21 GB (sparse)", "MB", cost.peak_bytes / MB,
               goal=300, goal_is_of_ratio=False),
    ]  # fmt: skip


BENCHMARKS = {"diff": diffing, "diff-21gb": diffing_much}
