"""Files that claim to be large cost little, and are never called sound."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.bombs import BOMBS, NEED_H5PY
from support.measured import run

MAX_BYTES = 256 << 20  # `make reliability` also holds them to seconds, which no test may do
LISTED = (
    *("bundle_overlaps", "graph_nesting", "h5_sparse_small", "npz_zeros"),
    *("orbax_shape", "orbax_zeros"),
)
COMMANDS = (["verify", "--values"], ["ls"], ["scan"])
ALL = f"""
import json, sys
from support.command_line import ckptkit
print(json.dumps([ckptkit(*command, sys.argv[1]) for command in {COMMANDS}]))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_goes_off_quietly(name: str, tmp_path: Path) -> None:
    if name in NEED_H5PY:
        pytest.importorskip("h5py")
    path = BOMBS[name](tmp_path)
    assert sum(f.stat().st_blocks * 512 for f in tmp_path.iterdir()) < 16 << 20
    done = run([sys.executable, "-c", ALL, str(path)])
    assert done.code == 0, done.output  # none ended in a traceback
    for command, (code, *printed) in zip(COMMANDS, json.loads(done.output), strict=True):
        # tensors that overlap can be listed, and weights alone hold no code
        harmless = command == ["scan"] or (command == ["ls"] and name in LISTED)
        assert code in (1, 2) or harmless, (command, printed)
    assert done.peak_bytes < MAX_BYTES
