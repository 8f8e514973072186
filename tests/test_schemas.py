"""docs/schemas: a JSON Schema for what each command prints, and nothing printed that it lacks.

Whatever other tests print with `--format json` is held to these schemas as well, by the helper that
runs commands (`support/command_line.py`).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import ckptkit as ckptkit_package
from ckptkit.operations.check.audit import AuditedFault, ToleranceAudit
from ckptkit.operations.check.report import Report
from ckptkit.operations.golden import import_golden
from support.command_line import ckptkit
from support.damage import flip
from support.goldens import GOLDEN
from support.places import DOCS
from support.schemas import FOLDER, refused, schemas, without_unnamed

PACKAGE = Path(ckptkit_package.__file__).parent
ADAM = GOLDEN / "tf2.21.0/adam/ckpt"
EXPORT = GOLDEN / "tf2.21.0/saved_model_export/model"
KERAS = GOLDEN / "tf2.21.0/files_nested/model.keras"
OLD = GOLDEN / "tf2.15.1/files_nested/model.keras"


def kinds() -> set[str]:
    """Return the names of all documents that the package makes."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    return set(re.findall(r'"(ckptkit\.[a-z]+/\d+)"', text))


def test_every_document_has_its_schema() -> None:
    assert schemas().keys() == kinds()
    for title, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert (FOLDER / f"{title.removeprefix('ckptkit.').replace('/', '-')}.json").exists()


def properties(schema: Any) -> Iterator[str]:
    """Yield the names of all fields in a schema."""
    if isinstance(schema, list):
        for item in schema:
            yield from properties(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield from schema["properties"]
        for item in schema.values():
            yield from properties(item)


def test_the_reference_links_every_schema() -> None:
    page = (DOCS / "json.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(schemas/([\w-]+\.json)\)", page)
    assert sorted(linked) == sorted(path.name for path in FOLDER.glob("*.json"))


def test_fields_of_the_schemas_are_in_the_reference() -> None:
    pages = [DOCS / name for name in ("json.md", "diff.md", "convert.md", "upgrade.md", "gate.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    lacking = {name: sorted({*properties(schema)} - named) for name, schema in schemas().items()}
    assert {name: fields for name, fields in lacking.items() if fields} == {}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a damaged checkpoint, a text that is none, and a policy."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(ADAM.parent, folder / "damaged")
    with ckptkit_package.open(ADAM) as checkpoint:
        spec = checkpoint.specs[checkpoint.key("hidden/kernel")]
    assert spec.offset is not None
    flip(folder / "damaged/ckpt.data-00000-of-00001", 8 * spec.offset)
    shutil.copytree(ADAM.parent, folder / "short")
    (folder / "short/ckpt.data-00000-of-00001").unlink()
    (folder / "text.keras").write_text("no archive", encoding="utf-8")
    policy = "[model]\nmax-parameters = 1\n[verify]\n[scan]\n"
    (folder / "policy.toml").write_text(policy, encoding="utf-8")
    return folder


# Arguments, where @ is the directory of the fixture, and the exit code; with 2 there may be nothing
# to print.
CASES: list[tuple[str, int]] = [
    (f"ls {ADAM}", 0),
    (f"ls {ADAM} --stats --digest=weights,model --all", 0),
    (f"ls {EXPORT} {KERAS}", 0),
    (f"ls @/short/ckpt {ADAM} @/none @/text.keras", 2),
    (f"ls -r @ {GOLDEN}/tf2.21.0/adam --digest", 2),
    (f"show {ADAM} hidden/kernel save_counter", 0),
    (f"show {ADAM} no/such", 2),
    (f"diff {ADAM} {ADAM}", 0),
    (f"diff {ADAM} {EXPORT}", 1),
    (f"diff {OLD} {KERAS} --config", 1),
    (f"diff {ADAM} {EXPORT} --quick", 1),
    (f"verify {ADAM} {EXPORT} {KERAS}", 0),
    ("verify @/damaged/ckpt @/text.keras @/none", 1),
    ("verify @/damaged", 1),
    (f"scan {EXPORT} {KERAS} {ADAM}", 0),
    ("scan @/text.keras", 2),
    (f"needs {OLD} {EXPORT} {ADAM}", 1),
    ("needs @/text.keras", 2),
    (f"gate {KERAS} --policy @/policy.toml", 1),
    (f"gate {ADAM} --policy @/policy.toml", 1),
    (f"history {ADAM} {EXPORT}", 0),
    (f"history {ADAM} @/damaged/ckpt", 1),
    (f"convert {ADAM} @/w.safetensors --weights-only --overwrite", 0),
    (f"convert {ADAM} @/h.npz --weights-only --overwrite --cast float32=float16", 0),
    (f"convert {ADAM} @/none.npz --dry-run", 0),
    (f"convert {ADAM} @/none.npz --like {KERAS} --dry-run", 1),
    (f"convert {ADAM} @/none.keras --like {OLD}", 1),
]


@pytest.mark.parametrize(("line", "code"), CASES, ids=lambda case: str(case)[:40])
def test_what_is_printed_is_what_the_schema_says(line: str, code: int, files: Path) -> None:
    """Success, differences, refusals and damage alike; and no field that it does not name."""
    words = [word.replace("@", str(files)) for word in line.split()]
    found = ckptkit(*words, "--format", "json")
    assert found.code == code, found
    if found.out or code != 2:
        assert refused(json.loads(found.out), unnamed=False) == []


def test_what_a_golden_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "cases/case/outputs").mkdir(parents=True)
    np.savez(tmp_path / "cases/case/inputs.npz", x=np.ones((2, 3), "float32"))
    np.save(tmp_path / "cases/case/outputs/y.npy", np.ones((2, 1), "float32"))
    golden = import_golden(tmp_path / "cases", tmp_path / "golden")
    assert refused(golden.to_json(), unnamed=False) == []


def test_a_report_of_a_check_with_an_audit() -> None:
    fault = AuditedFault("scale", "kernel times 1.01", "dense", ("dense/kernel",), "passes", 0.1)
    report = Report("export", "golden", audit=ToleranceAudit("CPU:0", "auto", (fault,)))
    assert refused(report.to_json(), unnamed=False) == []


def test_a_field_too_many_and_a_value_of_another_type_are_told() -> None:
    document = json.loads(ckptkit("ls", ADAM, "--format", "json").out)
    document["results"][0]["more"] = 1
    assert refused(document) == []
    assert refused(document, unnamed=False) != []
    document["results"][0]["tensors"][0]["shape"] = "3,4"
    assert len(refused(document)) == 1


def test_a_schema_without_unnamed_fields_keeps_what_maps_names_to_values() -> None:
    of_names = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert without_unnamed(of_names) == of_names
