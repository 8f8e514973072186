"""A page of every kind that a command writes, about small files whose names are hostile.

Each is called after its command, with more behind a "-" where a command has several.  What would
take a runtime is put together from the values that the operation returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

import ckptkit
from ckptkit.fixtures.sample import write_sample
from ckptkit.golden.binding import Binding
from ckptkit.golden.golden import Case, Golden
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.operations.check.audit import AuditedFault, ToleranceAudit
from ckptkit.operations.check.report import Report
from ckptkit.operations.convert.proof import Proof
from ckptkit.operations.doctor import AddedRow, Diagnosis
from ckptkit.operations.execution.types import Row
from ckptkit.operations.findings import Finding
from ckptkit.operations.localize.values import Layer, Localization, VariableGap
from ckptkit.operations.upgrade.outputs import OutputsCompared
from ckptkit.operations.upgrade.report import UpgradeReceipt, UpgradeReport, UpgradeRow
from ckptkit.operations.upgrade.translation.account import Change
from ckptkit.reports import doctor_text, findings_html, golden, listing_html, tensor_html, upgrade
from ckptkit.reports.check import audit as audit_report
from ckptkit.reports.check import html as check_html
from ckptkit.reports.diff import html as diff_html
from ckptkit.reports.findings import SCAN
from ckptkit.reports.history import html as history_html
from ckptkit.runners.types import DeviceProbe
from support.command_line import ckptkit as run
from support.weights import Array, write_bundle

MARKUP = "evil</script><img src=x onerror=document.title='broken'>/w"
DIRECTION = "\u202egnp.exe\u2066/w"
LONG = "long" * 2500 + "/w"
HOSTILE = (MARKUP, DIRECTION, LONG)
# @ is where the files are
COMMAND_LINES: Mapping[str, tuple[str, ...]] = {
    "ls-inventory": ("ls", "-r", "@/moved"),
    "diff-config": ("diff", "@/sample/before.keras", "@/sample/after.keras", "--config"),
    "convert": ("convert", "@/new", "@/w.safetensors", "--cast", "float32=float16"),
    "convert-plan": ("convert", "@/new", "@/w.ckpt", "--like", "@/moved/ckpt-1", "--dry-run"),
    "map": ("map", "@/old", "@/moved/ckpt-1"),
    "gate": ("gate", "@/sample/after.keras", "--policy", "@/policy.toml"),
    "needs": ("needs", "@/sample/after.keras", "@/new"),
    "thin": ("thin", "@/run", "--keep-slots", "last:1", "--dry-run"),
    "upgrade-several": ("upgrade", "-r", "@/sample", "@/upgraded"),
}
BUILT = (
    *("ls", "ls-several", "ls-model", "show", "diff", "history", "verify", "scan", "check"),
    *("check-audit", "record", "upgrade", "doctor"),
)
NAMES = (*BUILT, *COMMAND_LINES)


def command_of(name: str) -> str:
    """Return the command whose page that is."""
    return name.partition("-")[0]


def write_pages(folder: Path) -> dict[str, Path]:
    """Write what the pages are about, and all pages; return {name of `NAMES`: file}."""
    write_files(folder)
    makers = built(folder)
    assert tuple(makers) == BUILT
    files = {name: folder / f"{name}.html" for name in NAMES}
    for name, maker in makers.items():
        files[name].write_text("\n".join(maker()), "utf-8")
    for name, words in COMMAND_LINES.items():
        done = run(*(word.replace("@", str(folder)) for word in words), "--html", files[name])
        assert done.code in (0, 1, 2) and files[name].exists(), done.err
    return files


def write_files(folder: Path) -> None:
    """Write two checkpoints, a run, the sample with a file cut short, a policy."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Array] = {
        f"layer_{i}/{name}": rng.standard_normal((6, 5)).astype("f4")
        for i in range(9)
        for name in ("kernel", "kernel/Adam")
    } | {name: rng.standard_normal(8).astype("f4") for name in HOSTILE}
    arrays["deep/kernel"] = rng.standard_normal((3, 3, 60, 8)).astype("f4")
    arrays["deep/kernel"][0, 0, 2, 1] = np.nan
    write_bundle(folder / "old", arrays)
    write_bundle(folder / "new", {name: values * 1.01 for name, values in arrays.items()})
    (folder / "run").mkdir()
    for step in range(4):
        write_bundle(folder / "run" / f"ckpt-{step}", {n: v + step for n, v in arrays.items()})
    write_sample(folder / "sample")
    damaged = folder / "sample" / "run" / "ckpt-2.data-00000-of-00001"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (folder / "policy.toml").write_text(
        '[model]\nmax-parameters = 3\n[verify]\n[golden]\npath = "none"\n', "utf-8"
    )
    (folder / "moved").mkdir()
    moved = {f"x/{name}": values for name, values in arrays.items() if name != LONG}
    write_bundle(folder / "moved" / "ckpt-1", moved)


