"""Objects in buckets (S3 and what speaks like it, Google Cloud Storage, Azure), through obstore.

obstore knows the clouds' credentials and signatures.  What it is not asked for: trying again
(`requests.insisting` does, for all stores alike) and joining ranges (`blocks` does).
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ckptkit._io.remote.objects import (
    AccessError,
    Answer,
    Listing,
    ObjectState,
    RemoteChanged,
    RetryError,
    refusal,
)
from ckptkit._io.remote.requests import CONNECT_TIMEOUT_S, PASSING_STATUSES, TIMEOUT_S, count
from ckptkit.errors import CkptkitError, MissingDependencyError, PathNotFoundError, UsageError
from ckptkit.text import lazy_pattern
from ckptkit.wording import say

_PAGE = 1000  # names in one answer of a listing
_MAX_SAID = 300  # characters of what a store says is wrong
# What obstore says where a server did not answer, or not to the end, or asks to come again.
_PASSING = (
    "error sending request",
    "error decoding response body",
    "request or response body error",
    "error reading a body",
    "connection",
    "timed out",
    "timeout",
    "slowdown",
)
_STATUS = lazy_pattern(r"status code: (\d{3})|\b([45]\d{2}) [A-Z][a-z]+")


_OWN = {"NotFoundError": (FileNotFoundError,), "PermissionDeniedError": (PermissionError,)}


class CloudSource:
    """One bucket or container.

    Args:
        root: "s3://bucket/".
        config: of obstore's store.
        client: options of its HTTP client.
        store: one of obstore's that the caller made; None to make it of the rest.
    """

    lists = True

    def __init__(
        self, root: str, config: Mapping[str, Any], client: Mapping[str, Any], store: Any = None
    ) -> None:
        self.root, self._config, self._client = root, dict(config), dict(client)
        self._obstore = obstore()
        self._errors = (self._obstore.exceptions.BaseError, OSError, ValueError, TypeError)
        self._conditional = True
        try:
            self._store = store or import_module("obstore.store").from_url(
                root.rstrip("/"),
                config=self._config,
                client_options=self._client,
                retry_config={"max_retries": 0},
            )
        except self._errors as error:
            raise UsageError(_said(error), where=root) from None
        self._given = store

    def __reduce__(self) -> Any:
        return CloudSource, (self.root, self._config, self._client, self._given)

    @property
    def identity(self) -> object:
        """See `ObjectSource.identity`."""
        return self.root, repr(self._config), repr(self._client), id(self._given)

    def list_directory(self, key: str) -> Listing:
        found: dict[str, ObjectState | None] = {}
        try:
            listed = self._obstore.list_with_delimiter(self._store, key or None)
        except self._errors as error:
            count(1)
            refused = self._refusal(error, key)
            if self._is("NotFoundError", error) or isinstance(refused, PathNotFoundError):
                raise PathNotFoundError("no such bucket", where=self.root) from None
            raise refused from None
        before = len(key) + 1 if key else 0
        for path in listed["common_prefixes"]:
            found[path[before:].rstrip("/")] = None
        for meta in listed["objects"]:
            name = meta["path"][before:]
            if name:
                found[name] = _state(meta)
        count(max(1, -(-len(found) // _PAGE)))
        return found

    def start_of(self, key: str, nbytes: int) -> Answer | None:
        try:
            found = self._obstore.get(self._store, key, options={"range": (0, nbytes)})
            return Answer(bytes(found.bytes()), _state(found.meta))
        except self._errors as error:
            if self._is("NotFoundError", error):
                return None
            if _status(error) == 416:  # no byte of an empty object can be asked for
                return Answer(b"", _state(self._obstore.head(self._store, key)))
            raise self._refusal(error, key) from None

    def get(self, key: str, start: int, stop: int, state: ObjectState) -> Answer:
        options: dict[str, Any] = {"range": (start, stop)}
        if self._conditional and state.etag and not state.etag.startswith("W/"):
            options["if_match"] = f'"{state.etag}"'
        try:
            found = self._obstore.get(self._store, key, options=options)
            if tuple(found.range) != (start, stop):
                raise RetryError(f"bytes {found.range} came where {start}-{stop - 1} were wanted")
            return Answer(bytes(found.bytes()), _state(found.meta))
        except RetryError:
            raise
        except self._errors as error:
            if self._is("PreconditionError", error) or self._is("NotFoundError", error):
                raise RemoteChanged(key) from None
            refuses = self._is("NotSupportedError", error) or "NotImplemented" in str(error)
            if refuses and "if_match" in options:
                self._conditional = False  # what comes is compared all the same
                raise RetryError("the store knows no conditions") from None
            raise self._refusal(error, key) from None

    def _is(self, kind: str, error: Exception) -> bool:
        # obstore raises Python's own errors where there are such, and its own else.
        kinds = (getattr(self._obstore.exceptions, kind), *_OWN.get(kind, ()))
        return isinstance(error, kinds)

    def _refusal(self, error: Exception, key: str) -> Exception:
        """Return what to raise for what obstore raised: what may pass is tried again."""
        said, whole = _said(error), str(error).partition("\n\nDebug source")[0].lower()
        where = self.root + key
        status = _status(error)
        if "expired" in whole:
            return refusal(status or 403, where, "the token expired")
        if self._is("PermissionDeniedError", error) or self._is("UnauthenticatedError", error):
            return refusal(403, where, _code(str(error)))
        if status in PASSING_STATUSES:
            return RetryError(said)
        if status in (401, 403, 404):
            return refusal(status, where, _code(str(error)))
        if any(text in whole for text in ("169.254.169.254", "metadata.google", "credential")):
            return AccessError(
                f"no credentials were found: {said}",
                where=where,
                hint=say(
                    "set them as the store's own tools take them, or ‹anonymous=True› for what is "
                    "public"
                ),
            )
        if "notpartial" in whole or "non-partial" in whole:
            return refusal(200, where)
        if any(text in whole for text in _PASSING):
            return RetryError(said)
        return CkptkitError(f"the store refuses: {said}", where=where)


def _status(error: Exception) -> int:
    """Return the HTTP status that obstore's message names; 0 for none."""
    found = _STATUS.search(_said(error))
    return int(found[1] or found[2]) if found else 0


