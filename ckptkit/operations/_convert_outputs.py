"""What two models compute on the same seeded inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outputs:
    """The comparison of outputs; `why_not` says why there was none."""

    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"why_not": self.why_not}
