"""Options of the test suite."""

from __future__ import annotations

import pytest

# Assertions of helpers say as much as those of tests.
pytest.register_assert_rewrite("support")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regen", action="store_true", help="rewrite what the docs take from the tool"
    )


@pytest.fixture(autouse=True)
def nobody_writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a first look be believed: what a test just wrote is not written any more.

    A test of directories that are in use says so by the marker `in_use`.
    """
    if request.node.get_closest_marker("in_use") is None:
        from ckptkit.operations.verify import in_use
        from ckptkit.stores import following

        monkeypatch.setattr(in_use, "STILL_S", 0.0)
        monkeypatch.setattr(following, "_STILL_S", 0.0)
