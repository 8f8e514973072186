"""Ratios against the tools that people use today, measured side by side in one run.

    python -m benchmarks                 all of them, as a table
    python -m benchmarks --only ls       those whose name contains "ls"
    python -m benchmarks --json

One file per topic with a table BENCHMARKS of functions that return results; `harness` measures,
`inputs` makes the files with TensorFlow (below `benchmarks/.cache`, which may be deleted).
To add a benchmark: write a function, add a row; to add a topic: one file, one row in `__main__`.
"""
