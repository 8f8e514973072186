"""`gate`: one file of rules that a model must pass, one report, one exit code."""
