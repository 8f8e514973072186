"""What TensorFlow's own reader says of checkpoints: one line of JSON per prefix on stdin.

Each is read in a fork of a process that has TensorFlow imported, since a crafted file can end the
process.  list: names found, or null.  read: how many tensors could be read.  digest: of their
values.  error: the class of the first exception.  end: "", a signal's name, or "timeout".
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import sys
from typing import Any

LIMIT_S = 600.0


def verdict(prefix: str) -> dict[str, Any]:
    """Open, list and read everything; to be called in a process of its own."""
    from tensorflow.python.training import py_checkpoint_reader

    found: dict[str, Any] = {"list": None, "read": 0, "digest": "", "error": ""}
    try:
        reader = py_checkpoint_reader.NewCheckpointReader(prefix)
        names = sorted(reader.get_variable_to_shape_map())
    except Exception as error:
        return {**found, "error": type(error).__name__}
    found["list"] = len(names)
    digest = hashlib.sha256()
    for name in names:
        try:
            value = reader.get_tensor(name)
        except Exception as error:
            found["error"] = found["error"] or type(error).__name__
            continue
        found["read"] += 1
        is_numbers = hasattr(value, "dtype") and value.dtype != object
        content = value.tobytes() if is_numbers else repr(value).encode()
        digest.update(name.encode("utf-8", "surrogateescape"))
        digest.update(content)
    found["digest"] = digest.hexdigest()[:16]
    return found


def in_fork(prefix: str) -> dict[str, Any]:
    """Return the verdict of a child process on a checkpoint, and how it ended."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.write(send, json.dumps(verdict(prefix)).encode())
        os._exit(0)
    os.close(send)
    text, end = b"", ""
    while True:
        ready, _, _ = select.select([receive], [], [], LIMIT_S)
        if not ready:
            os.kill(child, signal.SIGKILL)
            end = "timeout"
            break
        part = os.read(receive, 1 << 16)
        if not part:
            break
        text += part
    os.close(receive)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0 and not end:
        end = signal.Signals(-status).name
    found = json.loads(text) if text and not end else {"list": None, "read": 0, "error": end}
    return {**found, "end": end}


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorflow.python.training import py_checkpoint_reader

    assert py_checkpoint_reader
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(in_fork(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
