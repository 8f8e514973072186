"""Map rules that move values: what they make, that they come back, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit
from ckptkit.align.rules import exact_rule, parse_rule
from ckptkit.align.transforms import Transform, parse_transform
from ckptkit.cli.main import cli
from ckptkit.errors import OutputError, UsageError
from ckptkit.operations.convert.api import MismatchError, convert
from support.goldens import golden
from support.values import same_bits, values_of
from support.weights import write_bundle

ADAM = golden("tf2.21.0/adam/ckpt").path
A = np.arange(24, dtype=np.float32).reshape(4, 6)


def read(path: Path) -> dict[str, Any]:
    return {name: array for name, array in ckptkit.open(path).items() if "OBJECT" not in name}


def one(tmp_path: Path, array: Any, *rules: str, **options: Any) -> dict[str, Any]:
    """Return what becomes of a tensor `w` under the rules."""
    source = tmp_path / "src"
    if not Path(f"{source}.index").exists():
        write_bundle(source, {"w": array})
    done = convert(source, tmp_path / "out.safetensors", rules=rules, **options)
    assert done.ok and done.proof is not None and done.proof.tensors == len(done.plan.tensors)
    return read(tmp_path / "out.safetensors")


def test_terms_of_a_sum(tmp_path: Path) -> None:
    B = A.astype(np.float32) / 3
    write_bundle(tmp_path / "src", {"w": A, "v": B})
    rules = ["^v$=>s | transpose | add 2/2", "^w$=>s | transpose | add 1/2"]
    assert np.array_equal(one(tmp_path, A, *rules)["s"], (A + B).T)
    with pytest.raises(MismatchError, match="term 2/2 of s: no rule sends"):
        one(tmp_path, A, rules[1], overwrite=True)
    with pytest.raises(UsageError, match="no map leads back"):
        convert(
            tmp_path / "src",
            tmp_path / "back.npz",
            rules=rules,
            inverse=tmp_path / "back.map",
        )
    write_bundle(tmp_path / "words", {"a": A.astype(np.int32), "b": A.astype(np.int32)})
    with pytest.raises(UsageError, match="int32 values are not added"):
        convert(tmp_path / "words", tmp_path / "o.npz", rules=["a=>s | add 1/2", "b=>s | add 2/2"])


# -- what each step means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("transpose", A.T),
        ("transpose 1,0", A.T),
        ("reshape 2,-1", A.reshape(2, 12)),
        ("reshape 24", A.reshape(24)),
        ("blocks 01=10", np.concatenate([A[2:], A[:2]])),
        ("blocks zrh=rzh on 1", A[:, [2, 3, 0, 1, 4, 5]]),
        ("blocks zrh=hzr on 1", A[:, [4, 5, 0, 1, 2, 3]]),
        ("transpose | reshape 2,3,2,2 | transpose 3,1,0,2", A.T.reshape(2, 3, 2, 2)),
    ],
)
def test_steps(steps: str, expected: Any, tmp_path: Path) -> None:
    if "3,1,0,2" in steps:
        expected = expected.transpose(3, 1, 0, 2)
    assert same_bits(one(tmp_path, A, f"^w$ => v | {steps}")["v"], expected)


def test_one_tensor_becomes_several_and_they_become_one(tmp_path: Path) -> None:
    parts = one(tmp_path, A, *(f"w=>part{n} | part {n}/3 on 1 | transpose" for n in (1, 2, 3)))
    assert {name: array.tolist() for name, array in parts.items()} == {
        f"part{n + 1}": A[:, 2 * n : 2 * n + 2].T.tolist() for n in range(3)
    }
    rules = [f"part{n}=>w | transpose | into {n}/3 on 1" for n in (3, 1, 2)]
    convert(tmp_path / "out.safetensors", tmp_path / "back.npz", rules=rules)
    assert same_bits(read(tmp_path / "back.npz")["w"], A)


def test_the_last_rule_that_fits_decides(tmp_path: Path) -> None:
    assert one(tmp_path, A, "w=>v | transpose", "w=>v")["v"].shape == (4, 6)
    (tmp_path / "b").mkdir()
    assert one(tmp_path / "b", A, "w=>v", "w=>v | transpose")["v"].shape == (6, 4)


# -- there and back -------------------------------------------------------------------------------


@st.composite
def moved(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """Draw an array, and the steps of one tensor or of the parts that it is cut into."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from(["float32", "bfloat16", "int8", "bool", "complex64", "string"]))
    array = values_of(dtype, shape, draw(st.integers(0, 9)))
    axis = draw(st.integers(0, len(shape) - 1))
    counts = [n for n in (1, 2, 3) if shape[axis] % n == 0]
    of = draw(st.sampled_from(counts))
    cut = (*shape[:axis], shape[axis] // of, *shape[axis + 1 :])
    steps = draw(chains(cut))
    parts = [[f"part {n}/{of} on {axis}", *steps] if of > 1 else steps for n in range(1, of + 1)]
    return array, [" | ".join(part) for part in parts]


@st.composite
def chains(draw: st.DrawFn, shape: tuple[int, ...]) -> list[str]:
    found: list[str] = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["transpose", "axes", "reshape", "blocks"]))
        axis = draw(st.integers(0, len(shape) - 1))
        if kind == "axes":
            axes = draw(st.permutations(range(len(shape))))
            step = f"transpose {','.join(map(str, axes))}"
        elif kind == "reshape":
            size = draw(st.sampled_from([n for n in (1, 2, 3, 4) if math.prod(shape) % n == 0]))
            step = f"reshape {size},-1"
        elif kind == "blocks":
            letters = "ifco"[: max(n for n in (1, 2, 3, 4) if shape[axis] % n == 0)]
            order = draw(st.permutations(list(letters)))
            step = f"blocks {letters}={''.join(order)} on {axis}"
        else:
            step = "transpose"
        found.append(step)
        shape = parse_transform([step]).shape(shape)
    return found


