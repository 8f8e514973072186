"""LiteRT, for `.tflite` files; in the child process alone."""
