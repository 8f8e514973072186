"""Files of a Hugging Face hub: `hf://OWNER/NAME[@REVISION]/PATH`, `hf://datasets/...`.

A revision is resolved to its commit before anything is read, and all is read of that commit, so
what is pushed meanwhile does not matter.  Files come from `/resolve/COMMIT/PATH`, which leads to
where the bytes lie; names and sizes from `/api/.../tree/COMMIT`, a directory at a time.
https://huggingface.co/docs/hub/api, https://huggingface.co/docs/huggingface_hub/guides/hf_file_system
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ckptkit._io.remote.http import HttpSource, detail_of, request
from ckptkit._io.remote.objects import AccessError, Answer, Listing, ObjectState, refusal
from ckptkit._io.remote.requests import count, insisting
from ckptkit.errors import PathNotFoundError, UsageError

_ENDPOINT = "https://huggingface.co"
_KINDS = ("datasets", "spaces")
_MAX_PAGE = 64 << 20  # bytes of JSON
_MAX_PAGES = 1000


class HubSource(HttpSource):
    """One repository at one commit.

    Args:
        repository: "models/OWNER/NAME", "datasets/OWNER/NAME" or "spaces/OWNER/NAME".
        revision: as it was given; "main" where it was not.
        commit: that it stood for.
        endpoint: of the hub.
        headers: sent with each request to it.
    """

    lists = True

    def __init__(
        self,
        repository: str,
        revision: str,
        commit: str,
        endpoint: str,
        headers: Mapping[str, str],
    ) -> None:
        kind, _, name = repository.partition("/")
        shown = name if kind == "models" else repository
        mark = "" if revision == "main" else f"@{quote(revision, safe='')}"
        super().__init__(f"hf://{shown}{mark}/", "", headers)
        self.repository, self.revision, self.commit = repository, revision, commit
        self.endpoint = endpoint

    def __reduce__(self) -> Any:
        given = (self.repository, self.revision, self.commit, self.endpoint, self.headers)
        return HubSource, given

    @property
    def identity(self) -> object:
        return self.endpoint, self.repository, self.commit, tuple(self.headers.items())

    def url_of(self, key: str) -> str:
        kind, _, name = self.repository.partition("/")
        there = name if kind == "models" else self.repository
        return f"{self.endpoint}/{there}/resolve/{self.commit}/{quote(key)}"

    def list_directory(self, key: str) -> Listing:
        url = f"{self.endpoint}/api/{self.repository}/tree/{self.commit}"
        url += f"/{quote(key)}" if key else ""
        found: dict[str, ObjectState | None] = {}
        for _ in range(_MAX_PAGES):
            status, fields, entries = _json(url, self.headers, self.root + key)
            if status == 404:
                return {}
            for entry in entries:
                size, oid = entry.get("size", 0), entry.get("oid", "")
                lfs = entry.get("lfs") or {}
                state = ObjectState(lfs.get("size", size), lfs.get("oid", oid), 0)
                name = entry["path"].rpartition("/")[2]
                found[name] = state if entry.get("type") == "file" else None
            url = _next_page(fields)
            if not url:
                break
        return found

    def start_of(self, key: str, nbytes: int) -> Answer | None:
        answer = super().start_of(key, nbytes)
        return answer and answer._replace(state=answer.state._replace(etag=self.commit))

    def get(self, key: str, start: int, stop: int, state: ObjectState) -> Answer:
        # A file of a commit never changes.  Where the bytes lie they have other ETags than here.
        answer = self._range(key, start, stop, ObjectState(state.size, "", 0))
        assert answer is not None
        return answer._replace(state=answer.state._replace(etag=state.etag))


def _json(url: str, headers: Mapping[str, str], where: str) -> tuple[int, Mapping[str, str], Any]:
    def ask() -> tuple[int, Mapping[str, str], bytes]:
        count(1)
        return request(url, {**headers, "Accept-Encoding": "identity"}, _MAX_PAGE)

    status, fields, data = insisting(ask, where)
    if status == 404:
        return status, fields, None
    if status != 200:
        raise refusal(status, where, detail_of(data))
    try:
        return status, fields, json.loads(data)
    except ValueError as error:
        raise refusal(status, where) from error


def _next_page(fields: Mapping[str, str]) -> str:
    link = fields.get("Link", "")
    return link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""


def _token() -> str:
    """Return the token that the hub's own tools would use; "" for none."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable):
            return os.environ[variable].strip()
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(os.environ.get("HF_TOKEN_PATH") or Path(home or cache / "huggingface") / "token")
    with suppress(OSError, UnicodeDecodeError):
        return place.read_text(encoding="utf-8").strip()
    return ""


def source_of(url: str, options: Mapping[str, Any]) -> tuple[HubSource, str]:
    """Return (source, key) of a URL; options: "token", "revision", "endpoint", "anonymous"."""
    unknown = set(options) - {"token", "revision", "endpoint", "anonymous"}
    if unknown:
        raise UsageError(f"hf:// takes no option {min(unknown)!r}", where=url)
    parts = url.partition("://")[2].strip("/").split("/")
    kind = parts.pop(0) if parts[0] in (*_KINDS, "models") else "models"
    if len(parts) < 2 or not all(parts[:2]):
        raise UsageError("no repository: hf://owner/name/path", where=url)
    name, _, revision = parts[1].partition("@")
    repository = f"{kind}/{parts[0]}/{name}"
    revision = revision.replace("%2F", "/") or options.get("revision") or "main"
    endpoint = (options.get("endpoint") or os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
    if not urlsplit(endpoint).hostname:
        raise UsageError(f"no address of a hub: {endpoint!r}", where=url)
    token = "" if options.get("anonymous") else options.get("token") or _token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = f"{endpoint}/api/{repository}/revision/{quote(revision, safe='')}"
    where = f"hf://{'/'.join(parts[:2])}"
    status, _fields, told = _json(asked, headers, where)
    if status == 404:
        raise PathNotFoundError("no such repository or revision on the hub", where=where)
    commit = told.get("sha") if isinstance(told, dict) else None
    if not commit:
        raise AccessError("the hub tells no commit of it", where=where)
    return HubSource(repository, revision, commit, endpoint, headers), "/".join(parts[2:])
