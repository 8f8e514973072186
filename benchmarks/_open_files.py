"""Opens files by calls, each in a process of its own, in whatever environment runs this.

`python _open_files.py JOBS.json RESULTS.json`: jobs are [[call, path], ...], results ["" or the
error, ...].  What the calls name is imported once; each call is made in a fork of that process, in
which nothing was loaded before.  `python _open_files.py versions` prints what is installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
NAMES = ("tensorflow", "keras", "tf_keras", "h5py", "numpy", "safetensors", "ai-edge-litert")
MODULES = {"tf": "tensorflow", "keras": "keras", "tf_keras": "tf_keras", "h5py": "h5py"} | {
    name: name for name in ("numpy", "safetensors.numpy", "ai_edge_litert.interpreter")
}
_MOST = 2000  # characters of what is raised


def versions() -> dict[str, str]:
    """Return the versions of what is installed, of the packages that calls are of."""
    found = {}
    for name in NAMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def imported() -> dict[str, Any]:
    """Return the modules that calls name, as far as they are there."""
    found = {}
    for name, module in MODULES.items():
        try:
            found[name.partition(".")[0]] = importlib.import_module(module)
        except ImportError:
            continue
    for name in [name for name in found if "." not in name]:
        found[name] = sys.modules.get(name, found[name])
    return found


def tried(call: str, path: str, modules: dict[str, Any]) -> str:
    """Make a call in a fork; return "", or what it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        said = _made(call, path, modules)
        os.write(write, said.encode("utf-8", "replace")[:_MOST])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _pid, status = os.waitpid(child, 0)
    return said if status == 0 else f"ended by {status}"


def _made(call: str, path: str, modules: dict[str, Any]) -> str:
    try:
        names = {**modules, "PATH": path}
        if "SESSION" in call:
            tf = modules["tf"]
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                exec(call, {**names, "SESSION": session})
        elif "GRAPH_DEF" in call:
            tf = modules["tf"]
            graph = tf.compat.v1.GraphDef.FromString(Path(path).read_bytes())
            with tf.Graph().as_default():
                exec(call, {**names, "GRAPH_DEF": graph})
        else:
            exec(call, names)
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def main(arguments: list[str]) -> None:
    """See the text above."""
    if arguments[0] == "versions":
        print(json.dumps(versions()))
        return
    jobs = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    modules = imported()
    results = [tried(call, path, modules) for call, path in jobs]
    Path(arguments[1]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
