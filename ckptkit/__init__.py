"""See inside TensorFlow and Keras checkpoints, without TensorFlow."""
