"""`hf://`, against a small fake of the hub's requests: one commit, whatever is pushed meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import ckptkit
from ckptkit.errors import CkptkitError, PathNotFoundError, UsageError
from support.command_line import ckptkit as run
from support.goldens import GOLDEN
from support.range_server import Server, serving

NEW = GOLDEN / "tf2.21.0"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The requests that reading takes of a hub, over the files of a range server."""

    def __init__(self, server: Server) -> None:
        self.server, self.files = server, server.folder / "files"
        self.pushed = 0

    def route(self, path: str) -> tuple[int, dict[str, str], bytes] | None:
        """Answer what is no file: revisions, trees, and where the bytes of a file lie."""
        api = "/api/models/owner/name"
        if path.startswith(f"{api}/revision/"):
            known = unquote(path.rpartition("/")[2]) in ("main", "refs/pr/1")
            return _json({"sha": COMMIT}) if known else (404, {}, b"{}")
        if path.startswith(f"{api}/tree/{COMMIT}"):
            return self._tree(unquote(path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")))
        resolved = f"/owner/name/resolve/{COMMIT}/"
        if path.startswith(resolved):
            where = self.server.url.replace("127.0.0.1", "localhost")
            target = f"{where}/files/{path.removeprefix(resolved)}"
            return 302, {"Location": target, "X-Linked-Etag": '"another"'}, b""
        return None if path.startswith("/files/") else (404, {}, b"")

    def _tree(self, inside: str) -> tuple[int, dict[str, str], bytes]:
        top = self.files / inside
        if not top.is_dir():
            return 404, {}, b"{}"
        entries: list[dict[str, Any]] = []
        for entry in sorted(top.iterdir()):
            path = entry.relative_to(self.files).as_posix()
            if entry.is_dir():
                entries.append({"type": "directory", "path": path, "oid": "t", "size": 0})
            else:
                size = entry.stat().st_size
                lfs = {"lfs": {"oid": f"lfs-{path}", "size": size, "pointerSize": 134}}
                entries.append(
                    {"type": "file", "path": path, "oid": f"o-{path}", "size": size, **lfs}
                )
        return _json(entries)


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub with one repository."""
    for name in ("adam", "saved_model_save", "files_nested"):
        shutil.copytree(NEW / name, tmp_path / "files" / name)
    with serving(tmp_path) as server:
        server.route = Hub(server).route
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield server


@pytest.mark.parametrize(
    "name", ["adam/ckpt", "adam", "saved_model_save/model", "files_nested/model.keras"]
)
def test_a_repository_is_read_of_one_commit(name: str, hub: Server) -> None:
    there = ckptkit.open(f"hf://owner/name/{name}")
    here = ckptkit.open(NEW / name)
    assert {key: array.tolist() for key, array in there.items()} == {
        key: array.tolist() for key, array in here.items()
    }
    assert str(there.path).startswith("hf://owner/name/")
    asked = [one.path for one in hub.asked]
    assert asked[0] == "/api/models/owner/name/revision/main"
    assert all(COMMIT in path or path.startswith("/files/") for path in asked[1:])
    files = [one for one in hub.asked if one.path.startswith("/files/")]
    assert files and all("authorization" not in one.headers for one in files)
    assert hub.asked[0].headers["authorization"] == "Bearer hf_secret"


def test_commands_read_a_revision_and_no_secret_is_said(hub: Server) -> None:
    url = "hf://owner/name@refs%2Fpr%2F1/adam/ckpt"
    listed = run("ls", url)
    assert listed.code == 0, listed.err
    assert "hf_secret" not in listed.out + listed.err
    assert run("ls", "hf://owner/name/adam/ckpt", "--anonymous").code == 0
    assert "authorization" not in hub.asked[-1].headers
    assert run("verify", "hf://owner/name/saved_model_save/model").code == 0


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("hf://owner/name@v9/x", PathNotFoundError, "no such repository or revision"),
        ("hf://owner/other/x", PathNotFoundError, "no such repository or revision"),
        ("hf://owner", UsageError, "no repository"),
        ("hf://owner/name/nothing.keras", PathNotFoundError, "no such file"),
    ],
)
def test_what_is_not_there_is_told(
    url: str, kind: type[CkptkitError], message: str, hub: Server
) -> None:
    with pytest.raises(kind, match=message):
        ckptkit.open(url)
    assert hub.asked or kind is UsageError


def test_a_refusal_of_the_hub_is_told(hub: Server) -> None:
    hub.status = lambda _asked, _number: 401
    with pytest.raises(CkptkitError, match="access is denied"):
        ckptkit.open("hf://owner/name/adam/ckpt")
