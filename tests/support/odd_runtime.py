"""A runner whose children do all that a child can do wrong; it needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from ckptkit.runners.registry import RUNNERS, Runtime

NAME = "test"
MODULE = "runtime_for_test"
IMPORTED = ("queue",)  # that can be forked as well as anything
RUNTIME = """
import os, sys, time
import faulthandler
from ckptkit.errors import MissingDependencyError, UsageError

def echo(request):
    print("chatter")
    return {"got": request["value"], "pid": os.getpid(), "set": os.environ.get("CKPTKIT_X")}

def fail(request):
    raise ValueError("line one\\n\\nline two")

def refuse(request):
    raise UsageError("not this", where="there", hint="try that")

def die(request):
    print("last words", flush=True)
    os.abort()

def crash(request):
    faulthandler._sigsegv()

def kill(request):
    os.kill(os.getpid(), 9)

def allocate(request):
    raise MemoryError("no more")

def lack(request):
    raise MissingDependencyError("this needs x", hint="pip install x")

def leave(request):
    sys.exit(3)

def hang(request):
    open(request["mark"], "w").close()
    while True:
        time.sleep(600)

def subprocess_of(request):
    import subprocess
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        start_new_session=request.get("apart", False),
    )
    with open(request["mark"] + ".part", "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    os.replace(request["mark"] + ".part", request["mark"])

def start(request):
    subprocess_of(request)
    if not request.get("leave"):
        time.sleep(600)
    return {}

def hold(request):
    import ctypes
    subprocess_of(request)
    ctypes.PyDLL(None).sleep(600)  # holds the interpreter, as a compiler does

def ramble(request):
    raise TypeError("a" * 500 + "b" * 42_000 + "the end")

def look_up(request):
    return {"got": os.environ[request["name"]]}

def variables(request):
    return {"got": sorted(os.environ)}

def eat(request):
    held = bytearray(400 << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(600)

def pids(request):
    return {"pid": os.getpid(), "parent": os.getppid(), "imported": "queue" in sys.modules}

def draw(request):
    import random, numpy
    return {"got": [random.random(), float(numpy.random.rand())]}

ACTIONS = {f.__name__: f for f in (
    echo, fail, refuse, die, leave, hang, eat, crash, kill, allocate, lack,
    start, hold, ramble, look_up, variables, pids, draw
)}
"""


def make_runtime(directory: Path) -> None:
    """Write the module of the runner; who runs it has the directory in PYTHONPATH."""
    (directory / f"{MODULE}.py").write_text(RUNTIME)


def add_runtime(*, forked: bool) -> None:
    """Make the runner known in this process; forked: whether its children may be forks."""
    RUNNERS.built_in[NAME] = Runtime(MODULE, imported_first=IMPORTED if forked else ())