def built(folder: Path) -> dict[str, Callable[[], Iterator[str]]]:
    """Return what makes the pages that no command line makes here, by `BUILT`."""
    old, new, sample = folder / "old", folder / "new", folder / "sample"
    return {
        "ls": lambda: listing_html.lines([ckptkit.ls(old, stats=True)]),
        "ls-several": lambda: listing_html.lines([ckptkit.ls(old), ckptkit.ls(new)], ["no such"]),
        "ls-model": lambda: listing_html.lines([ckptkit.ls(sample / "export")]),
        "show": lambda: tensor_html.lines(
            [ckptkit.show(old, name) for name in ("deep/kernel", MARKUP)]
        ),
        "diff": lambda: diff_html.lines(ckptkit.diff(old, new)),
        "history": lambda: history_html.lines(ckptkit.history(folder / "run", cache=False)),
        "verify": lambda: findings_html.lines([ckptkit.verify(sample, recursive=True)]),
        "scan": lambda: findings_html.lines([ckptkit.scan(sample / "export")], SCAN),
        "check": lambda: check_html.lines(localized()),
        "check-audit": lambda: audit_report.lines(audited(), "html"),
        "record": lambda: golden.lines(recorded(), Path("golden"), "html"),
        "upgrade": lambda: upgrade.report_lines(upgraded(folder), "html"),
        "doctor": lambda: doctor_text.lines(diagnosed(), "html"),
    }


def localized() -> Report:
    """Return a check whose third layer is to blame, and whose last inherits its error."""

    def result(needed: float, status: str) -> OutputResult:
        return OutputResult("y", status, n=10, n_bad=int(needed > 0), needed=needed)

    layers = []
    for order, (name, alone, inherited) in enumerate(
        [("embed", 0.0, 0.0), (MARKUP, 1e-7, 1e-7), ("norm", 0.3, 0.3), ("head", 1e-7, 0.2)]
    ):
        layers.append(
            Layer(
                *(name, name, name, "Dense", "float32", order),
                result(inherited, "differs" if inherited > 1e-3 else "within"),
                result(alone, "differs" if alone > 1e-3 else "within"),
                (VariableGap(f"{name}/kernel", alone > 1e-3, "changed"),),
            )
        )
    found = Finding("error", "restore.missing", "model.keras", f"no value for {DIRECTION}")
    return Report(
        "model.keras",
        "against",
        "reference.keras",
        run_findings=(found, replace(found, severity="note")),
        localization=Localization(True, "isolated", tuple(layers), known=4),
    )


def audited() -> ToleranceAudit:
    """Return an audit in which one fault passes and one shows in no output."""
    faults = tuple(
        AuditedFault("scale", f"{name} times 1.01", name, (f"{name}/kernel",), verdict, needed)
        for name, verdict, needed in [
            ("dense", "passes", 1e-4), (MARKUP, "blind", 1e-7), ("head", "seen", 0.3),
        ]
    )  # fmt: skip
    return ToleranceAudit("tensorflow:CPU:0", "rtol 1e-3", faults)


def recorded() -> Golden:
    """Return a golden of two outputs, one without a number, and a variable that none sees."""
    infos = (TensorInfo("x", "float32", (None, 3)),)
    values = {MARKUP: np.ones((2, 3), "f4"), "scores": np.full((2, 3), np.nan, "f4")}
    return Golden(
        "model.keras", "keras", "call", ModelSignature(infos, infos), Binding("keras", ""),
        {"runtime": "tensorflow"}, "tensorflow:CPU:0", (Case("case-0", values, values),),
        noise={"scores": {"max_scaled": 1e-7}}, blind=(DIRECTION,), options={"seed": 1, "batch": 2},
    )  # fmt: skip


def upgraded(folder: Path) -> UpgradeReport:
    """Return an upgrade of one model, one of whose outputs is another one."""
    plan = ckptkit.convert(folder / "old", folder / "up.npz").plan
    row = Row("case-0", "tensorflow:CPU:0", "", OutputResult("scores", "differs", n=3, n_bad=1), "")
    receipt = UpgradeReceipt(
        folder / "old.h5", folder / "new.keras", "Keras 2.4.0",
        (Change(MARKUP, "batch_input_shape is called batch_shape"), Change("", "class_name moved")),
        plan, Proof(failures=(f"{DIRECTION} has other values",)),
        OutputsCompared((row,), inputs="2 drawn cases", runners=("tf_keras", "keras")),
        {"keras": "3.15.1"}, notes=("an optimizer was left behind",),
    )  # fmt: skip
    return UpgradeReport((UpgradeRow(receipt.source, receipt.path, "failed", receipt),))


def diagnosed() -> Diagnosis:
    """Return what a machine with one runtime, and another package of our name, says."""
    here = DeviceProbe("tensorflow", "CPU:0", "x86_64", {"tensorflow": "2.21.0", "keras": "3.15.1"})
    away = DeviceProbe("onnx", "", why_not="No module named 'onnxruntime'")
    clash = Finding(
        "error", "name.clash", DIRECTION, "another package is called ckptkit", "remove it"
    )
    return Diagnosis(
        "3.11.7", "Linux", {"numpy": "2.3.1", "jax": None}, (here, away), (clash,),
        (AddedRow("formats", MARKUP, "theirs"),), "compiled",
    )  # fmt: skip
