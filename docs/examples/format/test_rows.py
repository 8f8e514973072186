"""The conformance suite of ckptkit, over this format."""

from __future__ import annotations

from ckptkit.testing.formats import FormatConformance


class TestRows(FormatConformance):
    format = "rows"
    dtypes = ("float32", "float64", "int8", "int64", "bool", "complex64")
