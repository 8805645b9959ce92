"""Pre-train multilingual text encoders with explicit cross-lingual alignment, in JAX and Flax."""
