"""A web server that knows ranges, and what may go wrong with one: `with serving(folder) ...`."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Asked(NamedTuple):
    """One request.

    path: of the URL, with what stands behind "?".  start, stop: bytes that are asked for, -1 for
    all.  headers: the fields, by name in small letters.
    """

    path: str
    start: int
    stop: int
    headers: dict[str, str]


class Server:
    """What is served, what was asked, and what goes wrong.

    Attributes:
        folder: whose files are served.
        url: of it.
        asked: the requests, in their order.
        delay_s: before each answer.
        before: called with the number of a request (from 0) before it is answered.
        status: for a request and its number, another status than 200 or 206; 0 for none.
        body: what is sent with such a status.
        whole: whether ranges are not known.
        cut: whether the connection is cut within the answer to a request, by its number.
        shift: bytes by which answers begin too late.
        framing: how the end of an answer shows: by its "length", as last of "chunks", or by
            "close".
        etags, times: whether these are told.
        honors_conditions: whether `If-Match` is looked at.
        route: for a path, (status, header fields, body) of what is no file; None for a file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, ""
        self.asked: list[Asked] = []
        self.delay_s = 0.0
        self.before: Callable[[int], None] = lambda _number: None
        self.status: Callable[[Asked, int], int] = lambda _asked, _number: 0
        self.body = b""
        self.whole = False
        self.cut: Callable[[int], bool] = lambda _number: False
        self.shift = 0
        self.framing = "length"
        self.etags = self.times = True
        self.honors_conditions = True
        self.route: Callable[[str], tuple[int, dict[str, str], bytes] | None] = lambda _path: None

    @property
    def nbytes(self) -> int:
        """Bytes that the requests so far asked for, as far as there are so many."""
        total = 0
        for one in self.asked:
            file = self.folder / one.path.lstrip("/")
            if file.is_file():
                total += max(0, min(one.stop, file.stat().st_size) - one.start)
        return total


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            span = self.headers.get("Range", "bytes=-1--1").removeprefix("bytes=")
            first, _, last = span.partition("-") if span[0] != "-" else ("-1", "", "-2")
            fields = {name.lower(): text for name, text in self.headers.items()}
            asked = Asked(self.path, int(first), int(last) + 1, fields)
            with lock:
                number = len(server.asked)
                server.asked.append(asked)
                server.before(number)
            time.sleep(server.delay_s)
            status = server.status(asked, number)
            if status:
                self._send(status, server.body, {"Retry-After": "0"})
                return
            routed = server.route(self.path)
            if routed is not None:
                self._send(routed[0], routed[2], routed[1])
                return
            file = server.folder / unquote(urlsplit(self.path).path).lstrip("/")
            if not file.is_file():
                self._send(404, b"", {})
                return
            self._send_file(file, asked, number)

        def _send_file(self, file: Path, asked: Asked, number: int) -> None:
            with file.open("rb") as stream:
                self._send_of(stream.fileno(), asked, number)

        def _send_of(self, stream: int, asked: Asked, number: int) -> None:
            told = os.fstat(stream)

            def part(first: int, stop: int) -> bytes:
                # Not mapped: where the file is cut short meanwhile, that would be a SIGBUS.
                return os.pread(stream, max(0, min(stop, told.st_size) - first), first)

            state = f"{told.st_ino} {told.st_mtime_ns} {told.st_size}"
            etag = f'"{hashlib.sha256(state.encode()).hexdigest()[:16]}"'
            fields = {"ETag": etag} if server.etags else {}
            if server.times:
                fields["Last-Modified"] = self.date_time_string(told.st_mtime)
            wanted = asked.headers.get("if-match", etag)
            if server.honors_conditions and wanted != etag:
                self._send(412, b"", {})
            elif server.whole or asked.start < 0:
                self._send(200, part(0, told.st_size), fields)
            elif asked.start >= told.st_size:
                self._send(416, b"", {**fields, "Content-Range": f"bytes */{told.st_size}"})
            else:
                first = asked.start + server.shift
                data = part(first, asked.stop + server.shift)
                fields["Content-Range"] = f"bytes {first}-{first + len(data) - 1}/{told.st_size}"
                self._send(206, data, fields, is_cut=server.cut(number))

        def _send(
            self,
            status: int,
            data: bytes,
            fields: dict[str, str],
            *,
            is_cut: bool = False,
        ) -> None:
            self.send_response(status)
            ends = {
                "length": {"Content-Length": str(len(data))},
                "chunks": {"Transfer-Encoding": "chunked"},
                "close": {"Connection": "close"},
            }
            for name, text in {**fields, **ends[server.framing]}.items():
                self.send_header(name, text)
            self.end_headers()
            sent = data[: len(data) // 2] if is_cut else data
            if server.framing == "chunks":
                last = b"" if is_cut else b"0\r\n\r\n"
                sent = b"%x\r\n%b\r\n%b" % (len(sent), sent, last) if sent else last
            with suppress(OSError):  # who asked may have seen enough
                self.wfile.write(sent)
            self.close_connection = self.close_connection or is_cut

    return Handler


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with 5, what opens 16 connections at once waits a second for some


@contextmanager
def serving(folder: Path, delay_s: float = 0.0) -> Iterator[Server]:
    """Serve the files of a folder on a port of this machine while the block runs."""
    served = Server(folder)
    served.delay_s = delay_s
    listener = _Listener(("127.0.0.1", 0), _handler(served))
    served.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        listener.shutdown()
        listener.server_close()
