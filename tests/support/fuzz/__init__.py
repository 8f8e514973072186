"""Mutants of good files, for every reader; `make fuzz` goes on until the time is up."""

from ckptkit.operations.verify import in_use

in_use.STILL_S = 0.0  # nobody else writes where mutants lie: one look is enough
