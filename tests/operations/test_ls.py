"""`ckptkit ls`: what is listed, in which order and form, and what is said of it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import ChecksumError, UsageError
from ckptkit.reports.tensor_rows import NamePattern
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.text import natural
from support.command_line import ckptkit as run
from support.command_line import json_results, refused
from support.crafted import bundle_items, entry, write_index
from support.goldens import golden
from support.odd_bundles import write_odd_bundle
from support.values import blocks_of, out_tensors, values_of
from support.weights import write_bundle

ADAM = golden("tf2.21.0/adam/ckpt").path
EXPORT = golden("tf2.21.0/saved_model_export/model").path


def listed(*arguments: object) -> list[dict[str, str]]:
    """Return the rows of the listing as CSV has them."""
    result = run("ls", *arguments, "--format", "csv")
    assert (result.code, result.err) == (0, "")
    return list(csv.DictReader(io.StringIO(result.out, newline="")))


def names(*arguments: object) -> list[str]:
    return [row["name"] for row in listed(*arguments)]


def document(*arguments: object) -> dict[str, Any]:
    result = run("ls", *arguments, "--format", "json")
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out, parse_constant=pytest.fail)
    [found] = printed["results"]
    assert printed == {"schema": found["schema"], "results": [found], "refused": []}
    return dict(found)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Twelve layers out of order, an optimizer, a counter."""
    arrays: dict[str, Any] = {
        f"layer_{n}/{part}": np.zeros((n + 1, 2) if part == "kernel" else 2, np.float32)
        for n in (11, 2, 1, 10, 0)
        for part in ("kernel", "bias")
    }
    arrays["layer_0/kernel/Momentum"] = np.zeros((1, 2), np.float32)
    arrays["global_step"] = np.int64(7)
    arrays["names"] = np.array([b"a", b"b"], object)
    return write_bundle(tmp_path / "c", {k: np.asarray(v) for k, v in arrays.items()})


# --- forms ----------------------------------------------------------------------------------------


def test_the_table(layers: Path) -> None:
    result = run("ls", layers)
    assert (result.code, result.err) == (0, "")
    head, *rows = result.out.split("\n\n")[0].splitlines()
    assert head.split() == ["NAME", "DTYPE", "SHAPE", "PARAMS", "BYTES", "ROLE"]
    assert len(rows) == 13
    assert re.split(" +", rows[0]) == ["global_step", "int64", "scalar", "1", "8", "counter"]
    assert re.split(" +", rows[2]) == ["layer_0/kernel", "float32", "1,2", "2", "8", "weight"]
    column = head.index("DTYPE")
    assert {row[column - 2 : column] for row in rows} == {"  "}  # columns are aligned
    footer = result.out.split("\n\n")[1]
    assert "13 tensors" in footer
    assert "by role: " in footer
    assert "model-only size" in footer
    assert "dtypes: float32 ×11, int64 ×1, string ×1" in footer
    assert f"{layers}: tensor-bundle, name-based, shards 1/1" in footer


def test_every_form_lists_the_same(layers: Path) -> None:
    rows = listed(layers)
    parsed = document(layers)["tensors"]
    assert [row["name"] for row in rows] == [row["name"] for row in parsed]
    assert [int(row["bytes"].replace(",", "")) for row in rows] == [row["bytes"] for row in parsed]
    markdown = run("ls", layers, "--format", "markdown").out
    cells = [line.split("|")[1].strip() for line in markdown.splitlines() if line[:1] == "|"]
    assert cells[2:] == [row["name"] for row in rows]
    assert "\n- 13 tensors" in markdown


def test_csv_is_rows_alone(layers: Path) -> None:
    out = run("ls", layers, "--format", "csv").out
    assert out.splitlines()[0] == "name,dtype,shape,params,bytes,role,repeats"
    assert len(out.splitlines()) == 14


