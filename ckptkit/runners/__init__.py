"""How models are executed: one module per runtime, always in a child process.

    subjects, inside   what a model is, and what the parent may ask about one
    registry           a row per runtime: what it runs, its devices and switches
    process            starts the child of a request, watches it, reads its result
    child              what runs in that child, the same for every runtime
    tensorflow, keras, litert, onnx   what runs in that child, by runtime

A request and its result are plain values (JSON).  What a runtime imports, which devices it sees and
how it dies is the child's affair: a crash, a hang or a model that eats all memory is a RunnerError
in the parent.
"""
