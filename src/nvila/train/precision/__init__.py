"""Training in FP8: which parts (options), linear layers, what is kept for the backward pass, optimizer states."""
