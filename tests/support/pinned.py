"""Answers that change on purpose alone: what the tool says of many inputs, kept in a file.

Other tests say what is right; these say that nothing else moved.  A test that fails here names the
inputs whose answers changed: look at these, and where the new ones are right run it again with
`--regen`, which writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def digest(*parts: object) -> str:
    """Return ten digits that stand for values whose repr says all of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def check(file: Path, answers: Mapping[str, str], regen: bool) -> None:
    """Hold answers, {input: answer}, against the file; regen: write them there instead."""
    if regen:
        file.write_text(json.dumps(dict(answers), indent=0) + "\n", encoding="utf-8")
    known = json.loads(file.read_text(encoding="utf-8"))
    changed = {
        name: (known.get(name), answers.get(name))
        for name in {**known, **answers}
        if known.get(name) != answers.get(name)
    }
    assert not changed, f"{len(changed)} answers are others, {{input: (before, now)}}: {changed}"