def test_long_adds_place_and_checksum(layers: Path) -> None:
    for row in listed(layers, "--long"):
        assert row["key"] == row["full_name"] or row["name"].endswith("@momentum")
        assert row["shard"] == "0"
        assert re.fullmatch("[0-9a-f]{8}", row["crc32c"])
    assert set(listed(layers, "-l")[0]) > {"key", "offset", "slices"}


def test_json_has_its_documented_keys(layers: Path) -> None:
    found = document(layers)
    assert found["schema"] == "ckptkit.ls/2"
    assert set(found) == {
        *("schema", "path", "subtree", "format", "style", "producer", "shards", "totals"),
        *("digest", "digests", "notes", "problems", "signatures", "tags", "assets", "ops"),
        *("layers", "tensors"),
    }
    assert found["shards"] == {"expected": 1, "found": 1}
    assert (found["path"], found["format"], found["style"]) == (
        str(layers),
        "tensor-bundle",
        "name-based",
    )
    rows = {row["key"]: row for row in found["tensors"]}
    assert set(rows["names"]) == {
        *("key", "name", "full_name", "aliases", "role", "role_inferred", "slot_of", "slot"),
        *(
            "duplicate_of",
            "dtype",
            "shape",
            "params",
            "bytes",
            "shard",
            "offset",
            "crc32c",
            "slices",
        ),
    }
    momentum = rows["layer_0/kernel/Momentum"]
    assert momentum["name"] == "layer_0/kernel@momentum"
    assert (momentum["role"], momentum["slot"]) == ("slot", "momentum")
    assert momentum["slot_of"] == "layer_0/kernel"
    assert momentum["shape"] == [1, 2]
    totals = found["totals"]
    assert totals["tensors"] == 13
    assert totals["bytes"] == sum(row["bytes"] for row in rows.values())
    assert totals["params"] == sum(r["params"] for r in rows.values() if r["role"] == "weight")
    assert {role: row["tensors"] for role, row in totals["by_role"].items()} == {
        "weight": 10,
        "slot": 1,
        "counter": 1,
        "table": 1,
    }


def test_json_lists_one_tensor_per_line(layers: Path) -> None:
    lines = run("ls", layers, "--format", "json").out.splitlines()
    assert len([line for line in lines if '"key": "layer_' in line]) == 11


def test_json_of_a_saved_model() -> None:
    found = document(EXPORT)
    assert found["format"] == "saved-model"
    assert found["producer"] == "TensorFlow 2.21.0"
    signatures = {signature["key"]: signature for signature in found["signatures"]}
    assert {"serve", "serving_default"} <= set(signatures)
    default = signatures["serving_default"]
    assert default["inputs"] == [{"name": "features", "dtype": "float32", "shape": [None, 3]}]
    assert default["outputs"] == [{"name": "output_0", "dtype": "float32", "shape": [None, 2]}]
    assert found["tags"] == [["serve"]]
    assert "MatMul" in found["ops"]


def test_the_table_of_a_saved_model() -> None:
    out = run("ls", EXPORT).out
    assert "signature serving_default(features: float32[?,3]) -> output_0: float32[?,2]" in out
    assert "stored twice: 2 tensors, 32 B wasted" in out
    rows = {row["name"]: row for row in listed(EXPORT)}
    assert {row["role"] for row in rows.values()} == {"weight"}
    assert rows["_all_variables/0"]["repeats"] == "scores/kernel"
    assert rows["scores/kernel"]["repeats"] == ""
    assert re.search(r"(?m)^_all_variables/0 .* weight \(repeats scores/kernel\)$", out)
    assert "(weight (repeats scores/bias))" in run("ls", EXPORT, "--tree").out


def test_an_empty_listing(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "c", bundle_items())
    for fmt in ("table", "csv", "markdown", "json"):
        for more in ([], ["--long"], ["--patterns"]):
            result = run("ls", prefix, "--format", fmt, *more)
            assert (result.code, result.err) == (0, "")
    assert "0 tensors, 0 params, 0 B" in run("ls", prefix).out
    assert run("ls", prefix, "--tree").code == 0


