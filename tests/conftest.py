"""Options of the test suite."""

from __future__ import annotations

import pytest

# Assertions of helpers say as much as those of tests.
pytest.register_assert_rewrite("support")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regen", action="store_true", help="rewrite what the docs take from the tool"
    )
