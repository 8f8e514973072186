"""What runs in the child process of a run, the same for every runtime; nothing the parent imports.

__main__                carries out one request
fork_server             imports a runtime and is forked for each request
guardian, garbage       ends a child with its parent; imports without collections of garbage
session                 the protocol that a runtime implements, and the actions made of it
isolate, graph_parts    each value inside of a model, computed from a reference's
inputs, trees           inputs as a model takes them, names of what it gives
user_code               callables and modules that a user names
machine, packages       what is told of where it ran
heavy_ops               which ops multiply matrices or convolve
"""
