"""Digests of a model and its parts: one over forms and versions, another after each change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ckptkit
from benchmarks._config_mutants import places, read, write
from ckptkit.cli.main import cli
from ckptkit.errors import UsageError
from ckptkit.operations.configuration.lines import config_lines
from ckptkit.operations.configuration.tree import tree_of
from ckptkit.operations.digests import PARTS, digests_of
from support.goldens import GOLDEN

NESTED = "files_nested/model"
NEWEST = GOLDEN / "tf2.21.0" / f"{NESTED}.keras"
# Of one program, trained alike: Keras 3.0, 3.6 and 3.15.
KERAS_3 = [
    *(f"tf2.16.2/{NESTED}{suffix}" for suffix in (".keras", ".h5")),
    *(f"tf2.18.1/{NESTED}.keras", f"tf2.21.0/{NESTED}.h5"),
]
# Recorded once: a digest that somebody has written down holds in every later version.
RECORDED = "sha256:01ecf4509eea613008c95733672f4e17faff8c04975c7c84bbfac952d317e91e"


def digest(path: Path, part: str) -> str | None:
    return digests_of(ckptkit.open(path), [part])[part]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["ls", *map(str, arguments)])


@pytest.mark.parametrize("name", KERAS_3)
def test_versions_and_forms_of_one_model_have_one_digest(name: str) -> None:
    assert digest(GOLDEN / name, "config") == digest(NEWEST, "config") == RECORDED


@pytest.mark.parametrize("version", ["2.12.1", "2.15.1"])
def test_forms_of_keras_2_have_one_digest(version: str) -> None:
    files = [GOLDEN / f"tf{version}" / f"{NESTED}{suffix}" for suffix in (".keras", ".h5")]
    assert len({digest(path, "config") for path in files}) == 1


def test_each_part_has_its_digest_and_the_model_has_one_of_them_all(tmp_path: Path) -> None:
    checkpoint = ckptkit.open(NEWEST)
    found = digests_of(checkpoint, PARTS)
    assert list(found) == list(PARTS)
    assert found["signature"] is None and found["vocabulary"] is None
    assert found["weights"] == checkpoint.digest() == ckptkit.ls(NEWEST, digest=True).digest
    lines = [f"{part} {found[part] or 'none'}" for part in PARTS[:-1]]
    expected = "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert found["model"] == checkpoint.digest("model") == expected
    with pytest.raises(UsageError, match="the file holds no signature"):
        checkpoint.digest("signature")
    with pytest.raises(UsageError, match="no digest of 'weight'"):
        checkpoint.digest("weight")
    tops = sorted({name.partition("/")[0] for name in checkpoint})
    part = ckptkit.open(f"{NEWEST}#{tops[0]}")
    assert part.digest("weights") != checkpoint.digest("weights")
    with pytest.raises(UsageError, match="a digest of its weights alone"):
        part.digest("config")


def test_a_change_of_one_part_changes_its_digest_and_that_of_the_model(tmp_path: Path) -> None:
    config = read(NEWEST)
    place = next(x for x in places(config) if "use_bias" in x.settings)
    place.settings["trainable"] = False
    other = tmp_path / "other.keras"
    write(NEWEST, other, config)
    old, new = (digests_of(ckptkit.open(path), PARTS) for path in (NEWEST, other))
    assert [part for part in PARTS if old[part] != new[part]] == ["config", "model"]


def test_a_name_that_keras_counts_is_no_part_of_it() -> None:
    def model(name: str, other: str) -> list[str]:
        layers = [{"class_name": "Dense", "config": {"name": x, "units": 2}} for x in (name, other)]
        tree = tree_of({"class_name": "Sequential", "config": {"name": "m", "layers": layers}})
        assert tree is not None
        return config_lines(tree)

    assert model("dense", "dense_1") == model("dense_4", "dense_5")
    assert model("dense", "dense_1") != model("dense", "head")
    (line,) = [json.loads(x) for x in model("dense", "head") if json.loads(x)["path"] == "head"]
    assert line["settings"] == {"units": 2} and line["place"] == 1


def test_ls_prints_the_parts_that_are_asked_for() -> None:
    text = run(NEWEST, "--digest=config,signature").stdout.splitlines()
    assert text[-2:] == [f"config {digest(NEWEST, 'config')}", "signature none"]
    assert run("--digest", NEWEST).stdout.splitlines()[-1].startswith("weights sha256:")
    (data,) = json.loads(run(NEWEST, "--digest=model", "--format", "json").stdout)["results"]
    assert data["digest"] is None and data["digests"] == {"model": digest(NEWEST, "model")}
    assert run(NEWEST, "--digest=names").exit_code == 2
    assert run("-r", NEWEST.parent, "--digest=model").exit_code == 2
    with pytest.raises(UsageError, match="of all its tensors"):
        ckptkit.ls(NEWEST, names=["*kernel"], digest=["model"])
