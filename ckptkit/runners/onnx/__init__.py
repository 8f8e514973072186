"""ONNX Runtime, for `.onnx` files; in the child process alone."""