@settings(max_examples=60)
@given(drawn=moved(), form=st.sampled_from(["safetensors", "npz", "checkpoint"]))
def test_the_inverse_map_leads_back_to_the_same_bits(
    drawn: tuple[Any, list[str]], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array, parts = drawn
    root = tmp_path_factory.mktemp("moved")
    source = write_bundle(root / "src", {"net/w": array, "net/b|c =>": np.ones(3, np.int32)})
    rules = [f"^net/w$=>v{n}" + (f" | {steps}" if steps else "") for n, steps in enumerate(parts)]
    middle, inverse = root / f"m.{form}" if form != "checkpoint" else root / "m", root / "back.map"
    done = convert(source, middle, to=form, rules=rules, inverse=inverse)
    assert done.ok and done.proof is not None and done.proof.tensors == len(parts) + 1
    there = read(middle)
    for n, steps in enumerate(parts):
        expected = parse_transform(steps.split("|")).apply(array) if steps else array
        assert same_bits(there[f"v{n}"].reshape(-1), expected.reshape(-1))
    lines = inverse.read_text().splitlines()
    assert len(lines) == len(parts)
    back = convert(middle, root / "back", like=source, rules=lines)
    assert back.ok
    before, after = read(source), read(root / "back")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)


def test_a_transform_and_its_inverse_cancel() -> None:
    transform = parse_transform(
        ["part 2/2", "transpose 2,0,1", "reshape 4,-1", "blocks abcd=dbca", "into 1/3 on 1"]
    )
    shape = (4, 4, 2)
    back = transform.inverse(shape)
    assert str(back) == (
        "part 1/3 on 1 | blocks dbca=abcd | reshape 2,2,4 | transpose 1,2,0 | into 2/2"
    )
    assert str(back.inverse(transform.shape(shape))) == (
        "part 2/2 | transpose 2,0,1 | reshape 4,4 | blocks abcd=dbca | into 1/3 on 1"
    )
    assert not Transform() and Transform().inverse((3,)) == Transform()


