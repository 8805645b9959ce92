"""Use an encoder: vectors of texts, states of tokens, words for masks."""
