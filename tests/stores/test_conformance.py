"""The conformance suite that outsiders use, over every format that has a writer of its own."""

from __future__ import annotations

from ckptkit.stores.registry import FORMATS
from ckptkit.testing.formats import FIXED_DTYPES, FormatConformance

SUITES = {
    row.name: type(
        f"Test{row.name.title().replace('-', '')}",
        (FormatConformance,),
        {"format": row.name, "dtypes": (*FIXED_DTYPES, "string"), "__module__": __name__},
    )
    for row in FORMATS.built_in.values()
    if row.writer and not row.structure
}
globals().update({suite.__name__: suite for suite in SUITES.values()})


def test_every_format_with_a_writer_is_here() -> None:
    assert set(SUITES) >= {"npz", "safetensors"}
