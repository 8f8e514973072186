"""What `convert` tells a person or a program: refusals in few lines, receipts, JSON."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.errors import UsageError
from ckptkit.operations.convert.api import MismatchError, convert, plan
from support.goldens import golden
from support.weights import write_bundle

ADAM = golden("tf2.21.0/adam/ckpt").path
KERAS = golden("tf2.21.0/files_nested/model.keras").path
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["convert", *map(str, arguments)])


def test_what_the_pairing_rests_on_is_said(tmp_path: Path) -> None:
    convert(KERAS, tmp_path / "w.npz", weights_only=True)
    command = (tmp_path / "w.npz", tmp_path / "m.keras", "--like", KERAS, "--weights-only")
    dry = invoke(*command, "--dry-run")
    assert re.search(r"^paired by name \d+$", dry.output, re.MULTILINE)
    document = json.loads(invoke(*command, "--dry-run", "--format", "json").output)
    from_source = [row for row in document["pairs"] if row["from"]]
    assert document["paired_by"] == {"name": len(from_source)}
    assert {row["basis"] for row in from_source} == {"name"}
    assert {row["basis"] for row in document["pairs"] if not row["from"]} == {None}
    done = invoke(*command, "--format", "json")
    assert json.loads(done.output)["paired_by"] == document["paired_by"]


def test_what_like_gave_is_said(tmp_path: Path) -> None:
    convert(KERAS, tmp_path / "w.npz", weights_only=True)
    done = convert(tmp_path / "w.npz", tmp_path / "m.keras", like=KERAS, weights_only=True)
    assert done.kept == {"slot": 8, "counter": 1, "config": 1}
    assert done.to_json()["kept"] == dict(done.kept)
    shown = invoke(tmp_path / "w.npz", tmp_path / "n.keras", "--like", KERAS, "--weights-only")
    assert f"kept from {KERAS}: 1 counter, 1 setting, 8 slots\n" in shown.output
    assert convert(KERAS, tmp_path / "all.npz").kept == {}


def test_many_problems_of_one_kind_are_one_line(tmp_path: Path) -> None:
    names = [f"layer{n:02}/kernel" for n in range(20)]
    source = write_bundle(tmp_path / "src", {name: np.ones(2, "f4") for name in names})
    like = write_bundle(tmp_path / "like", {"other": np.ones(3, "f4")})
    with pytest.raises(MismatchError) as caught:
        convert(source, tmp_path / "out", like=like)
    error = caught.value
    assert len(error.problems) == 21
    assert error.lines() == [
        f"missing: other of {like} has no value in {source}",
        f"unused: 20 tensors of {source}: {like} has no place for it: layer00/kernel, "
        "layer01/kernel, layer02/kernel, layer03/kernel and 16 more",
        f"hint (missing): allow_missing='GLOB' keeps the values of {like}",
        "hint (unused): drop_roles, weights_only or allow_unused='GLOB' leaves them behind",
    ]
    shown = invoke(source, tmp_path / "out", "--like", like, "--to", "checkpoint").stderr
    assert shown.splitlines()[2:] == [
        f"ckptkit: hint (missing): --allow-missing GLOB keeps the values of {like}",
        "ckptkit: hint (unused): --drop-role, --weights-only or --allow-unused GLOB leaves them "
        "behind",
        "ckptkit: hint: --dry-run lists all of them",
    ]
    dry = invoke(source, tmp_path / "out", "--like", like, "--dry-run")
    assert dry.exit_code == 1
    assert all(f"problem: unused: {name} of {source}" in dry.output for name in names)


@pytest.fixture
def renamed(tmp_path: Path) -> tuple[Path, Path]:
    """SRC and LIKE, in which a layer goes by another name."""
    types = {"kernel": (3, 4), "bias": (4,)}
    source = write_bundle(tmp_path / "s", {f"old/{n}": np.ones(t, "f4") for n, t in types.items()})
    like = write_bundle(tmp_path / "l", {f"new/{n}": np.zeros(t, "f4") for n, t in types.items()})
    return source, like


def test_a_refusal_offers_a_map_that_works(renamed: tuple[Path, Path], tmp_path: Path) -> None:
    source, like = renamed
    with pytest.raises(MismatchError) as caught:
        convert(source, tmp_path / "out", like=like, to="checkpoint")
    for hint in (caught.value.hints["missing"], caught.value.hints["unused"]):
        rules = re.findall("‹rules=([^›]*)›", hint)
        assert hint.startswith("‹rules=")
        done = convert(source, tmp_path / "out", like=like, rules=rules, overwrite=True)
        assert {t.name: t.source.naming.name for t in done.plan.tensors if t.source} == {
            "new/kernel": "old/kernel",
            "new/bias": "old/bias",
        }
    shown = invoke(source, tmp_path / "other", "--like", like, "--to", "checkpoint").stderr
    assert "ckptkit: hint (missing): --map " in shown


def test_what_keeps_the_values_of_like_is_named_last(tmp_path: Path) -> None:
    convert(KERAS, tmp_path / "w.npz", weights_only=True)
    with pytest.raises(MismatchError) as caught:
        convert(
            tmp_path / "w.npz",
            tmp_path / "m.keras",
            like=KERAS,
            names=["!*bias"],
            weights_only=True,
        )
    hint = caught.value.hints["missing"]
    assert 0 <= hint.index("‹model=") < hint.index("‹allow_missing=")


def test_a_cast_that_the_structure_undoes_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the keras layout of \S+ decides the dtypes, and has"):
        convert(KERAS, tmp_path / "m.keras", casts=["float32=float16"])
    with pytest.raises(UsageError, match=f"{ADAM} decides the dtypes, and has float32 too"):
        convert(ADAM, tmp_path / "w.npz", like=ADAM, casts=["float32=float16"])
    with pytest.raises(UsageError, match="no weight, average or slot is int64"):
        convert(ADAM, tmp_path / "w.npz", casts=["int64=int32"])
    with pytest.raises(UsageError, match="no tensor to be written is float64"):
        convert(ADAM, tmp_path / "w.npz", casts=["float64=float32"])


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match=r"convert\(\) got an unexpected .*'weigths_only'"):
        ckptkit.convert(ADAM, "x.npz", weigths_only=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"plan\(\) got an unexpected keyword argument 'foo'"):
        plan(ADAM, "x.npz", foo=1)  # type: ignore[call-arg]


def test_plan_takes_the_keywords_of_convert() -> None:
    keywords = {
        function: {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        for function in (convert, plan)
    }
    assert keywords[plan].items() <= keywords[convert].items()
    of_convert_alone = {
        "overwrite",
        "check",
        "check_outputs",
        "trust",
        "receipt",
        "inverse",
        "digests",
        "executor",
    }
    assert keywords[convert].keys() - keywords[plan].keys() == of_convert_alone | {"progress"}


def test_a_receipt_has_a_verdict_and_a_short_form(tmp_path: Path) -> None:
    done = convert(ADAM, tmp_path / "w.npz")
    assert done.ok
    path = str(tmp_path / "w.npz")
    assert repr(done) == f"<Receipt: 23 tensors, 460 B as npz at {path!r}, proven>"
    assert "not proven" in repr(convert(ADAM, tmp_path / "v.npz", check=False))
    source = write_bundle(tmp_path / "src", {"w": np.array([1.0, 1e9], np.float32)})
    failed = convert(source, tmp_path / "x.npz", casts=["float32=float16"])
    assert not failed.ok and "refused by the proof: 1 failure" in repr(failed)


def test_json_on_stdout_is_the_receipt(tmp_path: Path) -> None:
    out, file = tmp_path / "w.npz", tmp_path / "r.json"
    done = invoke(ADAM, out, "--format", "json", "--receipt", file)
    shown = json.loads(done.stdout)
    assert done.exit_code == 0 and shown == json.loads(file.read_text())
    assert shown["schema"] == "ckptkit.convert/1" and shown["tensors"][0]["sha256"]
    dry = json.loads(invoke(ADAM, tmp_path / "x.npz", "--dry-run", "--format", "json").stdout)
    assert dry["schema"] == "ckptkit.plan/1" and dry["ok"] and len(dry["pairs"]) == 23
    refused = invoke(out, tmp_path / "m.keras", "--like", KERAS, "--format", "json")
    document = json.loads(refused.stdout)
    assert refused.exit_code == 1 and document["ok"] is False
    assert {problem["kind"] for problem in document["problems"]} >= {"missing", "unused"}


@pytest.mark.parametrize("size", [200, "1GB"])
def test_shards_need_no_index_in_the_name(size: int | str, tmp_path: Path) -> None:
    done = convert(ADAM, tmp_path / "w.safetensors", shard_size=size)
    assert done.ok and done.path == tmp_path / "w.safetensors.index.json"
    assert len(done.files) == (4 if size == 200 else 2)
    assert set(ckptkit.open(done.path)) | {GRAPH} == set(ckptkit.open(ADAM))


def test_messages_name_tensors_as_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="send both norm/gamma and norm/beta to norm/beta"):
        convert(ADAM, tmp_path / "out", like=ADAM, rules=["^norm/(beta|gamma)$=>norm/beta"])
