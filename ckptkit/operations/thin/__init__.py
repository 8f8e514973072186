"""Taking the optimizer state out of old checkpoints of a run, in place."""
