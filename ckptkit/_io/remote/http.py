"""Files of a web server, by ranges (RFC 9110, sections 13 and 14), with nothing but Python.

A range is asked for with `If-Match` (or `If-Unmodified-Since`, where the ETag is a weak one or
there is none), without compression; the answer must be 206, of exactly that range, and of the same
ETag or time, and size.  A server that answers 200 sends the whole file: that is only read where it
is no longer than what was asked for.  Redirects are followed; credentials stay with their host.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from base64 import b64encode
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from ckptkit._io.remote.objects import (
    Answer,
    Listing,
    ObjectState,
    RemoteChanged,
    RetryError,
    refusal,
)
from ckptkit._io.remote.requests import CONNECT_TIMEOUT_S, PASSING_STATUSES, TIMEOUT_S
from ckptkit._version import __version__
from ckptkit.errors import CkptkitError, UnsupportedError, UsageError
from ckptkit.text import without_secrets
from ckptkit.wording import say

_CREDENTIALS = "give credentials in the URL, https://USER:PASSWORD@HOST/, or use a signed one"
_MAX_REDIRECTS = 5
_MAX_DETAIL = 300  # bytes of an answer that says what is wrong
_SAFE = "/%!$&'()*+,;=:@~"  # in the path of a URL that a person typed
# Content codings that change bytes (RFC 9110, section 8.4.1, and what IANA registered since);
# other words are found there by mistake ("utf-8", "aws-chunked").
_PACKED = frozenset(
    ("gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz")
)


class HttpSource:
    """One web server.

    Args:
        root: "https://host/", without credentials.
        query: what stands behind "?" of every request (a signature); "" for nothing.
        headers: sent with every request to that host.
    """

    lists = False
    pages: frozenset[str] = frozenset()  # keys where a web page came, and no file

    def __init__(
        self, root: str, query: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.root, self.query, self.headers = root, query, dict(headers or {})

    def __reduce__(self) -> Any:
        return type(self), (self.root, self.query, self.headers)

    @property
    def identity(self) -> object:
        """See `ObjectSource.identity`."""
        return self.root, self.query, tuple(sorted(self.headers.items()))

    def list_directory(self, key: str) -> Listing:
        raise UnsupportedError("a web server lists no directories", where=self.root + key)

    def start_of(self, key: str, nbytes: int) -> Answer | None:
        return self._range(key, 0, nbytes, None)

    def get(self, key: str, start: int, stop: int, state: ObjectState) -> Answer:
        if not state.is_told:
            raise UnsupportedError(
                "the server sends neither ETag nor Last-Modified: a file that is replaced while it "
                "is read could not be told",
                where=self.root + key,
                hint="download it first",
            )
        answer = self._range(key, start, stop, state)
        if answer is None:
            raise RemoteChanged(key)
        return answer

    def url_of(self, key: str) -> str:
        """Return where an object is asked for."""
        return self.root + quote(key, safe=_SAFE) + (f"?{self.query}" if self.query else "")

    def _range(self, key: str, start: int, stop: int, state: ObjectState | None) -> Answer | None:
        headers = {**conditions(state), "Range": f"bytes={start}-{stop - 1}"}
        status, fields, data = request(self.url_of(key), {**self.headers, **headers}, stop - start)
        where = self.root + key
        if status in (200, 206):
            if state is None and is_web_page(fields, data):
                self.pages |= {key}
                return None
            _refuse_packed(fields, where)
        if status == 404 and state is None:
            return None
        if status in (404, 410, 412) and state is not None:
            raise RemoteChanged(key)
        if status == 416 and state is None and fields.get("Content-Range", "").endswith("/0"):
            return Answer(b"", state_of_fields(fields, 0))  # no byte of an empty file can be asked
        if status == 200:
            if start == 0 and _length(fields) == len(data):
                return Answer(data, state_of_fields(fields, len(data)))
            raise refusal(status, where)
        if status != 206:
            raise refusal(status, where, detail_of(data), _CREDENTIALS)
        first, last, size = content_range(fields, where)
        if state is not None and size != state.size:
            raise RemoteChanged(key)
        if first != start or last + 1 != min(stop, size) or len(data) != last + 1 - first:
            raise RetryError(f"bytes {first}-{last} came where {start}-{stop - 1} were asked for")
        return Answer(data, state_of_fields(fields, size))


def conditions(state: ObjectState | None) -> dict[str, str]:
    """Return the headers that let a server answer of that state alone."""
    fields = {"Accept-Encoding": "identity"}
    if state is None:
        return fields
    if state.etag and not state.etag.startswith("W/"):  # a weak one never matches
        fields["If-Match"] = f'"{state.etag}"'
    elif state.modified_ns:
        fields["If-Unmodified-Since"] = formatdate(state.modified_ns // 10**9, usegmt=True)
    return fields


def state_of_fields(fields: Mapping[str, str], size: int) -> ObjectState:
    """Return the state that the header fields of an answer tell."""
    etag = fields.get("ETag", "").strip()
    weak = "W/" if etag.startswith("W/") else ""
    modified_ns = 0
    try:
        modified = parsedate_to_datetime(fields.get("Last-Modified", ""))
        modified_ns = int(modified.timestamp()) * 10**9
    except (TypeError, ValueError, IndexError, OverflowError):
        pass
    return ObjectState(size, weak + etag.removeprefix("W/").strip('"'), modified_ns)


def content_range(fields: Mapping[str, str], where: str) -> tuple[int, int, int]:
    """Return (first, last, size) of an answer with status 206; raises CkptkitError."""
    text = fields.get("Content-Range", "")
    unit, _, rest = text.partition(" ")
    places, _, size = rest.partition("/")
    first, _, last = places.partition("-")
    if unit != "bytes" or not (first.isdecimal() and last.isdecimal() and size.isdecimal()):
        raise CkptkitError(
            f"an answer without a range and a size: Content-Range: {text!r}", where=where
        )
    return int(first), int(last), int(size)


def is_web_page(fields: Mapping[str, str], data: bytes) -> bool:
    """Whether a web page came where a file was asked for: an index of a directory, a login.

    Nothing that is read as a model begins as a page does.

    Args:
        fields: header fields of an answer with status 200 or 206.
        data: its bytes, none where they were not read.
    """
    if fields.get("Content-Type", "").partition(";")[0].strip().lower() != "text/html":
        return False
    return data.lstrip()[:1] == b"<" or (not data and _length(fields) < 0)


def _refuse_packed(fields: Mapping[str, str], where: str) -> None:
    codings = [word.strip() for word in fields.get("Content-Encoding", "").lower().split(",")]
    packed = [word for word in codings if word in _PACKED]
    if packed:
        raise UnsupportedError(
            f"the server sends it packed ({', '.join(packed)}), though it was asked not to",
            where=where,
            hint="download it first",
        )


def _length(fields: Mapping[str, str]) -> int:
    text = fields.get("Content-Length", "")
    return int(text) if text.isdecimal() else -1


def detail_of(data: bytes) -> str:
    """Return what a store says of an error, in one line: the code of S3's and Azure's XML."""
    text = data.decode("utf-8", "replace")
    parts = []
    for tag in ("Code", "Message"):
        _, begun, rest = text.partition(f"<{tag}>")
        if begun:
            parts.append(" ".join(rest.partition("<")[0].split())[:_MAX_DETAIL])
    return ": ".join(parts)


# --- one request ----------------------------------------------------------------------------------


class _HeaderFields(dict[str, str]):
    """Header fields, by name in whatever letters."""

    def __init__(self, fields: http.client.HTTPMessage) -> None:
        super().__init__({name.lower(): text for name, text in fields.items()})

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        return super().get(name.lower(), default)


_MOST_HOSTS = 4  # that a thread is connected with: of one, and of those that it redirects to


class _OpenConnections(dict[tuple[str, str], http.client.HTTPConnection]):
    """By scheme and host; closed with the thread that they are of."""

    def __del__(self) -> None:
        for connection in self.values():
            connection.close()


class _Connections(threading.local):
    def __init__(self) -> None:
        self.open = _OpenConnections()


_connections = _Connections()


def request(
    url: str, headers: Mapping[str, str], nbytes: int
) -> tuple[int, Mapping[str, str], bytes]:
    """Return (status, header fields, body) of a GET, redirects followed.

    The body of a success has at most `nbytes` bytes, all that the server announced; of one that is
    longer, nothing is read and the body is b"".  Raises RetryError, CkptkitError.
    """
    parts = urlsplit(url)
    sent = dict(headers)
    for _ in range(_MAX_REDIRECTS):
        status, fields, data = _answer(parts, sent, nbytes)
        target = fields.get("Location", "")
        if status not in (301, 302, 303, 307, 308) or not target:
            return status, fields, data
        to = _redirected(parts, target)
        if to.scheme not in ("http", "https") or (parts.scheme, to.scheme) == ("https", "http"):
            raise UnsupportedError(f"redirected to {to.scheme}://{to.hostname}", where=shown(parts))
        if (to.scheme, to.netloc) != (parts.scheme, parts.netloc):
            sent = {name: text for name, text in sent.items() if name.lower() != "authorization"}
            sent.pop("Cookie", None)
        parts = to
    raise CkptkitError(f"more than {_MAX_REDIRECTS} redirects", where=shown(urlsplit(url)))


def _redirected(parts: SplitResult, target: str) -> SplitResult:
    """Return where an answer's `Location` leads; raises CkptkitError where that is no address."""
    try:
        to = urlsplit(quote(urljoin(parts.geturl(), target), safe=f"{_SAFE}?#[]"))
        to.port  # noqa: B018 (it raises for a port that is no number)
    except ValueError:
        to = urlsplit("")
    if not to.hostname:  # the target may be a signed address: it is not shown
        raise CkptkitError("redirected to what is no address", where=shown(parts))
    return to


