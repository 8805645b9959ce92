"""Layers, attention, masking, pooling and the vocabulary loss: Linen modules and pure functions."""
