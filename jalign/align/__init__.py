"""Alignment mathematics: pure jnp, no models."""
