"""What the library's results say of themselves: short texts, and no doubtful truth value."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from support.goldens import golden

ADAM = golden("tf2.21.0/adam/ckpt").path
EXPORT = golden("tf2.21.0/saved_model_export/model").path


def test_verifications(tmp_path: Path) -> None:
    result = ckptkit.verify(ADAM)
    assert result.sound
    assert repr(result) == str(result) == f"<Verification sound; {ADAM}>"
    copy = tmp_path / "c"
    for suffix in (".index", ".data-00000-of-00001"):
        data = Path(f"{ADAM}{suffix}").read_bytes()
        Path(f"{copy}{suffix}").write_bytes(data[:-9] if "data" in suffix else data)
    damaged = ckptkit.verify(copy)
    assert not damaged.sound
    assert repr(damaged).startswith("<Verification findings: ")
    for each in (result, damaged):
        with pytest.raises(TypeError, match=r"ask \.sound"):
            bool(each)


def test_scans() -> None:
    assert repr(ckptkit.scan(EXPORT)) == f"<Scan sound; {EXPORT}>"


def test_listings_and_tensors() -> None:
    assert len(repr(ckptkit.ls(ADAM))) < 300
    assert len(repr(ckptkit.show(ADAM, "hidden/kernel"))) < 300
    assert len(repr(ckptkit.open(ADAM))) < 300
