"""PyTorch as a destination: the recipe of docs/pytorch.md, carried out."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.align.rules import read_rules
from ckptkit.align.transforms import parse_transform
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.tiers import tier_named
from ckptkit.operations.convert.api import MismatchError, Receipt, convert
from support import torch_pairs
from support.places import DOCS
from support.scripts import run_script

LACKING = [name for name in ("tensorflow", "torch") if find_spec(name) is None]

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.needs_tf,
    pytest.mark.skipif(
        bool(LACKING), reason=f"no {', '.join(LACKING)} here: `make test-runtimes` installs them"
    ),
]

DOC = DOCS / "pytorch.md"
CASES = (*torch_pairs.NAMES, "module")
ALLOWED = {"cnn": ["*.num_batches_tracked"], "lstm": ["*.bias_hh_l0"]}
WRITE = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from support import torch_pairs
from support.places import DOCS

out = Path(sys.argv[1])
for name in torch_pairs.NAMES:
    model = torch_pairs.keras_model(name)
    tf.train.Checkpoint(model=model).write(str(out / name))
    np.save(out / f"{name}.npy", model(torch_pairs.inputs(name), training=False).numpy())
module = torch_pairs.tf_module()
tf.train.Checkpoint(model=module).write(str(out / "module"))
np.save(out / "module.npy", module(tf.constant(torch_pairs.inputs("mlp"))).numpy())
L = tf.keras.layers
rng = np.random.default_rng(20)
found = {}
for name, layer, shape in (
    ("Dense", L.Dense(5, use_bias=False), (2, 4)),
    ("Conv1D", L.Conv1D(5, 3, use_bias=False), (2, 9, 4)),
    ("Conv2D", L.Conv2D(5, (3, 2), use_bias=False), (2, 9, 8, 4)),
    ("Conv2DTranspose", L.Conv2DTranspose(5, (3, 2), use_bias=False), (2, 9, 8, 4)),
    ("Depthwise", L.DepthwiseConv2D((3, 2), depth_multiplier=2, use_bias=False), (2, 9, 8, 4)),
):
    x = rng.normal(size=shape).astype("float32")
    y = np.asarray(layer(x))
    kernel = np.asarray(layer.weights[0])
    found |= {f"{name}/x": x, f"{name}/kernel": kernel, f"{name}/y": y}
np.savez(out / "layers.npz", **found)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of TensorFlow, and what their models give."""
    directory = tmp_path_factory.mktemp("trained")
    run_script("-c", WRITE, directory)
    return directory


def twin(name: str) -> str:
    """Return the pair that a checkpoint belongs to."""
    return "mlp" if name == "module" else name


