"""Goldens: what a model computed when it was recorded, and what that depends on.

golden, exchange          the directory that a golden is, and the files of other tools
binding                   what a golden is bound to: weights, files, constants, settings
sketch*, line_sketch      what is kept of values, so that a later change can be named
changes                   what changed between two bindings: weights, then
file_changes, keras_config   files and constants, settings of layers
explain, initial_values   what happened to one tensor
"""
