"""`ckptkit ls` against what TensorFlow and Keras offer for looking into a file; whole processes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness import CKPTKIT, PYTHON, ROOT, Cost, Result, processes
from benchmarks.inputs import path

sys.path[:0] = [str(ROOT / "tests")]  # where a browser is driven
MB = 1e6


def checkpoint() -> list[Result]:
    """List 750 tensors; against TensorFlow's inspect_checkpoint."""
    prefix = str(path("resnet50", "ckpt"))
    peer = "tensorflow.python.tools.inspect_checkpoint"
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", prefix),
            "peer": (PYTHON, "-m", peer, "--file_name", prefix),
            **_if_installed("tensorstore", "tensorstore", (PYTHON, "-c", "import tensorstore")),
        }
    )
    work = "list a checkpoint of 750 tensors"
    return [
        *_time_and_memory("ls", work, costs, "inspect_checkpoint", goals=(36, 8)),
        *_beside("ls", costs, {"tensorstore": "import tensorstore, which reads no such file"}),
    ]


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
    edit = "import keras, sys; keras.saving.KerasFileEditor(sys.argv[1]).summary()"
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", file),
            "peer": (PYTHON, "-c", load, file),
            "editor": (PYTHON, "-c", edit, file),
        },
        rounds=3,
    )
    results = _time_and_memory("ls-keras", "list a .keras of 308 MB", costs, "load_model, summary")
    ours = costs["ours"]
    return [
        *results,
        *_beside("ls-keras", costs, {"editor": "KerasFileEditor, summary"}),
        Result("ls-keras", "the same", "s", ours.seconds, goal=0.5, goal_is_of_ratio=False),
        Result(
            "ls-keras", "the same", "MB", ours.peak_bytes / MB, goal=120, goal_is_of_ratio=False
        ),
    ]


def weights_h5() -> list[Result]:
    """List the `.weights.h5` of that archive; against h5glance, and h5py alone."""
    file = path("resnet50", "model.weights.h5")
    if not file.exists():
        with zipfile.ZipFile(path("resnet50", "model.keras")) as archive:
            archive.extract("model.weights.h5", file.parent)
    visit = "import h5py, sys; h5py.File(sys.argv[1]).visititems(print)"
    costs = processes(
        {
            "ours": (*CKPTKIT, "ls", str(file)),
            "peer": (PYTHON, "-c", visit, str(file)),
            **_if_installed("h5glance", "h5glance", (PYTHON, "-m", "h5glance", str(file))),
        }
    )
    return [
        *_time_and_memory("ls-h5", "list a .weights.h5 of 308 MB", costs, "h5py, visititems"),
        *_beside("ls-h5", costs, {"h5glance": "h5glance"}),
    ]


def safetensors() -> list[Result]:
    """List 750 tensors of a safetensors file; against safetensors' own reader."""
    file = path("resnet50", "weights.safetensors")
    if not file.exists():
        source = str(path("resnet50", "ckpt"))
        subprocess.run((*CKPTKIT, "convert", source, str(file)), check=True, cwd=ROOT)
    read = (
        "import sys; from safetensors import safe_open\n"
        "with safe_open(sys.argv[1], 'numpy') as file:\n"
        "    for name in file.keys(): print(name, file.get_slice(name).get_shape())"
    )
    costs = processes(
        {"ours": (*CKPTKIT, "ls", str(file)), "peer": (PYTHON, "-c", read, str(file))}
    )
    work = "list a safetensors file of 750 tensors"
    return _time_and_memory("ls-safetensors", work, costs, "safe_open, get_slice")


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
    return [*results, Result("ls-100000", "the same", "s", ours, goal=1.5, goal_is_of_ratio=False)]


def page_of_many_variables() -> list[Result]:
    """Write 100,000 variables as an HTML page, and use it in a browser where there is one."""
    page = path("variables", "ckpt").parent / "page.html"
    costs = processes(
        {"ours": (*CKPTKIT, "ls", str(path("variables", "ckpt")), "-q", "--html", str(page))}
    )
    work = "write 100,000 variables as an HTML page"
    results = [
        Result("page-100000", work, "s", costs["ours"].seconds),
        Result("page-100000", "the same", "MB", costs["ours"].peak_bytes / MB),
        Result("page-100000", "its size", "MB", page.stat().st_size / MB),
    ]
    return results + [
        Result("page-100000", f"in Chromium, {what}", "s", seconds)
        for what, seconds in _in_browser(page).items()
    ]


def _in_browser(page: Path) -> dict[str, float]:
    """Return how long a page takes to be there, and then to answer, in seconds."""
    from support.browser import browser, missing

    if missing():
        return {}
    timed = "const from = performance.now(); {} return (performance.now() - from) / 1000;"
    search = "const box = document.querySelector('.search'); box.value = '{}';"
    search += "box.dispatchEvent(new Event('input'));"
    scroll = "for (let i = 0; i < 20; i++) { table.box.scrollTop = i * 1e5; table.paint(); }"
    with browser() as tab:
        tab.open(page)
        return {
            "until it is ready": tab.js("return performance.now() / 1000"),
            "sort by bytes": tab.js(
                timed.format("document.querySelector('th[data-key=bytes] button').click();")
            ),
            "filter by a word": tab.js(timed.format(search.format("block_77"))),
            "scroll by 3,000 rows": tab.js(
                timed.format(search.format("") + "const table = shown.tensors;" + scroll)
            )
            / 20,
        }


def _if_installed(package: str, label: str, command: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the command of a peer, nothing where its package is not installed."""
    return {label: command} if find_spec(package) is not None else {}


def _beside(name: str, costs: dict[str, Cost], peers: dict[str, str]) -> list[Result]:
    """Return the time beside further peers, as far as they were run."""
    ours = costs["ours"].seconds
    return [
        Result(name, "the same", "s", ours, costs[label].seconds, peer)
        for label, peer in peers.items()
        if label in costs
    ]


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
    "ls-h5": weights_h5,
    "ls-safetensors": safetensors,
    "ls-100000": many_variables,
    "page-100000": page_of_many_variables,
}
