"""One file per encoder family."""