@pytest.mark.parametrize("name", ["a|b", "a=>b", r"a\1", " a ", "a b", "a.b[c]", "a$", "ü/é"])
def test_an_exact_rule_fits_its_name_alone(name: str) -> None:
    rule = parse_rule(exact_rule(name, name[::-1], parse_transform(["transpose"])), transforms=True)
    assert rule.apply(name) == name[::-1] and rule.transform
    assert rule.apply(f"{name}x") is None and rule.apply(f"x{name}") is None


def test_slots_go_with_their_variable(tmp_path: Path) -> None:
    kernel = "hidden/kernel"
    rules = [f"^{kernel}$=>hidden.weight | transpose"]
    done = convert(ADAM, tmp_path / "t.safetensors", rules=rules, inverse=tmp_path / "back")
    assert done.ok
    old, new = read(ADAM), read(tmp_path / "t.safetensors")
    for suffix in ("", "@momentum", "@velocity"):
        assert same_bits(new[f"hidden.weight{suffix}"], old[kernel + suffix].T)
    names = ckptkit.open(tmp_path / "t.safetensors").names
    assert names["hidden.weight@momentum"].slot_of == "hidden.weight"
    text = (tmp_path / "back").read_text()
    assert text.count("transpose") == 3
    back = convert(
        tmp_path / "t.safetensors", tmp_path / "back2", like=ADAM, rules=text.splitlines()
    )
    assert back.ok and ckptkit.diff(ADAM, tmp_path / "back2", roles=["all"], bitwise=True).same


def test_a_transform_in_the_structure_of_another(tmp_path: Path) -> None:
    arrays = {"fc.weight": A.T.copy(), "fc.bias": np.ones(6, "f4")}
    like = write_bundle(tmp_path / "like", {name: a * 0 for name, a in arrays.items()})
    source = write_bundle(tmp_path / "src", {"dense/kernel": A, "dense/bias": arrays["fc.bias"]})
    rules = ["dense/kernel=>fc.weight | transpose", "dense/bias=>fc.bias"]
    done = convert(source, tmp_path / "out", like=like, rules=rules, casts=())
    assert done.ok and same_bits(read(tmp_path / "out")["fc.weight"], arrays["fc.weight"])
    with pytest.raises(MismatchError, match=r"kernel is \(4, 6\) in \S+, fc.weight is \(6, 4\)"):
        convert(source, tmp_path / "no", like=like, rules=["dense/kernel=>fc.weight", rules[1]])
    with pytest.raises(MismatchError, match=r"is \(3, 8\) in \S+, after `reshape 3,8`, fc.weight"):
        convert(
            source,
            tmp_path / "no",
            like=like,
            rules=["^dense.kernel$=>fc.weight|reshape 3,8", rules[1]],
        )


