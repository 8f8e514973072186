"""Proposing a map: which tensor of one file is which of another, and how its values are moved."""
