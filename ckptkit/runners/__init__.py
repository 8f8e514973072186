"""How models are executed: one module per runtime, always in a child process.

The parent, which imports no runtime:

    client, introspect   what may be asked about a model, and the answers
    process              starts the child of a request, watches it, reads its result
    fork_server          lets the children of several requests share the import of their runtime
    chunks               values too large for memory, read from the child's files

The child, which imports nothing of the above:

    child                            the same for every runtime
    tensorflow, keras, litert, onnx  by runtime: a `Session` and the values inside of a model

Both:

    types, spec, errors   a model, where it runs, what it gives, how it fails
    registry              a row per runtime: what it runs, its devices and switches
    marks                 the values that say "not restored"

A request and its result are plain values (JSON).  What a runtime imports, which devices it sees and
how it dies is the child's affair: a crash, a hang or a model that eats all memory is a RunnerError
in the parent.
"""
