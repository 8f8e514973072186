"""Servers of stores of objects, as programs of npm and of Python, on ports of this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from support.range_server import Server

# Of the emulator, for everybody: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_BUCKET = "bkt"
_WAIT_S = 600.0


class RunningStore(NamedTuple):
    """A bucket that is served.

    url: of it, such as "s3://bkt".  options: for `ckptkit.open(..., storage_options=)`.
    """

    url: str
    options: dict[str, Any]


@contextmanager
def s3rver(folder: Path) -> Iterator[RunningStore]:
    """Serve a bucket by s3rver of npm, which passes over conditions (jamhall/s3rver#440)."""
    program = (_program("s3rver"), "-d", folder, "--configure-bucket", _BUCKET)
    with _running(program, "-p") as port:
        keys = {"aws_access_key_id": "S3RVER", "aws_secret_access_key": "S3RVER"}
        yield RunningStore(f"s3://{_BUCKET}", {**keys, **_of_s3(port)})


@contextmanager
def moto(_folder: Path) -> Iterator[RunningStore]:
    """Serve a bucket by moto, of Python, from memory."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT_S)
        connection.request("PUT", f"/{_BUCKET}", headers={"Host": "s3.amazonaws.com"})
        assert connection.getresponse().status == 200
        connection.close()
        keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
        yield RunningStore(f"s3://{_BUCKET}", {**keys, **_of_s3(port)})
    finally:
        server.stop()


def _of_s3(port: int) -> dict[str, Any]:
    return {"endpoint": f"http://127.0.0.1:{port}", "aws_region": "us-east-1"}


@contextmanager
def azurite(folder: Path) -> Iterator[RunningStore]:
    """Serve a container by azurite of npm."""
    place = ("--location", folder, "--silent", "--skipApiVersionCheck")
    with _running((_program("azurite-blob"), *place), "--blobPort") as port:
        _make_container(port)
        options = {"account_name": _ACCOUNT, "account_key": _KEY}
        endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
        yield RunningStore(f"az://{_BUCKET}", {**options, "endpoint": endpoint})


def _make_container(port: int) -> None:
    """Ask for a container; the signature is that of "Shared Key" for blobs."""
    fields = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2020-10-02"}
    named = "".join(f"{name}:{text}\n" for name, text in sorted(fields.items()))
    place = f"/{_ACCOUNT}/{_ACCOUNT}/{_BUCKET}\nrestype:container"
    signed = "PUT" + "\n" * 12 + named + place
    digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    fields["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"http://127.0.0.1:{port}/{_ACCOUNT}/{_BUCKET}?restype=container"
    request = urllib.request.Request(url, method="PUT", headers=fields)
    with urllib.request.urlopen(request, timeout=_WAIT_S) as answer:
        assert answer.status == 201


def serve_as_bucket(server: Server) -> None:
    """Let a range server answer the listings of Google's XML API (and S3's), for its files.

    https://cloud.google.com/storage/docs/xml-api/get-bucket-list
    """

    def route(path: str) -> tuple[int, dict[str, str], bytes] | None:
        parts = urlsplit(path)
        asked = dict(one.partition("=")[::2] for one in parts.query.split("&"))
        if "list-type" not in asked:
            return None
        folder = server.folder / parts.path.strip("/")
        prefix = unquote(asked.get("prefix", ""))
        top = folder / prefix
        rows = []
        for entry in sorted(top.iterdir()) if top.is_dir() else ():
            name = escape(f"{prefix}{entry.name}")
            if entry.is_dir():
                rows.append(f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>")
                continue
            told = entry.stat()
            state = f"{told.st_ino} {told.st_mtime_ns} {told.st_size}"
            etag = hashlib.sha256(state.encode()).hexdigest()[:16]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(told.st_mtime))
            rows.append(
                f"<Contents><Key>{name}</Key><LastModified>{when}</LastModified>"
                f'<ETag>"{etag}"</ETag><Size>{told.st_size}</Size></Contents>'
            )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}"
        return 200, {"Content-Type": "application/xml"}, f"{body}</ListBucketResult>".encode()

    server.route = route


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} of npm is not installed")
    return found


@contextmanager
def _held_port() -> Iterator[int]:
    """Yield a port that the system gives to nobody; who names it may listen there all the same."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


@contextmanager
def _running(program: tuple[object, ...], port_option: str) -> Iterator[int]:
    """Run a server; yield the port, which it is told by an option, once it listens there."""
    with _held_port() as port:
        words = [*map(str, (*program, port_option, port))]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + _WAIT_S
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, f"{program[0]} ended"
                    assert time.monotonic() < end, f"{program[0]} does not listen"
                    time.sleep(0.1)
            yield port
        finally:
            process.kill()
            process.wait()
