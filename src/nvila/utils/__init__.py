"""Helpers that know nothing of models: devices, logging, progress, atomic writes, and a hook after imports."""
