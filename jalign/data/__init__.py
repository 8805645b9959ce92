"""Corpora, tokenisation, storage, packing and loading: numpy and grain only, no jax."""