# --- order and filters ----------------------------------------------------------------------------


def test_natural_order(layers: Path) -> None:
    found = [name for name in names(layers) if name.endswith("bias")]
    assert found == [f"layer_{n}/bias" for n in (0, 1, 2, 10, 11)]
    assert sorted(["b10", "b9", "b", "a", "b9a2", "b09"], key=natural) == [
        *("a", "b", "b9", "b09", "b9a2", "b10")
    ]


def test_sorting(layers: Path) -> None:
    sizes = [int(row["bytes"].replace(",", "")) for row in listed(layers, "--sort", "size")]
    assert sizes == sorted(sizes, reverse=True)
    params = [int(row["params"].replace(",", "")) for row in listed(layers, "--sort", "params")]
    assert params == sorted(params, reverse=True)
    offsets = [int(row["offset"]) for row in listed(layers, "-l", "--sort", "offset")]
    assert offsets == sorted(offsets)
    assert len(set(offsets)) == len(offsets)
    with pytest.raises(UsageError, match="cannot sort by"):
        ckptkit.ls(layers, sort="colour")


def test_filters(layers: Path) -> None:
    every = set(names(layers))
    assert set(names(layers, "--role", "slot")) == {"layer_0/kernel@momentum"}
    both = set(names(layers, "--role", "slot,counter"))
    assert both == set(names(layers, "--role", "slot", "--role", "counter"))
    assert both == {"layer_0/kernel@momentum", "global_step"}
    assert set(names(layers, "--dtype", "int64,string")) == {"global_step", "names"}
    assert names(layers, "--name", "*bias") == [n for n in names(layers) if n.endswith("bias")]
    assert set(names(layers, "--name", "!layer_*")) == {"global_step", "names"}
    assert set(names(layers, "--name", "layer_?/*", "--name", "!*/bias")) == {
        *(f"layer_{n}/kernel" for n in (0, 1, 2)),
        "layer_0/kernel@momentum",
    }
    assert set(names(layers, "--name", "*/Momentum")) == {"layer_0/kernel@momentum"}  # its key
    assert set(names(layers, "--name", "*")) == every
    assert set(names(layers, "--name", "*bias", "--role", "weight", "--dtype", "float32"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--name", "nothing*"],
        ["--dtype", "float99"],
        ["--role", "ema"],
        ["--name", "*", "--name", "!*"],
        ["--name", "["],
    ],
)
def test_a_filter_that_leaves_nothing(layers: Path, arguments: list[str]) -> None:
    assert "no tensor passes the filter; the file holds 13" in refused("ls", layers, *arguments)


def test_the_dtypes_there_are_are_named(layers: Path) -> None:
    assert "(its dtypes are float32, int64, string)" in refused("ls", layers, "--dtype", "float23")
    assert "without a filter" in refused("ls", layers, "--dtype", "int64", "--role", "weight")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--role", "colour"],
        ["--sort", "colour"],
        ["--format", "xml"],
        ["--depth", "2"],
        ["--tree", "--depth", "0"],
        ["--tree", "--patterns"],
        ["--tree", "--long"],
        ["--patterns", "--long"],
        ["--tree", "--format", "csv"],
        ["--colour"],
        ["--no-path", "--format", "json"],
        ["--no-path", EXPORT],
    ],
)
def test_options_that_make_no_sense(layers: Path, arguments: list[str]) -> None:
    refused("ls", layers, *arguments)


def test_housekeeping_is_hidden_and_counted() -> None:
    out = run("ls", ADAM).out
    assert "22 tensors (not listed: 2 records of TensorFlow's own, see --all)" in out
    assert "_CHECKPOINTABLE_OBJECT_GRAPH" not in out
    everything = names(ADAM, "--all")
    assert len(everything) == 24
    assert {"save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"} <= set(everything)
    assert len(document(ADAM)["tensors"]) == 24