def map_of(name: str) -> str:
    found = re.search(rf"<!-- map {name} -->\n```\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def structure(name: str, directory: Path) -> Path:
    """Write what the module wants, as the recipe says."""
    import torch
    from safetensors.torch import save_file

    state = torch_pairs.torch_model(twin(name)).state_dict()
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    save_file(zeros, str(directory / "structure.safetensors"))
    return directory / "structure.safetensors"


def carried(name: str, trained: Path, tmp_path: Path, rules: str) -> Receipt:
    (tmp_path / "torch.map").write_text(rules)
    return convert(
        trained / name,
        tmp_path / "model.safetensors",
        like=structure(name, tmp_path),
        rules=read_rules(tmp_path / "torch.map", transforms=True),
        weights_only=True,
        allow_missing=ALLOWED.get(name, []),
    )


def computed(name: str, path: Path) -> np.ndarray[Any, Any]:
    """Return what the module gives with the weights of a file."""
    import torch
    from safetensors.torch import load_file

    module = torch_pairs.torch_model(twin(name))
    module.load_state_dict(load_file(str(path)), strict=True)
    with torch.no_grad():
        outputs = module(torch.from_numpy(torch_pairs.inputs(twin(name))))
    return np.asarray(outputs.numpy())


def compared(name: str, trained: Path, new: np.ndarray[Any, Any]) -> Any:
    tier = tier_named("T4", "PyTorch against TensorFlow")
    reference = {"y": np.load(trained / f"{name}.npy")}
    (result,) = compare_outputs(reference, {"y": new}, tier.tolerance)
    return result


@pytest.mark.parametrize("name", CASES)
def test_outputs_agree(name: str, trained: Path, tmp_path: Path) -> None:
    receipt = carried(name, trained, tmp_path, map_of(name))
    assert receipt.ok

    result = compared(name, trained, computed(name, tmp_path / "model.safetensors"))

    assert result.ok, result
    assert result.max_abs < 1e-5 * result.rms  # as docs/runtimes.md says
    print(f"{name}: {result.max_abs / result.rms:.1e} of the rms")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("mlp", "kernel$=>\\1.weight | transpose", "kernel$=>\\1.weight | reshape -1,{rows}"),
        ("gru", "weight_hh_l0 | transpose | blocks zrh=rzh", "weight_hh_l0 | transpose"),
        ("lstm", "weight_hh_l0 | transpose", "weight_hh_l0 | transpose | blocks ifco=icfo"),
        ("cnn", "depthwise.weight | transpose 2,3,0,1", "depthwise.weight | transpose 2,3,1,0"),
    ],
)
def test_a_wrong_map_is_caught(
    name: str, right: str, wrong: str, trained: Path, tmp_path: Path
) -> None:
    rules = map_of(name)
    assert right in rules
    if "{rows}" in wrong:  # of the right shape, and not transposed
        rules = rules.replace(
            "^mlp/(\\w+)/kernel$=>\\1.weight | transpose",
            "^mlp/hidden/kernel$=>hidden.weight | reshape 16,6\n"
            "^mlp/logits/kernel$=>logits.weight | transpose",
        )
    else:
        rules = rules.replace(right, wrong)

    receipt = carried(name, trained, tmp_path, rules)
    assert receipt.ok  # the map was followed; that it is wrong shows in the outputs

    result = compared(name, trained, computed(name, tmp_path / "model.safetensors"))
    assert not result.ok
    assert result.max_abs > 0.01 * result.rms


def test_what_the_map_forgets_is_refused(trained: Path, tmp_path: Path) -> None:
    rules = "".join(line for line in map_of("gru").splitlines(True) if "bias_hh" not in line)
    with pytest.raises(MismatchError, match="bias_hh_l0"):
        carried("gru", trained, tmp_path, rules)


def test_a_layout_that_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"is \(6, 16\) in \S+, hidden.weight is \(16, 6\)"):
        carried("mlp", trained, tmp_path, map_of("mlp").replace(" | transpose", ""))


@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_without_a_structure(name: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.map").write_text(map_of(name))
    rules = read_rules(tmp_path / "torch.map", transforms=True)
    receipt = convert(trained / name, tmp_path / "there.safetensors", rules=rules)
    assert receipt.ok

    result = compared(name, trained, computed(name, tmp_path / "there.safetensors"))
    assert result.ok


@pytest.mark.parametrize("layer", ["Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "Depthwise"])
def test_steps_of_the_table(layer: str, trained: Path) -> None:
    """One layer alone, its kernel moved by the steps that the table of the recipe has for it."""
    import torch
    from torch.nn import functional

    with np.load(trained / "layers.npz") as file:
        x, kernel, expected = (file[f"{layer}/{part}"] for part in ("x", "kernel", "y"))
    steps = {
        "Dense": "transpose",
        "Conv1D": "transpose",
        "Conv2D": "transpose 3,2,0,1",
        "Conv2DTranspose": "transpose 3,2,0,1",
        "Depthwise": "transpose 2,3,0,1 | reshape -1,1,3,2",
    }[layer]
    row = next(line for line in DOC.read_text("utf-8").splitlines() if f"`{layer}" in line)
    assert steps.partition(" | ")[0] in row
    weight = torch.from_numpy(parse_transform(steps.split("|")).apply(kernel).copy())
    call = {
        "Dense": functional.linear,
        "Conv1D": functional.conv1d,
        "Conv2D": functional.conv2d,
        "Conv2DTranspose": functional.conv_transpose2d,
        "Depthwise": lambda a, w: functional.conv2d(a, w, groups=4),
    }[layer]
    y = call(torch.from_numpy(np.moveaxis(x, -1, 1)), weight).numpy()
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), expected, rtol=1e-4, atol=1e-5)
