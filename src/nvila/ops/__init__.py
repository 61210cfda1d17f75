"""Kernels, a module each: every one has one signature and an eager reference that tests compare it with."""
