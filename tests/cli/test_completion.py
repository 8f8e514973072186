"""Tab in real shells: paths and prefixes, names of tensors, roles, runners, formats, signatures."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shlex import quote

import numpy as np
import pytest

import ckptkit
from ckptkit.cli.candidates import _offered
from ckptkit.fixtures.sample import write_sample
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.registry import format_of, function_of
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.begun_names import begun_names
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support.command_line import ckptkit as run
from support.weights import write_bundle

ROOT = Path(ckptkit.__file__).parents[1]
SETUP = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(ckptkit completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -U compinit; compinit -D; source <(ckptkit completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "ckptkit completion fish | source"),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("sample")
    write_sample(top / "s")
    return top / "s"


def candidates(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Return what is offered at the end of a line, as every script asks for it."""
    monkeypatch.setenv("_CKPTKIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"ckptkit {line}")
    result = run()
    assert result.err == ""
    return [line for line in result.out.splitlines() if line]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ve", {"verify"}),
        ("ls ", {"after.keras", "before.keras", "export/", "run/"}),
        ("ls run/", {"run/checkpoint", "run/ckpt-1", "run/ckpt-2"}),
        ("ls nowhere/", set()),
        ("ls run/ckpt-1#", {"run/ckpt-1#classifier", "run/ckpt-1#optimizer"}),
        ("ls run/ckpt-1#classifier/n", {"run/ckpt-1#classifier/norm"}),
        ("show run/ckpt-1 classifier/scores/k", None),
        ("show run/ckpt-1 scores/kernel", None),
        ("show before.keras nothing-so", set()),
        ("ls run --role weight,s", {"weight,slot"}),
        ("ls run --sort si", {"size"}),
        ("convert run x --to safe", {"safetensors", "safetensors-index"}),
        ("check export --on litert", {"litert:CPU:0"}),
        ("check export --on CPU:0,th", {"CPU:0,threads="}),
        ("check export --on litert:CPU,", {"litert:CPU,threads="}),
        ("check export --on CPU:0,eager,e", set()),
        ("check export --on tf-keras:x", {"tf-keras:xla:CPU:0", "tf-keras:xla:GPU:0"}),
        ("check export --on mi", {"mirrored:CPUx2", "mirrored:GPUx2"}),
        ("check export --signature serving", {"serving_default"}),
        ("ls --wid", {"--wide"}),
        ("ls run/ckpt-1 --name classifier/norm/g", None),
    ],
)
def test_what_is_offered(
    sample: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: set[str] | None
) -> None:
    monkeypatch.chdir(sample)
    found = candidates(monkeypatch, line)
    if offered is not None:
        assert set(found) == offered
        return
    begun = line.split()[-1]
    assert found and all(name.startswith(begun) for name in found)
    for name in found:  # each is a name that the command takes
        assert ckptkit.open("run/ckpt-1").key(name)


def test_many_names_are_offered_by_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {f"block{i // 50}/w{i}": np.zeros(1, np.float32) for i in range(1000)}
    path = write_bundle(tmp_path / "c", arrays)
    assert len(candidates(monkeypatch, f"show {quote(str(path))} ")) == 20
    assert candidates(monkeypatch, f"show {quote(str(path))} block19/w99")[0] == "block19/w990"


VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
LARGE = 30_000  # tensors: more than a mebibyte of names


