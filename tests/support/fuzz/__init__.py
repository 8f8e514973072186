"""Mutants of good files, for every reader; `make fuzz` goes on until the time is up."""
