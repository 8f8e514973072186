"""Where the files of a SavedModel lie, below its directory."""

from pathlib import Path

MODEL_FILE = "saved_model.pb"
VARIABLES = Path("variables", "variables")  # a prefix
