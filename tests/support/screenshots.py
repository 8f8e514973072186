"""Pictures of every page for docs/pages.md: `support.screenshots` writes them.

Each is taken in light and in dark colours, and in a window of 420 pixels.  They are WebP, which is
a fifth of PNG.  The models are those of `ckptkit sample`, a small run, and a model of Keras 2;
`record` and `upgrade` need TensorFlow.  There is none of `doctor`: it would show one machine.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from support.browser import Page, browser
from support.places import ROOT
from support.weights import Array, write_bundle

TO = ROOT / "docs" / "pages"
WIDE, NARROW = (1180, 860), (420, 860)  # pixels of the window
OLD = "old.h5"
POLICY = '[model]\nmax-parameters = 50\n[verify]\n[scan]\n[golden]\npath = "none"\n'
SCALE, QUALITY = 0.75, 72


def files(folder: Path) -> None:
    """Write what the pages are about: a model of eight layers, one it became, and its run."""
    rng = np.random.default_rng(8)
    shapes = {"attention/query": (64, 64), "attention/value": (64, 64), "mlp/in": (64, 256)}
    arrays: dict[str, Array] = {
        f"encoder/layer_{i}/{name}{slot}": 0.1 * rng.standard_normal(shape).astype("f4")
        for i in range(8)
        for name, shape in {**shapes, "mlp/out": (256, 64), "norm/scale": (64,)}.items()
        for slot in ("", "/Adam", "/Adam_1")
    }
    arrays["embeddings/words"] = rng.standard_normal((2000, 64)).astype("f4")
    arrays["head/kernel"] = np.zeros((64, 10), "f4")
    write_bundle(folder / "ckpt-100", arrays)
    for number, name in enumerate(arrays):
        moved = 10.0 ** (-6 + number / 24) * rng.standard_normal(arrays[name].shape)
        arrays[name] = (arrays[name] * (1 + moved)).astype("f4")
    arrays["head/kernel"][3, 4] = 0.001
    write_bundle(folder / "ckpt-200", arrays)
    weights = {name: values for name, values in arrays.items() if "Adam" not in name}
    moved = {name.replace("encoder/layer", "bert/block"): v for name, v in weights.items()}
    write_bundle(folder / "renamed", {name: v for name, v in moved.items() if "_7/mlp" not in name})
    (folder / "policy.toml").write_text(POLICY, "utf-8")
    shutil.copy(ROOT / "fixtures/golden/tf2.15.1/numbered/sequential_model.h5", folder / OLD)
    run = folder / "run"
    run.mkdir()
    for step in range(20):
        for number, name in enumerate(weights):
            gap = 10.0 ** (number / 12 - 5) * rng.standard_normal(weights[name].shape)
            weights[name] = (weights[name] * (1 + gap)).astype("f4")
        if step == 15:
            weights["encoder/layer_2/mlp/in"][0, 0] = np.nan
        write_bundle(run / f"ckpt-{100 * (step + 1)}", weights)


def calls() -> dict[str, list[str]]:
    """Return {picture: arguments of the command}, in the folder of `files`."""
    return {
        "ls": ["ls", "ckpt-100"],
        "show": ["show", "ckpt-200", "encoder/layer_3/attention/query"],
        "diff": ["diff", "ckpt-100", "ckpt-200"],
        "history": ["history", "run", "--no-cache"],
        "verify": ["verify", "-r", "sample"],
        "scan": ["scan", "-r", "sample"],
        "check": ["check", "sample/after.keras", "--against", "sample/before.keras", "--localize"],
        "gate": ["gate", "sample/after.keras", "--policy", "policy.toml"],
        "convert": ["convert", "ckpt-200", "w.safetensors", "--cast", "float32=float16"],
        "upgrade": ["upgrade", OLD, "upgraded.keras"],
        "map": ["map", "ckpt-200", "renamed"],
        "record": ["record", "sample/after.keras", "-o", "golden"],
        "needs": ["needs", OLD, "sample/after.keras", "ckpt-200"],
        "thin": ["thin", "whole/run", "--keep-slots", "last:1", "--dry-run"],
        "ls-inventory": ["ls", "-r", "sample"],
    }


def taken(tab: Page, size: tuple[int, int]) -> bytes:
    """Return a picture of what a window of this size shows, as WebP."""
    tab.devtools(
        "Emulation.setDeviceMetricsOverride",
        width=size[0],
        height=size[1],
        deviceScaleFactor=SCALE,
        mobile=True,  # which has no bars to scroll with
    )
    tab.js("window.dispatchEvent(new Event('resize')); window.scrollTo(0, 0)")
    picture = tab.devtools("Page.captureScreenshot", format="webp", quality=QUALITY)
    return base64.b64decode(picture["data"])


def main() -> None:
    """Write all pictures, or those of the commands that are named."""
    wanted = sys.argv[1:] or list(calls())
    TO.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files(folder)
        tool = [sys.executable, "-m", "ckptkit"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": place}
        for sample in ("sample", "whole"):
            subprocess.run([*tool, "sample", sample], cwd=folder, env=environment, check=True)
        damaged = folder / "sample" / "run" / "ckpt-1.data-00000-of-00001"
        damaged.write_bytes(damaged.read_bytes()[:-40])
        for name in wanted:
            page = f"{name}.html"
            subprocess.run(
                [*tool, *calls()[name], "--html", page], cwd=folder, env=environment, check=False
            )
            for theme in ("light", "dark"):
                with browser(dark=theme == "dark") as tab:
                    for look, size in ((theme, WIDE), (f"narrow-{theme}", NARROW)):
                        if look == "narrow-light" and name not in ("ls", "diff"):
                            continue  # the layout is that in dark colours
                        tab.open(folder / page)
                        (TO / f"{name}-{look}.webp").write_bytes(taken(tab, size))


if __name__ == "__main__":
    assert shutil.which("chromedriver"), "apt-get install chromium chromium-driver"
    main()
