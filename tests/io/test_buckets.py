"""Buckets of real servers, and what fsspec reads: the answers are those of local files."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit._io.remote.access import traffic
from ckptkit.errors import ChangedError, CkptkitError, PathNotFoundError, UsageError
from support.command_line import ckptkit as run
from support.goldens import GOLDEN
from support.range_server import serving
from support.store_servers import RunningStore, azurite, moto, s3rver, serve_as_bucket

obstore = pytest.importorskip("obstore")
pytestmark = pytest.mark.remote
NEW = GOLDEN / "tf2.21.0"
# Path -> the most requests that opening it and its names may take.
NAMES = {
    "adam/ckpt": 4,
    "saved_model_save/model": 8,
    "files_nested/model.keras": 3,
    "files_nested/model.h5": 3,
    "manager": 14,
    "w.safetensors": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several forms."""
    top = tmp_path_factory.mktemp("bucket")
    for name in ("adam", "saved_model_save", "files_nested", "manager"):
        shutil.copytree(NEW / name, top / name)
    values: dict[str, Any] = {f"t{n}": np.full(400_000, n, np.float32) for n in range(4)}
    np.savez(top / "w.npz", **values)
    ckptkit.convert(top / "w.npz", top / "w.safetensors")
    return top


def _fill(served: RunningStore, folder: Path) -> None:
    store = _store(served)
    for file in folder.rglob("*"):
        if file.is_file():
            obstore.put(store, file.relative_to(folder).as_posix(), file.read_bytes())


def _store(served: RunningStore) -> Any:
    return obstore.store.from_url(
        served.url, config=served.options, client_options={"allow_http": True}
    )


@pytest.fixture(scope="module", params=["s3rver", "moto", "azurite"])
def bucket(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStore]:
    """A bucket with those files."""
    place = tmp_path_factory.mktemp("server")
    with {"s3rver": s3rver, "moto": moto, "azurite": azurite}[request.param](place) as served:
        _fill(served, folder)
        yield served


