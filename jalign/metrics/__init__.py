"""Scores, numpy only."""
