"""Verifying what is on a web server, against a parallel download by the same client library."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import ROOT, Result, inside
from benchmarks.inputs import path

GB = 1e9
DELAY_S = 0.05  # of the server, before each answer
IN_FLIGHT, STEP = 16, 4 << 20  # requests at a time, bytes of each
_FUNCTIONS = "benchmarks.elsewhere:functions"
_SERVER = (
    "import sys, pathlib; sys.path.insert(0, sys.argv[1]);"
    "from support.range_server import serving\n"
    "with serving(pathlib.Path(sys.argv[2]), float(sys.argv[3])) as server:\n"
    "    print(server.url, flush=True); sys.stdin.read()"
)


def functions(prefix: str, url: str, nbytes: str) -> dict[str, Callable[[], object]]:
    """Return the download and the operation."""
    from ckptkit.operations.verify.api import verify

    parts = urlsplit(f"{url}/{Path(prefix).name}.data-00000-of-00001")

    def fetch(starts: Iterator[int]) -> int:
        connection = http.client.HTTPConnection(parts.netloc)
        done = 0
        for start in starts:
            last = min(start + STEP, int(nbytes)) - 1
            connection.request("GET", parts.path, headers={"Range": f"bytes={start}-{last}"})
            done += len(connection.getresponse().read())
        connection.close()
        return done

    def download() -> int:
        starts = range(0, int(nbytes), STEP)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            done = sum(pool.map(fetch, (iter(starts[at::IN_FLIGHT]) for at in range(IN_FLIGHT))))
        if done != int(nbytes):
            raise RuntimeError(f"{done} bytes of {nbytes}")
        return done

    def remote() -> Any:
        result = verify(f"{url}/{Path(prefix).name}")
        if result.exit_code:
            raise RuntimeError(str(result.findings))
        return result

    return {"download": download, "verify": remote}


@contextmanager
def server(folder: Path, delay_s: float) -> Iterator[str]:
    """Serve a folder by ranges, in a process of its own; give its URL."""
    command = [sys.executable, "-c", _SERVER, str(ROOT / "tests"), str(folder), str(delay_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait()


def elsewhere() -> list[Result]:
    """Throughput of `verify` on a server that takes 50 ms for each answer."""
    prefix = path("resnet50", "ckpt")
    nbytes = prefix.with_name("ckpt.data-00000-of-00001").stat().st_size
    with server(prefix.parent, DELAY_S) as url:
        seconds = inside(_FUNCTIONS, str(prefix), url, str(nbytes))
    rate = {label: nbytes / GB / time for label, time in seconds.items()}
    what = f"verify {nbytes / 1e6:.0f} MB on a web server"
    peer = f"{IN_FLIGHT} downloads at once by http.client"
    return [Result("verify-http", what, "GB/s", rate["verify"], rate["download"], peer, 0.8)]


BENCHMARKS = {"verify-http": elsewhere}
