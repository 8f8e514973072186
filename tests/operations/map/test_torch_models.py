"""One model carried PyTorch -> Keras -> PyTorch by maps that were proposed, outputs compared."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.operations.convert.api import convert
from ckptkit.operations.map.result import ProposedMap
from support import torch_pairs
from support.scripts import run_script

LACKING = [name for name in ("tensorflow", "torch") if find_spec(name) is None]

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.needs_tf,
    pytest.mark.skipif(
        bool(LACKING), reason=f"no {', '.join(LACKING)} here: `make test-runtimes` installs them"
    ),
]

NAMES = (*torch_pairs.NAMES, "attention")
BUILD = """
import sys
from pathlib import Path
import keras
import numpy as np
from support import torch_pairs

def attention():
    L = keras.layers
    x = keras.Input((7, 6), name="x")
    h = L.Bidirectional(L.LSTM(5, return_sequences=True), name="both")(x)
    h = L.LayerNormalization(name="norm", epsilon=1e-5)(h)
    h = L.MultiHeadAttention(2, 5, name="mha")(h, h)
    h = L.Conv1D(4, 3, name="conv")(h)
    return keras.Model(x, L.Dense(3, name="logits")(h))

out = Path(sys.argv[1])
"""
WRITE = f"""{BUILD}
for name in {NAMES}:
    model = attention() if name == "attention" else torch_pairs.keras_model(name)
    model.save(out / f"{{name}}.keras")
"""
RUN = f"""{BUILD}
for name in {NAMES}:
    model = keras.models.load_model(out / f"{{name}}-carried.keras")
    x = np.load(out / f"{{name}}-x.npy")
    np.save(out / f"{{name}}-y.npy", np.asarray(model(x, training=False)))
"""


def attention() -> Any:
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rec = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
            self.norm = nn.LayerNorm(10)
            self.attn = nn.MultiheadAttention(10, 2, batch_first=True)
            self.conv = nn.Conv1d(10, 4, 3)
            self.logits = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            h = self.norm(self.rec(x)[0])
            h = self.attn(h, h, h, need_weights=False)[0]
            return self.logits(self.conv(h.transpose(1, 2)).transpose(1, 2))

    torch.manual_seed(27)
    return Net().eval()


def module(name: str) -> Any:
    """Return a module, every weight drawn, biases and statistics too."""
    import torch

    made = attention() if name == "attention" else torch_pairs.torch_model(name)
    torch.manual_seed(27)
    with torch.no_grad():
        for key, value in made.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn_like(value) * 0.3
                is_positive = "var" in key or (value.ndim == 1 and "weight" in key)
                value.copy_(drawn.abs() + 0.5 if is_positive else drawn)
    return made


def inputs(name: str) -> np.ndarray[Any, Any]:
    if name == "attention":
        return np.random.default_rng(27).normal(size=(4, 7, 6)).astype("float32")
    return np.asarray(torch_pairs.inputs(name))


def outputs(made: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import torch

    with torch.no_grad():
        return np.asarray(made(torch.from_numpy(x)).numpy())


def rules_of(proposal: ProposedMap) -> list[str]:
    """Return the rules; the modules turn their images before they flatten them, as Keras does."""
    assert all("flattened" in item.why for item in proposal.open), str(proposal)
    assert not proposal.unmatched_sources and not proposal.unmatched_targets
    return [
        rule.text for rule in (*proposal.rules, *(item.candidates[0] for item in proposal.open))
    ]


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of PyTorch in Keras's files, and what Keras computes with them."""
    import torch

    folder = tmp_path_factory.mktemp("carried")
    run_script("-c", WRITE, folder)
    for name in NAMES:
        torch.save(module(name).state_dict(), folder / f"{name}.pt")
        np.save(folder / f"{name}-x.npy", inputs(name))
        proposal = ckptkit.map(folder / f"{name}.pt", folder / f"{name}.keras")
        done = convert(
            folder / f"{name}.pt",
            folder / f"{name}-carried.keras",
            like=folder / f"{name}.keras",
            rules=rules_of(proposal),
            weights_only=True,
        )
        assert done.ok
    run_script("-c", RUN, folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_keras_computes_what_torch_does(name: str, carried: Path) -> None:
    expected, found = outputs(module(name), inputs(name)), np.load(carried / f"{name}-y.npy")
    rms = float(np.sqrt(np.mean(np.square(expected))))
    assert rms > 0.01
    assert np.abs(found - expected).max() < 1e-5 * rms
    print(f"{name}: {np.abs(found - expected).max() / rms:.1e} of the rms")


@pytest.mark.parametrize("name", NAMES)
def test_and_so_does_torch_with_what_comes_back(name: str, carried: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    made = module(name)
    zeros = {key: torch.zeros_like(value) for key, value in made.state_dict().items()}
    torch.save(zeros, tmp_path / "structure.pt")
    proposal = ckptkit.map(carried / f"{name}-carried.keras", tmp_path / "structure.pt")
    convert(
        carried / f"{name}-carried.keras",
        tmp_path / "back.safetensors",
        like=tmp_path / "structure.pt",
        rules=rules_of(proposal),
        weights_only=True,
        allow_missing=proposal.kept,
    )

    expected = outputs(made, inputs(name))
    made.load_state_dict(load_file(str(tmp_path / "back.safetensors")), strict=True)

    found = outputs(made, inputs(name))
    rms = float(np.sqrt(np.mean(np.square(expected))))
    assert np.abs(found - expected).max() < 1e-5 * rms
