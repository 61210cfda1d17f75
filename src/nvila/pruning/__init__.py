"""Pruning a data set: how helpful each sample is (`score`), which to keep (`select`), and how that looks (`report`)."""