def test_transforms_casts_and_averages_together(tmp_path: Path) -> None:
    paths = [write_bundle(tmp_path / f"c{n}", {"w": A + n}) for n in range(3)]
    rules = [f"w=>v{n} | part {n}/2 | transpose" for n in (1, 2)]
    done = convert(paths, tmp_path / "o.npz", rules=rules, casts=["float32=float16"])
    assert done.ok and done.proof is not None and len(done.proof.losses) == 2
    new = read(tmp_path / "o.npz")
    assert same_bits(np.concatenate([new["v1"].T, new["v2"].T]), (A + 1).astype("f2"))


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("w=>v | turn", "'turn' is no transform"),
        ("w=>v | ", "'' is no transform"),
        ("w=>v | transpose 0,0", "does not name each axis once"),
        ("w=>v | reshape -1,-1", "only one size"),
        ("w=>v | blocks aab=aba", "the same blocks"),
        ("w=>v | blocks ab=abc", "the same blocks"),
        ("w=>v | part 3/2", "from 1 to 2"),
        ("w=>v | transpose | part 1/2", "only be the first"),
        ("w=>v | into 1/2 | transpose", "only be the last"),
        ("w=>v | transpose 0,1,2", "does not fit 2 axes"),
        ("w=>v | reshape 5,5", "does not hold 24 elements"),
        ("w=>v | reshape 0,-1", "does not hold 24 elements"),
        ("w=>v | blocks abcde=edcba", "axis 0 of 4 is not 5 equal blocks"),
        ("w=>v | part 1/2 on 2", "needs an axis 2, and there are 2"),
    ],
)
def test_bad_transforms_are_refused(rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        one(tmp_path, A, rule)
    assert not (tmp_path / "out.safetensors").exists()


def test_parts_without_a_place_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"part 2/3 of w of \S+: no rule takes it"):
        one(tmp_path, A, "w=>v1 | part 1/3 on 1", "w=>v3 | part 3/3 on 1")
    with pytest.raises(MismatchError, match="part 2/2 of v: no rule sends a tensor there"):
        one(tmp_path, A, "w=>v | into 1/2")
    with pytest.raises(UsageError, match="not of one number"):
        one(tmp_path, A, "w=>v1 | part 1/2", "w=>v2 | part 2/2 on 1")
    with pytest.raises(UsageError, match="send both w and w to v"):
        one(tmp_path, A, "w=>v | part 1/2", "w=>v | part 2/2")
    source = write_bundle(tmp_path / "two", {"a": A, "b": A[:, :2], "c": A.astype("f8")})
    for rules, message in (
        (["a=>v | into 1/2", "b=>v | into 2/2"], "differ in dtype or shape"),
        (["a=>v | into 1/2", "c=>v | into 2/2"], "differ in dtype or shape"),
        (["a=>v | into 1/2", "c=>v | into 1/2"], "send both a and c to v"),
        (["a=>v | into 1/2", "c=>v | into 2/3"], "not of one number"),
    ):
        with pytest.raises(UsageError, match=message):
            convert(source, tmp_path / "x.npz", rules=rules)


def test_diff_takes_no_transforms() -> None:
    with pytest.raises(UsageError, match="only `ckptkit convert` transforms"):
        ckptkit.diff(ADAM, ADAM, rules=["a=>b | transpose"])


def test_a_wrong_transform_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof moves the output back; it does not repeat what the writer did."""
    from ckptkit.align.transforms import Transpose

    real = Transpose.apply

    def wrong(self: Transpose, array: Any) -> Any:
        right = real(self, array)
        return right[::-1] if array.shape == (4, 6) else right

    monkeypatch.setattr(Transpose, "apply", wrong)
    source = write_bundle(tmp_path / "src", {"w": A})
    done = convert(source, tmp_path / "out.npz", rules=["w=>v | transpose"])
    assert not done.ok and not (tmp_path / "out.npz").exists()
    assert "w: 24 of 24 elements are not those of the source" in done.proof.failures[0]  # type: ignore[union-attr]


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_the_way_back(tmp_path: Path) -> None:
    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(cli, ["convert", *map(str, arguments)])

    rules = tmp_path / "torch.map"
    rules.write_text("# Keras to PyTorch\n^hidden/kernel$ => hidden.weight | transpose\n")
    out, back = tmp_path / "w.safetensors", tmp_path / "back.map"
    options = ("--map-from", rules, "--weights-only", "--inverse", back)
    dry = invoke(ADAM, out, *options, "--dry-run")
    assert dry.exit_code == 0 and "transpose" in dry.output and not out.exists()
    assert back.read_text() == r"^hidden\.weight$=>hidden/kernel | transpose" + "\n"
    with pytest.raises(OutputError, match="already exists"):
        convert(ADAM, out, inverse=back)
    assert invoke(ADAM, out, *options, "--overwrite").exit_code == 0
    again = invoke(out, tmp_path / "again", "--like", ADAM, "--map-from", back, "--weights-only")
    assert again.exit_code == 0, again.output
    assert ckptkit.diff(ADAM, tmp_path / "again", roles=["weight"], bitwise=True).same
