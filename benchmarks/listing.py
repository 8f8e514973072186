"""`ckptkit ls` against what TensorFlow and Keras offer for looking into a file; whole processes."""

from __future__ import annotations

from benchmarks.harness import CKPTKIT, PYTHON, Cost, Result, processes
from benchmarks.inputs import path

MB = 1e6


def checkpoint() -> list[Result]:
    """List 750 tensors; against TensorFlow's inspect_checkpoint."""
    prefix = str(path("resnet50", "ckpt"))
    peer = "tensorflow.python.tools.inspect_checkpoint"
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", prefix),
            "peer": (PYTHON, "-m", peer, "--file_name", prefix),
        }
    )
    return _time_and_memory("ls", "list a checkpoint of 750 tensors", costs, "inspect_checkpoint",
                            goals=(25, 8))  # fmt: skip


def saved_model() -> list[Result]:
    """List a SavedModel with its signatures; against saved_model_cli."""
    directory = str(path("resnet50", "saved_model"))
    peer = "tensorflow.python.tools.saved_model_cli"
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", directory),
            "peer": (PYTHON, "-m", peer, "show", "--all", "--dir", directory),
        },
        rounds=3,
    )
    return _time_and_memory("ls-saved-model", "list a SavedModel (ResNet50)", costs,
                            "saved_model_cli show --all")  # fmt: skip


def keras_archive() -> list[Result]:
    """List a 308 MB .keras; against loading it, which is what Keras offers."""
    file = str(path("resnet50", "model.keras"))
    load = "import keras, sys; keras.saving.load_model(sys.argv[1]).summary()"
    costs = processes(
        {"ours": (*CKPTKIT, "ls", file), "peer": (PYTHON, "-c", load, file)}, rounds=3
    )
    results = _time_and_memory("ls-keras", "list a .keras of 308 MB", costs, "load_model, summary")
    ours = costs["ours"]
    return [
        *results,
        Result("ls-keras", "the same", "s", ours.seconds, goal=0.5, goal_is_of_ratio=False),
        Result(
            "ls-keras", "the same", "MB", ours.peak_bytes / MB, goal=120, goal_is_of_ratio=False
        ),
    ]


def many_variables() -> list[Result]:
    """List 100,000 variables as JSON; against tf.train.list_variables."""
    prefix = str(path("variables", "ckpt"))
    peer = (
        "import sys, tensorflow as tf\n"
        "for name, shape in tf.train.list_variables(sys.argv[1]): print(name, shape)"
    )
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", "--format", "json", prefix),
            "peer": (PYTHON, "-c", peer, prefix),
        }
    )
    work = "list 100,000 variables as JSON"
    results = _time_and_memory("ls-100000", work, costs, "tf.train.list_variables")
    ours = costs["ours"].seconds
    return [*results, Result("ls-100000", "the same", "s", ours, goal=2, goal_is_of_ratio=False)]


def _time_and_memory(
    name: str,
    work: str,
    costs: dict[str, Cost],
    peer_name: str,
    goals: tuple[float | None, float | None] = (None, None),
) -> list[Result]:
    ours, peer = costs["ours"], costs["peer"]
    return [
        Result(name, work, "s", ours.seconds, peer.seconds, peer_name, goals[0]),
        Result(
            name, "the same", "MB", ours.peak_bytes / MB, peer.peak_bytes / MB, peer_name, goals[1]
        ),
    ]


BENCHMARKS = {
    "ls": checkpoint,
    "ls-saved-model": saved_model,
    "ls-keras": keras_archive,
    "ls-100000": many_variables,
}
