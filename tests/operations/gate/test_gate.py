"""Each rule of a policy passes and fails, with the verdict of the command that answers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.fixtures.sample import write_sample
from ckptkit.operations.gate.policy import SETTINGS
from ckptkit.operations.gate.rules import RULES
from support.command_line import ckptkit as run
from support.command_line import refused


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "sample"
    write_sample(folder)
    data = bytearray((folder / "after.keras").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "damaged.keras").write_bytes(bytes(data))
    return folder


def policy(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_has_a_rule() -> None:
    for table, rules in RULES.items():
        assert "" in rules or rules.keys() == SETTINGS[table].keys()
    assert RULES.keys() == SETTINGS.keys()


# (rule, a policy that after.keras passes, one that it fails, the command alone)
CASES = [
    ("formats", 'formats = ["keras", "npz"]', 'formats = ["npz"]'),
    ("max-size", 'max-size = "1 MB"', "max-size = 1000"),
    ("max-parameters", "max-parameters = 99", "max-parameters = 98"),
    ("dtypes", 'dtypes = ["float32"]', 'dtypes = ["bfloat16"]'),
]


@pytest.mark.parametrize(("key", "passes", "fails"), CASES, ids=[case[0] for case in CASES])
def test_rules_of_the_model(files: Path, key: str, passes: str, fails: str) -> None:
    model = files / "after.keras"
    assert ckptkit.gate(model, policy(files, f"[model]\n{passes}\n")).exit_code == 0
    report = ckptkit.gate(model, policy(files, f"[model]\n{fails}\n"))
    assert report.exit_code == 1
    assert [unit.format for unit in report.units] == [f"model.{key}"]
    assert "ckptkit" in report.findings[0].hint or key == "formats"


def test_optimizer_state(files: Path, tmp_path: Path) -> None:
    rule = policy(files, "[model]\noptimizer-state = false\n")
    assert ckptkit.gate(files / "after.keras", rule).exit_code == 1
    ckptkit.convert(files / "after.keras", tmp_path / "w.safetensors", weights_only=True)
    assert ckptkit.gate(tmp_path / "w.safetensors", rule).exit_code == 0


def test_nonfinite(files: Path, tmp_path: Path) -> None:
    import numpy as np

    rule = policy(files, "[model]\nnonfinite = false\n")
    assert ckptkit.gate(files / "after.keras", rule).exit_code == 0
    np.savez(tmp_path / "bad.npz", w=np.array([[1.0, np.nan], [np.inf, 2.0]], "float32"))
    report = ckptkit.gate(tmp_path / "bad.npz", rule)
    assert report.exit_code == 1
    assert "w (2 of 4)" in report.findings[0].message


@pytest.mark.parametrize("command", ["verify", "scan"])
@pytest.mark.parametrize("name", ["after.keras", "damaged.keras", "run/ckpt-2"])
def test_the_verdict_is_that_of_the_command(files: Path, command: str, name: str) -> None:
    code = run(command, files / name).code
    rule = policy(files, f"[{command}]\n")
    try:
        assert ckptkit.gate(files / name, rule).exit_code == code
    except ckptkit.CkptkitError:  # a model that cannot be listed is none to judge
        assert code != 0


def test_codes_of_scan_can_be_allowed(files: Path, tmp_path: Path) -> None:
    import pickle
    import zipfile

    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"f": len}, protocol=2))
    assert ckptkit.gate(path, policy(files, "[scan]\n")).exit_code == 1
    assert ckptkit.gate(path, policy(files, '[scan]\nallow = ["pickle.unknown"]\n')).exit_code == 0


@pytest.mark.parametrize("key", ["config", "weights"])
def test_rules_of_the_baseline(files: Path, key: str) -> None:
    rule = policy(files, f'[baseline]\n{key} = "same"\n')
    after, before = files / "after.keras", files / "before.keras"
    assert ckptkit.gate(after, rule, baseline=after).exit_code == 0
    assert ckptkit.gate(after, rule, baseline=before).exit_code == 1
    options = ["--config"] if key == "config" else ["--role", "weight"]
    assert run("diff", before, after, *options).code == 1


def test_signatures_of_the_baseline(files: Path) -> None:
    rule = policy(files, '[baseline]\nsignature = "compatible"\n')
    assert ckptkit.gate(files / "export", rule, baseline=files / "export").exit_code == 0
    keras = ckptkit.gate(files / "run" / "ckpt-2", rule, baseline=files / "run" / "ckpt-1")
    assert keras.exit_code == 2
    assert "nothing beside tensors is in both files" in str(keras.refusals[0])
    mixed = ckptkit.gate(files / "after.keras", rule, baseline=files / "before.keras")
    assert "no signatures to compare" in str(mixed.refusals[0])
    same = policy(files, '[baseline]\nweights = "same"\n')
    run_2 = files / "run" / "ckpt-2"
    assert ckptkit.gate(run_2, same, baseline=files / "run" / "ckpt-1").exit_code == 1
    assert ckptkit.gate(run_2, same, baseline=run_2).exit_code == 0


def test_a_baseline_that_was_not_given_could_not_be_told(files: Path) -> None:
    report = ckptkit.gate(files / "after.keras", policy(files, '[baseline]\nweights = "same"\n'))
    assert report.exit_code == 2


def test_digest(files: Path) -> None:
    model = files / "after.keras"
    digest = ckptkit.open(model).digest("weights")
    assert ckptkit.gate(model, policy(files, f'[digest]\nlisted = ["{digest}"]\n')).exit_code == 0
    assert ckptkit.gate(model, policy(files, '[digest]\nlisted = ["sha256:0"]\n')).exit_code == 1
    (files / "digests.txt").write_text(f"# ours\n{digest}  after.keras\n", encoding="utf-8")
    assert ckptkit.gate(model, policy(files, '[digest]\nfile = "digests.txt"\n')).exit_code == 0
    (files / "digests.txt").write_text("# none yet\n", encoding="utf-8")
    assert ckptkit.gate(model, policy(files, '[digest]\nfile = "digests.txt"\n')).exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[modell]\n", "did you mean 'model'"),
        ("[model]\nmax-sise = 1\n", "did you mean 'max-size'"),
        ("[model]\nmax-size = -1\n", "takes a size"),
        ("[model]\nmax-size = true\n", "takes a size"),
        ("[model]\ndtypes = []\n", "takes a list of dtypes"),
        ("[model]\noptimizer-state = true\n", "true asks for nothing"),
        ('[baseline]\nconfig = "compatible"\n', "takes one of"),
        ("model = 1\n", "'model' is a table of rules"),
        ("[[model]]\n", "'model' is a table of rules"),
        ("[model]\n[verify]\n", "[model] is empty"),
        ("[verify]\n[baseline]\n", "[baseline] is empty"),
        ("[model\n", "not a TOML file"),
        ("", "a policy without rules"),
        ('[model]\nformats = ["kerass"]\n', "takes a list of formats"),
        ('[model]\ndtypes = ["float31"]\n', "takes a list of dtypes"),
        ('[model]\ndtypes = ["flaot32"]\n', "takes a list of dtypes"),
        ('[model]\ndtypes = ["float"]\n', "takes a list of dtypes"),
        ('[digest]\npart = "weigths"\nlisted = ["a"]\n', "[digest] part takes one of"),
        ('[digest]\npart = "weights"\n[model]\nmax-parameters = 1\n', "needs `listed` or `file`"),
        ('[golden]\non = ["CPU:0"]\n[model]\nmax-parameters = 1\n', "[golden] needs `path`"),
    ],
)
def test_what_no_policy_has(files: Path, text: str, said: str) -> None:
    line = refused("gate", files / "after.keras", "--policy", policy(files, text))
    assert said in line


def test_a_baseline_that_nothing_compares_with(files: Path) -> None:
    rule = policy(files, "[verify]\n")
    line = refused("gate", files / "after.keras", "--policy", rule, "--baseline", files / "export")
    assert "no table [baseline]: --baseline would do nothing" in line


@pytest.mark.parametrize("content", [b"\xff\xfe\n", None])
def test_a_list_of_digests_that_is_none(files: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "digests.txt").write_bytes(content)
    rule = policy(files, f'[digest]\nfile = "{tmp_path / "digests.txt"}"\n')
    report = run("gate", files / "after.keras", "--policy", rule)
    assert report.code == 2
    assert "digest: could not be told: " in report.out
    assert "digests.txt" in report.out


def test_no_weights_pass_no_rule_on_weights(files: Path, tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "none.npz")
    for rule in ("nonfinite = false", 'dtypes = ["float32"]'):
        text = f"[model]\n{rule}\n"
        report = ckptkit.gate(tmp_path / "none.npz", policy(files, text))
        assert report.exit_code == 2, rule


def test_a_first_policy_is_passed(files: Path) -> None:
    for name in ("after.keras", "run/ckpt-2", "export"):
        text = run("gate", files / name, "--init").out
        assert ckptkit.gate(files / name, policy(files, text)).exit_code == 0


def test_a_first_policy_of_what_is_not_read_or_not_there(tmp_path: Path) -> None:
    def saved(header: dict[str, Any], nbytes: int) -> Path:
        packed = json.dumps(header).encode()
        model = tmp_path / f"{nbytes}.safetensors"
        model.write_bytes(len(packed).to_bytes(8, "little") + packed + bytes(nbytes))
        return model

    unread = saved({"w": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, 3)
    text = run("gate", unread, "--init").out
    assert 'dtypes = ["float6_e2m3fn"]\n' in text
    assert ckptkit.gate(unread, policy(tmp_path, text)).exit_code == 0
    none = saved({}, 0)
    text = run("gate", none, "--init").out
    report = ckptkit.gate(none, policy(tmp_path, text))  # a policy all the same
    assert [unit.format for unit in report.units if unit.refusal is not None] == ["verify", "scan"]


@pytest.mark.parametrize("dtype", ["complex32", "bits2x4", "void24", "dtype#77", "zarr#<M8[ns]"])
def test_dtypes_that_formats_may_add(files: Path, dtype: str) -> None:
    rule = policy(files, f'[model]\ndtypes = ["{dtype}"]\n')
    assert ckptkit.gate(files / "after.keras", rule).exit_code == 1  # told by the rule


def test_a_first_policy_goes_where_it_is_told_to(files: Path, tmp_path: Path) -> None:
    model, rules = files / "after.keras", tmp_path / "first.toml"
    before = model.read_bytes()
    assert run("gate", model, "--init", "-o", rules).out == ""
    assert rules.read_text(encoding="utf-8") == run("gate", model, "--init").out
    assert "would be written over" in refused("gate", model, "--init", "-o", model)
    assert model.read_bytes() == before
    assert "--policy would do nothing" in refused("gate", model, "--init", "--policy", rules)
    assert "--format would do nothing" in refused("gate", model, "--init", "-f", "json")


def test_forms_of_the_report(files: Path) -> None:
    model = files / "after.keras"
    rule = policy(files, "[model]\nmax-parameters = 1\n[verify]\n")
    [result] = json.loads(run("gate", model, "--policy", rule, "-f", "json").out)["results"]
    assert [row["passed"] for row in result["units"]] == [False, True]
    assert result["units"][0]["command"].startswith("ckptkit ls")
    assert "<failure" in run("gate", model, "--policy", rule, "-f", "junit").out
    assert "::error" in run("gate", model, "--policy", rule, "-f", "github").out
    assert "gate.parameters" in run("gate", model, "--policy", rule, "-f", "sarif").out
    assert (
        "does not pass: 1 of 2 rules passed, 1 failed" in run("gate", model, "--policy", rule).out
    )
    assert run("gate", model, "--policy", rule, "-q").out == ""


@pytest.mark.slow
@pytest.mark.needs_tf
def test_outputs_as_recorded(files: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    assert run("record", files / "after.keras", "-o", golden).code == 0
    rule = policy(tmp_path, '[golden]\npath = "golden"\n')
    assert ckptkit.gate(files / "after.keras", rule).exit_code == 0
    report = ckptkit.gate(files / "before.keras", rule)
    assert report.exit_code == 1
    assert "check" in report.findings[0].hint