def _content(checkpoint: ckptkit.Checkpoint) -> dict[str, Any]:
    return {name: array.tolist() for name, array in checkpoint.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_bucket_holds_what_the_folder_does(name: str, bucket: RunningStore, folder: Path) -> None:
    before = traffic()[0]
    there = ckptkit.open(f"{bucket.url}/{name}", storage_options=bucket.options)
    assert traffic()[0] - before <= NAMES[name]
    assert dict(there.specs) == dict(ckptkit.open(folder / name).specs)
    assert _content(there) == _content(ckptkit.open(folder / name))
    assert _content(pickle.loads(pickle.dumps(there))) == _content(there)


def test_functions_take_a_path_with_options(bucket: RunningStore, folder: Path) -> None:
    for name in ("adam/ckpt", "saved_model_save/model"):
        path = ckptkit.remote_path(f"{bucket.url}/{name}", storage_options=bucket.options)
        assert ckptkit.diff(path, folder / name).ok
        assert ckptkit.verify(path).ok
        assert ckptkit.scan(path).ok
        listed = [ckptkit.ls(place).to_json()["tensors"] for place in (path, folder / name)]
        assert listed[0] == listed[1]
    top = ckptkit.remote_path(f"{bucket.url}/manager", storage_options=bucket.options)
    assert len(ckptkit.history(top).steps) == 2
    assert len(ckptkit.verify(top, recursive=True).units) == 3


def test_what_is_replaced_is_told(bucket: RunningStore, folder: Path) -> None:
    store, data = _store(bucket), (folder / "w.safetensors").read_bytes()
    obstore.put(store, "x.safetensors", data)
    there = ckptkit.open(f"{bucket.url}/x.safetensors", storage_options=bucket.options)
    assert there["t0"][0] == 0
    obstore.put(store, "x.safetensors", data[:-1] + b"\1")
    with pytest.raises(ChangedError):
        there["t3"].tolist()
    obstore.delete(store, "x.safetensors")
    with pytest.raises(PathNotFoundError, match="no such"):
        ckptkit.open(f"{bucket.url}/x.safetensors", storage_options=bucket.options)


def test_what_is_not_there_and_not_allowed_is_told(bucket: RunningStore) -> None:
    scheme = bucket.url.partition(":")[0]
    with pytest.raises(PathNotFoundError, match="no such bucket"):
        ckptkit.open(f"{scheme}://nothing-here/x", storage_options=bucket.options)
    with pytest.raises(UsageError, match="bogus"):
        ckptkit.open(f"{bucket.url}/x", storage_options={**bucket.options, "bogus": "1"})
    if scheme == "az":
        wrong = {**bucket.options, "account_key": "d3Jvbmc="}
        with pytest.raises(CkptkitError, match="access is denied") as caught:
            ckptkit.open(f"{bucket.url}/adam/ckpt", storage_options=wrong)
        assert "\n" not in str(caught.value)
        assert "d3Jvbmc" not in str(caught.value)


def test_a_command_takes_credentials_and_an_endpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3rver(tmp_path) as served:
        _fill(served, folder)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        (tmp_path / "credentials").write_text(
            "[default]\naws_access_key_id = S3RVER\naws_secret_access_key = S3RVER\n"
        )
        endpoint = ("--endpoint", served.options["endpoint"])
        listed = run("ls", f"{served.url}/adam/ckpt", "--no-path", *endpoint)
        assert listed.out == run("ls", folder / "adam/ckpt", "--no-path").out
        assert listed.err.startswith("network: ")
        assert "S3RVER" not in listed.err
        assert run("ls", "-r", f"{served.url}/", *endpoint).code == 0
        dst = tmp_path / "x.npz"
        assert run("convert", f"{served.url}/adam/ckpt", dst, "--weights-only", *endpoint).code == 0


def test_google_is_read_by_the_requests_of_its_xml_api(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bkt")
    with serving(tmp_path) as server:
        serve_as_bucket(server)
        for name in NAMES:
            url = f"gs://bkt/{name}"
            there = ckptkit.open(ckptkit.remote_path(url, anonymous=True, endpoint=server.url))
            assert _content(there) == _content(ckptkit.open(folder / name))
        server.status = lambda _asked, _number: 403
        with pytest.raises(CkptkitError, match="access is denied"):
            ckptkit.open(ckptkit.remote_path("gs://bkt/w.npz", anonymous=True, endpoint=server.url))


def test_a_listing_of_before_makes_no_wrong_answer(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bkt")
    lists: dict[str, Any] = {}
    with serving(tmp_path) as server:
        serve_as_bucket(server)
        fresh = server.route

        def stale(path: str) -> tuple[int, dict[str, str], bytes] | None:
            return lists.setdefault(path, fresh(path)) if "list-type" in path else None

        server.route = stale
        top = ckptkit.remote_path("gs://bkt/adam", anonymous=True, endpoint=server.url)
        data = tmp_path / "bkt/adam/ckpt.data-00000-of-00001"
        hidden = data.read_bytes()
        data.unlink()
        assert ckptkit.open(top / "ckpt").problems()
        data.write_bytes(hidden)  # which the listing will not have
        again = ckptkit.remote_path("gs://bkt/adam/ckpt", anonymous=True, endpoint=server.url)
        assert _content(ckptkit.open(again)) == _content(ckptkit.open(folder / "adam/ckpt"))
        for file in (tmp_path / "bkt/adam").iterdir():  # other states than those listed
            content = file.read_bytes()
            file.unlink()
            (tmp_path / "beside").write_bytes(content)
            shutil.copy(tmp_path / "beside", file)
        again = ckptkit.remote_path("gs://bkt/adam/ckpt", anonymous=True, endpoint=server.url)
        assert _content(ckptkit.open(again)) == _content(ckptkit.open(folder / "adam/ckpt"))
        asked = ("--anonymous", "--endpoint", server.url)
        verified = run("verify", "gs://bkt/adam/ckpt", *asked)
        assert verified.code == 2
        assert "changed while it was read" in verified.out


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("name", NAMES)
def test_any_file_system_of_fsspec_reads(name: str, kind: str, folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem(kind)
    top = str(folder)
    if kind == "memory":
        fs.put(f"{folder}/", "/top/", recursive=True)
        top = "/top"
    there = ckptkit.open(f"{top}/{name}", fs=fs)
    assert _content(there) == _content(ckptkit.open(folder / name))


def test_a_file_that_fsspec_reads_is_of_one_state(tmp_path: Path, folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    shutil.copy(folder / "w.safetensors", tmp_path / "w.safetensors")
    there = ckptkit.open(str(tmp_path / "w.safetensors"), fs=fsspec.filesystem("file"))
    assert there["t0"][0] == 0
    shutil.copy(folder / "w.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "w.safetensors")
    with pytest.raises(ChangedError):
        there["t3"].tolist()


def test_a_store_of_obstore_reads(folder: Path) -> None:
    there = ckptkit.open("adam/ckpt", fs=obstore.store.LocalStore(str(folder)))
    assert _content(there) == _content(ckptkit.open(folder / "adam/ckpt"))
