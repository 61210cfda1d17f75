"""Few weights beside a checkpoint: which change (`tune`), 4-bit storage (`nf4`), files (`store`), merging, export.

Training makes them and the engine serves them, so they stand below both.
"""