def _object_graph(names: list[str], keys: list[str]) -> bytes:
    """Return a graph of a root and one variable per name."""
    graph = message_class("TrackableObjectGraph")()
    root = graph.nodes.add()
    for name, key in zip(names, keys, strict=True):
        graph.nodes.add().attributes.add(
            name="VARIABLE_VALUE",
            full_name=name,
            checkpoint_key=f"{key}{VALUE}",
        )
        root.children.add(node_id=len(graph.nodes) - 1, local_name=key)
    return bytes(graph.SerializeToString())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a name-based bundle, one with an object graph and a safetensors file of many names."""
    folder = tmp_path_factory.mktemp("large")
    value = np.zeros(1, np.float32)
    names = [f"block_{i // 100}/{'layer' * (i % 40)}_{i}/kernel" for i in range(LARGE)]
    write_bundle(folder / "named", dict.fromkeys(names, value))
    keys = [f"v{i}" for i in range(LARGE)]
    write_tensor_bundle(
        folder / "objects",
        [TensorToWrite(f"{key}{VALUE}", "float32", (1,)) for key in keys],
        lambda key: iter([(0, value)]),
        object_graph=_object_graph(names, keys),
    )
    shared = [f"{name}/of/the/same/length/of/keys" for name in names]
    shared[7] = shared[8]
    write_tensor_bundle(
        folder / "shared",
        [TensorToWrite(f"{key}{VALUE}", "float32", (1,)) for key in keys],
        lambda key: iter([(0, value)]),
        object_graph=_object_graph(shared, keys),
    )
    tensors = [TensorToWrite(name, "float32", (1,)) for name in names]
    write_safetensors(folder / "w.safetensors", tensors, lambda key: iter([(0, value)]))
    return {path: folder / path for path in ("named", "objects", "shared", "w.safetensors")}


@pytest.mark.parametrize("file", ["named", "objects", "w.safetensors"])
@pytest.mark.parametrize("begun", ["", "block_77/", "ker"])
def test_of_a_large_file_the_same_is_offered_as_of_all_its_names(
    large: dict[str, Path], file: str, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_of_them = names_of_all(large[file])
    expected = _offered(all_of_them, begun)
    found = candidates(monkeypatch, f"show {quote(str(large[file]))} {begun}")
    # records of TensorFlow's own are listed with --all alone
    assert set(found) | {OBJECT_GRAPH_KEY} == set(expected) | {OBJECT_GRAPH_KEY}


@cache
def names_of_all(path: Path) -> list[str]:
    return list(ckptkit.open(path))


@pytest.mark.parametrize("file", ["named", "objects", "w.safetensors"])
def test_of_a_large_file_only_what_begins_so_is_looked_at(
    large: dict[str, Path], file: str
) -> None:
    row = format_of("safetensors" if file.endswith("safetensors") else "tensor-bundle")
    found = function_of(row.begun_names)(large[file], "block_77/")
    assert len(found) == 100 and set(found) <= set(names_of_all(large[file]))


def test_where_variables_share_a_name_all_is_read(large: dict[str, Path]) -> None:
    assert begun_names(large["shared"], "block_0/") is None
    assert len(begun_names(large["shared"], "block_7/") or ()) == 100


def test_a_damaged_file_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"nothing")
    assert candidates(monkeypatch, f"show {quote(str(tmp_path))}/m.safetensors ") == []


class _Shell:
    """An interactive shell on a pseudo-terminal, in which `ckptkit` is this one."""

    def __init__(self, arguments: list[str], folder: Path, bin_: Path) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(folder)
            environment = {**os.environ, "PS1": "> ", "TERM": "xterm", "HOME": str(bin_)}
            environment["PATH"] = f"{bin_}:{os.environ['PATH']}"
            os.execvpe(arguments[0], arguments, environment)

    def type(self, text: str, until: str, timeout_s: float = 600) -> str:
        """Type; return what the shell shows, once it shows what a pattern fits."""
        os.write(self.fd, text.encode())
        shown = ""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not re.search(until, shown):
            if select.select([self.fd], [], [], 0.2)[0]:
                shown += os.read(self.fd, 1 << 16).decode(errors="replace")
                shown = re.sub(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|\(B|[=>])|\x07", "", shown)
        assert re.search(until, shown), (until, shown)
        return shown

    def close(self) -> None:
        os.close(self.fd)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=SETUP)
def shell(request: pytest.FixtureRequest, sample: Path, tmp_path: Path) -> Iterator[_Shell]:
    arguments, setup = SETUP[request.param]
    if shutil.which(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed")
    script = tmp_path / "ckptkit"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m ckptkit "$@"\n')
    script.chmod(0o755)
    shell = _Shell(arguments, sample, tmp_path)
    try:
        shell.type(f"{setup}\necho rea''dy\n", r"ready\r")
        yield shell
    finally:
        shell.close()


@pytest.mark.slow  # a process of ours per Tab, in three shells
def test_in_a_real_shell(shell: _Shell) -> None:
    shell.type("ckptkit show run/ck\t", r"run/ckpt-(?!1\.)")
    shell.type("1 classifier/sc\t", r"classifier/scores/")
    shell.type("ker\t", r"kernel")