def _code(text: str) -> str:
    """Return the code that the XML of an error has: "AccessDenied"."""
    return text.partition("<Code>")[2].partition("<")[0][:_MAX_SAID]


def obstore() -> Any:
    """Return obstore; raises MissingDependencyError with the pip command."""
    try:
        return import_module("obstore")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reading s3://, gs:// and az:// needs obstore, which is not installed",
            hint="pip install 'ckptkit-tf[remote]'",
        ) from error


def _state(meta: Mapping[str, Any]) -> ObjectState:
    etag = meta.get("e_tag") or ""
    modified = meta.get("last_modified")
    modified_ns = int(modified.timestamp() * 1e6) * 1000 if modified else 0
    weak = "W/" if etag.startswith("W/") else ""
    return ObjectState(meta["size"], weak + etag.removeprefix("W/").strip('"'), modified_ns)


def _said(error: Exception) -> str:
    """Return the one line of what obstore says that is for people, without what may be secret."""
    text = str(error).partition("\n")[0]
    words = (word.partition("?")[0] if "://" in word else word for word in text.split())
    return " ".join(words)[:_MAX_SAID]


def source_of(url: str, options: Mapping[str, Any]) -> tuple[CloudSource, str]:
    """Return (source, key) of a URL.

    options: what obstore takes to configure a store of that scheme, `client_options` for its HTTP
    client, and our own `anonymous` and `endpoint`.
    """
    parts = urlsplit(url)
    if not parts.netloc:
        raise UsageError("a URL without a bucket", where=url)
    config = dict(options)
    client = {
        "timeout": f"{TIMEOUT_S * 2:.0f}s",  # of a whole answer
        "connect_timeout": f"{CONNECT_TIMEOUT_S:.0f}s",
        **config.pop("client_options", {}),
    }
    if config.pop("anonymous", False):
        config["skip_signature"] = True
    elif parts.scheme in ("s3", "s3a"):
        config = {**_aws_profile(config), **config}
    endpoint = config.pop("endpoint", "")
    if endpoint:
        config.update(_endpoint(parts.scheme, endpoint.rstrip("/")))
        if endpoint.startswith("http://"):
            client["allow_http"] = True
    root = f"{parts.scheme}://{parts.netloc}/"
    # A key is what it is: "?" and "#" are no marks in it.
    return CloudSource(root, config, client), url[len(root) :].strip("/")


def _endpoint(scheme: str, endpoint: str) -> dict[str, str]:
    if scheme in ("gs", "gcs"):
        return {"base_url": endpoint}
    return {"endpoint": endpoint}


def _aws_profile(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of the chosen profile where the environment has none.

    Files and variables are those of the AWS command line:
    https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html
    """
    given = {name.lower().removeprefix("aws_") for name in config}
    profile = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    credentials = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)
    section = profile if profile == "default" else f"profile {profile}"
    settings = _section("AWS_CONFIG_FILE", "config", section)
    if "access_key_id" not in given and "AWS_ACCESS_KEY_ID" not in os.environ:
        for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
            if name in credentials or name in settings:
                found[name] = credentials.get(name) or settings[name]
    if not {"region", "default_region"} & given:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        region = region or settings.get("region") or credentials.get("region")
        if region:
            found["aws_region"] = region
    return found


def _section(variable: str, name: str, section: str) -> Mapping[str, str]:
    place = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    parser = configparser.RawConfigParser()
    with suppress(OSError, configparser.Error, UnicodeDecodeError):
        parser.read_string(place.read_text(encoding="utf-8"))
        return dict(parser[section]) if parser.has_section(section) else {}
    return {}
