"""For tests of your own: what files hold, what restores, what models compute."""

from __future__ import annotations

from ckptkit.testing.assertions import assert_restores, assert_same_outputs, assert_same_weights

__all__ = ["assert_restores", "assert_same_outputs", "assert_same_weights"]
