"""Where a model runs, as one word on a command line: `CPU:0`, `xla:GPU:0,tf32`, `mirrored:CPUx2`.

    [RUNTIME:][xla:]DEVICE[:INDEX][,threads=N][,deterministic][,tf32][,eager]
    [RUNTIME:]mirrored:DEVICExN[,...]

RUNTIME is a row of `ckptkit.runners.registry.RUNNERS`; where it is left out, tensorflow, or what
runs the model (`runner_for`).  DEVICE is CPU or GPU.  `CPU:1` is a second logical device of the
same processor.  TF32, which TensorFlow has on by default, is off here unless `tf32` asks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ckptkit.errors import UsageError
from ckptkit.runners.registry import RUNNERS

DEFAULT = "tensorflow"
DEVICES = ("CPU", "GPU")
GRAMMAR = (
    "write [RUNTIME:][xla:]DEVICE:INDEX[,threads=N][,deterministic][,tf32][,eager] "
    "or mirrored:CPUx2"
)
MAX_DEVICES = 64  # logical devices cost memory, and nobody has more
_FLAGS = ("deterministic", "tf32", "eager")
_DEVICE = re.compile(r"(cpu|gpu)(?::(\d{1,4}))?", re.IGNORECASE)
_REPLICAS = re.compile(r"(cpu|gpu)x(\d{1,4})", re.IGNORECASE)
_THREADS = re.compile(r"threads=(\d{1,4})")


@dataclass(frozen=True)
class RunnerSpec:
    """One way to run a model.

    index: of the device, counted from 0.  replicas: devices of a MirroredStrategy; 1 is none.
    threads: within and between ops; None leaves the runtime's own choice.
    """

    runtime: str = DEFAULT
    device: str = "CPU"
    index: int = 0
    replicas: int = 1
    xla: bool = False
    deterministic: bool = False
    tf32: bool = False
    threads: int | None = None
    eager: bool = False

    @property
    def text(self) -> str:
        """The spec in its canonical spelling; `parse_runner` reads it back."""
        mirrored = f"mirrored:{self.device}x{self.replicas}"
        parts = [mirrored if self.replicas > 1 else f"{self.device}:{self.index}"]
        parts += [f"threads={self.threads}"] if self.threads is not None else []
        parts += [flag for flag in _FLAGS if getattr(self, flag)]
        runtime = f"{self.runtime}:" if self.runtime != DEFAULT else ""
        return f"{runtime}{'xla:' if self.xla else ''}{','.join(parts)}"

    def __str__(self) -> str:
        return self.text


def parse_runner(text: str) -> RunnerSpec:
    """Return the spec that `text` spells; raises UsageError, whose hint is the grammar."""
    where, *switches = [part.strip() for part in text.split(",")]
    head, _, rest = where.partition(":")
    runtime = DEFAULT
    if not _is_place(head) and head.lower() in RUNNERS:
        runtime, where = head.lower(), rest or "CPU"
    xla = where.lower().startswith("xla:")
    where = where[4:] if xla else where
    device, index, replicas = _device(where, text)
    found: dict[str, int | bool] = {}
    for switch in switches:
        name, value = _switch(switch, text)
        if name in found:
            raise _refused(text, f"{name} is there twice")
        found[name] = value
    spec = RunnerSpec(runtime, device, index, replicas, xla, **found)  # type: ignore[arg-type]
    _check(spec, text)
    return spec


def runner_for(spec: RunnerSpec, kind: str) -> RunnerSpec:
    """Return the runner of a model of this kind: where TensorFlow does not run it, another does.

    A runtime other than TensorFlow was asked for by its name, and stays.  Raises UsageError where
    the other runtime lacks a switch.
    """
    able = RUNNERS.matching(lambda row: kind in row.model_kinds)
    if spec.runtime != DEFAULT or DEFAULT in able or not able:
        return spec
    return parse_runner(f"{able[0]}:{spec.text}")


def spellings() -> list[str]:
    """Return the runners on the first device of each kind, as they may be written.

    Returns:
        The texts, those of the default runtime first, with its name and without.
    """
    found = []
    for runtime, row in RUNNERS.items():
        ways = [RunnerSpec(runtime, device) for device in row.devices]
        if "xla" in row.switches:
            ways += [RunnerSpec(runtime, device, xla=True) for device in row.devices]
        if "mirrored" in row.switches:
            ways += [RunnerSpec(runtime, device, replicas=2) for device in row.devices]
        found += [spec.text for spec in ways]
        if runtime == DEFAULT:
            found += [f"{runtime}:{spec.text}" for spec in ways]
    return found


def switches_after(text: str) -> list[str]:
    """Return the switches that may follow a runner and are not there yet.

    Args:
        text: a runner.

    Returns:
        The names of those that its runtime has; threads takes a number.

    Raises:
        UsageError: it is no runner.
    """
    spec = parse_runner(text)
    there = {name for name in _FLAGS if getattr(spec, name)}
    there |= {"threads"} if spec.threads is not None else set()
    behind = ("threads=" if name == "threads" else name for name in ("threads", *_FLAGS))
    has = RUNNERS[spec.runtime].switches - there
    return [text for text in behind if text.rstrip("=") in has]


def _is_place(head: str) -> bool:
    """Whether a runner begins with a device or a way to run there, so that no runtime is named."""
    return head.lower() in ("xla", "mirrored") or _DEVICE.fullmatch(head) is not None


def _device(where: str, text: str) -> tuple[str, int, int]:
    """Return (device, index, replicas)."""
    if where.lower().startswith("mirrored:"):
        found = _REPLICAS.fullmatch(where[len("mirrored:") :])
        if found is None or not 2 <= int(found[2]) <= MAX_DEVICES:
            raise _refused(text, f"mirrored is over 2 to {MAX_DEVICES} devices, as mirrored:CPUx2")
        return found[1].upper(), 0, int(found[2])
    found = _DEVICE.fullmatch(where)
    if found is None:
        names = ", ".join(sorted(RUNNERS))
        raise _refused(text, f"{where!r} is no device and no runtime (runtimes: {names})")
    index = int(found[2] or 0)
    if index >= MAX_DEVICES:
        raise _refused(text, f"index {index} is above {MAX_DEVICES - 1}")
    return found[1].upper(), index, 1


def _switch(switch: str, text: str) -> tuple[str, int | bool]:
    if switch.lower() in _FLAGS:
        return switch.lower(), True
    threads = _THREADS.fullmatch(switch.lower())
    if threads is None or int(threads[1]) == 0:
        raise _refused(text, f"{switch!r} is no switch")
    return "threads", int(threads[1])


def _check(spec: RunnerSpec, text: str) -> None:
    """Refuse what contradicts itself, or what the runtime does not have."""
    runtime = RUNNERS[spec.runtime]
    if spec.device not in runtime.devices:
        raise _refused(text, f"{spec.runtime} runs on {', '.join(runtime.devices)}")
    wanted = {name for name in ("xla", *_FLAGS) if getattr(spec, name)}
    wanted |= {"threads"} if spec.threads is not None else set()
    wanted |= {"mirrored"} if spec.replicas > 1 else set()
    lacking = sorted(wanted - runtime.switches)
    if lacking:
        raise _refused(text, f"{spec.runtime} has no {', '.join(lacking)}")
    if spec.eager and spec.xla:
        raise _refused(text, "xla compiles what eager would run op by op: choose one")
    if spec.replicas > 1 and (spec.xla or spec.eager):
        raise _refused(text, "mirrored runs neither under xla nor eager here")


def _refused(text: str, why: str) -> UsageError:
    return UsageError(f"runner {text!r}: {why}", hint=GRAMMAR)
