"""Training a few weights of a checkpoint: what learns (`tune`), 4-bit storage (`nf4`), files (`store`), merging."""