def _answer(
    parts: SplitResult, headers: Mapping[str, str], nbytes: int
) -> tuple[int, Mapping[str, str], bytes]:
    connection, target = _connection(parts)
    try:
        connection.request(
            "GET", target, headers={"User-Agent": f"ckptkit/{__version__}", **headers}
        )
        answer = connection.getresponse()
        length = answer.length  # None for one that is sent in pieces of unknown number
        if length is None and (answer.status == 206 or (answer.status == 200 and answer.chunked)):
            return _answer_of_unknown_length(parts, answer, nbytes)
        if answer.status in (200, 206) and (length is None or length > nbytes):
            _drop(parts)  # what is on its way is not read
            return answer.status, _HeaderFields(answer.headers), b""
        if answer.status in PASSING_STATUSES:
            waits = answer.headers.get("Retry-After", "")
            said = detail_of(answer.read(1 << 16))
            _drop(parts)
            raise RetryError(
                f"{answer.status} {answer.reason}{said and ': ' + said}",
                float(waits) if waits.isdecimal() else 0.0,
            )
        data = answer.read() if length is not None and length <= max(nbytes, 1 << 16) else b""
        if answer.will_close or not answer.isclosed():
            _drop(parts)
        return answer.status, _HeaderFields(answer.headers), data
    except ssl.SSLCertVerificationError as error:
        _drop(parts)
        raise CkptkitError(
            f"its certificate is not trusted: {error.verify_message}", where=shown(parts)
        ) from error
    except (OSError, http.client.HTTPException) as error:
        _drop(parts)
        raise RetryError(_said(error)) from error
    except BaseException:
        _drop(parts)
        raise


