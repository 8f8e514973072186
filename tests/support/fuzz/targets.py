"""All that is fuzzed, by name: readers, public functions, and mutants with a judge.

A mutant must be read or refused: no other exception than a CkptkitError of one line, in less than
MAX_SECONDS.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from ckptkit.errors import CkptkitError
from ckptkit.stores.containers.byte_range import forget_spools
from support.fuzz.functions import FUNCTIONS
from support.fuzz.judges import JUDGED
from support.fuzz.readers import READERS, Target

MAX_SECONDS = 5.0
TARGETS: dict[str, Target] = {**READERS, **FUNCTIONS, **JUDGED}


def mutants(name: str, directory: Path, seeds: range) -> Iterator[tuple[int, Path]]:
    """Yield (seed, operand) of mutants, each in a directory that is emptied for the next."""
    for seed in seeds:
        place = directory / "mutant"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield seed, TARGETS[name].write(place, random.Random(f"{name} {seed}"))
        forget_spools()


def judged(name: str, path: Path) -> str:
    """Use one mutant; return "read" or "refused".  Any other exception passes."""
    try:
        TARGETS[name].use(path)
    except CkptkitError as error:
        assert "\n" not in str(error), error
        return "refused"
    return "read"
