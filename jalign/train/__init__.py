"""Mesh, optimiser, step, checkpoints, log and the loop."""
