"""The parts of `ckptkit.operations.convert.api`: requests, plans, values, writing, proof, receipt."""