# --- several operands -----------------------------------------------------------------------------


def test_all_files_of_a_checkpoint_are_one_operand() -> None:
    files = sorted(ADAM.parent.iterdir())
    assert len(files) == 2
    one = run("ls", files[0])
    assert run("ls", *files) == one._replace(out=run("ls", ADAM).out)


def test_several_operands_are_listed_in_turn(layers: Path) -> None:
    both = run("ls", ADAM, layers, EXPORT)
    assert both.code == 0
    parts = [f"{path}:\n{run('ls', path).out}" for path in (ADAM, layers, EXPORT)]
    assert both.out == "\n".join(parts)
    documents = json_results("ls", ADAM, layers)
    assert documents == [document(ADAM), document(layers)]
    rows = listed(ADAM, layers)
    assert [row.pop("path") for row in rows] == [str(ADAM)] * 22 + [str(layers)] * 13
    assert rows == listed(ADAM) + listed(layers)
    assert run("ls", ADAM, layers, "--format", "markdown").out.count("\n## ") == 1
    trees = run("ls", ADAM, layers, "--tree", "--depth", "1").out
    assert trees == "\n".join(run("ls", p, "--tree", "--depth", "1").out for p in (ADAM, layers))


@pytest.mark.parametrize("fmt", ["text", "json", "jsonl", "csv", "markdown", "html"])
def test_an_operand_that_is_wrong_does_not_hide_the_others(layers: Path, fmt: str) -> None:
    result = run("ls", "/nowhere", layers, "/nor/here", "--format", fmt)
    assert result.code == 2
    assert "layer_11/kernel" in result.out
    assert result.err.count("\n") == 2 and "/nor/here" in result.err
    if fmt == "json":
        document = json.loads(result.out)
        assert len(document["results"]) == 1
        assert [text.partition(":")[0] for text in document["refused"]] == ["/nowhere", "/nor/here"]


def test_without_the_path(layers: Path) -> None:
    """What stands in git's textconv must not name a temporary file."""
    for options in ([], ["--tree"], ["--format", "markdown"]):
        assert str(layers) in run("ls", layers, *options).out
        assert str(layers) not in run("ls", layers, *options, "--no-path").out


# --- patterns, trees ------------------------------------------------------------------------------


def test_patterns(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"block_{n}/dense_{n}/kernel": (3, 2) for n in range(12)}
    shapes |= {f"head_{n}/kernel": (3, 2) for n in (1, 2, 5)} | {"block_3/odd": (7,), "x1": (2,)}
    arrays = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    prefix = write_bundle(tmp_path / "c", arrays)
    rows = {row["name"]: row for row in listed(prefix, "--patterns")}
    assert set(rows) == {
        "block_{0-11}/dense_{0-11}/kernel ×12",
        "head_{1,2,5}/kernel ×3",
        "block_3/odd",
        "x1",
    }
    assert rows["block_{0-11}/dense_{0-11}/kernel ×12"]["params"] == "72"
    assert rows["block_{0-11}/dense_{0-11}/kernel ×12"]["bytes"] == "288"


def test_patterns_keep_apart_what_differs(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "a1": np.zeros(2, np.float32),
        "a2": np.zeros(2, np.float64),
        "a3": np.zeros(3, np.float32),
        "a4": np.zeros(2, np.float32),
    }
    assert names(write_bundle(tmp_path / "c", arrays), "--patterns") == ["a{1,4} ×2", "a2", "a3"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (["a1", "a2"], "a{1-2}"),
        (["a1b1", "a2b1"], "a{1-2}b1"),
        (["a01", "a03"], "a{1,3}"),
        ([f"a{n}" for n in (1, 3, 5, 7, 9)], "a{1,3,5,7,…}"),
        (["1x", "2x"], "{1-2}x"),
    ],
)
def test_names_of_patterns(found: list[str], text: str) -> None:
    pattern = NamePattern()
    for name in found:
        pattern.add(name)
    assert pattern.text() == text


