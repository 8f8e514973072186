"""A checkpoint of TensorFlow 1 and the graph beside it as a SavedModel, served by TensorFlow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from support.command_line import ckptkit as run
from support.command_line import refused
from support.scripts import run_script

pytestmark = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    _tensorflow("make", folder)
    return folder


def _tensorflow(*arguments: object) -> None:
    run_script("-m", "support.serve_graph", *arguments)


def test_it_computes_what_the_session_computed(made: Path, tmp_path: Path) -> None:
    """From V2 and V1, with named tensors, with collections, and with a table and its file."""
    named = ["--inputs", "features=x", "--outputs", "scores=y,h:0"]
    for source, options in (
        ("plain/model.ckpt-3", named),
        ("plain/old.ckpt-3", named),
        ("collections/model.ckpt-3", []),
        ("table/model.ckpt-3", ["--inputs", "words", "--outputs", "y"]),
    ):
        graph = made / f"{source}.meta"
        out = tmp_path / source.replace("/", "-")
        result = run("convert", made / source, out, "--graph", graph, *options)
        assert result.code == 0, (source, result)
    (made / "table/words.txt").rename(made / "table/moved.txt")  # the model has a copy
    try:
        _tensorflow("serve", tmp_path, made)
    finally:
        (made / "table/moved.txt").rename(made / "table/words.txt")
    for served in tmp_path.glob("*.npz"):
        apart = {key: float(value) for key, value in np.load(served).items()}
        assert set(apart.values()) == {0.0}, (served.name, apart)
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_signatures_have_names_dtypes_and_shapes(made: Path, tmp_path: Path) -> None:
    ckptkit.convert(
        made / "plain/model.ckpt-3",
        tmp_path / "out",
        graph=made / "plain/model.ckpt-3.meta",
        inputs=["features=x"],
        outputs=["y"],
        receipt=tmp_path / "receipt.json",
    )
    shown = run("ls", tmp_path / "out")
    assert "signature serving_default(features: float32[?,5]) -> y: float32[?,2]" in shown.out
    assert "tags: serve" in shown.out
    receipt = (tmp_path / "receipt.json").read_text()
    assert f'"graph": "{made / "plain/model.ckpt-3.meta"}"' in receipt
    assert "ckptkit-graph-" not in receipt


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing in the graph says what goes in"),
        (["--inputs", "x"], "nothing in the graph says what goes in"),
        (["--inputs", "x", "--outputs", "no/such"], "no tensor 'no/such:0' in the graph"),
        (["--inputs", "x", "--outputs", "y:7"], "y (Identity) has 1 outputs, of which 'y:7'"),
        (["--inputs", "x", "--outputs", "a=y,a=h"], "two tensors are called 'a'"),
        (["--inputs", "x", "--outputs", "y", "--like", "LIKE"], "--graph excludes --like"),
    ],
)
def test_what_is_wrong_is_named(made: Path, tmp_path: Path, options: list[str], said: str) -> None:
    source = made / "plain/model.ckpt-3"
    line = refused("convert", source, tmp_path / "out", "--graph", f"{source}.meta", *options)
    assert said in line
    if "--inputs NAME" in line:
        assert "fed: x, t; not used further: " in line
    assert not list(tmp_path.iterdir())


def test_the_graph_beside_is_offered(made: Path, tmp_path: Path) -> None:
    source = made / "plain/model.ckpt-3"
    said = refused("convert", source, tmp_path / "out", "--to", "saved-model")
    assert f"--graph {source}.meta, the graph that lies beside it" in said
    said = refused("convert", source, tmp_path / "out.npz", "--inputs", "x")
    assert "--inputs and --outputs go with --graph" in said


def test_a_file_that_the_graph_reads_must_be_there(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "table", tmp_path / "table")
    graph = tmp_path / "table/model.ckpt-3.meta"
    words = str(made / "table/words.txt").encode()
    gone = words[:-5] + b"Z" + words[-4:]
    graph.write_bytes(graph.read_bytes().replace(words, gone))
    said = refused(
        *("convert", made / "table/model.ckpt-3", tmp_path / "out", "--graph", graph),
        *("--inputs", "words", "--outputs", "y"),
    )
    assert "which is not there" in said


def test_other_files_are_no_graphs(made: Path, tmp_path: Path) -> None:
    source = made / "plain/model.ckpt-3"
    for content in (b"", b"not a graph", b"\x0a\x02\x1a\x00"):
        (tmp_path / "x.meta").write_bytes(content)
        refused("convert", source, tmp_path / "out", "--graph", tmp_path / "x.meta")
    refused("convert", source, tmp_path / "out", "--graph", tmp_path / "none.meta")
