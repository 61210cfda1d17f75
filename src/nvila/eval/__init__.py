"""Scoring a model: tasks on held-out data, metrics, and the runner that answers through the default path."""
