"""The parts of `ckptkit.operations.convert`: requests, plans, values, writing, proof, receipt."""