def _answer_of_unknown_length(
    parts: SplitResult, answer: http.client.HTTPResponse, nbytes: int
) -> tuple[int, Mapping[str, str], bytes]:
    """Read an answer whose end shows: by its last piece, or by the range that it says it is of."""
    data = answer.read(nbytes + 1)
    if len(data) > nbytes or not answer.isclosed():
        _drop(parts)
    fields = _HeaderFields(answer.headers)
    if len(data) > nbytes:
        return answer.status, fields, b""
    if answer.chunked:
        fields["content-length"] = str(len(data))
    return answer.status, fields, data


def _said(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut within an answer"
    if isinstance(error, TimeoutError):
        return f"nothing came for {TIMEOUT_S:.0f} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error)


def _connection(parts: SplitResult) -> tuple[http.client.HTTPConnection, str]:
    """Return this thread's connection to a host, or to the proxy before it, and what to ask for."""
    target = parts._replace(scheme="", netloc="", fragment="", path=parts.path or "/").geturl()
    proxy = _proxy(parts)
    key = (parts.scheme, parts.netloc)
    connection = _connections.open.pop(key, None)  # the last to be used comes last
    if proxy is not None and parts.scheme == "http":
        target = parts._replace(fragment="").geturl()
    if connection is None:
        host, port = parts.hostname or "", parts.port
        secure = parts.scheme == "https"
        at = proxy or parts
        try:
            if secure:
                connection = http.client.HTTPSConnection(
                    at.hostname or "",
                    at.port,
                    timeout=CONNECT_TIMEOUT_S,
                    context=ssl.create_default_context(),
                )
            else:
                connection = http.client.HTTPConnection(
                    at.hostname or "", at.port, timeout=CONNECT_TIMEOUT_S
                )
            if proxy is not None and secure:
                connection.set_tunnel(host, port or 443, _credentials_of(proxy, "Proxy-"))
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise CkptkitError(
                f"its certificate is not trusted: {error.verify_message}", where=shown(parts)
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise RetryError(f"no connection to {at.hostname}: {_said(error)}") from error
        connection.sock.settimeout(TIMEOUT_S)
    _connections.open[key] = connection
    if len(_connections.open) > _MOST_HOSTS:
        _connections.open.pop(next(iter(_connections.open))).close()
    return connection, target


def _proxy(parts: SplitResult) -> SplitResult | None:
    text = getproxies().get(parts.scheme)
    if not text or proxy_bypass(parts.netloc):
        return None
    return urlsplit(text if "://" in text else f"http://{text}")


def _credentials_of(parts: SplitResult, before: str = "") -> dict[str, str]:
    if parts.username is None:
        return {}
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {f"{before}Authorization": "Basic " + b64encode(both.encode()).decode()}


def _drop(parts: SplitResult) -> None:
    connection = _connections.open.pop((parts.scheme, parts.netloc), None)
    if connection is not None:
        connection.close()


def shown(parts: SplitResult) -> str:
    """Return a URL without what may be a secret: credentials, and what stands behind "?"."""
    return without_secrets(parts._replace(query="", fragment="").geturl())


def http_source(url: str, headers: Mapping[str, str] | None = None) -> tuple[HttpSource, str]:
    """Return (source, key) of a URL; credentials in it become a header.  Raises UsageError."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (it raises for a port that is no number)
    except ValueError:
        # An unquoted "/" in a password ends the host: all up to the last "@" may be secret.
        said = f"{url.partition(':')[0]}://{url.partition('://')[2].rpartition('@')[2]}"
        raise UsageError(
            "no URL: its port is no number, or its host is none",
            where=without_secrets(said),
            hint="in a user's name or password, /, @, : and # are spelled %2F, %40, %3A and %23",
        ) from None
    if not parts.hostname:
        raise UsageError("a URL without a host", where=without_secrets(url))
    host = parts.netloc.rpartition("@")[2]
    root = f"{parts.scheme.lower()}://{host}/"
    fields = {**_credentials_of(parts), **(headers or {})}
    # What stands behind "#" is a part of the name, as in a path of this machine: whoever looks for
    # a file tries the whole name first, and takes it for a `#SUBTREE` where there is none.
    part = f"#{parts.fragment}" if "#" in url else ""
    return HttpSource(root, parts.query, fields), f"{parts.path.rstrip('/')}{part}".strip("/")


def source_of(url: str, options: Mapping[str, Any]) -> tuple[HttpSource, str]:
    """Return (source, key) of a URL; options: "headers", sent with each request."""
    scheme = url.partition(":")[0].lower()
    unknown = set(options) - {"headers", "anonymous", "endpoint"}
    if unknown:
        raise UsageError(f"{scheme}:// takes no option {min(unknown)!r}", hint="only headers")
    if options.get("endpoint"):
        raise UsageError(say(f"{scheme}:// has no ‹endpoint›: its address is in the URL"))
    return http_source(url, options.get("headers"))