def test_tree(layers: Path) -> None:
    out = run("ls", layers, "--tree").out
    assert f"{layers}  (13 tensors" in out
    assert "├── layer_2/  (2 tensors" in out
    assert "│   ├── bias  float32 [2]\n" in out
    assert "kernel@momentum  float32 [1,2] (slot)" in out
    assert out.index("layer_2/") < out.index("layer_10/")
    shallow = run("ls", layers, "--tree", "--depth", "1").out
    assert "layer_10/  (2 tensors" in shallow
    assert "bias" not in shallow.split("\n\n")[0]
    assert "13 tensors" in shallow.split("\n\n")[1]


@pytest.mark.parametrize("key", ["a/" * 5000 + "b", "/" * 3000, "//x//", "/", "a/"])
def test_trees_of_odd_names(tmp_path: Path, key: str) -> None:
    arrays = {key: np.zeros(1), "plain": np.zeros(1), "a": np.zeros(1), "a/b": np.zeros(1)}
    result = run("ls", write_bundle(tmp_path / "c", arrays), "--tree")
    assert (result.code, result.err) == (0, "")
    assert "4 tensors" in result.out


# --- digests --------------------------------------------------------------------------------------


def digest_of(path: Path, *arguments: object) -> str:
    digest = document(path, "--digest", *arguments)["digest"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", digest)
    assert f"weights {digest}" in run("ls", path, "--digest", *arguments).out
    return str(digest)


def test_a_digest_depends_on_weights_alone(tmp_path: Path) -> None:
    tensors = {
        "a/kernel": ("float32", values_of("float32", (300, 4))),
        "a/bias": ("bfloat16", values_of("bfloat16", (4,))),
        "words": ("string", values_of("string", (5,))),
        "empty": ("int8", values_of("int8", (0, 3))),
        "scalar": ("complex64", values_of("complex64", ())),
    }
    reverse = dict(reversed(tensors.items()))
    paths = [tmp_path / name for name in ("one", "two", "three.safetensors", "four.npz")]
    write_tensor_bundle(paths[0], out_tensors(tensors), blocks_of(tensors))
    write_tensor_bundle(paths[1], out_tensors(reverse), blocks_of(reverse, 1000), shard_size=100)
    write_safetensors(paths[2], out_tensors(tensors), blocks_of(tensors))
    write_npz(paths[3], out_tensors(tensors), blocks_of(tensors))
    paths.append(write_odd_bundle(tmp_path / "five", tensors, big_endian=True, padding=3))
    parts = [[(0, 100), (0, 4)], [(100, 200), (0, 4)]]
    paths.append(write_odd_bundle(tmp_path / "six", tensors, slices={"a/kernel": parts}))
    numbers = [[path, "--dtype", "float32,bfloat16,int8,complex64"] for path in paths]
    assert len({digest_of(*arguments) for arguments in numbers}) == 1  # type: ignore[arg-type]
    assert len({digest_of(path, "--sort", "size") for path in paths[:2]}) == 1


def test_a_digest_sees_values_names_shapes_and_dtypes(tmp_path: Path) -> None:
    base = {"w": np.arange(6, dtype=np.float32)}
    others: list[dict[str, Any]] = [
        {"v": base["w"]},
        {"w": base["w"].reshape(2, 3)},
        {"w": base["w"].view(np.int32)},
        {"w": base["w"] + np.float32(1)},
        {"w": -base["w"]},  # -0.0 is not 0.0
        {**base, "x": base["w"]},
    ]
    found = [
        digest_of(write_bundle(tmp_path / f"c{number}", arrays))
        for number, arrays in enumerate([base, *others])
    ]
    assert len(set(found)) == len(found)


def test_a_digest_leaves_optimizers_out() -> None:
    whole = digest_of(ADAM)
    assert whole == digest_of(ADAM, "--role", "weight")
    assert whole != digest_of(ADAM, "--role", "weight", "--name", "!*bias")


def test_a_digest_verifies(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "c", {"w": np.zeros(4, np.float32)})
    shard = Path(f"{prefix}.data-00000-of-00001")
    shard.write_bytes(b"\1" * 16)
    with pytest.raises(ChecksumError):
        ckptkit.ls(prefix, digest=True)
    refused("ls", prefix, "--digest")
    shard.unlink()
    refused("ls", prefix, "--digest")


# --- what people should know ----------------------------------------------------------------------


def test_warnings() -> None:
    assert "reachable only through an optimizer" in run("ls", golden("tf2.21.0/list/ckpt").path).out
    assert "warning" not in run("ls", ADAM).out


def test_slots_and_weights_that_count_up_are_no_warning() -> None:
    """Two towers whose layers are called alike: full names tell no weight of a slot apart."""
    listing = ckptkit.ls(golden("tf2.15.1/towers/ckpt").path)
    assert listing.totals["slots_without_variable"] == listing.slots_of_missing_weights == 0
    assert "warning" not in run("ls", golden("tf2.15.1/towers/ckpt").path).out


def test_inferred_roles_are_marked() -> None:
    path = golden("tf2.15.1/estimator_canned/model.ckpt-1").path
    assert "slot (inferred)" in run("ls", "--long", path).out
    assert "inferred" not in run("ls", path).out
    marked = {row["role_inferred"] for row in document(path)["tensors"] if row["role"] == "slot"}
    assert marked == {True}
    assert not any(row["role_inferred"] for row in document(ADAM)["tensors"])


def test_a_listing_says_when_roles_are_guesses(tmp_path: Path) -> None:
    for path in ADAM.parent.iterdir():
        if ".index" in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    result = run("ls", tmp_path / ADAM.name)
    assert result.code == 2
    assert "roles are guessed from keys" in result.out
    assert "optimizer/_trainable_variables/1" in result.out


HOSTILE = "a\x1b[31mred\x1b]0;title\x07/\n\r\t\x00b\u202egnp\u200b\ud7ff\x7f\x9b"


def test_names_never_reach_the_terminal_raw(tmp_path: Path) -> None:
    prefix = write_index(
        tmp_path / "c", bundle_items(**{HOSTILE: entry(), "b|c": entry(offset=8)}), bytes(16)
    )
    for more in ([], ["--long"], ["--tree"], ["--patterns"], ["--format", "markdown"]):
        out = run("ls", prefix, *more).out
        assert ("\\\\x1b\\[31mred" if "markdown" in more else "\\x1b[31mred") in out
        assert all(c.isprintable() or c == "\n" for c in out), more
    assert [row["key"] for row in document(prefix)["tensors"]] == [HOSTILE, "b|c"]
    assert run("ls", prefix, "--format", "json").out.isascii()
    assert names(prefix)[1] == "b|c"
    assert "b\\|c" in run("ls", prefix, "--format", "markdown").out
    result = run("show", prefix, HOSTILE.replace("\x00", "?"))
    assert all(c.isprintable() or c == "\n" for c in result.err)


def test_strings_of_the_file_never_reach_the_terminal_raw(tmp_path: Path) -> None:
    values = np.array([b"\x1b[2J", "\u202e".encode(), b"\xff\x00"], object)
    prefix = write_bundle(tmp_path / "c", {"s": values})
    out = run("show", prefix, "s").out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "\\x1b[2J" in out
    assert "\\xff" in out


def test_one_param_is_called_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", scale=np.float32(2))
    assert "1 tensor, 1 param, 4 B" in run("ls", tmp_path / "one.npz").out
