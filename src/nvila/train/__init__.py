"""Training: recipes of stages, the batch stream, the dense labels, the trainer, and the export of a checkpoint."""
